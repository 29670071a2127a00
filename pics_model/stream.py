"""Shards -> batches: deterministic, resumable, for any number of ranks, workers and shards.

The samples of a run are one endless sequence, see `order`: epoch after epoch, each in an order that depends on `seed`
and the epoch alone. Batch t of a run is the next `batch_size` of the sequence, and rank r takes its r-th part. So there
is no last partial batch (a batch may straddle two epochs), every rank has as many steps as the others, each epoch holds
each sample exactly once over all ranks and workers, and the place in the sequence, samples seen, is all that resuming
needs. What is drawn for a sample (sizes, turns, colours, noise) depends on seed, epoch and sample: not on ranks,
workers, batch, or where the shards lie.

Shards of a mixture have weights: a sample of weight 18 is seen 18 times as often as one of weight 1. An epoch then
holds each sample as many times as the least whole numbers in the ratio of the weights say; each time other things are
drawn for it.
"""

from collections.abc import Generator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from pics_common.errors import UserError
from pics_model.augment import AugmentSettings
from pics_model.encoded import EncodingRecipe, open_encodings
from pics_model.inputs import Batch, FramingSettings
from pics_model.loader_process import closed_at_exit, fork_context, set_up, without_dead
from pics_model.order import Order, copies_of, rank_positions
from pics_model.packed import Parcel, Slots, slot_bytes
from pics_model.samples import NO_CHANGE, Asked, Damage, Recipe, Samples
from pics_model.shard_reader import Cutouts
from pics_model.shard_set import Sources, Split, digest_of, find_shards
from pics_model.shard_table import ShardTable, filled

REMOTE_GROUP = 16  # shards that are mixed where they have to be fetched
PREFETCH = 4  # batches that a loader process has ready


class ShardStream:
    """The batches of one rank of a run.

    `path` is a folder of shards or one tar, on this machine, in an object store or on a web server; or several of these
    with a weight each. `batch_size` counts samples over all ranks. `num_samples` is the length of an epoch, copies
    counted. `augment` is for training: by default nothing is changed. `shuffle_shards` is how many shards are mixed at
    a time: 0 for all, None for all of local ones and `REMOTE_GROUP` of others. Remote shards are kept in the folder
    `cache`, up to `cache_bytes`. `on_damage` says what happens for a sample that cannot be read: with `skip` the next
    one of the epoch that can stands in its place, and the batch says so in `skipped`. `silhouettes` asks for those in
    batches: training needs none, and without them few masks have to be decoded.

    Raises `UserError` for shards that cannot be used; damage inside one is found when its turn comes.
    """

    def __init__(
        self,
        path: Sources,
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
        shuffle_shards: int | None = None,
        cache: Path | None = None,
        cache_bytes: int | None = None,
        on_damage: Damage = "fail",
        silhouettes: bool = True,
        encoded: tuple[EncodingRecipe, Path | None] | None = None,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise UserError(f"batch size {batch_size}: expected a multiple of the {world_size} ranks")
        if seed < 0:
            raise UserError(f"seed {seed}: expected 0 or more")
        if shuffle_shards is not None and shuffle_shards < 0:
            raise UserError(
                f"shuffle_shards {shuffle_shards}: expected 0 (all shards), or how many are mixed at a time"
            )
        shards = find_shards(path, split, whole=on_damage == "fail")
        remote = [shard.size or 0 for shard in shards if shard.is_remote]
        self.shuffle_shards = shuffle_shards if shuffle_shards is not None else REMOTE_GROUP if remote else 0
        table = filled(ShardTable(shards, cache, cache_bytes), path)
        copies = copies_of([shard.weight for shard in shards])
        self.order = Order(table.counts, copies, seed, self.shuffle_shards)
        table.remote.require_room(self.order.most_needed(remote))
        self.digest, self.data = digest_of(shards, table.counts, copies)
        recipe = Recipe(framing, seed, cutouts, augment, on_damage, silhouettes)
        self.encodings = open_encodings(table, *encoded) if encoded else None
        self.samples = Samples(table, self.order, recipe, self.encodings)
        self.samples.require_stored_rotations(path)
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.num_workers = num_workers
        self.num_samples = self.order.num_entries
        self.samples_seen = 0

    def batches(self, start_sample: int | None = None, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """This rank's batches on `device`, without end, from the place where `start_sample` samples have been seen by
        all ranks: by default where `load_state_dict`, or an earlier call, has left the stream."""
        return closed_at_exit(self._batches(start_sample, device))

    def _batches(self, start_sample: int | None, device: torch.device | str) -> Generator[Batch]:
        if start_sample is not None:
            self.samples_seen = start_sample
        samples, share = self.samples, self.batch_size // self.world_size
        fork = fork_context() if self.num_workers else None
        # One batch is with us while as many as may be are made ahead.
        num_slots = self.num_workers * PREFETCH + 1
        slots = Slots(num_slots if fork else 0, slot_bytes(samples.recipe.framing, share, self.encodings))
        samples.slots = slots if slots.num else None
        # Typed as torch does not foresee: `Samples.__getitems__` takes what it yields.
        batches: Any = _Batches(self.samples_seen, self.batch_size, self.rank, self.world_size)
        loader: DataLoader[Any] = DataLoader(
            samples,
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=_as_it_is,
            worker_init_fn=set_up,
            generator=torch.Generator(),  # its own, or it would draw from the global one
            prefetch_factor=PREFETCH if self.num_workers else None,
            multiprocessing_context=fork,
        )
        for made in without_dead(loader):
            if isinstance(made, UserError):
                raise made
            batch = (slots.receive(made) if isinstance(made, Parcel) else made).unpack(device)
            # Before the batch is given out: whoever asks while working on it has seen it.
            self.samples_seen += self.batch_size
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The place in the sequence, and what sequence of which data it is; JSON values. The same on all ranks that are
        at the same step, and good for any other number of ranks and workers."""
        return {
            "samples_seen": self.samples_seen,
            "seed": self.order.seed,
            "shuffle_shards": self.shuffle_shards,
            "digest": self.digest,
            "data": self.data,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a place that `state_dict` told. Raises `UserError` that names the first difference, if that was
        told by a stream of other data or another order."""
        for name, now in (("seed", self.order.seed), ("shuffle_shards", self.shuffle_shards)):
            if state[name] != now:
                raise UserError(f"--{name.replace('_', '-')} {now}: the run began with {state[name]}; go on with that")
        if state["digest"] != self.digest:
            raise UserError(f"shards: the run began with other data: {_first_difference(state['data'], self.data)}")
        self.samples_seen = int(state["samples_seen"])


def _first_difference(before: list[str], now: list[str]) -> str:
    """Of two lists of shards, as `digest_of` describes them."""
    for then, here in zip(before, now, strict=False):
        if then != here:
            return f"`{then}` then, `{here}` now"
    return f"{len(before)} shards then, {len(now)} now"


class _Batches:
    """The endless batches of positions; an iterable without length, as DataLoader allows."""

    def __init__(self, start_sample: int, batch_size: int, rank: int, world_size: int) -> None:
        self.start_sample, self.batch_size, self.rank, self.world_size = start_sample, batch_size, rank, world_size

    def __iter__(self) -> Iterator[Asked]:
        for step in count():
            yield Asked(step, rank_positions(step, self.start_sample, self.batch_size, self.rank, self.world_size))


def _as_it_is(made: Any) -> Any:
    return made
