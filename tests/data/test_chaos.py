"""Whatever dies: kills at random moments, tasks that fail, photos that kill their worker. `benchmarks/chaos.py` is the
long version.
"""

import random
import time
from pathlib import Path

import cv2
import pyarrow.parquet as pq
import pytest

from pics_data import shards
from pics_data.decompose import decompose_all
from pics_data.ledger import read_ledger
from pics_data.mixture import members_of
from pics_data.pipeline import build_shard
from pics_data.plan import Plan
from pics_data.quarantine import decompose_apart
from pics_data.records import Composition, Reject
from tests.data.compare_for_tests import differences, digests_of_all
from tests.data.kills_for_tests import FAULTS, Run, build_and_wait
from tests.data.photos_for_tests import DrawnSet, draw_set
from tests.data.plain_build import build_plainly, compositions_of, digests

SETTINGS = ("--shard-samples", "4", "--object-size", "32", "--workers", "2", "--max-reject-fraction", "0.5")


def damaged_set(folder: Path, num_photos: int) -> DrawnSet:
    """Photos of which two are cut off."""
    drawn = draw_set(folder, num_photos=num_photos)
    for i in (2, 9):
        cut_off(drawn.photo(i))
    return drawn


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def plain(drawn: DrawnSet, out: Path) -> Plan:
    return build_plainly(drawn.config(out, shard_samples=4, object_size=32))


def test_kills_at_random_moments_while_some_tasks_fail_lose_and_double_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = damaged_set(tmp_path / "drawn", num_photos=200)
    num_shards = plain(drawn, tmp_path / "plain").num_shards
    out, log = tmp_path / "shards", tmp_path / "faults"
    monkeypatch.setenv("PICS_FAULTS_LOG", str(log))
    rng = random.Random(5)
    argv, faults = drawn.argv(out, *SETTINGS), "exit:0.05:1"

    def marks() -> int:
        return len(list(out.glob("parts/*.json")))

    for kinds in (("worker", "driver"), ("worker", "session")):
        with Run(argv, faults=faults) as run:
            for kind in kinds:
                least = marks() + rng.randrange(1, num_shards // 8)
                assert run.wait_until(lambda least=least: marks() >= least), "the build ended before it could be killed"
                time.sleep(rng.random() * 0.03)
                assert run.wait_until(lambda kind=kind: run.kill(kind, rng.random()))
            run.wait()
    assert marks() < num_shards, "killed too late: all shards were done"
    assert build_and_wait(argv, faults=faults) == 0
    assert log.read_text(), "no task was made to fail"
    assert differences(out, digests_of_all(tmp_path / "plain")) == []


def test_a_disk_that_fails_for_moments_costs_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = damaged_set(tmp_path / "drawn", num_photos=60)
    plain(drawn, tmp_path / "plain")
    monkeypatch.setenv("PICS_FAULTS_LOG", str(tmp_path / "faults"))
    out = tmp_path / "shards"
    assert build_and_wait(drawn.argv(out, *SETTINGS), faults="raise:0.15:2") == 0
    assert (tmp_path / "faults").read_text(), "no task was made to fail"
    assert differences(out, digests_of_all(tmp_path / "plain")) == []


def test_a_photo_that_kills_its_workers_is_rejected_and_its_neighbours_are_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = damaged_set(tmp_path / "drawn", num_photos=40)
    monkeypatch.setenv("PICS_FAULTS_LOG", str(tmp_path / "faults"))
    out = tmp_path / "shards"
    log = tmp_path / "log"
    assert build_and_wait(drawn.argv(out, *SETTINGS), log, "photo:1035") == 0, log.read_text()
    deaths = (tmp_path / "faults").read_text().splitlines()
    assert len(deaths) == 3  # the worker, and twice the process beside the next worker
    rejects = {row["key"].split("-")[1]: row for row in pq.read_table(out / "rejects.parquet").to_pylist()}
    assert {photo: row["reason"] for photo, row in rejects.items()} == {
        "1014": "broken photo",
        "1063": "broken photo",
        "1035": "crashed the worker",
    }
    assert rejects["1035"]["detail"] == f"{drawn.photo(5)}: SIGABRT, 2 times"

    # As if the photo had been broken in a harmless way.
    cut_off(drawn.photo(5))
    plain(drawn, tmp_path / "plain")
    assert digests(out) == digests(tmp_path / "plain")


@pytest.fixture
def planned(tmp_path: Path) -> tuple[DrawnSet, list[Composition]]:
    drawn = damaged_set(tmp_path / "drawn", num_photos=12)
    config = drawn.config(tmp_path / "plan", pairs_per_photo=2)
    return drawn, compositions_of(build_plainly(config))


def test_photos_taken_apart_in_a_process_beside_give_the_same_samples(
    planned: tuple[DrawnSet, list[Composition]], tmp_path: Path
) -> None:
    drawn, compositions = planned
    config = drawn.config(tmp_path / "shards", object_size=32)
    expected = list(decompose_all(compositions, config))
    assert sum(isinstance(record, Reject) for record in expected) >= 2
    assert list(decompose_apart(compositions, config)) == expected


@pytest.mark.parametrize("deadly", [("1007",), ("1000", "1077"), ()])
def test_only_photos_that_kill_the_process_beside_are_rejected_each_with_all_its_compositions(
    planned: tuple[DrawnSet, list[Composition]],
    deadly: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn, compositions = planned
    config = drawn.config(tmp_path / "shards", object_size=32)
    monkeypatch.syspath_prepend(str(FAULTS))
    monkeypatch.setenv("PICS_FAULTS", f"photo:{','.join(deadly)}")
    monkeypatch.setenv("PICS_FAULTS_LOG", str(tmp_path / "faults"))
    found = list(decompose_apart(compositions, config))
    for composition, record, expected in zip(compositions, found, decompose_all(compositions, config), strict=True):
        if composition.photo.id in deadly:
            detail = f"{composition.photo.path}: SIGABRT, 2 times"
            assert record == Reject(composition.key, "decompose", "crashed the worker", detail)
        else:
            assert record == expected


def test_an_error_in_the_process_beside_is_raised_here(
    planned: tuple[DrawnSet, list[Composition]], tmp_path: Path
) -> None:
    drawn, compositions = planned
    config = drawn.config(tmp_path / "shards", object_size=-1)
    with pytest.raises(cv2.error, match="resize"):
        list(decompose_all(compositions, config))
    with pytest.raises(cv2.error, match="resize"):
        list(decompose_apart(compositions, config))


def test_a_retry_killed_between_tar_and_mark_leaves_no_mark_of_another_tar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two photos take turns in being broken, so that the old tar and the new one are of the same size."""
    drawn = draw_set(tmp_path / "drawn", num_photos=8)
    out = tmp_path / "shards"
    config = drawn.config(out, shard_samples=100, object_size=32, val_fraction=0)
    good = drawn.photo(0).read_bytes()
    for i in range(8):
        drawn.photo(i).write_bytes(good)  # of equal size, so that the tars are
    cut_off(drawn.photo(3))
    plan = build_plainly(config)
    tar = out / "train-000000.tar"
    old = tar.read_bytes()

    drawn.photo(3).write_bytes(good)
    cut_off(drawn.photo(4))
    retry = drawn.config(out, shard_samples=100, object_size=32, val_fraction=0, retry_rejects=True)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_table", killed)
        with pytest.raises(KeyboardInterrupt):
            build_shard(0, "train-000000", plan.folder, str(out), retry)
    assert tar.stat().st_size == len(old)
    assert tar.read_bytes() != old
    assert not read_ledger(str(out), plan, members_of(config)).is_done(0)
