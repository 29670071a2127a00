"""Where samples lie: found when it is needed, once, saved for others, and never believed of a tar that has changed."""

import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from pics_common.errors import UserError
from pics_model import sample_index
from pics_model.inputs import FramingSettings
from pics_model.shard_set import find_shards
from pics_model.shard_table import MAX_OPEN, ShardTable
from pics_model.stream import ShardStream
from pics_model.tar_index import BLOCK, sample_starts
from tests.model.shards_for_tests import make_members, write_shards, write_tar

FRAMING = FramingSettings(resolution=16, object_resolution=16)


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of tars whose headers were read through, by this process."""
    names: list[str] = []
    real = sample_index.sample_starts
    monkeypatch.setattr(sample_index, "SMALL", 0)
    monkeypatch.setattr(
        sample_index, "sample_starts", lambda path, name: (names.append(path.name), real(path, name))[1]
    )
    return names


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards", {f"train-{i:06}.tar": 2 for i in range(6)}, size=(24, 32))


def stream_of(folder: Path, cache: Path, **options: object) -> ShardStream:
    return ShardStream(folder, FRAMING, batch_size=1, cache=cache, **options)  # type: ignore[arg-type]


def test_with_an_index_no_tar_is_opened_before_its_turn(shards, tmp_path, scanned) -> None:
    stream = stream_of(shards, tmp_path / "cache")
    assert scanned == []
    first = stream.order.sample(stream.order.entry(0)[1])[0]
    batches = stream.batches()
    next(batches)
    assert scanned == [stream.samples.table.shards[first].name]
    list(islice(batches, 23))
    assert sorted(scanned) == sorted(path.name for path in shards.glob("*.tar")), "each once, in two epochs"


@pytest.mark.parametrize("index", [True, False])
def test_what_was_found_once_is_known_to_others(shards, tmp_path, scanned, index) -> None:
    if not index:
        (shards / "index.json").unlink()
    keys = [batch.keys for batch in islice(stream_of(shards, tmp_path / "cache").batches(), 12)]
    num = len(scanned)
    assert [batch.keys for batch in islice(stream_of(shards, tmp_path / "cache").batches(), 12)] == keys
    assert len(scanned) == num


def test_a_tar_that_was_changed_is_read_through_again(shards, tmp_path, scanned) -> None:
    list(islice(stream_of(shards, tmp_path / "cache").batches(), 12))
    scanned.clear()
    path = shards / "train-000002.tar"
    write_tar(path, [(f"new{i}", make_members(i, size=(24, 32))) for i in (7, 8)])
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))
    keys = {batch.keys[0] for batch in islice(stream_of(shards, tmp_path / "cache").batches(), 12)}
    assert {"new7", "new8"} < keys
    assert scanned == ["train-000002.tar"]


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_saved_list_that_is_damaged_is_made_anew(shards, tmp_path, scanned, damage) -> None:
    expected = [batch.keys for batch in islice(stream_of(shards, tmp_path / "cache").batches(), 12)]
    saved = list((tmp_path / "cache" / "starts").iterdir())
    assert len(saved) == 6
    for path in saved:
        data = path.read_bytes()
        path.write_bytes({"cut": data[:-3], "empty": b"", "other": b"\xff" * len(data)}[damage])
    assert [batch.keys for batch in islice(stream_of(shards, tmp_path / "cache").batches(), 12)] == expected


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(shards, tmp_path, scanned) -> None:
    (tmp_path / "cache").write_text("in the way")
    assert len(list(islice(stream_of(shards, tmp_path / "cache").batches(), 12))) == 12


def test_bare_tars_are_counted_by_several_processes_alike(shards, tmp_path) -> None:
    with_index = ShardTable(find_shards(shards), tmp_path / "a")
    (shards / "index.json").unlink()
    bare = ShardTable(find_shards(shards), tmp_path / "b")
    assert bare.counts == with_index.counts == [2] * 6
    assert bare.keys == with_index.keys
    (shards / "train-000005.tar").write_bytes(b"no tar" * 300)
    with pytest.raises(UserError, match=r"train-000005.tar: not a tar"):
        ShardTable(find_shards(shards), tmp_path / "c")


def test_samples_begin_where_their_first_header_does(tmp_path) -> None:
    samples = [("a", make_members(0, size=(24, 32))), ("b", make_members(1, size=(24, 32)))]
    path = write_tar(tmp_path / "a.tar", samples)
    starts = sample_starts(path)
    blocks = [sum(1 + -(-len(data) // BLOCK) for data in members.values()) for _, members in samples]
    assert starts.dtype == np.uint32
    assert starts.tolist() == [0, blocks[0], blocks[0] + blocks[1]]


def test_few_files_are_open_at_a_time(tmp_path) -> None:
    write_shards(tmp_path, {f"train-{i:06}.tar": 1 for i in range(MAX_OPEN + 10)}, size=(24, 32))
    table = ShardTable(find_shards(tmp_path), tmp_path / "cache")
    before = len(list(Path("/proc/self/fd").iterdir()))
    held = [table.sample(index) for index in range(5)]
    for index in range(len(table)):
        table.sample(index)
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= MAX_OPEN + len(held)
    assert held[0].read("bg.jpg").startswith(b"\xff\xd8"), "who holds a sample can read it still"
