"""How a loader process is started and set up, and what its death is called."""

import atexit
import multiprocessing
import signal
import sys
from collections.abc import Generator, Iterable, Iterator
from typing import Any
from weakref import WeakSet

import cv2
import torch

from pics_common.allocator import keep_freed_memory
from pics_common.errors import UserError
from pics_model.inputs import Batch

_running: "WeakSet[Generator[Batch]]" = WeakSet()


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
    keep_freed_memory()


def closed_at_exit(batches: Generator[Batch]) -> Generator[Batch]:
    """The same, and closed when Python ends, if it is not before: Python waits for its loader processes then, which do
    not hear it."""
    if not _running:
        # Last registered, first called: before those of torch and multiprocessing.
        atexit.unregister(_close_all)
        atexit.register(_close_all)
    _running.add(batches)
    return batches


def _close_all() -> None:
    for batches in list(_running):
        batches.close()


def without_dead(loader: Iterable[Any]) -> Iterator[Any]:
    """What a DataLoader gives. A process of it that is killed becomes one line for the user."""
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(f"{error}; a loader process died: lack of memory is the usual reason, then use fewer") from None
