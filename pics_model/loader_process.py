"""How a loader process is started and set up, and what its death is called."""

import ctypes
import multiprocessing
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import torch

from pics_common.errors import UserError

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT, KEPT_IN_ALL = 32 * 2**20, 64 * 2**20  # bytes


def fork_context() -> multiprocessing.context.BaseContext | None:
    """Forked processes share the table of samples and memory for batches; they touch no CUDA and no threads of torch.
    None where forking is not safe."""
    return multiprocessing.get_context("fork") if sys.platform == "linux" else None


def set_up(_: int) -> None:
    """The first thing that a loader process does."""
    # Where a whole process group is told to end, the training process needs its workers to finish its step.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    _keep_freed_memory()


def without_dead(loader: Iterable[Any]) -> Iterator[Any]:
    """What a DataLoader gives. A process of it that is killed becomes one line for the user."""
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(f"{error}; a loader process died: lack of memory is the usual reason, then use fewer") from None


def _keep_freed_memory() -> None:
    """Has glibc keep the memory of pictures for the next ones: the system would clear it anew for each sample. Other C
    libraries are left as they are."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # musl, macOS; Windows has no library of this name
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
    mallopt(M_TRIM_THRESHOLD, KEPT_IN_ALL)
