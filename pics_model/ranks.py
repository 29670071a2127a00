"""The processes of a run: one, or as many as torchrun started; threads, device and the numbers' own traps set."""

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from pics_common.errors import UserError

# Ranks exchange more than gradients only so often: at a number of steps and not a time, as their clocks differ.
STEPS_BETWEEN_TALKS = 10

# How gloo and NCCL say that they cannot reach a rank any more.
LOST = re.compile(r"Connection closed by peer|Connection reset|Broken pipe|remote process exited|ncclRemoteError")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's `rank` of `size`, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and talks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, float64; every rank must call it."""
        values = values.detach().double().clone()
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def mean(self, value: Tensor) -> float:
        """The mean of a number over all ranks; every rank must call it."""
        return self.sum(value).item() / self.size

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on any rank; every rank must call it."""
        return self.mean(torch.tensor(float(flag), device=self.device)) > 0


@contextmanager
def one_process_group(threads: int = 0) -> Iterator[Ranks]:
    """Joins the ranks that torchrun started (gloo on CPU, nccl on GPUs), or is alone; leaves them at the end.

    Raises `UserError` if there are more ranks than GPUs.
    """
    size, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    cuda = torch.cuda.is_available()
    if cuda and local >= torch.cuda.device_count():
        raise UserError(f"--nproc-per-node: more processes than the {torch.cuda.device_count()} GPUs of this machine")
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    with _fast_cpu(threads):
        if size == 1:
            yield Ranks(0, 1, device)
            return
        dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
        rank = dist.get_rank()
        try:
            yield Ranks(rank, dist.get_world_size(), device)
        except RuntimeError as error:
            if not LOST.search(str(error)):
                raise
            raise UserError(
                f"rank {rank}: another rank has ended; what it said is above, or the system killed it; --resume goes "
                f"on from the last checkpoint"
            ) from error
        finally:
            dist.destroy_process_group()


@contextmanager
def _fast_cpu(threads: int) -> Iterator[None]:
    """Gives this rank its share of the cores and flushes denormals, which make CPU steps many times slower."""
    before = torch.get_num_threads()
    # torchrun sets OMP_NUM_THREADS=1, which leaves cores idle.
    share = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    torch.set_num_threads(threads or max(1, share))
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)


@contextmanager
def terminations() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM (a machine is taken back, a job's time is up) does not end the process; the function says
    whether it came. In threads other than the main one, where Python hears no signals, it never does."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
