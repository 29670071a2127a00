"""The order of training: exactly once, equal steps, resumable, the same for any ranks, workers, batch; bad shards."""

import ast
import json
import tarfile
from collections import Counter
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import pics_model
from pics_common.errors import UserError
from pics_model.inputs import Batch, FramingSettings
from pics_model.shard_reader import find_shards, open_shards, read_example
from pics_model.stream import ShardStream
from tests.model.shards_for_tests import encode, make_members, make_scene, write_index, write_shards, write_tar

# More workers than cores are the point of these tests; torch would have fewer.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

FRAMING = FramingSettings(resolution=32, object_resolution=24)
SIZES = [5, 1, 7]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 samples for training in three shards, 3 for validation in one."""
    counts = {f"train-{i:06}.tar": n for i, n in enumerate(SIZES)} | {"val-000000.tar": 3}
    return write_shards(tmp_path_factory.mktemp("shards"), counts, size=(40, 56))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tars of the published format, without an index."""
    folder = tmp_path_factory.mktemp("published")
    return write_shards(folder, {"LVIS_a.tar": 3, "LVIS_b.tar": 2}, published=True, index=False, size=(96, 128))


def take(path: Path, num_batches: int, start: int = 0, **options: object) -> list[Batch]:
    stream = ShardStream(path, FRAMING, **{"batch_size": 4, **options})
    return list(islice(stream.batches(start), num_batches))


def same(one: Batch, two: Batch) -> bool:
    names = ("target", "objects", "boxes", "object_boxes", "regions", "silhouettes", "valid", "seeds")
    return one.keys == two.keys and all(torch.equal(getattr(one, name), getattr(two, name)) for name in names)


# --- the real loader ---


@pytest.mark.parametrize(("workers", "ranks"), [(0, 1), (3, 1), (0, 4), (2, 2)])
def test_exactly_once_through_the_loader(shards, workers, ranks) -> None:
    keys: Counter[str] = Counter()
    for rank in range(ranks):
        # 13 batches of 4 are four epochs of 13.
        for batch in take(shards, 13, num_workers=workers, rank=rank, world_size=ranks):
            keys.update(batch.keys)
    assert keys == {f"s{i:06}": 4 for i in range(13)}


def test_workers_change_nothing(shards) -> None:
    alone, eight = take(shards, 5), take(shards, 5, num_workers=8)
    assert all(same(a, b) for a, b in zip(alone, eight, strict=True))


def test_one_shard_fewer_samples_than_a_batch_and_eight_workers(tmp_path) -> None:
    write_shards(tmp_path, {"train-000000.tar": 3}, size=(40, 56))
    alone, eight = take(tmp_path, 3, batch_size=8), take(tmp_path, 3, batch_size=8, num_workers=8)
    assert all(same(a, b) for a, b in zip(alone, eight, strict=True))
    assert Counter(key for batch in alone for key in batch.keys) == {f"s{i:06}": 8 for i in range(3)}


def test_a_resumed_run_sees_the_same_batches(shards) -> None:
    whole = take(shards, 9)
    resumed = take(shards, 4, start=5 * 4, num_workers=2)
    assert all(same(a, b) for a, b in zip(whole[5:], resumed, strict=True))


def test_a_sample_is_drawn_the_same_in_any_batch(shards) -> None:
    twos, sixes = take(shards, 9, batch_size=2), take(shards, 3, batch_size=6)
    for name in ("objects", "object_boxes", "regions", "seeds"):
        joined = [torch.cat([getattr(batch, name) for batch in batches]) for batches in (twos, sixes)]
        assert torch.equal(*joined)


def test_epochs_draw_anew(shards) -> None:
    batches = take(shards, 26, batch_size=1)
    drawn: dict[str, list[Batch]] = {}
    for batch in batches:
        drawn.setdefault(batch.keys[0], []).append(batch)
    for first, second in drawn.values():
        assert first.seeds != second.seeds
        assert not torch.equal(first.object_boxes, second.object_boxes)
        assert torch.equal(first.target, second.target)


def test_splits(shards) -> None:
    counts = {
        split: ShardStream(shards, FRAMING, batch_size=1, split=split).num_samples for split in ("train", "val", "all")
    }
    assert counts == {"train": 13, "val": 3, "all": 16}
    assert set(take(shards, 1, split="val", batch_size=3)[0].keys) == {"s000013", "s000014", "s000015"}
    (shards / "index.json").rename(shards / "hidden")
    try:
        assert [shard.path.name for shard in find_shards(shards, "val")] == ["val-000000.tar"]
    finally:
        (shards / "hidden").rename(shards / "index.json")


def test_one_tar_whatever_its_split(shards) -> None:
    assert ShardStream(shards / "val-000000.tar", FRAMING, batch_size=1, split="train").num_samples == 3


# --- what a sample holds ---


def test_published_shards_stream(published) -> None:
    (batch,) = take(published, 1, batch_size=5)
    assert sorted(batch.keys) == [f"s{i:06}" for i in range(5)]
    assert batch.objects.shape == (5, 2, 24, 24, 4)


def test_published_and_own_samples_decode_to_the_same(published, tmp_path) -> None:
    write_shards(tmp_path, {"train-000000.tar": 3}, size=(96, 128))
    theirs, ours = read_example(open_shards(published), 0), read_example(open_shards(tmp_path), 0)
    assert theirs.key == ours.key
    assert np.array_equal(theirs.photo, ours.photo)
    for k in range(2):
        assert np.array_equal(theirs.masks[k], ours.masks[k])
        # Alpha was lost in theirs and is found again, where white is connected with the border.
        assert np.array_equal(theirs.objects[k], ours.objects[k])
        assert theirs.squares[k] is None
        assert ours.squares[k] is not None


def test_masks_are_true_booleans(shards) -> None:
    for mask in read_example(open_shards(shards), 0).masks:
        assert set(np.unique(mask.view(np.uint8))) == {0, 1}


def test_whole_objects_bring_their_silhouettes(tmp_path) -> None:
    write_tar(tmp_path / "a.tar", [("s0", make_members(0, whole=True)), ("s1", make_members(1))])
    table = open_shards(tmp_path)
    visible, whole, none = (
        read_example(table, 0),
        read_example(table, 0, whole=True),
        read_example(table, 1, whole=True),
    )
    assert visible.whole_masks == []
    assert whole.whole_masks[0].sum() > whole.masks[0].sum()
    assert np.array_equal(whole.masks[0], visible.masks[0])
    assert none.whole_masks == []


def test_mix_takes_either_by_chance(tmp_path) -> None:
    write_tar(tmp_path / "a.tar", [("s0", make_members(0, whole=True))])
    widths = {}
    for cutouts in ("visible", "full", "mix"):
        batches = take(tmp_path, 16, batch_size=1, cutouts=cutouts)
        widths[cutouts] = torch.cat([batch.boxes[:, 0, 2] - batch.boxes[:, 0, 0] for batch in batches])
    is_full = widths["mix"] == widths["full"]
    assert torch.equal(widths["mix"][~is_full], widths["visible"][~is_full])
    assert 2 < is_full.sum() < 14


# --- bad shards ---


def broken(tmp_path: Path, members: dict[str, bytes]) -> Path:
    write_tar(tmp_path / "train-000000.tar", [("good", make_members(1)), ("bad", members)])
    return tmp_path


def without(kind: str) -> dict[str, bytes]:
    members = make_members(0)
    del members[kind]
    return members


def with_(**changes: bytes) -> dict[str, bytes]:
    return make_members(0) | {kind.replace("_", "."): data for kind, data in changes.items()}


HUGE = encode(np.zeros((10_001, 10_000), bool), "PNG")
BAD_SAMPLES = {
    "no object": (without("obj0.png"), "no obj0.png"),
    "no mask": (without("mask0.png"), "no mask0.png"),
    "no photo": (without("bg.jpg"), "no bg.jpg"),
    "mask of another size": (with_(mask1_png=encode(np.ones((96, 127), bool), "PNG")), "mask1.png: mask of 127 x 96"),
    "empty mask": (with_(mask0_png=encode(np.zeros((96, 128), bool), "PNG")), "mask0.png: empty mask"),
    "photo is text": (with_(bg_jpg=b"hello"), "bg.jpg: not a JPEG"),
    "photo cut off": (with_(bg_jpg=make_members(0)["bg.jpg"][:900]), "bg.jpg: broken picture"),
    "object cut off": (with_(obj0_png=make_members(0)["obj0.png"][:100]), "obj0.png: broken picture"),
    "object transparent": (with_(obj0_png=encode(np.zeros((9, 9, 4), np.uint8), "PNG")), "obj0.png: nothing but"),
    "above the pixel limit": (with_(mask0_png=HUGE), "mask0.png: picture of 10000 x 10001"),
    "a bitmap": (with_(obj0_png=encode(np.zeros((9, 9, 3), np.uint8), "BMP")), "obj0.png: not a JPEG"),
    "meta is not JSON": (with_(meta_json=b"{"), "meta.json: not JSON"),
    "meta is a list": (with_(meta_json=b"[]"), "meta.json: expected an object"),
    "crop is nonsense": (with_(meta_json=b'{"objects": [{"crop": [1, 2]}]}'), r"meta.json: objects\[0\].crop"),
}


@pytest.mark.parametrize("name", BAD_SAMPLES)
def test_a_bad_sample_is_named(tmp_path, name) -> None:
    members, message = BAD_SAMPLES[name]
    with pytest.raises(UserError, match=rf"train-000000.tar, key bad[:,] {message}"):
        take(broken(tmp_path, members), 1)


def test_errors_in_workers_are_one_line(tmp_path) -> None:
    with pytest.raises(UserError, match=r"key bad: no mask0.png") as caught:
        take(broken(tmp_path, without("mask0.png")), 1, num_workers=2)
    assert "Traceback" not in str(caught.value)


def test_no_such_folder(tmp_path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        take(tmp_path / "nowhere", 1)


def test_no_shards_in_the_folder(tmp_path) -> None:
    with pytest.raises(UserError, match="no tar files"):
        take(tmp_path, 1)


def test_no_shard_of_the_split(published) -> None:
    with pytest.raises(UserError, match="2 tar files, none of split val"):
        take(published, 1, split="val")


def test_no_sample_in_the_shards(tmp_path) -> None:
    write_tar(tmp_path / "a.tar", [])
    with pytest.raises(UserError, match="no sample in 1 tar"):
        take(tmp_path, 1)


def test_index_names_a_missing_tar(tmp_path) -> None:
    write_shards(tmp_path, {"train-000000.tar": 1, "train-000001.tar": 1})
    (tmp_path / "train-000001.tar").unlink()
    with pytest.raises(UserError, match=r"index.json: names train-000001.tar, which is not there"):
        take(tmp_path, 1)


def test_index_counts_otherwise(tmp_path) -> None:
    write_shards(tmp_path, {"train-000000.tar": 2})
    write_index(tmp_path, {"train-000000.tar": 3})
    with pytest.raises(UserError, match=r"train-000000.tar: 2 samples, the index says 3"):
        take(tmp_path, 1)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"shardlist": [{"url": "a.tar"}]}', '{"shardlist": 3}'])
def test_index_that_is_none(tmp_path, text) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(UserError, match=r"index.json: expected `shardlist`"):
        take(tmp_path, 1)


@pytest.mark.parametrize("url", ["../a.tar", "/etc/a.tar", "http://x/a.tar"])
def test_index_that_points_elsewhere(tmp_path, url) -> None:
    (tmp_path / "index.json").write_text(json.dumps({"shardlist": [{"url": url, "nsamples": 1}]}))
    with pytest.raises(UserError, match="expected the name of a tar beside the index"):
        take(tmp_path, 1)


@pytest.mark.parametrize("keep", [400, 700, 2048, 2050, 9000, 10240], ids=lambda keep: f"at {keep}")
def test_a_tar_cut_off(tmp_path, keep) -> None:
    """Two files of 1000 and 7000 bytes: headers at 0 and 1536, the end of the second at 9216, of the tar at 10240."""
    write_tar(tmp_path / "a.tar", [("s0", {"bg.jpg": b"x" * 1000, "meta.json": b"y" * 7000})])
    data = (tmp_path / "a.tar").read_bytes()
    assert len(open_shards(tmp_path)) == 1
    (tmp_path / "a.tar").write_bytes(data[: min(keep, 9216)])
    with pytest.raises(UserError, match=r"a.tar: cut off at byte"):
        take(tmp_path, 1)


@pytest.mark.parametrize("data", [b"", b"no tar at all", b"no tar at all" * 100], ids=["empty", "short", "long"])
def test_not_a_tar(tmp_path, data) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(UserError, match=r"shard .*a.tar: (not a tar|cut off|cannot be read as a tar)"):
        take(tmp_path, 1)


@pytest.mark.parametrize(
    "name", ["../evil.bg.jpg", "/etc/passwd", "folder/s0.bg.jpg", "./s0.bg.jpg", "s0", ".bg.jpg", "a b.jpg"]
)
@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_member_with_a_path_or_without_a_key(tmp_path, name, kind) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=kind) as tar:
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(UserError, match=r"expected files named <key>.<kind>, without a path"):
        take(tmp_path, 1)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_no_file(tmp_path, kind) -> None:
    info = tarfile.TarInfo("s0.bg.jpg")
    info.type, info.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(info)
    with pytest.raises(UserError, match="expected files named"):
        take(tmp_path, 1)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_is_read_as_tarfile_reads_it(tmp_path, kind) -> None:
    names = ["a.bg.jpg", "a.obj0.png", "k" * 90 + ".bg.jpg"] + (
        ["k" * 150 + ".bg.jpg"] if kind != tarfile.USTAR_FORMAT else []
    )
    with tarfile.open(tmp_path / "a.tar", "w", format=kind, pax_headers={"comment": "global"}) as tar:
        for i, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 511 + i, 1.5
            tar.addfile(info, BytesIO(bytes([i]) * info.size))
    table = open_shards(tmp_path / "a.tar")
    found = {f"{table.keys[i]}.{kind}": at for i in range(len(table)) for kind, at in table.members(i).items()}
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert found == {info.name: (info.offset_data, info.size) for info in tar.getmembers()}


def test_a_batch_size_that_ranks_cannot_share(shards) -> None:
    with pytest.raises(UserError, match="multiple of the 3 ranks"):
        take(shards, 1, batch_size=4, world_size=3)


def test_a_seed_below_zero(shards) -> None:
    with pytest.raises(UserError, match="seed -1: expected 0 or more"):
        take(shards, 1, seed=-1)


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and [name.name for name in node.names] != ["UnpicklingError"]:
            found.add((node.module or "").split(".")[0])  # what torch raises for a damaged file unpickles nothing
    return found


def test_the_model_side_imports_neither_ray_nor_the_data_engine() -> None:
    imported = {file.name: imports_of(file) for file in Path(pics_model.__file__).parent.rglob("*.py")}
    assert "torch" in set().union(*imported.values())
    assert not {"ray", "pics_data"} & set().union(*imported.values())
    # The authors' file is a pickle: one module reads its names with an unpickler that knows none, one writes it.
    pickling = {name for name, modules in imported.items() if "pickle" in modules}
    assert pickling == {"published_file.py", "published_write.py"}


def test_scenes_of_the_helper_overlap() -> None:
    """The helper's pictures are what the tests think they are: two silhouettes that do not share a pixel."""
    _, masks, _ = make_scene(0)
    assert not (masks[0] & masks[1]).any()


def test_an_epoch_holds_each_sample_as_often_as_its_shard_weighs(tmp_path: Path) -> None:
    write_shards(tmp_path, {"train-a-000000.tar": 3, "train-b-000000.tar": 2})
    index = json.loads((tmp_path / "index.json").read_text())
    for entry, weight in zip(index["shardlist"], (1.5, 4.5), strict=True):
        entry["weight"] = weight
    (tmp_path / "index.json").write_text(json.dumps(index))
    stream = ShardStream(tmp_path, FRAMING, batch_size=1, seed=3)
    assert stream.num_samples == 3 * 1 + 2 * 3
    for epoch in range(2):
        batches = islice(stream.batches(epoch * 9), 9)
        seeds = [(batch.keys[0], int(batch.seeds[0])) for batch in batches]
        assert Counter(key for key, _ in seeds) == dict(
            zip((f"s00000{i}" for i in range(5)), (1, 1, 1, 3, 3), strict=True)
        )
        assert len(set(seeds)) == 9  # another draw for each copy
    index["shardlist"][0]["weight"] = -1
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="weight -1"):
        ShardStream(tmp_path, FRAMING, batch_size=1)
