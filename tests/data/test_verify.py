"""`pics-data verify`: papers that disagree, many shards at once, what it says; for tars see test_tar_read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pics_common import storage
from pics_common.errors import UserError
from pics_data import cli, verify_keys
from pics_data.config import BuildConfig
from pics_data.mixture import identity, members_of, members_of_identity
from pics_data.verify import DamagedError, verify
from pics_data.verify_keys import KeyHashes, hashes_of
from pics_data.verify_papers import planned_shards
from tests.data.photos_for_tests import DrawnSet, draw_set
from tests.data.plain_build import build_plainly
from tests.data.shards_for_tests import edit_mark, forge, read_samples
from tests.data.stores_for_tests import object_store, put_folder

SHARD = "train-000001"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> DrawnSet:
    """Photos of which one is broken, so that there are rejects."""
    drawn = draw_set(tmp_path_factory.mktemp("drawn"), num_photos=16)
    drawn.photo(5).write_bytes(drawn.photo(5).read_bytes()[:200])
    drawn.photo(9).unlink()
    return drawn


@pytest.fixture(scope="module")
def built(drawn: DrawnSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "shards"
    build_plainly(drawn.config(folder, shard_samples=4, object_size=32, val_fraction=0.2))
    return folder


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))


def damages_of(folder: Path, workers: int = 1) -> list[str]:
    with pytest.raises(DamagedError) as error:
        verify(str(folder), workers=workers, tell=lambda _: None)
    return error.value.damages


def rewrite_table(url: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(url)), url)


def replaced(name: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[pa.Table], pa.Table]:
    def apply(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index(name)
        values = pa.array(change(table[name].to_pylist()), table.schema.field(name).type)
        return table.set_column(at, table.schema.field(name), values)

    return apply


def test_a_build_is_whole_and_its_rejects_are_counted(built: Path) -> None:
    told = verify(str(built), workers=1)
    assert "whole. 14 samples" in told
    assert "1 rejected" in told


def table(folder: Path) -> Path:
    return folder / "parts" / f"{SHARD}.parquet"


def swap_two_samples(samples: list[Any]) -> None:
    samples[0], samples[1] = samples[1], samples[0]


DISAGREEMENTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a sample lost with all its traces": (lambda f: forge(f, SHARD, lambda s: s.pop()), "planned, but neither"),
    "samples in another order": (lambda f: forge(f, SHARD, swap_two_samples), "order of the plan"),
    "a sample of another shard": (
        lambda f: forge(f, SHARD, lambda s: s.append(next(read_samples(f / "train-000000.tar")))),
        "not in the plan of this shard",
    ),
    "a mark lost": (lambda f: (f / "parts" / f"{SHARD}.json").unlink(), f"{SHARD}.json: missing or damaged"),
    "a mark of another tar": (lambda f: edit_mark(f, SHARD, sha256="0" * 64), "speaks of another tar"),
    "a table lost": (lambda f: table(f).unlink(), f"{SHARD}.parquet: missing"),
    "a table cut off": (lambda f: table(f).write_bytes(table(f).read_bytes()[:99]), f"{SHARD}.parquet: cannot be read"),
    "a table that lacks a row": (lambda f: rewrite_table(table(f), lambda t: t[1:]), "rows; its tar holds"),
    "a table with other bytes": (
        lambda f: rewrite_table(table(f), replaced("num_bytes", lambda v: [n + 1 for n in v])), "`num_bytes` is"),
    "a table with other keys": (
        lambda f: rewrite_table(table(f), replaced("key", lambda v: v[::-1])), "`key` is"),
    "a table with other areas": (
        lambda f: rewrite_table(table(f), replaced("areas", lambda v: [[0.5, 0.5] for _ in v])), "`areas` is"),
    "rejects that lack one": (
        lambda f: rewrite_table(f / "rejects.parquet", lambda t: t[:-1]), "rejected by the shard's mark"),
    "rejects of nobody": (
        lambda f: rewrite_table(f / "rejects.parquet", lambda t: pa.concat_tables([t, t[-1:]])),
        "rejected by no shard"),
    "a plan cut off": (lambda f: (f / "plan" / "000000.parquet").unlink(), "000000.parquet: missing"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DISAGREEMENTS)
def test_papers_that_disagree_are_named(copy: Path, kind: str) -> None:
    damage, message = DISAGREEMENTS[kind]
    damage(copy)
    assert message in "\n".join(damages_of(copy))


def test_rejects_that_planning_forgot_are_named(copy: Path) -> None:
    rewrite_table(copy / "rejects.parquet", lambda t: t[1:])
    with pytest.raises(UserError, match="dropped when planning, but not in it"):
        verify(str(copy), workers=1)


def flip(tar: Path) -> None:
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_damaged_shard_is_named_once_and_the_others_are_read(copy: Path, workers: int) -> None:
    tars = sorted(copy.glob("*.tar"))
    assert len(tars) > 3
    flip(tars[0])
    tars[2].unlink()
    (copy / "train-000099.tar").write_bytes(b"")
    told = damages_of(copy, workers)
    assert [storage.base_name(line.partition(": ")[0]) for line in told] == [
        "train-000099.tar", tars[0].name, tars[2].name
    ]  # fmt: skip


def test_the_command_ends_with_2_and_names_all_damage(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tars = sorted(copy.glob("*.tar"))
    flip(tars[0])
    flip(tars[1])
    with pytest.raises(SystemExit) as ended:
        cli.main(["verify", str(copy), "--workers", "1"])
    assert ended.value.code == 2
    lines = capfd.readouterr().err.splitlines()
    assert [line.startswith(f"damaged: {tar}: its bytes") for line, tar in zip(lines, tars[:2], strict=False)] == [
        True
    ] * 2
    assert "2 things are damaged" in lines[-1]


def test_shards_without_their_papers_are_verified_by_the_index(copy: Path) -> None:
    for name in ("recipe.json", "rejects.parquet"):
        (copy / name).unlink()
    shutil.rmtree(copy / "plan")
    shutil.rmtree(copy / "parts")
    assert "whole. 14 samples" in verify(str(copy), workers=1)
    assert "without the plan" in verify(str(copy), workers=1)
    index = json.loads((copy / "index.json").read_text())
    again = {**index["shardlist"][0], "url": "train-000099.tar"}
    (copy / "index.json").write_text(json.dumps({**index, "shardlist": [*index["shardlist"], again]}))
    (copy / "train-000099.tar").write_bytes((copy / index["shardlist"][0]["url"]).read_bytes())
    told = damages_of(copy)
    assert len(told) == again["nsamples"]
    assert all("stands in train-000000.tar, too" in line for line in told)


def test_the_limit_of_pixels_is_the_builds(copy: Path) -> None:
    index = json.loads((copy / "index.json").read_text())
    index["recipe"]["max_pixels"] = 96 * 72 - 1
    (copy / "index.json").write_text(json.dumps(index))
    assert "bg.jpg: 96 x 72 pixels, limit 6911" in "\n".join(damages_of(copy))


def test_places_without_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none does not exist"):
        verify(str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"holds no \.tar"):
        verify(str(tmp_path))
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(UserError, match="not finished"):
        verify(str(tmp_path))


def test_recipes_are_read_back_as_the_settings_they_were(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text('{"source": "scenes", "num_scenes": 3}')
    (tmp_path / "b.yaml").write_text('{"source": "coco", "images": ["x"], "annotations": ["y"], "min_area": 0.3}')
    mixture = BuildConfig(mix=(tmp_path / "a.yaml", tmp_path / "b.yaml"), mix_weights=(2, 1), object_size=64)
    for config in (BuildConfig(num_scenes=3, licenses=("a", "b"), meshes=tmp_path), mixture):
        members = members_of(config)
        recipe = json.loads(json.dumps(identity(members)))
        for member, read in zip(members, members_of_identity(recipe), strict=True):
            assert (read.name, read.weight) == (member.name, member.weight)
            for setting in (
                "source",
                "num_scenes",
                "min_area",
                "licenses",
                "meshes",
                "object_size",
                "seed",
                "max_pixels",
            ):
                assert getattr(read.config, setting) == getattr(member.config, setting)


def test_recipes_that_are_none_are_named() -> None:
    group = {"member": 0, "split": "train", "num_shards": 1, "num_samples": 1}
    assert len(list(planned_shards("folder", {"recipe": {"source": "coco"}, "groups": [group]}))) == 1
    for damage in ({**group, "member": 3}, {"split": "train"}, None):
        with pytest.raises(UserError, match="not the recipe of a build"):
            list(planned_shards("folder", {"recipe": {"source": "coco"}, "groups": [damage]}))


@given(st.lists(st.sets(st.sampled_from("abcdefgh"), max_size=5), max_size=6))
def test_keys_that_stand_in_two_shards_are_found(shards: list[set[str]]) -> None:
    keys = KeyHashes()
    for shard in shards:
        keys.add(hashes_of(sorted(shard)))
    found = {key for key, first, second in keys.twice(lambda i: shards[i]) if key in shards[first] & shards[second]}
    assert found == {key for key in "abcdefgh" if sum(key in shard for shard in shards) > 1}


def test_equal_hashes_of_different_keys_are_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = KeyHashes()
    for _ in range(2):
        keys.add(np.array([7, 8], np.uint64))
    shards = [["a", "b"], ["c", "b"]]
    assert list(keys.twice(lambda i: shards[i])) == [("b", 0, 1)]
    assert verify_keys.hashes_of([]).size == 0


def test_shards_in_a_store_are_verified_there(drawn: DrawnSet, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("moto", reason="moto is not installed: pip install 'pics-compositing[dev]'")
    with object_store("shards") as store:
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        put_folder(copy, "s3://shards/it")
        assert "whole. 14 samples" in verify("s3://shards/it", workers=1, deep=True)
        assert "whole. " in verify("s3://shards/it/train-000000.tar")
        storage.write("s3://shards/it/train-000001.tar", b"")
        with pytest.raises(DamagedError) as error:
            verify("s3://shards/it", workers=1, tell=lambda _: None)
        assert error.value.damages[0].startswith("s3://shards/it/train-000001.tar: 0 bytes; index.json says")
