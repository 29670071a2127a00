"""Shards -> batches: deterministic, resumable, for any number of ranks, workers and shards.

The samples of a run are one endless sequence: epoch after epoch, each a permutation of all samples that depends on
`seed` and the epoch alone. Batch t of a run is the next `batch_size` of the sequence, and rank r takes its r-th part.
So there is no last partial batch (a batch may straddle two epochs), every rank has as many steps as the others, each
epoch holds each sample exactly once over all ranks and workers, and the place in the sequence, samples seen, is all
that resuming needs. What is drawn for a sample depends on seed, epoch and sample: not on ranks, workers or batch.
"""

import multiprocessing
import signal
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from pics_common.errors import UserError
from pics_model.inputs import Batch, FramingSettings, Inputs, collate, compose
from pics_model.shard_reader import Cutouts, Split, open_shards, read_example


@lru_cache(maxsize=2)
def epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The permutation of all samples in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(num_samples)


def sample_at(position: int, num_samples: int, seed: int) -> tuple[int, int]:
    """(epoch, index) of the sample at a place of the endless sequence."""
    epoch, place = divmod(position, num_samples)
    return epoch, int(epoch_order(num_samples, seed, epoch)[place])


def rank_positions(step: int, start_sample: int, batch_size: int, rank: int, world_size: int) -> range:
    """Which places of the sequence a rank takes in a step (0 is the first after `start_sample`)."""
    share = batch_size // world_size
    begin = start_sample + step * batch_size + rank * share
    return range(begin, begin + share)


class ShardStream:
    """The batches of one rank of a run.

    `batch_size` counts samples over all ranks. `num_samples` is the length of an epoch. Raises `UserError` for
    shards that cannot be used; damage inside a sample is found when the sample's turn comes.
    """

    def __init__(
        self,
        path: Path,
        framing: FramingSettings,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        split: Split = "train",
        cutouts: Cutouts = "visible",
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise UserError(f"batch size {batch_size}: expected a multiple of the {world_size} ranks")
        if seed < 0:
            raise UserError(f"seed {seed}: expected 0 or more")
        self.samples = _Samples(path, framing, seed, split, cutouts)
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.num_workers = num_workers
        self.num_samples = len(self.samples.table)

    def batches(self, start_sample: int = 0) -> Iterator[Batch]:
        """This rank's batches, without end, from the place where `start_sample` samples have been seen by all ranks."""
        loader = DataLoader(
            self.samples,
            batch_sampler=_Positions(start_sample, self.batch_size, self.rank, self.world_size),
            num_workers=self.num_workers,
            collate_fn=_collate,
            worker_init_fn=_init_worker,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own, or it would draw from the global one
            prefetch_factor=4 if self.num_workers else None,
            # Forked workers share the table of samples; they touch no CUDA and no threads of torch.
            multiprocessing_context=_fork() if self.num_workers else None,
        )
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            yield batch


class _Samples(Dataset[Inputs | UserError]):
    """Places of the sequence -> inputs. Errors travel as values: torch would wrap them in its own."""

    def __init__(self, path: Path, framing: FramingSettings, seed: int, split: Split, cutouts: Cutouts) -> None:
        self.table = open_shards(path, split)
        self.framing, self.seed, self.cutouts = framing, seed, cutouts

    def __getitem__(self, position: int) -> Inputs | UserError:
        epoch, index = sample_at(position, len(self.table), self.seed)
        rng = np.random.default_rng([self.seed, epoch, index])
        seed, whole = int(rng.integers(2**63)), rng.random() < 0.5
        if self.cutouts != "mix":
            whole = self.cutouts == "full"
        try:
            return compose(read_example(self.table, index, whole), self.framing, rng, seed)
        except UserError as error:
            return error


class _Positions:
    """The endless batches of places; an iterable without length, as DataLoader allows."""

    def __init__(self, start_sample: int, batch_size: int, rank: int, world_size: int) -> None:
        self.start_sample, self.batch_size, self.rank, self.world_size = start_sample, batch_size, rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        step = 0
        while True:
            yield list(rank_positions(step, self.start_sample, self.batch_size, self.rank, self.world_size))
            step += 1


def _collate(items: list[Inputs | UserError]) -> Batch | UserError:
    for item in items:
        if isinstance(item, UserError):
            return item
    return collate([item for item in items if isinstance(item, Inputs)])


def _init_worker(_: int) -> None:
    # Where a whole process group is told to end, the training process needs its workers to finish its step.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _fork() -> multiprocessing.context.BaseContext | None:
    return multiprocessing.get_context("fork") if sys.platform == "linux" else None
