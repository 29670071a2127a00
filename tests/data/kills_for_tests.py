"""The real command as a process group of its own, and the processes below it by kind, so that they can be killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

FAULTS = Path(__file__).parent / "faults"


@dataclass(frozen=True, slots=True)
class Process:
    """A process, with the moment it began: numbers of processes come again."""

    pid: int
    began: int
    command: str

    def is_alive(self) -> bool:
        stat = _stat(self.pid)
        return stat is not None and stat[1] == self.began


def _stat(pid: int) -> tuple[int, int] | None:
    """Parent and start time of a process; None where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else (int(fields[1]), int(fields[19]))


def processes_below(pid: int) -> list[Process]:
    """The processes that descend from `pid`: Ray's daemons, and their workers."""
    children: dict[int, list[tuple[int, int]]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if (stat := _stat(int(folder.name))) is not None:
            children.setdefault(stat[0], []).append((int(folder.name), stat[1]))
    found: list[Process] = []
    parents = [pid]
    while parents:
        for child, began in children.get(parents.pop(), []):
            parents.append(child)
            with suppress(FileNotFoundError, ProcessLookupError):
                command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                found.append(Process(child, began, command))
    return found


def build_command(argv: list[str]) -> list[str]:
    return [sys.executable, "-m", "pics_data.cli", *argv]


class Run:
    """One run of the command. It ends, with all that it started, when its `with` block does."""

    def __init__(self, argv: list[str], output: Path | None = None, faults: str = "") -> None:
        environment = dict(os.environ)
        if faults:
            environment["PICS_FAULTS"] = faults
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(FAULTS), environment.get("PYTHONPATH")]))
        self._output: IO[bytes] | int = output.open("wb") if output else subprocess.DEVNULL
        self.started = time.monotonic()
        self.driver = subprocess.Popen(
            build_command(argv),
            start_new_session=True,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        self.seen: dict[int, Process] = {}

    def look(self) -> list[Process]:
        """The living processes below the driver; remembered, so that they can be ended without it."""
        living = processes_below(self.driver.pid)
        self.seen |= {process.pid: process for process in living}
        return living

    def wait_until(self, condition: Callable[[], bool], seconds: float = 120.0) -> bool:
        """Waits for `condition`; False if the driver ended before. Raises `TimeoutError`."""
        end = time.monotonic() + seconds
        while self.driver.poll() is None:
            if condition():
                return True
            if time.monotonic() > end:
                raise TimeoutError(f"{self.driver.args}: nothing happened in {seconds:g} s")
            time.sleep(0.01)
        return False

    def wait(self, seconds: float = 300.0) -> int:
        """Waits for the driver's end, and returns its exit code. Raises `TimeoutError`."""
        end = time.monotonic() + seconds
        while self.driver.poll() is None:
            self.look()
            if time.monotonic() > end:
                raise TimeoutError(f"{self.driver.args}: has not ended in {seconds:g} s")
            time.sleep(0.1)
        return int(self.driver.returncode)

    def victims(self, kind: str) -> list[Process]:
        """The processes that make up `kind`: driver, worker, raylet, gcs; a worker is one that is making a shard."""
        mark = {"worker": "ray::Map(work)", "raylet": "/raylet/raylet ", "gcs": "/gcs/gcs_server "}[kind]
        return [process for process in self.look() if mark in process.command]

    def kill(self, kind: str, which: float = 0.0) -> bool:
        """Kills driver, session, or one process of another kind (`which`, 0 to 1, says which of several); False where
        there is none at the moment."""
        self.look()
        if kind == "session":
            os.killpg(self.driver.pid, signal.SIGKILL)
            return True
        if kind == "driver":
            self.driver.kill()
            return True
        victims = self.victims(kind)
        if not victims:
            return False
        with suppress(ProcessLookupError):
            os.kill(victims[int(which * len(victims))].pid, signal.SIGKILL)
            return True
        return False

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.look()
        if self.driver.poll() is None:
            self.driver.kill()
        self.driver.wait()
        for process in self.seen.values():
            if process.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        if not isinstance(self._output, int):
            self._output.close()


def build_and_wait(argv: list[str], output: Path | None = None, faults: str = "", seconds: float = 300.0) -> int:
    """Runs the command to its end and returns its exit code."""
    with Run(argv, output, faults) as run:
        return run.wait(seconds)
