"""What the scenarios of `chaos.py` share: photos and their truth, and builds of several runs that say what happens."""

import random
import re
import shutil
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.data.compare_for_tests import differences
from tests.data.kills_for_tests import Run

ENDING = ("driver", "session", "raylet")  # of these, a run dies; without a worker or Ray's GCS it goes on
MOST_RUNS = 40  # of one build; more would mean that it makes no progress


@dataclass
class Scenario:
    """What happened under one heading; `differences` of its folders to the truth, of which there should be none."""

    name: str
    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    folders: int = 0
    lost: int = 0  # shards that were whole when a run began, and that it did not keep
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Bench:
    """The photos and the truth; and after how many seconds an undisturbed run has its first shard, and is done."""

    photos: Path
    annotations: Path
    shard_samples: int
    work: Path
    rng: random.Random
    started: float
    runs: ExitStack = field(default_factory=ExitStack)  # all that was started, to be ended with the bench
    truth: dict[str, str] = field(default_factory=dict)
    num_shards: int = 0
    start: float = 0.0
    whole: float = 0.0

    def argv(self, out: Path, *more: str) -> list[str]:
        paths = ["--images", str(self.photos), "--annotations", str(self.annotations), "--out", str(out)]
        return ["build", "--source", "coco", *paths, "--shard-samples", str(self.shard_samples), *more]

    def say(self, text: str) -> None:
        seconds = time.monotonic() - self.started
        print(f"{int(seconds // 60)}:{seconds % 60:04.1f}  {text}", flush=True)

    def folder(self, name: str) -> Path:
        return self.work / name.replace(" ", "_")


def num_marks(out: Path) -> int:
    return len(list(out.glob("parts/*.json")))


def kept_by(output: Path) -> int | None:
    """How many shards a run took over from earlier ones, as it said; None where it did not come so far."""
    said = output.read_text()
    found = re.search(r"(\d+) of them whole", said)
    return int(found[1]) if found else 0 if "compositions from" in said else None


class Build:
    """One folder, built by as many runs as it takes."""

    def __init__(self, bench: Bench, scenario: Scenario, name: str, *more: str, faults: str = "") -> None:
        self.bench, self.scenario, self.out = bench, scenario, bench.folder(name)
        self._argv = bench.argv(self.out, *more)
        self._faults = faults
        # What is left of killed runs stays while others go on: it must do no harm.
        self._runs = bench.runs.enter_context(ExitStack())
        self._output = bench.folder(name)
        self._whole_before = 0

    def start(self) -> Run:
        self._output = self.bench.folder(f"{self.out.name}.log{self.scenario.runs}")
        self._whole_before = num_marks(self.out)
        self.scenario.runs += 1
        return self._runs.enter_context(Run(self._argv, self._output, self._faults))

    def left(self) -> float:
        """The share of the shards that is still to be made."""
        return 1 - num_marks(self.out) / self.bench.num_shards

    def killed(self, run: Run, kind: str) -> None:
        """Says what was killed, and when."""
        after = time.monotonic() - run.started
        self.scenario.kills[kind] += 1
        whole = num_marks(self.out)
        self.bench.say(f"killed {kind:8}{after:5.1f} s after the start; {whole:2} shards whole, {self.kept()}")
        if kind in ENDING:
            run.driver.wait()
            self._count_lost()

    def kept(self) -> str:
        kept = kept_by(self._output)
        return "the run had planned nothing yet" if kept is None else f"{kept} of them kept from earlier runs"

    def ended(self, run: Run) -> int:
        """Waits for the end of a run, and returns its exit code."""
        code = run.wait()
        self._count_lost()
        return code

    def _count_lost(self) -> None:
        """What was whole before the last run began, and is made again. A retry makes some again on purpose."""
        kept = kept_by(self._output)
        if kept is not None and "--retry-rejects" not in self._argv:
            self.scenario.lost += max(0, self._whole_before - kept)

    def finish(self) -> int:
        """Runs the command until it ends well, and returns how often that was."""
        for runs in range(1, MOST_RUNS):
            if self.ended(self.start()) == 0:
                return runs
        raise RuntimeError(f"{self.out}: not done after {MOST_RUNS} runs; see {self._output}")

    def compare(self) -> None:
        """Compares the finished folder with the truth, and removes it."""
        self._runs.close()
        wrong = differences(self.out, self.bench.truth)
        self.scenario.folders += 1
        self.scenario.differences += wrong
        self.bench.say(f"done, {self.kept()}; " + (f"DIFFERS: {wrong[:5]}" if wrong else "equal to the truth"))
        if not wrong:
            shutil.rmtree(self.out)
