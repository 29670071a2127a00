"""The shard format between the packages: other readers open it, the schema holds, damage is named."""

import hashlib
import io
import json
import shutil
import tarfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import orjson
import pytest
from PIL import Image

from pics_common.errors import UserError
from pics_data.config import BuildConfig
from pics_data.shards import tar_member
from pics_data.tar_read import read_members, tar_samples
from pics_data.verify import DamagedError, verify
from pics_data.verify_sample import SCHEMA
from tests.data.photos_for_tests import draw_set, write_recipes
from tests.data.plain_build import build_plainly


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of drawn photos, not to be changed."""
    folder = tmp_path_factory.mktemp("built")
    drawn = draw_set(folder / "drawn", num_photos=12)
    build_plainly(drawn.config(folder / "shards", shard_samples=5, object_size=48, val_fraction=0.3))
    return folder / "shards"


@pytest.fixture(scope="module")
def built_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of rendered scenes, not to be changed."""
    folder = tmp_path_factory.mktemp("scenes")
    build_plainly(BuildConfig(out=str(folder / "shards"), num_scenes=6, scene_size=96, object_size=48))
    return folder / "shards"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a mixture of drawn photos and rendered scenes, not to be changed."""
    folder = tmp_path_factory.mktemp("mixed")
    drawn = draw_set(folder / "drawn", num_photos=6)
    rooms = {"source": "scenes", "num_scenes": 3, "scene_size": 64}
    mix = write_recipes(folder, photos=drawn.recipe(), rooms=rooms)
    build_plainly(BuildConfig(mix=mix, mix_weights=(3.0, 1.0), out=str(folder / "shards"), object_size=48))
    return folder / "shards"


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    """A copy of the shards of drawn photos, to be damaged."""
    return Path(shutil.copytree(built, tmp_path / "copy"))


def read_samples(tar: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    with tar.open("rb") as file:
        for sample in tar_samples(file):
            yield sample.key, read_members(file, sample)


def damages_of(folder: Path) -> str:
    """What `verify` names, a line each."""
    with pytest.raises(UserError) as error:
        verify(str(folder), workers=1, tell=lambda _: None)
    return "\n".join(error.value.damages) if isinstance(error.value, DamagedError) else str(error.value)


def test_what_was_built_is_whole(built: Path, built_scenes: Path, mixed: Path) -> None:
    assert "whole. 12 samples" in verify(str(built), workers=1)
    assert "whole. " in verify(str(built_scenes), workers=1)
    assert "whole. " in verify(str(mixed), workers=1, deep=True)
    assert "whole" in verify(str(built / "train-000000.tar"))


def opened_by_webdataset(folder: Path) -> list[dict[str, Any]]:
    import webdataset

    urls = [str(tar) for tar in sorted(folder.glob("*.tar"))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))


def test_webdatasets_own_reader_opens_the_shards(built: Path) -> None:
    samples = opened_by_webdataset(built)
    assert len(samples) == 12
    for sample in samples:
        assert set(sample) >= {"bg.jpg", "obj0.png", "mask0.png", "obj1.png", "mask1.png", "meta.json", "__key__"}
        assert sample["bg.jpg"].shape == (72, 96, 3)
        assert sample["obj0.png"].shape[0] == sample["obj0.png"].shape[1] <= 48
        assert sample["meta.json"]["source"] == "coco"


def test_webdatasets_own_reader_opens_a_mixture(mixed: Path) -> None:
    samples = opened_by_webdataset(mixed)
    sources = [sample["meta.json"]["source"] for sample in samples]
    assert sorted(set(sources)) == ["coco", "scenes"]
    index = json.loads((mixed / "index.json").read_text())["shardlist"]
    for source, weight in (("coco", 3.0), ("scenes", 1.0)):
        entries = [entry for entry in index if entry["source"] == source]
        assert sum(entry["nsamples"] for entry in entries) == sources.count(source)
        assert {entry["weight"] for entry in entries} == {weight}


def test_wids_opens_shards_and_mixtures_by_index(built: Path, mixed: Path, tmp_path: Path) -> None:
    wids = pytest.importorskip("wids", reason="wids is not installed; it is a package of its own: pip install wids")
    for folder in (built, mixed):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = wids.ShardListDataset(str(folder / "index.json"), cache_dir=str(tmp_path / folder.parent.name))
        keys = [dataset[i]["__key__"] for i in range(len(dataset))]
        index = json.loads((folder / "index.json").read_text())["shardlist"]
        assert keys == [key for entry in index for key, _ in read_samples(folder / entry["url"])]
        assert dataset[0][".meta.json"]["schema"] == 3
        assert dataset[0][".bg.jpg"].size[0] > 0


def test_the_published_readers_way_sees_what_it_expects(built: Path) -> None:
    """Published training reads cut-outs with OpenCV, which drops alpha, and masks as 8-bit grey, object > 127."""
    import cv2

    for _, members in read_samples(built / "train-000000.tar"):
        for i in (0, 1):
            mask = cv2.imdecode(np.frombuffer(members[f"mask{i}.png"], np.uint8), cv2.IMREAD_GRAYSCALE)
            assert set(np.unique(mask)) == {0, 255}
            cut = cv2.imdecode(np.frombuffer(members[f"obj{i}.png"], np.uint8), cv2.IMREAD_COLOR)
            assert (cut[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()


def test_the_index_lists_the_tars_in_the_layout_of_wids(built: Path) -> None:
    index = json.loads((built / "index.json").read_text())
    assert (index["__kind__"], index["wids_version"]) == ("wids-shard-index-v1", 1)
    assert {entry["url"] for entry in index["shardlist"]} == {tar.name for tar in built.glob("*.tar")}
    assert sum(entry["nsamples"] for entry in index["shardlist"]) == 12
    assert {entry["split"] for entry in index["shardlist"]} == {"train", "val"}


def test_metadata_follows_the_schema_and_the_schema_is_one(built: Path, built_scenes: Path) -> None:
    schema = json.loads(SCHEMA.read_text())
    assert schema == json.loads((Path(__file__).parents[2] / "shards" / "schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for folder in (built, built_scenes):
        for tar in folder.glob("*.tar"):
            for _, members in read_samples(tar):
                jsonschema.validate(json.loads(members["meta.json"]), schema)


def published(folder: Path) -> Path:
    """A tar in the published form: RGB cut-outs, 8-bit masks, no metadata, no index, keys of any kind."""
    rng = np.random.default_rng(0)
    tar = folder / "LVIS_000.tar"
    with tar.open("wb") as file:
        for key in ("000000000001", "scene (2) left"):
            photo = Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
            mask = Image.fromarray(np.uint8(np.indices((40, 60)).sum(0) > 50) * np.uint8(255))
            members = {"bg.jpg": photo, "mask0.png": mask, "mask1.png": mask}
            members |= {f"obj{i}.png": photo.resize((224, 224)) for i in (0, 1)}
            for name, image in members.items():
                data = io.BytesIO()
                image.save(data, "JPEG" if name.endswith("jpg") else "PNG")
                file.write(tar_member(f"{key}.{name}", data.getvalue()))
        file.write(bytes(1024))
    return tar


def test_published_shards_are_verified_as_they_are(tmp_path: Path) -> None:
    tar = published(tmp_path)
    assert "2 samples in 1 shards (bare tars" in verify(str(tmp_path))
    tar.write_bytes(tar.read_bytes()[:-1024])
    assert "cut off" in damages_of(tmp_path)


def test_a_broken_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    tar = published(tmp_path)
    whole = tar.read_bytes()
    with tarfile.open(tar) as file:
        offsets = [info.offset for info in file]
    for offset in offsets[1:]:
        tar.write_bytes(whole[:offset] + b"\x01" + whole[offset + 1 :])
        assert "neither a member nor the end" in damages_of(tmp_path)
    tar.write_bytes(whole + whole)
    assert "neither a member nor the end" in damages_of(tmp_path)


def members_of(tar: Path) -> Iterator[tuple[str, bytes]]:
    for key, members in read_samples(tar):
        for extension, data in members.items():
            yield f"{key}.{extension}", data


def rewritten(change: Callable[[str, bytes], list[tuple[str, bytes]]]) -> Callable[[Path], None]:
    """Writes the first train shard again with its members changed, and an index that agrees with the new bytes."""

    def damage(folder: Path) -> None:
        tar = folder / "train-000000.tar"
        members = [new for name, data in members_of(tar) for new in change(name, data)]
        tar.write_bytes(b"".join(tar_member(name, data) for name, data in members) + bytes(1024))
        index = json.loads((folder / "index.json").read_text())
        entry = next(entry for entry in index["shardlist"] if entry["url"] == tar.name)
        entry["filesize"] = tar.stat().st_size
        entry["sha256"] = hashlib.sha256(tar.read_bytes()).hexdigest()
        (folder / "index.json").write_text(json.dumps(index))

    return damage


def drop(extension: str) -> Callable[[Path], None]:
    return rewritten(lambda name, data: [] if name.endswith(extension) else [(name, data)])


def put(extension: str, new: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return rewritten(lambda name, data: [(name, new(data) if name.endswith(extension) else data)])


def name_as(extension: str, new_name: str) -> Callable[[Path], None]:
    return rewritten(lambda name, data: [(new_name if name.endswith(extension) else name, data)])


def png(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG")
    return data.getvalue()


def edit_meta(**values: Any) -> Callable[[Path], None]:
    return put(".meta.json", lambda data: orjson.dumps({**orjson.loads(data), **values}))


def first_object_only(data: bytes) -> bytes:
    meta = orjson.loads(data)
    return orjson.dumps({**meta, "objects": meta["objects"][:1]})


def edit_index(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text())
        change(index)
        (folder / "index.json").write_text(json.dumps(index))

    return damage


def flip_a_byte(folder: Path) -> None:
    tar = folder / "train-000000.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)


def lose_a_sample(folder: Path) -> None:
    key, _ = next(read_samples(folder / "train-000000.tar"))
    rewritten(lambda name, data: [] if name.startswith(f"{key}.") else [(name, data)])(folder)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped byte": (flip_a_byte, "bytes have changed"),
    "a tar cut off": (lambda f: (f / "train-000000.tar").write_bytes(b"x" * 512), "index.json says"),
    "a tar lost": (lambda f: (f / "train-000000.tar").unlink(), "missing"),
    "a tar too many": (lambda f: (f / "train-000009.tar").write_bytes(b""), "not in index.json"),
    "an index of something else": (lambda f: (f / "index.json").write_text("{}"), "no shard index"),
    "an index cut off": (lambda f: (f / "index.json").write_text("{"), "not JSON"),
    "an index out of the folder": (edit_index(lambda i: i["shardlist"][0].update(url="../x.tar")), "plain name"),
    "an index that miscounts": (edit_index(lambda i: i["shardlist"][0].update(nsamples=99)), "index.json says 99"),
    "a sample lost": (lose_a_sample, "index.json says"),
    "no photo": (drop(".bg.jpg"), "bg.jpg: missing"),
    "no mask": (drop(".mask1.png"), "mask1.png: missing"),
    "no object": (drop(".obj0.png"), "obj0.png: missing"),
    "no metadata": (drop(".meta.json"), "meta.json: missing"),
    "a broken photo": (put(".bg.jpg", lambda d: d[: len(d) // 2]), "bg.jpg: does not decode"),
    "a broken mask": (put(".mask0.png", lambda d: d[:40]), "mask0.png: does not decode"),
    "a photo in disguise": (put(".bg.jpg", lambda _: png(np.zeros((72, 96, 3), np.uint8))), "bg.jpg: holds PNG"),
    "a mask of another size": (put(".mask0.png", lambda _: png(np.ones((71, 96), bool))), "mask0.png: 96 x 71"),
    "a mask of 8 bits": (put(".mask0.png", lambda _: png(np.ones((72, 96), np.uint8))), "expected 1 bit"),
    "an empty mask": (put(".mask0.png", lambda _: png(np.zeros((72, 96), bool))), "mask0.png: empty"),
    "a mask in colour": (put(".mask0.png", lambda _: png(np.ones((72, 96, 3), np.uint8))), "3 channels"),
    "a cut-out off square": (put(".obj0.png", lambda _: png(np.ones((9, 8, 4), np.uint8))), "expected a square"),
    "a cut-out not on white": (put(".obj0.png", lambda _: png(np.zeros((8, 8, 4), np.uint8))), "over white"),
    "another schema": (edit_meta(schema=1), "$.schema"),
    "no relations": (edit_meta(relations=None), "$.relations"),
    "more border than outline": (put(".meta.json", lambda d: d.replace(b'"border":0.', b'"border":1.9')), "border"),
    "a negative gap": (put(".meta.json", lambda d: d.replace(b'"gap_px":', b'"gap_px":-1')), "gap_px"),
    "an object of no part": (put(".meta.json", lambda d: d.replace(b'"parts":1', b'"parts":0')), "parts"),
    "an unknown key": (edit_meta(note="x"), "note"),
    "another split": (edit_meta(split="val"), "`split` val in a shard of train"),
    "another size in the metadata": (edit_meta(size=[1, 2]), "`size`"),
    "objects forgotten": (put(".meta.json", first_object_only), "speaks of 1 objects"),
    "metadata of another mask": (put(".meta.json", lambda d: d.replace(b'"area":0.', b'"area":0.9')), "`area`"),
    "a mask of no object": (rewritten(lambda n, d: [(n, d)] + [(n.replace("mask1", "mask2"), d)] * ("mask1" in n)),
                            "mask2.png: belongs to no object"),
    "a front that is no object": (put(".meta.json", lambda d: d.replace(b'"front":null', b'"front":2')), "`front`"),
    "no picture at all": (put(".bg.jpg", lambda _: b"text"), "bg.jpg: does not decode (not a picture)"),
    "a plan that is none": (lambda f: (f / "plan/000000.parquet").write_bytes(b"text"), "000000.parquet: cannot"),
    "rejects cut off": (lambda f: (f / "rejects.parquet").write_bytes(b""), "rejects.parquet: cannot be read"),
    "a pickle": (rewritten(lambda n, d: [(n.replace(".mask0.png", ".mask0.pkl"), d)]), "not a member"),
    "a path": (name_as(".meta.json", "../evil.meta.json"), "not a plain file"),
    "an absolute path": (name_as(".meta.json", "/etc/evil.meta.json"), "not a plain file"),
    "a key with a space": (name_as(".bg.jpg", "a b.bg.jpg"), "letters, digits"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named(copy: Path, kind: str) -> None:
    damage, message = DAMAGES[kind]
    damage(copy)
    told = damages_of(copy)
    assert message in told
    assert str(copy) in told


def test_a_sample_twice_is_named(copy: Path) -> None:
    (copy / "index.json").unlink()
    (copy / "recipe.json").unlink()
    (copy / "train-000009.tar").write_bytes((copy / "train-000000.tar").read_bytes())
    told = damages_of(copy).splitlines()
    assert len(told) == sum(1 for _ in read_samples(copy / "train-000000.tar"))
    assert all("train-000009.tar: " in line and "stands in train-000000.tar, too" in line for line in told)


def test_a_planned_sample_that_is_nowhere_is_named(copy: Path) -> None:
    def forget(index: dict[str, Any]) -> None:
        (copy / index["shardlist"].pop()["url"]).unlink()

    edit_index(forget)(copy)
    assert "not in index.json, though its mark says that it holds" in damages_of(copy)


def test_links_in_a_tar_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("a.bg.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    assert "not a plain file" in damages_of(tmp_path)
