"""Damage: named and fatal, or skipped and told, the same on any ranks and workers and after resuming; never a hang."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice
from multiprocessing import active_children
from pathlib import Path

import pytest

from pics_common.errors import UserError
from pics_model.inputs import Batch, FramingSettings
from pics_model.samples import MAX_TRIES
from pics_model.stream import ShardStream
from tests.model.shards_for_tests import make_members, write_index, write_shards, write_tar

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

FRAMING = FramingSettings(resolution=16, object_resolution=16)
NUM = 15


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five shards of three samples: the second is missing, the fourth's first sample has a broken photo, the fifth is
    cut off, which loses it; but the index still counts all."""
    folder = tmp_path_factory.mktemp("damaged")
    counts = {f"train-{i:06}.tar": 3 for i in range(5)}
    write_shards(folder, counts, size=(24, 32))
    broken = make_members(9, size=(24, 32)) | {"bg.jpg": b"hello"}
    rest = [(f"s{i:06}", make_members(i, size=(24, 32))) for i in (10, 11)]
    write_tar(folder / "train-000003.tar", [("s000009", broken), *rest])
    write_index(folder, counts)
    (folder / "train-000001.tar").unlink()
    data = (folder / "train-000004.tar").read_bytes()
    (folder / "train-000004.tar").write_bytes(data[: len(data) // 2])
    return folder


GONE = {f"s{i:06}" for i in (3, 4, 5, 9, 12, 13, 14)}


def take(folder: Path, num: int, start: int = 0, **options: object) -> list[Batch]:
    stream = ShardStream(folder, FRAMING, **{"batch_size": 3, "on_damage": "skip", **options})  # type: ignore[arg-type]
    return list(islice(stream.batches(start), num))


def told(batches: list[Batch]) -> list[tuple[list[str], list[int], list[str]]]:
    return [(batch.keys, batch.seeds.tolist(), batch.skipped) for batch in batches]


# --- skip ---


@pytest.mark.parametrize("group", [0, 2])
def test_what_is_lost_is_told_and_another_stands_in_its_place(damaged, group) -> None:
    epoch = take(damaged, 5, shuffle_shards=group)
    seen = Counter(key for batch in epoch for key in batch.keys)
    assert sum(seen.values()) == NUM
    assert set(seen) == {f"s{i:06}" for i in range(NUM)} - GONE
    skipped = [line for batch in epoch for line in batch.skipped]
    assert len(skipped) == len(GONE), "a line for each sample that is lost"
    assert sum("train-000001.tar: cannot be read (No such file" in line for line in skipped) == 3
    assert sum("train-000003.tar, key s000009, bg.jpg: not a JPEG" in line for line in skipped) == 1
    assert sum("train-000004.tar: cut off at byte" in line for line in skipped) == 3
    assert not any("\n" in line for line in skipped)


def test_the_replacement_is_the_next_of_the_order_that_can_be_read(damaged) -> None:
    stream = ShardStream(damaged, FRAMING, batch_size=1, on_damage="skip")
    order = [stream.order.entry(position)[1] for position in range(NUM)]
    found = [batch.keys[0] for batch in islice(stream.batches(), NUM)]
    for place, key in enumerate(found):
        following = order[place:] + order[:place]
        assert key == next(name for name in (f"s{entry:06}" for entry in following) if name not in GONE)


def test_what_is_drawn_is_drawn_for_the_place(damaged, tmp_path) -> None:
    """Seeds are those of whole data: what is lost shifts nothing else, and a replacement is no copy of itself."""
    whole = write_shards(tmp_path / "whole", {f"train-{i:06}.tar": 3 for i in range(5)}, size=(24, 32))
    seeds = [[seed for batch in take(folder, 10) for seed in batch.seeds.tolist()] for folder in (damaged, whole)]
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 30


@pytest.mark.parametrize(("workers", "ranks", "start"), [(0, 3, 0), (2, 1, 0), (8, 3, 0), (1, 1, 6), (0, 3, 9)])
def test_ranks_workers_and_resumed_runs_skip_alike(damaged, workers, ranks, start) -> None:
    alone = told(take(damaged, 12))[start // 3 :]
    num = len(alone)
    parts = [told(take(damaged, num, start, num_workers=workers, rank=r, world_size=ranks)) for r in range(ranks)]
    joined = [tuple([item for part in parts for item in part[step][i]] for i in range(3)) for step in range(num)]
    assert joined == alone


def test_nothing_left_to_read_is_an_error_and_no_endless_search(tmp_path) -> None:
    write_shards(tmp_path, {"train-000000.tar": 2, "train-000001.tar": 1}, size=(24, 32))
    for tar in tmp_path.glob("*.tar"):
        tar.unlink()
    with pytest.raises(UserError, match=r"cannot be read .*; and none can take its place: 0 others were tried"):
        take(tmp_path, 1, num_workers=2)


def test_the_search_is_bounded(tmp_path) -> None:
    bad = make_members(0, size=(24, 32)) | {"obj0.png": b"x"}
    write_tar(tmp_path / "a.tar", [(f"s{i}", bad) for i in range(3 * MAX_TRIES)])
    with pytest.raises(UserError, match=rf"obj0.png: not a JPEG.*; and none can take its place: {MAX_TRIES} others"):
        take(tmp_path, 1)


def test_a_bare_tar_that_cannot_be_counted_is_an_error_in_any_case(damaged, tmp_path) -> None:
    """Leaving it out would change the order of all samples."""
    os.link(damaged / "train-000000.tar", tmp_path / "a.tar")
    os.link(damaged / "train-000004.tar", tmp_path / "b.tar")
    with pytest.raises(UserError, match=r"b.tar: cut off"):
        take(tmp_path, 1)


# --- fail ---


def test_by_default_the_first_damage_ends_it(damaged) -> None:
    with pytest.raises(UserError, match=r"index.json: names train-000001.tar, which is not there"):
        take(damaged, 1, on_damage="fail")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_wrong_count_is_named_when_the_shard_is_opened(tmp_path, workers) -> None:
    write_shards(tmp_path, {"train-000000.tar": 4, "train-000001.tar": 2}, size=(24, 32))
    write_index(tmp_path, {"train-000000.tar": 4, "train-000001.tar": 3})
    with pytest.raises(UserError, match=r"train-000001.tar: 2 samples, the index says 3"):
        take(tmp_path, 7, on_damage="fail", num_workers=workers)
    skipped = [line for batch in take(tmp_path, 7, num_workers=workers) for line in batch.skipped]
    assert len(skipped) == 9
    assert all("2 samples, the index says 3" in line for line in skipped)


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path) -> None:
    write_shards(tmp_path, {"train-000000.tar": 4}, size=(24, 32))
    stream = ShardStream(tmp_path, FRAMING, batch_size=1)
    batches = stream.batches()
    next(batches)
    with (tmp_path / "train-000000.tar").open("r+b") as file:
        file.truncate(300)
    with pytest.raises(UserError, match=r"train-000000.tar"):
        list(islice(batches, 4))


def test_a_loader_process_that_is_killed_is_one_line_and_no_hang(tmp_path) -> None:
    write_shards(tmp_path, {"train-000000.tar": 4}, size=(24, 32))
    before = set(active_children())
    batches = ShardStream(tmp_path, FRAMING, batch_size=2, num_workers=2).batches()
    next(batches)
    victim = next(child for child in active_children() if child not in before)
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    begin = time.monotonic()
    with pytest.raises(UserError, match="a loader process died: lack of memory is the usual reason"):
        list(islice(batches, 1000))
    assert time.monotonic() - begin < 30


def test_python_ends_while_batches_are_being_made(tmp_path) -> None:
    """Loader processes do not hear SIGTERM, and Python waits for them: who forgets to close shall not wait for ever."""
    write_shards(tmp_path, {"train-000000.tar": 4}, size=(24, 32))
    program = (
        "import sys; from pics_model.inputs import FramingSettings; from pics_model.stream import ShardStream\n"
        "batches = ShardStream(sys.argv[1], FramingSettings(), batch_size=2, num_workers=2).batches()\n"
        "next(batches); sys.exit(3)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=60, check=False).returncode == 3


def test_index_with_a_count_below_zero(tmp_path) -> None:
    (tmp_path / "index.json").write_text(json.dumps({"shardlist": [{"url": "a.tar", "nsamples": -1}]}))
    with pytest.raises(UserError, match=r"nsamples -1 of a\.tar; expected 0 or more"):
        take(tmp_path, 1)
