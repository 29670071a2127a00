"""Training runs in processes of their own that begin in a tenth of a second: forked from one that has imported all."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pics_model.train"])


@dataclass(slots=True)
class Run:
    """The ranks of one run; what they say is in `said`."""

    ranks: list[BaseProcess]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text()

    def kill(self) -> None:
        """kill -9 for all ranks."""
        for process in self.ranks:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
        self.wait()

    def end(self, whole_group: bool) -> None:
        """SIGTERM for the ranks alone, or for their loader workers as well."""
        for process in self.ranks:
            assert process.pid is not None
            (os.killpg if whole_group else os.kill)(process.pid, signal.SIGTERM)

    def wait(self, seconds: float = 90) -> list[int | None]:
        """Exit codes; negative for a signal. Whoever is not done in time is killed, and the test fails."""
        deadline = time.monotonic() + seconds
        for process in self.ranks:
            process.join(max(0.01, deadline - time.monotonic()))
        late = [process for process in self.ranks if process.is_alive()]
        for process in late:
            process.kill()
            process.join()
        assert not late, f"still running after {seconds} s: {self.said}"
        return [process.exitcode for process in self.ranks]

    def wait_until(self, reached: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not reached() and self.ranks[0].is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)


def start(words: Sequence[str], log: Path, num_ranks: int = 1) -> Run:
    """`python -m pics_model.train` with `words`, on so many ranks, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [SERVER.Process(target=_rank, args=(list(words), log, rank, num_ranks, port)) for rank in range(num_ranks)]
    for process in ranks:
        process.start()
    return Run(list(ranks), log)


def run(words: Sequence[str], log: Path, num_ranks: int = 1) -> Run:
    """The same, to its end, which must be a good one."""
    done = start(words, log, num_ranks)
    codes = done.wait()
    assert codes == [0] * num_ranks, done.said
    return done


def _rank(words: list[str], log: Path, rank: int, num_ranks: int, port: int) -> None:
    os.setpgrp()
    if num_ranks > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks),
            "LOCAL_WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from pics_common.errors import run_command
    from pics_model.train import main

    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    run_command(lambda: main(words))
