"""Shards -> batches: deterministic, resumable, for any number of ranks, workers and shards.

The samples of a run are one endless sequence: epoch after epoch, each a permutation of all samples that depends on
`seed` and the epoch alone. Batch t of a run is the next `batch_size` of the sequence, and rank r takes its r-th part.
So there is no last partial batch (a batch may straddle two epochs), every rank has as many steps as the others, each
epoch holds each sample exactly once over all ranks and workers, and the place in the sequence, samples seen, is all
that resuming needs. What is drawn for a sample (sizes, turns, colours, noise) depends on seed, epoch and sample: not on
ranks, workers or batch.

Shards of a mixture have weights: a sample of weight 18 is seen 18 times as often as one of weight 1. An epoch then
holds each sample as many times as the least whole numbers in the ratio of the weights say; each time other things are
drawn for it.
"""

import math
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from pics_common.errors import UserError
from pics_model.augment import AugmentSettings, Look, draw_looks, pick_stored, stored_as
from pics_model.inputs import Batch, FramingSettings, Inputs, collate, compose
from pics_model.shard_reader import Cutouts, PickTurned, Split, open_shards, read_example

NO_CHANGE = AugmentSettings()
MAX_COPIES = 1000  # of a sample in an epoch


@lru_cache(maxsize=2)
def epoch_order(num_entries: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The permutation of all entries of an epoch: all samples, or all copies of all samples."""
    return np.random.default_rng([seed, epoch]).permutation(num_entries)


def entry_at(position: int, num_entries: int, seed: int) -> tuple[int, int]:
    """(epoch, entry) at a place of the endless sequence."""
    epoch, place = divmod(position, num_entries)
    return epoch, int(epoch_order(num_entries, seed, epoch)[place])


def copies_of(weights: Sequence[float]) -> list[int]:
    """The least whole numbers in the ratio of `weights`. Raises `UserError` where they would be above `MAX_COPIES`."""
    fractions = [Fraction(weight).limit_denominator(MAX_COPIES) for weight in weights]
    scale = math.lcm(*(fraction.denominator for fraction in fractions))
    counts = [int(fraction * scale) for fraction in fractions]
    common = math.gcd(*counts)
    if not min(counts) or max(counts) // common > MAX_COPIES:
        shown = ", ".join(f"{weight:g}" for weight in sorted(set(weights)))
        raise UserError(f"weights of the shards in index.json: {shown}; expected ratios of whole numbers up to 1000")
    return [count // common for count in counts]


def rank_positions(step: int, start_sample: int, batch_size: int, rank: int, world_size: int) -> range:
    """Which places of the sequence a rank takes in a step (0 is the first after `start_sample`)."""
    share = batch_size // world_size
    begin = start_sample + step * batch_size + rank * share
    return range(begin, begin + share)


class ShardStream:
    """The batches of one rank of a run.

    `batch_size` counts samples over all ranks. `num_samples` is the length of an epoch, copies counted. Raises
    `UserError` for shards that cannot be used; damage inside a sample is found when the sample's turn comes. `augment`
    is for training: by default nothing is changed.
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
        augment: AugmentSettings = NO_CHANGE,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise UserError(f"batch size {batch_size}: expected a multiple of the {world_size} ranks")
        if seed < 0:
            raise UserError(f"seed {seed}: expected 0 or more")
        self.samples = _Samples(path, framing, seed, split, cutouts, augment)
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.num_workers = num_workers
        self.num_samples = len(self.samples.entries)

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

    def __init__(
        self,
        path: Path,
        framing: FramingSettings,
        seed: int,
        split: Split,
        cutouts: Cutouts,
        augment: AugmentSettings,
    ) -> None:
        self.table = open_shards(path, split)
        copies = np.array(copies_of([shard.weight for shard in self.table.shards]))[np.array(self.table.shard)]
        self.entries = np.repeat(np.arange(len(self.table)), copies)  # the samples of an epoch, each as often as it is
        self.framing, self.seed, self.cutouts, self.augment = framing, seed, cutouts, augment
        if augment.stored_rotations and not any("_rot" in kind for kind in self.table.kinds):
            raise UserError(
                f"--stored-rotations: no sample of {path} holds turned pictures, obj0_rot1.png; leave it out, or build "
                f"shards with `pics-data build --rotations`"
            )

    def __getitem__(self, position: int) -> Inputs | UserError:
        epoch, entry = entry_at(position, len(self.entries), self.seed)
        index = int(self.entries[entry])
        rng = np.random.default_rng([self.seed, epoch, entry])
        seed, whole = int(rng.integers(2**63)), rng.random() < 0.5
        if self.cutouts != "mix":
            whole = self.cutouts == "full"
        looks = draw_looks(rng, self.table.num_objects(index), self.augment)
        try:
            example = read_example(self.table, index, whole, self.framing.views, self._pick(looks))
            looks = [stored_as(look, angle) for look, angle in zip(looks, example.angles, strict=True)]
            return compose(example, self.framing, rng, seed, looks)
        except UserError as error:
            return error

    def _pick(self, looks: Sequence[Look]) -> PickTurned | None:
        """What chooses among stored turned pictures, where they are asked for."""
        if not self.augment.stored_rotations:
            return None
        return lambda k, angles: pick_stored(looks[k], angles, self.augment)


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
