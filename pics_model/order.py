"""The order of training: one endless sequence of samples, a pure function of seed and place. No file is opened here.

Legend: an epoch's *entries* are its samples, each as often as its shard has copies, numbered shard by shard. A *visit*
is a shard once through, one copy of each of its samples. A *position* counts samples over a whole run, all epochs.

With `group` 0 an epoch is one permutation of its entries. Else its visits come in random order, in groups of `group`
shards, and the entries of a group are permuted: then a run needs the shards of one group at a time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pics_common.errors import UserError

MAX_COPIES = 1000  # of a sample in an epoch
# Third numbers of seeds [seed, epoch, ...]. An entry, by which a sample's own draws are seeded, is never so large.
VISITS, WITHIN = 2**63, 2**62

Numbers = NDArray[np.int64]
K = TypeVar("K")
V = TypeVar("V")


def copies_of(weights: Sequence[float]) -> list[int]:
    """The least whole numbers in the ratio of `weights`. Raises `UserError` where they would be above `MAX_COPIES`."""
    fractions = {weight: Fraction(weight).limit_denominator(MAX_COPIES) for weight in set(weights)}
    scale = math.lcm(*(fraction.denominator for fraction in fractions.values()))
    counts = {weight: int(fraction * scale) for weight, fraction in fractions.items()}
    common = math.gcd(*counts.values())
    if not min(counts.values()) or max(counts.values()) // common > MAX_COPIES:
        shown = ", ".join(f"{weight:g}" for weight in sorted(counts))
        raise UserError(f"weights of the shards: {shown}; expected ratios of whole numbers up to {MAX_COPIES}")
    return [counts[weight] // common for weight in weights]


def rank_positions(step: int, start_sample: int, batch_size: int, rank: int, world_size: int) -> range:
    """Which positions a rank takes in a step (0 is the first after `start_sample`)."""
    share = batch_size // world_size
    begin = start_sample + step * batch_size + rank * share
    return range(begin, begin + share)


@dataclass(frozen=True, slots=True)
class Group:
    """Visits that are mixed: of `shards` [G], of each its copy number `copies` [G]. The entries of visit v are, before
    they are permuted, `first[v]` to `first[v + 1]`; `order` [first[G]] is the permutation."""

    shards: Numbers
    copies: Numbers
    first: Numbers
    order: NDArray[np.integer]


class Order:
    """Positions -> entries -> samples. `counts` and `copies` [shards] say how many samples a shard holds, at least one
    in all, and how often an epoch has each."""

    def __init__(self, counts: Sequence[int], copies: Sequence[int], seed: int, group: int = 0) -> None:
        self.counts, self.copies = np.array(counts, np.int64), np.array(copies, np.int64)
        self.seed, self.group = seed, group
        self.first = _starts(self.counts * self.copies)
        self.num_entries = int(self.first[-1])
        assert self.num_entries, "an order of nothing"
        self.visits = np.repeat(np.arange(len(self.counts)), self.copies)
        self.first_visit = _starts(self.copies)
        # What was last computed, by epoch or group: batches straddle two of them at most.
        self._whole: dict[int, NDArray[np.integer]] = {}
        self._visiting: dict[int, tuple[Numbers, Numbers]] = {}
        self._groups: dict[tuple[int, int], Group] = {}

    def entry(self, position: int) -> tuple[int, int]:
        """(epoch, entry) at a position."""
        epoch, place = divmod(position, self.num_entries)
        if not self.group:
            if epoch not in self._whole:
                _keep_last(self._whole)[epoch] = _permutation([self.seed, epoch], self.num_entries)
            return epoch, int(self._whole[epoch][place])
        number, begin = self._group_at(epoch, place)
        group = self._group(epoch, number)
        within = int(group.order[place - begin])
        visit = _find(group.first, within)
        shard = int(group.shards[visit])
        sample = within - int(group.first[visit])
        return epoch, int(self.first[shard] + sample * self.copies[shard] + group.copies[visit])

    def sample(self, entry: int) -> tuple[int, int]:
        """(shard, number of the sample in it) of an entry."""
        shard = _find(self.first, entry)
        return shard, int((entry - self.first[shard]) // self.copies[shard])

    def group_of(self, position: int) -> tuple[int, int]:
        """(epoch, number) of the group at a position; of the first where all shards are one group."""
        epoch, place = divmod(position, self.num_entries)
        return (epoch, self._group_at(epoch, place)[0]) if self.group else (0, 0)

    def needed(self, position: int) -> list[int]:
        """The shards that a run needs next, in the order in which it may need them: those of the group at a position,
        then those of the next one; or all."""
        if not self.group:
            return [number for number, count in enumerate(self.counts.tolist()) if count]
        epoch, number = self.group_of(position)
        following = (epoch, number + 1) if number + 2 < len(self._epoch(epoch)[1]) else (epoch + 1, 0)
        found = [shard for group in ((epoch, number), following) for shard in self._shards(*group).tolist()]
        return list(dict.fromkeys(found))

    def most_needed(self, sizes: Sequence[int]) -> int:
        """The most bytes that shards of `sizes` which are needed at one time may have in all."""
        most = sorted(sizes, reverse=True)
        return sum(most[: 2 * self.group] if self.group else most)

    def _epoch(self, epoch: int) -> tuple[Numbers, Numbers]:
        """The visits of an epoch in their order, and the place in the epoch at which each group begins, and the end."""
        if epoch not in self._visiting:
            visits = _permutation([self.seed, epoch, VISITS], len(self.visits)).astype(np.int64)
            ends = _starts(self.counts[self.visits[visits]])
            _keep_last(self._visiting)[epoch] = visits, np.append(ends[: -1 : self.group], ends[-1])
        return self._visiting[epoch]

    def _group_at(self, epoch: int, place: int) -> tuple[int, int]:
        """The number of the group at a place of an epoch, and the place where it begins."""
        _, starts = self._epoch(epoch)
        number = _find(starts, place)
        return number, int(starts[number])

    def _visits(self, epoch: int, number: int) -> Numbers:
        return self._epoch(epoch)[0][number * self.group : (number + 1) * self.group]

    def _shards(self, epoch: int, number: int) -> Numbers:
        return self.visits[self._visits(epoch, number)]

    def _group(self, epoch: int, number: int) -> Group:
        if (epoch, number) not in self._groups:
            visits = self._visits(epoch, number)
            shards = self._shards(epoch, number)
            first = _starts(self.counts[shards])
            order = _permutation([self.seed, epoch, WITHIN + number], int(first[-1]))
            _keep_last(self._groups)[epoch, number] = Group(shards, visits - self.first_visit[shards], first, order)
        return self._groups[epoch, number]


def _permutation(seed: list[int], num: int) -> NDArray[np.integer]:
    drawn = np.random.default_rng(seed).permutation(num)
    return drawn.astype(np.uint32) if num <= 2**32 else drawn


def _starts(counts: Numbers) -> Numbers:
    return np.concatenate([[0], np.cumsum(counts)])


def _find(starts: Numbers, value: int) -> int:
    """Which of the spans between `starts` holds `value`; never an empty one."""
    return int(np.searchsorted(starts, value, "right")) - 1


def _keep_last(known: dict[K, V]) -> dict[K, V]:
    """Makes room for one more: of what was added earlier, the last stays."""
    while len(known) > 1:
        del known[next(iter(known))]
    return known
