"""Near-duplicate photos: all pairs of fingerprints that are near, and which photos to drop so that none are left.

Two photos are near-duplicates if at most 6 of the 40 lowest bits of their fingerprints differ, and at most 56 of the
other 216. The first test finds candidates, the second is another look at the picture: the two distances of different
photos are uncorrelated, so that a false alarm needs two accidents.

Chosen on 239 real photos and copies of each (`python benchmarks/duplicates.py recall`):

    copy                                           found    bits that differ in 99 % of copies: coarse, fine
    JPEG of quality 50 or 20; 70 or 30 % in size   100 %    2, 8
    brighter or darker by 10 %; contrast + 20 %    100 %    3, 13
    a line of text in a corner                     100 %    4, 23
    trimmed by 3 %, 1.5 % at each side             100 %    5, 36
    trimmed by 3 % at two sides that meet           96 %    7, 58
    trimmed by 6 %, 3 % at each side                92 %    8, 61
    mirrored                                         0 %    19, 78
    different photos, 28,441 pairs                   0      coarse: 6 in one pair, more in all others; fine of that: 91

Rendered scenes share horizon and layout: of 44,850 pairs of different ones, 38 pass the first test, none the second.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import combinations, islice, pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pics_data.fingerprint import Fingerprints

COARSE_BITS = 40
COARSE_DISTANCE = 6
FINE_DISTANCE = 56
COARSE = np.uint64(2**COARSE_BITS - 1)

Indices = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Pairs = tuple[Indices, Indices]

# Photos compared at a time: small, so that all that a comparison needs stays in the processor's cache.
ROWS = 16384
BATCH = 1 << 16
# Near pairs that are held at a time, 16 bytes each, before those that are decided are dropped.
HELD_PAIRS = 1 << 22
# Seconds for sorting one hash and for comparing two, measured: only their ratio matters.
SORTING, COMPARING = 150e-9, 1e-9


def near_pairs(
    hashes: Hashes, max_distance: int, bits: int = 64, num_blocks: int = 0, part: int = 0, parts: int = 1
) -> Iterator[Pairs]:
    """All pairs of `hashes`, [N] uint64, that differ in at most `max_distance` of their lowest `bits`; each once.

    Yields arrays (first, second) of indices, [M] each, first < second, the pairs in no order. None is missed: the bits
    are cut into blocks, of which a near pair shares all but `max_distance`. So it meets in the table of blocks that it
    shares: the hashes sorted by these blocks alone, where only hashes with equal blocks are compared. Besides
    `hashes`, memory holds 24 bytes a hash, and no more for many equal hashes, which only take the time that comparing
    each with each takes. `num_blocks` is above `max_distance`, or 0 for what takes the least time. The tables do not
    need each other: of `parts` calls, each with its own `part`, each goes through its share of them.
    """
    assert 0 <= max_distance < bits <= 64
    hashes = hashes & np.uint64(2**bits - 1)
    blocks = _blocks(num_blocks or choose_blocks(len(hashes), max_distance, bits), bits)
    kept = len(blocks) - max_distance
    for table in islice(combinations(blocks, kept), part, None, parts):
        shared = np.bitwise_or.reduce(table)
        order = np.argsort(hashes & shared)
        in_order = hashes[order]
        for left, right in _in_batches(_near_in_order(in_order, shared, max_distance)):
            first = _first_table(in_order[left] ^ in_order[right], blocks, kept)
            here = first == shared
            left, right = order[left[here]], order[right[here]]
            yield np.minimum(left, right), np.maximum(left, right)


def choose_blocks(num_hashes: int, max_distance: int, bits: int) -> int:
    """How many blocks make sorting and comparing together take the least time."""

    def seconds(count: int) -> float:
        kept = count - max_distance
        equal = num_hashes * num_hashes / 2 ** (kept * bits / count)
        return math.comb(count, kept) * (SORTING * num_hashes + COMPARING * equal)

    return min(range(max_distance + 1, min(bits, max_distance + 10) + 1), key=seconds)


def _blocks(count: int, bits: int) -> Hashes:
    """The bits of each block, [B]."""
    cuts = [bits * i // count for i in range(count + 1)]
    return np.array([2**high - 2**low for low, high in pairwise(cuts)], np.uint64)


def _near_in_order(in_order: Hashes, shared: np.uint64, max_distance: int) -> Iterator[Pairs]:
    """Places (left, right) of near hashes, each once; at least all those whose bits `shared` are equal.

    `in_order` is sorted by these bits.
    """
    for start in range(0, len(in_order), ROWS):
        lefts = in_order[start : start + ROWS]
        stop = start + len(lefts)
        keys = lefts & shared
        end = bisect_right(in_order, keys[-1], lo=stop, key=lambda item: item & shared)  # of the run that goes on
        runs = np.flatnonzero(keys[1:] != keys[:-1]) + 1
        longest = int(np.diff(runs, prepend=0, append=end - start).max())
        for shift in range(1, longest):
            rights = in_order[start + shift : stop + shift]
            near = np.flatnonzero(np.bitwise_count(lefts[: len(rights)] ^ rights) <= max_distance)
            if near.size:
                near += start
                yield near, near + shift


def _in_batches(pairs: Iterator[Pairs]) -> Iterator[Pairs]:
    """The same pairs, some 2^16 at a time: numpy's calls have a price of their own."""
    held: list[Pairs] = []
    count = 0
    for pair in pairs:
        held.append(pair)
        count += len(pair[0])
        if count >= BATCH:
            yield np.concatenate([left for left, _ in held]), np.concatenate([right for _, right in held])
            held, count = [], 0
    if held:
        yield np.concatenate([left for left, _ in held]), np.concatenate([right for _, right in held])


def _first_table(differing: Hashes, blocks: Hashes, kept: int) -> Hashes:
    """The bits of the first `kept` blocks in which two hashes are equal, [M]: the first table that they meet in.

    A pair is reported there only, and thereby once.
    """
    found = np.zeros_like(differing)
    missing = np.full(len(differing), kept)
    for block in blocks:
        take = ((differing & block) == 0) & (missing > 0)
        found[take] |= block
        missing -= take
    return found


class Duplicates(NamedTuple):
    """What to drop: the photos `dropped`, [M], and for each the photo that stays in its place, `kept`, [M]."""

    dropped: Indices
    kept: Indices


def near_fingerprints(words: Hashes, part: int = 0, parts: int = 1) -> Iterator[Pairs]:
    """All pairs of near-duplicates among `words`, [N, 4], or a part of them, as `near_pairs` gives them."""
    for first, second in near_pairs(words[:, 0], COARSE_DISTANCE, COARSE_BITS, part=part, parts=parts):
        differing = words[first] ^ words[second]
        differing[:, 0] &= ~COARSE
        near = np.bitwise_count(differing).sum(axis=1) <= FINE_DISTANCE
        if near.any():
            yield first[near], second[near]


def drop_duplicates(
    prints: Fingerprints,
    keys: pa.Array | pa.ChunkedArray,
    is_val: NDArray[np.bool_],
    find_near: Callable[[Hashes], Iterator[Pairs]] = near_fingerprints,
) -> Duplicates:
    """Which of N photos to drop so that no two are left that are near-duplicates; `dropped` is in ascending order.

    `prints` is [N] of `FINGERPRINT`, `keys` N strings, each once, `is_val` [N]. Photos are gone through from the best
    to the worst, and one stays if no photo that stayed before is near to it. So all that are dropped are near to the
    one named as theirs, and no chain of small changes drops what resembles nothing that stays. Better is a validation
    photo, for no photo of training may be in the validation; then more pixels; then the smaller key. The order
    of the photos changes nothing. Photos without a valid fingerprint stay. `find_near` is `near_fingerprints`, or what
    has its parts made elsewhere and yields their pairs in any order.
    """
    assert len(prints) == len(keys) == len(is_val)
    ranked = _from_best_to_worst(prints, keys, is_val)
    words = prints["words"][ranked]
    # Equal fingerprints first, however many: the best of them stands for all.
    best = _best_of_equal(words)
    singles = np.flatnonzero(best == np.arange(len(best)))
    words = words[singles]
    leaders = singles[_leaders(words, find_near)]
    kept = ranked[leaders[np.searchsorted(singles, best)]]
    gone = np.flatnonzero(ranked != kept)
    gone = gone[np.argsort(ranked[gone])]
    return Duplicates(ranked[gone], kept[gone])


def _from_best_to_worst(prints: Fingerprints, keys: pa.Array | pa.ChunkedArray, is_val: NDArray[np.bool_]) -> Indices:
    """The photos with a valid fingerprint."""
    place = np.empty(len(prints), np.int64)
    place[pc.sort_indices(keys).to_numpy()] = np.arange(len(prints))
    ranked = np.lexsort((place, -prints["pixels"].astype(np.int64), ~is_val))
    return ranked[prints["valid"][ranked]]


def _best_of_equal(words: Hashes) -> Indices:
    """For each of N fingerprints, [N, 4], the first one that is equal to it."""
    best = np.arange(len(words))
    order = np.argsort(words[:, 0])
    first_words = words[order, 0]
    repeats = np.flatnonzero(first_words[1:] == first_words[:-1])
    # Few have an equal first word: only those are sorted by all words.
    order = np.sort(order[np.union1d(repeats, repeats + 1)])
    order = order[np.lexsort(words[order].T)]
    starts = np.append(True, (words[order[1:]] != words[order[:-1]]).any(axis=1))[: len(order)]
    best[order] = order[np.flatnonzero(starts)][np.cumsum(starts) - 1]  # lexsort is stable: the first comes first
    return best


def _leaders(
    words: Hashes, find_near: Callable[[Hashes], Iterator[Pairs]] = near_fingerprints, held_pairs: int = HELD_PAIRS
) -> Indices:
    """For each of N fingerprints, [N, 4], the best first: itself if it stays, else the first that stays near it.

    The pairs are held if they are few. If not, a round decides what it can without holding them: one that is near
    to none better stays, and one whose best neighbour stays goes. Those left, with those that stay and have any
    neighbour, make the next round: dense groups are gone by then.
    """
    leader, active = np.arange(len(words)), np.arange(len(words))
    while True:
        pairs: list[Pairs] = []
        num_pairs = 0
        best = np.arange(len(active))
        has_near = np.zeros(len(active), bool)
        for first, second in find_near(words):
            np.minimum.at(best, second, first)
            has_near[first] = has_near[second] = True
            num_pairs += len(first)
            if num_pairs <= held_pairs:
                pairs.append((first, second))
            else:
                pairs.clear()
        if num_pairs <= held_pairs:
            _follow(leader, active, pairs)
            return leader
        stays = best == np.arange(len(active))
        goes = ~stays & stays[best]
        leader[active[goes]] = active[best[goes]]
        on = has_near & ~goes
        active, words = active[on], words[on]


def _follow(leader: Indices, active: Indices, pairs: list[Pairs]) -> None:
    """Writes into `leader` what follows from all near pairs among the photos `active`, whose best come first."""
    if not pairs:
        return
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
    order = np.argsort(first)
    first, second = first[order], second[order]
    starts = np.flatnonzero(np.diff(first, prepend=-1))
    gone = np.zeros(len(active), bool)
    for start, stop in zip(starts, np.append(starts[1:], len(first)), strict=True):
        if not gone[first[start]]:
            near = second[start:stop]
            near = near[~gone[near]]
            gone[near] = True
            leader[active[near]] = active[first[start]]
