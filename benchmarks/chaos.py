"""Exactly once, whatever dies: the real command killed again and again, and its shards compared with the truth.

    python benchmarks/chaos.py [--kills 25] [--seed 0] [--photos 1200] [--work FOLDER]
    python benchmarks/chaos.py --images FOLDER --annotations FILE [--shard-samples 20]

The truth is what plain functions make of the same photos, in one process and without Ray. Each scenario runs
`pics-data build` on them, kills (SIGKILL) or loses something at moments drawn from the seed, runs the command again at
once until it ends well, and then compares the whole folder: the same files, the same SHA-256 of each, each planned key
once, nothing left over, `pics-data verify` passes. Photos are drawn, or the user's own in the layout of COCO. Some
nine minutes on two cores; a line an event, a table at the end, exit code 1 if anything differs.
"""

import argparse
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos_build import ENDING, Bench, Build, Scenario, num_marks
from drawn import draw_coco

from pics_data.config import BuildConfig
from tests.data.compare_for_tests import digests_of_all
from tests.data.faults.sitecustomize import chosen
from tests.data.kills_for_tests import Run
from tests.data.plain_build import build_plainly

KINDS = ("worker", "driver", "gcs", "session", "raylet")  # in turn
BAD_SHARE = 0.05


def kill_at_random_moments(bench: Bench, scenario: Scenario, num_kills: int) -> None:
    """A kill at a time, of each kind in turn, at a moment of the run drawn evenly from its start to its likely end."""
    build: Build | None = None
    run: Run | None = None
    last = 0.0
    while scenario.kills.total() < num_kills:
        kind = KINDS[scenario.kills.total() % len(KINDS)]
        if build is None:
            build = Build(bench, scenario, f"killed {scenario.folders}", "--workers", "2")
        if run is None:
            run, last = build.start(), 0.0
        end = bench.start + build.left() * (bench.whole - bench.start)
        moment = last + bench.rng.random() * max(0.0, end - last)
        if _kill_at(run, kind, moment, bench.rng.random()):
            build.killed(run, kind)
            last = time.monotonic() - run.started
            run = None if kind in ENDING else run
        elif build.ended(run) == 0:
            build.compare()
            build = run = None
        else:  # by an earlier kill: without its daemons Ray gives up after a while
            run = None
    if build is not None:
        if run is None or build.ended(run) != 0:
            build.finish()
        build.compare()


def _kill_at(run: Run, kind: str, moment: float, which: float) -> bool:
    """Kills `kind` at `moment` seconds after the start, or as soon after as there is one; False if the run ended."""
    due = lambda: time.monotonic() - run.started >= moment  # noqa: E731
    return run.wait_until(lambda: due() and run.kill(kind, which), seconds=200)


def kill_while_planning(bench: Bench, scenario: Scenario) -> None:
    """The session is killed while it reads annotations and stores its plan: each time a little later."""
    temporary = bench.folder("temporary")  # a plan lies there until it is whole
    temporary.mkdir()
    build = Build(bench, scenario, "planning", "--workers", "2")
    stored = build.out / "recipe.json"
    with place_of_temporary_files(temporary):
        begun = end = 0.0
        with Run(["plan", *bench.argv(bench.folder("only_planned"))[1:]]) as run:
            if run.wait_until(lambda: any(temporary.iterdir())):
                begun = time.monotonic()
            run.wait()
            end = time.monotonic()
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            run = build.start()
            if run.wait_until(lambda: any(temporary.iterdir())):
                time.sleep(share * bench.rng.random() * (end - begun))
                run.kill("session")
                build.killed(run, "session")
                files = sum(path.is_file() for path in build.out.rglob("*"))
                bench.say(
                    f"       the plan {'is' if stored.exists() else 'is not'} stored; files in the folder: {files}"
                )
                shutil.rmtree(temporary)
                temporary.mkdir()
            if stored.exists():
                break
    build.finish()
    build.compare()


@contextlib.contextmanager
def place_of_temporary_files(folder: Path) -> Iterator[None]:
    """Runs that start in this `with` block put their temporary files into `folder`."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before


def kill_while_retrying(bench: Bench, scenario: Scenario) -> None:
    """A build with photos cut off, which are then mended: `--retry-rejects` is killed until it has made them good."""
    photos = sorted(path for path in bench.photos.rglob("*") if path.is_file())
    hurt = {path: path.resolve() for path in bench.rng.sample(photos, max(1, len(photos) // 20))}
    for path, whole in hurt.items():
        path.unlink()
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    build = Build(bench, scenario, "retried", "--workers", "2", "--max-reject-fraction", "1")
    build.finish()
    rejects = pq.read_table(build.out / "rejects.parquet").num_rows
    bench.say(f"built with {len(hurt)} photos cut off: {rejects} rejects; now mended")
    for path, whole in hurt.items():
        path.unlink()
        path.symlink_to(whole)
    again = Build(bench, scenario, "retried", "--workers", "2", "--retry-rejects")
    again.out = build.out
    for kind in ("session", "driver", "session", "worker"):
        run = again.start()
        before = _times(build.out)
        begun = lambda before=before, out=build.out: _times(out) != before  # noqa: E731
        if run.wait_until(begun):
            time.sleep(bench.rng.uniform(0, 0.5))
            if _kill_at(run, kind, 0, bench.rng.random()):
                again.killed(run, kind)
        run.wait()
    again.finish()
    again.compare()


def _times(out: Path) -> dict[str, int]:
    times = {}
    for tar in out.glob("*.tar"):
        with contextlib.suppress(FileNotFoundError):
            times[tar.name] = tar.stat().st_mtime_ns
    return times


def lose_a_node(bench: Bench, scenario: Scenario) -> None:
    """A cluster of two nodes with a CPU each, on this machine; one is lost when some of the shards are whole."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        lost = cluster.add_node(num_cpus=1)
        build = Build(bench, scenario, "cluster", "--address", cluster.address)
        enough = bench.rng.uniform(0.1, 0.7) * bench.num_shards
        run = build.start()
        if run.wait_until(lambda: num_marks(build.out) >= enough):
            cluster.remove_node(lost, allow_graceful=False)
            build.killed(run, "node")
        if build.ended(run):
            build.finish()
    finally:
        cluster.shutdown()
    build.compare()


def other_numbers_of_workers(bench: Bench, scenario: Scenario) -> None:
    for workers in ("1", "4"):
        build = Build(bench, scenario, f"workers {workers}", "--workers", workers)
        build.finish()
        build.compare()


def tasks_that_fail(bench: Bench, scenario: Scenario, kind: str) -> None:
    """5 % of all attempts at a shard end with the worker (`exit`), or with an `OSError` (`raise`), half way."""
    log = bench.folder(f"faults {kind}")
    os.environ["PICS_FAULTS_LOG"] = str(log)
    shards = [name.removesuffix(".tar") for name in bench.truth if name.endswith(".tar")]
    seeds = iter(lambda: bench.rng.randrange(10**6), -1)
    seed = next(n for n in seeds if sum(chosen(BAD_SHARE, n, shard) for shard in shards) >= BAD_SHARE * len(shards))
    build = Build(bench, scenario, kind, "--workers", "2", faults=f"{kind}:{BAD_SHARE}:{seed}")
    runs = build.finish()
    failed = len(log.read_text().splitlines()) if log.exists() else 0
    scenario.kills["task"] += failed
    bench.say(f"{failed} attempts at a shard failed; ended well at run {runs}")
    build.compare()


def prepare(arguments: argparse.Namespace, started: float) -> Bench:
    """Photos as links in a folder of our own, where some can be damaged; the truth; and the time of a build."""
    work = Path(arguments.work or tempfile.mkdtemp(prefix="pics-chaos-"))
    if arguments.images:
        images, annotations = arguments.images.resolve(), arguments.annotations.resolve()
    else:
        images, annotations = draw_coco(work / "drawn", arguments.photos, seed=arguments.seed)
    photos = work / "photos"
    for path in sorted(path for path in images.rglob("*") if path.is_file()):
        link = photos / path.relative_to(images)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    rng = random.Random(arguments.seed)  # one for all: each scenario goes on where the last one stopped
    bench = Bench(photos, annotations, arguments.shard_samples, work, rng, started)
    config = BuildConfig(
        source="coco",
        images=(str(photos),),
        annotations=(str(annotations),),
        out=str(work / "truth"),
        shard_samples=arguments.shard_samples,
    )
    plan = build_plainly(config)
    bench.truth, bench.num_shards = digests_of_all(work / "truth"), plan.num_shards
    bench.say(
        f"seed {arguments.seed}; the truth: {plan.num_samples} compositions in {plan.num_shards} shards, "
        f"{len(bench.truth)} files, made by plain functions"
    )
    return bench


def undisturbed(bench: Bench, scenario: Scenario) -> None:
    """A build that nobody disturbs; how long it takes says when to kill the others."""
    build = Build(bench, scenario, "undisturbed", "--workers", "2")
    run = build.start()
    run.wait_until(lambda: num_marks(build.out) > 0)
    bench.start = time.monotonic() - run.started
    build.ended(run)
    bench.whole = time.monotonic() - run.started
    bench.say(f"first shard whole after {bench.start:.1f} s, done after {bench.whole:.1f} s")
    build.compare()


def table(scenarios: list[Scenario]) -> str:
    rows = [("scenario", "killed", "runs", "whole shards lost", "folders compared", "differences", "seconds")]
    for s in scenarios:
        killed = ", ".join(f"{count} {kind}" for kind, count in s.kills.items()) or "-"
        numbers = (s.runs, s.lost, s.folders, len(s.differences), round(s.seconds))
        rows.append((s.name, killed, *map(str, numbers)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=Path, help="photos of your own, with --annotations in the format of COCO")
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--photos", type=int, default=1200, help="photos to draw where none are given")
    parser.add_argument("--shard-samples", type=int, default=20)
    parser.add_argument("--kills", type=int, default=25, help="kills at random moments; the other scenarios add some")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="scenarios with this in their name, such as `raise`; all without")
    parser.add_argument("--work", type=Path, help="empty folder to work in; without, a temporary one")
    arguments = parser.parse_args()
    if bool(arguments.images) != bool(arguments.annotations):
        parser.error("--images and --annotations go together")
    started = time.monotonic()
    bench = prepare(arguments, started)
    scenarios: list[Scenario] = []

    def stage(name: str, act: Callable[[Scenario], None]) -> None:
        if arguments.only not in name:
            return
        bench.say(f"-- {name}")
        scenario = Scenario(name)
        begun = time.monotonic()
        act(scenario)
        scenario.seconds = time.monotonic() - begun
        scenarios.append(scenario)

    with bench.runs:
        stage("2 workers, undisturbed", lambda s: undisturbed(bench, s))
        stage("1 and 4 workers", lambda s: other_numbers_of_workers(bench, s))
        stage("killed at random moments", lambda s: kill_at_random_moments(bench, s, arguments.kills))
        stage("killed while planning", lambda s: kill_while_planning(bench, s))
        stage("killed during --retry-rejects", lambda s: kill_while_retrying(bench, s))
        stage("a node of two lost", lambda s: lose_a_node(bench, s))
        stage("5 % of tasks end their worker", lambda s: tasks_that_fail(bench, s, "exit"))
        stage("5 % of tasks raise OSError", lambda s: tasks_that_fail(bench, s, "raise"))

    print(f"\n{table(scenarios)}\n")
    wrong = [difference for scenario in scenarios for difference in scenario.differences]
    print("\n".join(wrong) if wrong else "Every folder equals the truth: files, bytes and keys; nothing is left over.")
    if not arguments.work and not wrong:
        shutil.rmtree(bench.work)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
