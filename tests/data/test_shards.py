"""Writing a shard: bytes that depend on names and data only, and a folder that is right after any interruption."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pics_data.config import BuildConfig
from pics_data.ledger import read_ledger
from pics_data.mixture import Member
from pics_data.plan import Plan, ShardGroup
from pics_data.records import Reject, Sample
from pics_data.shards import read_mark, remove_leftovers, tar_member, write_shard
from tests.data.metas_for_tests import meta_of


@given(st.dictionaries(st.from_regex(r"[a-zA-Z0-9_-]{1,80}\.[a-z0-9]{1,9}", fullmatch=True), st.binary(max_size=2000)))
def test_members_are_read_back_by_the_standard_library(files: dict[str, bytes]) -> None:
    data = b"".join(tar_member(name, content) for name, content in files.items()) + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {info.name: (info, tar.extractfile(info).read()) for info in tar}  # type: ignore[union-attr]
    assert {name: content for name, (_, content) in found.items()} == files
    assert all((info.mtime, info.uid, info.gid, info.mode) == (0, 0, 0, 0o644) for info, _ in found.values())


def records() -> Iterator[Sample | Reject]:
    meta = orjson.dumps({k: v for k, v in meta_of([{}, {}]).items() if k not in ("key", "num_bytes")})
    yield Sample("a-1", {"bg.jpg": b"photo", "obj0.png": b"x" * 700, "meta.json": meta})
    yield Reject("a-2", "decompose", "empty mask", "object 1")
    yield Sample("a-3", {"bg.jpg": b"", "meta.json": meta})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def is_whole(folder: Path, shard: str) -> bool:
    """Whether a rerun would keep the shard, of a plan that has this one alone."""
    plan = Plan("", groups=[ShardGroup(shard.partition("-")[0], 0, 1, 3)])
    return read_ledger(str(folder), plan, [Member("", 1.0, BuildConfig())]).is_done(0)


WHOLE = ["parts", "train-000000.json", "train-000000.parquet", "train-000000.tar"]


def test_a_shard_and_its_mark(folder: Path) -> None:
    mark = write_shard(str(folder), "train-000000", records())
    data = (folder / "train-000000.tar").read_bytes()
    assert len(data) % 10_240 == 0
    assert (mark.nsamples, mark.num_bytes, mark.sha256) == (2, len(data), hashlib.sha256(data).hexdigest())
    assert mark.rejects == (Reject("a-2", "decompose", "empty mask", "object 1"),)
    assert read_mark(str(folder), "train-000000") == mark
    assert sorted(p.name for p in folder.iterdir()) == ["parts", "train-000000.tar"]


def test_a_shard_is_whole_only_with_mark_and_tar_of_its_size(folder: Path) -> None:
    write_shard(str(folder), "train-000000", records())
    tar = folder / "train-000000.tar"
    data = tar.read_bytes()
    assert is_whole(folder, "train-000000")
    tar.write_bytes(data[:-512])
    assert not is_whole(folder, "train-000000")
    tar.unlink()
    assert not is_whole(folder, "train-000000")
    tar.write_bytes(data)
    assert is_whole(folder, "train-000000")
    table = (folder / "parts" / "train-000000.parquet").rename(folder / "table")
    assert not is_whole(folder, "train-000000")
    table.rename(folder / "parts" / "train-000000.parquet")
    for text in ("{}", "[]", '{"rejects": [{"key": 1}]}', "{"):
        (folder / "parts" / "train-000000.json").write_text(text)
        assert read_mark(str(folder), "train-000000") is None
    (folder / "parts" / "train-000000.json").unlink()
    assert read_mark(str(folder), "train-000000") is None


def test_a_write_that_fails_leaves_all_as_it_was(folder: Path) -> None:
    before = write_shard(str(folder), "train-000000", records())

    def dies() -> Iterator[Sample | Reject]:
        yield next(records())
        raise MemoryError

    with pytest.raises(MemoryError):
        write_shard(str(folder), "train-000000", dies())
    with pytest.raises(MemoryError):
        write_shard(str(folder), "train-000001", dies())
    assert read_mark(str(folder), "train-000000") == before
    assert read_mark(str(folder), "train-000001") is None
    assert not (folder / "train-000001.tar").exists()
    assert sorted(p.name for p in folder.rglob("*")) == WHOLE


def test_what_a_killed_write_leaves_behind_goes(folder: Path) -> None:
    write_shard(str(folder), "train-000000", records())
    for name in (".train-000001.tar.0123456789ab.tmp", "parts/.train-000000.json.0123456789ab.tmp"):
        (folder / name).write_bytes(b"half of it")
    remove_leftovers(str(folder))
    assert sorted(p.name for p in folder.rglob("*")) == WHOLE


def test_a_shard_of_which_nothing_is_left_has_a_mark_and_no_tar(folder: Path) -> None:
    rejected = [record for record in records() if isinstance(record, Reject)]
    mark = write_shard(str(folder), "val-000000", rejected)
    assert (mark.nsamples, mark.num_bytes) == (0, 0)
    assert is_whole(folder, "val-000000")
    assert read_mark(str(folder), "val-000000") == mark
    assert not (folder / "val-000000.tar").exists()
