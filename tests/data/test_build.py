"""The whole build through the real command and Ray: same bytes whatever happens on the way, and nothing lost."""

import itertools
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pics_data import cli
from pics_data.sources import records_of
from tests.data.photos_for_tests import DrawnSet, draw_set
from tests.data.plain_build import build_plainly, compositions_of, digests, plan_of, table_of

NUM_PHOTOS = 160
SETTINGS = ("--shard-samples", "4", "--object-size", "32", "--seed", "3")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> DrawnSet:
    """Photos of which some are missing, cut off, of another size, or wrongly annotated."""
    drawn = draw_set(tmp_path_factory.mktemp("drawn"), num_photos=NUM_PHOTOS)
    for i in (5, 6, 7):
        drawn.photo(i).unlink()
    for i in (10, 11):
        drawn.photo(i).write_bytes(drawn.photo(i).read_bytes()[:-300])

    def damage(document: dict[str, Any]) -> None:
        document["images"][20]["width"] += 1
        rle = [a for a in document["annotations"] if a["image_id"] == document["images"][21]["id"]]
        for annotation in rle:
            annotation["segmentation"] = {"size": [9, 9], "counts": [81]}
        for annotation in [a for a in document["annotations"] if a["image_id"] == document["images"][22]["id"]]:
            annotation["area"] = 1.0

    drawn.rewrite(damage)
    return drawn


@pytest.fixture(scope="module")
def expected(drawn: DrawnSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What plain functions make in one process, without Ray, last shard first."""
    folder = tmp_path_factory.mktemp("plain")
    build_plainly(drawn.config(folder, shard_samples=4, object_size=32, seed=3), backwards=True)
    return digests(folder)


def keys_of(tar: Path) -> list[str]:
    with tarfile.open(tar) as file:
        return list(dict.fromkeys(name.partition(".")[0] for name in file.getnames()))


def planned_keys(out: Path) -> list[str]:
    files = sorted(path for path in out.glob("plan/*.parquet") if path.stem != "rejects")
    return [key for path in files for key in pq.read_table(path)["key"].to_pylist()]


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    return int(ended.value.code or 0)


def test_two_workers_give_the_same_bytes_and_everything_adds_up(
    drawn: DrawnSet, expected: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    assert run(*drawn.argv(out, *SETTINGS, "--workers", "2")) == 0
    assert digests(out) == expected
    said = capfd.readouterr()
    assert "Traceback" not in said.err
    assert "INFO" not in said.err

    # What went in is what came out and what was dropped with a reason.
    planned = planned_keys(out)
    rejects = pq.read_table(out / "rejects.parquet").to_pylist()
    written = [key for tar in sorted(out.glob("*.tar")) for key in keys_of(tar)]
    dropped = [reject["key"] for reject in rejects if reject["stage"] == "decompose"]
    assert sorted(written + dropped) == sorted(planned)
    assert len(set(planned)) == len(planned)
    counts = Counter((reject["stage"], reject["reason"]) for reject in rejects)
    assert counts == {
        ("plan", "missing photo"): 3,
        ("decompose", "broken photo"): 2,
        ("decompose", "size mismatch"): 1,
        ("decompose", "mask size mismatch"): 1,
    }
    without_pair = NUM_PHOTOS - 3 - len(planned)
    assert f"photos        {NUM_PHOTOS}: {len(planned)} with compositions, {without_pair} without" in said.out
    assert f"samples       {len(written)} in {len(list(out.glob('*.tar')))} shards" in said.out

    # Whole already: nothing is made again, not even Ray is started.
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert run(*drawn.argv(out, *SETTINGS)) == 0
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert "resumed" in capfd.readouterr().out
    assert run("verify", str(out)) == 0

    # Other settings, or other data, do not mix with what is there.
    assert run(*drawn.argv(out, *SETTINGS, "--object-size", "33")) == 2
    assert "object_size 32 there, 33 here" in capfd.readouterr().err
    document = drawn.annotations.read_text()
    drawn.annotations.write_text(document.replace('"iscrowd": 0', '"iscrowd": 1', 1))
    assert run(*drawn.argv(out, *SETTINGS)) == 2
    assert "same recipe, another plan" in capfd.readouterr().err
    drawn.annotations.write_text(document)
    assert digests(out) == expected

    # Past the allowed share of rejects: exit code 2, no index; allowed again, the whole shards stand.
    (out / "index.json").unlink()
    assert run(*drawn.argv(out, *SETTINGS, "--max-reject-fraction", "0.01")) == 2
    assert "4 of " in capfd.readouterr().err
    assert not (out / "index.json").exists()
    assert run(*drawn.argv(out, *SETTINGS)) == 0
    assert (out / "index.json").exists()


@pytest.mark.usefixtures("one_ray")
def test_killed_half_way_and_run_again_with_one_worker_gives_the_same_bytes(
    drawn: DrawnSet, expected: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "shards"
    command = [sys.executable, "-m", "pics_data.cli", *drawn.argv(out, *SETTINGS, "--workers", "2")]
    driver = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob("parts/*.json"))) < 3:
        assert driver.poll() is None, "the build ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(0.5)  # Ray's workers notice that their driver is gone
    marks = len(list(out.glob("parts/*.json")))
    assert marks < len(expected), "killed too late: all shards were done"
    assert not (out / "index.json").exists()
    (out / ".train-000000.tar.0123456789ab.tmp").write_bytes(b"what a killed write leaves behind")
    assert run("verify", str(out)) == 2  # an unfinished build is not taken for a whole one

    assert run(*drawn.argv(out, *SETTINGS, "--workers", "1")) == 0
    assert digests(out) == expected
    assert not list(out.rglob("*.tmp"))
    assert run("verify", str(out)) == 0


def descendants(pid: int) -> list[int]:
    """The processes below `pid`: Ray's daemons, and their workers."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = list(children.get(pid, []))
    for child in found:
        found += children.get(child, [])
    return found


def test_a_worker_that_is_killed_loses_and_doubles_nothing(
    drawn: DrawnSet, expected: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "shards"
    driver = subprocess.Popen(
        [sys.executable, "-m", "pics_data.cli", *drawn.argv(out, *SETTINGS, "--workers", "2")],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    killed = 0
    while driver.poll() is None and not killed:
        if len(list(out.glob("parts/*.json"))) >= 3:
            for pid in descendants(driver.pid):
                with suppress(FileNotFoundError, ProcessLookupError):
                    if "Map(work)" in Path(f"/proc/{pid}/cmdline").read_text():
                        os.kill(pid, signal.SIGKILL)
                        killed += 1
        time.sleep(0.005)
    said, errors = driver.communicate(timeout=60)
    assert killed, "no worker was caught at work"
    assert driver.returncode == 0, errors
    assert digests(out) == expected
    assert f"in {len(list(out.glob('*.tar')))} shards" in said
    assert not list(out.rglob("*.tmp"))


def test_a_photo_of_several_samples_stays_in_one_shard(drawn: DrawnSet, tmp_path: Path) -> None:
    config = drawn.config(tmp_path, pairs_per_photo=3, shard_samples=4)
    plan = plan_of(records_of(config), config)
    by_shard = itertools.groupby(compositions_of(plan), key=lambda composition: composition.shard)
    for _, compositions in by_shard:
        ids = [composition.photo.id for composition in compositions]
        assert sum(a != b for a, b in itertools.pairwise(ids)) + 1 == len(set(ids))
    shards = Counter((row["photo_id"], row["shard"]) for row in table_of(plan).to_pylist())
    assert len(shards) == len({photo_id for photo_id, _ in shards})


@pytest.mark.usefixtures("one_ray")
def test_a_plan_is_made_first_and_then_built_from(
    drawn: DrawnSet, expected: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    argv = drawn.argv(out, *SETTINGS)
    assert run("plan", *argv[1:]) == 0
    assert "none made" in capfd.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["plan", "recipe.json"]
    assert run(*argv) == 0
    said = capfd.readouterr()
    assert "planning" not in said.err
    assert "3 photos were missing when this folder was planned" in said.err
    assert digests(out) == expected


@pytest.mark.usefixtures("one_ray")
def test_retry_rejects_makes_again_what_may_now_succeed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    drawn = draw_set(tmp_path / "drawn", num_photos=40)
    argv = drawn.argv(tmp_path / "retried", *SETTINGS)
    whole = tmp_path / "whole"
    build_plainly(drawn.config(whole, shard_samples=4, object_size=32, seed=3))
    planned = {key.split("-")[1] for key in planned_keys(whole)}
    hurt = [i for i in range(40) if str(1000 + 7 * i) in planned][:3]
    good = {i: drawn.photo(i).read_bytes() for i in hurt}
    for i in hurt[:2]:
        drawn.photo(i).write_bytes(good[i][:-300])
    assert run("plan", *argv[1:]) == 0
    drawn.photo(hurt[2]).unlink()  # after planning: missing when its turn comes
    assert run(*argv) == 0
    assert "2 broken photo (decompose), 1 missing photo (decompose)" in capfd.readouterr().out
    out = tmp_path / "retried"
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}

    drawn.photo(hurt[0]).write_bytes(good[hurt[0]])
    drawn.photo(hurt[2]).write_bytes(good[hurt[2]])
    assert run(*argv, "--retry-rejects") == 0
    assert "1: 1 broken photo (decompose)" in capfd.readouterr().out
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    mended = [
        shard
        for shard, key in shards_and_keys(whole)
        if key.split("-")[1] in {str(1000 + 7 * i) for i in (hurt[0], hurt[2])}
    ]
    assert {name for name in after if before.get(name) != after[name]} == {f"{shard}.tar" for shard in mended}

    drawn.photo(hurt[1]).write_bytes(good[hurt[1]])
    assert run(*argv, "--retry-rejects") == 0
    assert digests(out) == digests(whole)
    assert run("verify", str(out)) == 0
    assert run(*argv, "--retry-rejects") == 0  # nothing left to retry
    assert digests(out) == digests(whole)


def shards_and_keys(folder: Path) -> list[tuple[str, str]]:
    return [(tar.stem, key) for tar in sorted(folder.glob("*.tar")) for key in keys_of(tar)]
