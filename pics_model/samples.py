"""Places of the sequence -> what a model needs of a sample: the work of a loader process.

A sample that cannot be read is an error, or, where that is asked for, its place is taken by the next one of the epoch's
order that can be. Which that is depends on the data alone, so that ranks, workers and resumed runs agree; what is drawn
for the place is what would have been drawn for the sample.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Literal

import numpy as np
from torch.utils.data import Dataset

from pics_common.errors import UserError
from pics_model.augment import AugmentSettings, Look, draw_looks, pick_stored, stored_as
from pics_model.encoded import Encodings
from pics_model.inputs import FramingSettings, Inputs, compose
from pics_model.order import Order
from pics_model.packed import Packed, Parcel, Slots, pack
from pics_model.shard_cache import FETCHES, ShardCache
from pics_model.shard_reader import Cutouts, PickTurned, decode
from pics_model.shard_set import Shard, Sources
from pics_model.shard_table import ShardTable

NO_CHANGE = AugmentSettings()
Damage = Literal["fail", "skip"]
MAX_TRIES = 100  # samples that are tried in the place of one


@dataclass(frozen=True, slots=True)
class Recipe:
    """What becomes of a sample, see `ShardStream`."""

    framing: FramingSettings
    seed: int
    cutouts: Cutouts = "visible"
    augment: AugmentSettings = NO_CHANGE
    on_damage: Damage = "fail"
    silhouettes: bool = True


@dataclass(frozen=True, slots=True)
class Asked:
    """Batch `number` of a loader: the samples at `positions`."""

    number: int
    positions: range


class Samples(Dataset[Inputs | UserError]):
    """Places -> inputs. Errors travel as values: torch would wrap them in its own. Batches go through `slots` where
    there are any."""

    def __init__(self, table: ShardTable, order: Order, recipe: Recipe, encodings: Encodings | None = None) -> None:
        self.table, self.order, self.recipe, self.encodings = table, order, recipe, encodings
        self.ahead = FetchAhead(table.remote, table.shards, order)
        self.slots: Slots | None = None

    def require_stored_rotations(self, named: Sources) -> None:
        """Raises `UserError` if turned pictures are asked for and the first sample of no shard has any: a builder makes
        them for all samples or for none."""
        if not self.recipe.augment.stored_rotations:
            return
        for number, count in enumerate(self.table.counts):
            if count and any("_rot" in kind for kind in self.table.sample_of(number, 0).members):
                return
        raise UserError(
            f"--stored-rotations: no sample of {named} holds turned pictures, obj0_rot1.png; leave it out, or build "
            f"shards with `pics-data build --rotations`"
        )

    def __getitems__(self, asked: "Asked") -> "Packed | Parcel | UserError":
        """A batch, packed; or the first error."""
        good: list[Inputs] = []
        for position in asked.positions:
            one = self[position]
            if isinstance(one, UserError):
                return one
            good.append(one)
        return pack(good) if self.slots is None else self.slots.send(good, asked.number % self.slots.num)

    def __getitem__(self, position: int) -> Inputs | UserError:
        self.ahead.reached(position)
        epoch, entry = self.order.entry(position)
        number, place = self.order.sample(entry)
        try:
            return self._inputs(number, place, epoch, entry)
        except UserError as error:
            if self.recipe.on_damage == "fail":
                return error
            return self._instead(position, epoch, entry, str(error))

    def _instead(self, position: int, epoch: int, entry: int, reason: str) -> Inputs | UserError:
        """The next sample of the epoch's order that can be read; after the last one comes the first."""
        num = self.order.num_entries
        begin = position - position % num
        tries = 0
        for step in range(1, num):
            _, other = self.order.entry(begin + (position + step) % num)
            number, place = self.order.sample(other)
            if self.table.has_failed(number):
                continue
            try:
                return replace(self._inputs(number, place, epoch, entry), skipped=reason)
            except UserError:  # it is told of in its own place
                tries += not self.table.has_failed(number)
            if tries >= MAX_TRIES:
                break
        return UserError(f"{reason}; and none can take its place: {tries} others were tried, the rest are missing")

    def _inputs(self, number: int, place: int, epoch: int, entry: int) -> Inputs:
        """Sample `place` of shard `number`, with what is drawn for `entry`."""
        try:
            return self._read(number, place, epoch, entry)
        except UserError:
            if not self.table.renew(number):
                raise
        return self._read(number, place, epoch, entry)

    def _read(self, number: int, place: int, epoch: int, entry: int) -> Inputs:
        recipe, framing = self.recipe, self.recipe.framing
        stored = self.table.sample_of(number, place)
        rng = np.random.default_rng([recipe.seed, epoch, entry])
        seed, whole = int(rng.integers(2**63)), rng.random() < 0.5
        if recipe.cutouts != "mix":
            whole = recipe.cutouts == "full"
        looks = draw_looks(rng, stored.num_objects, recipe.augment)
        # Features stand for pictures: these need be neither decoded nor turned.
        seen = self.encodings is None or self.encodings.nothing is None
        lean_framing = None if recipe.silhouettes else framing
        example, lean = decode(stored, whole, framing.views, self._pick(looks), lean_framing, seen)
        looks = [stored_as(look, angle) for look, angle in zip(looks, example.angles, strict=True)] if seen else []
        inputs = compose(example, framing, rng, seed, looks, None if recipe.silhouettes else lean)
        return self.encodings.put_into(inputs, stored, number, place, rng) if self.encodings else inputs

    def _pick(self, looks: Sequence[Look]) -> PickTurned | None:
        """What chooses among stored turned pictures, where they are asked for."""
        if not self.recipe.augment.stored_rotations:
            return None
        return lambda k, angles: pick_stored(looks[k], angles, self.recipe.augment)


class FetchAhead:
    """Threads of a loader process that fetch, while it works, the remote shards of the group at hand and of the next.

    All loader processes of a machine have the same list; each takes of it what no other is fetching.
    """

    def __init__(self, cache: ShardCache, shards: Sequence[Shard], order: Order) -> None:
        self.cache, self.shards, self.order = cache, shards, order
        self.remote = any(shard.is_remote for shard in shards)
        self.at: tuple[int, int] | None = None
        self.queue: SimpleQueue[Shard] | None = None

    def reached(self, position: int) -> None:
        """Says where the process is in the sequence."""
        if not self.remote or self.at == (at := self.order.group_of(position)):
            return
        self.at = at
        if self.queue is None:
            self.queue = SimpleQueue()
            for _ in range(FETCHES):
                # Daemons: a process that ends shall not wait for what nobody will read.
                threading.Thread(target=self._fetch, args=(self.queue,), daemon=True).start()
        for number in self.order.needed(position):
            if self.shards[number].is_remote:
                self.queue.put(self.shards[number])

    def _fetch(self, queue: "SimpleQueue[Shard]") -> None:
        while True:
            with suppress(UserError):  # whoever needs the shard tries again, and then tells of it
                self.cache.fetch(queue.get(), wait=False)
