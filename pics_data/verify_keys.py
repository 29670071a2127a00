"""Keys that stand in several shards, among any number of them: 8 bytes a key, and the names of those alone that do."""

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def hashes_of(keys: Iterable[str]) -> NDArray[np.uint64]:
    """A hash of 8 bytes of each key."""
    return np.frombuffer(b"".join(blake2b(key.encode(), digest_size=8).digest() for key in keys), np.uint64)


class KeyHashes:
    """The hashes of all keys of shards 0, 1, 2, ..."""

    def __init__(self) -> None:
        self._hashes: list[NDArray[np.uint64]] = []

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """The keys of the next shard."""
        self._hashes.append(hashes)

    def twice(self, keys_of: Callable[[int], Iterable[str]]) -> Iterator[tuple[str, int, int]]:
        """(key, shard, a later shard) of every key that stands in two shards.

        `keys_of` reads the keys of a shard again: it is asked only where two hashes are equal.
        """
        hashes = np.concatenate([np.empty(0, np.uint64), *self._hashes])
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        ends = np.cumsum([len(part) for part in self._hashes])
        pairs = {
            (int(np.searchsorted(ends, order[at], "right")), int(np.searchsorted(ends, order[at + 1], "right")))
            for at in same
        }
        for first, second in sorted(pairs):
            if first != second:  # within a shard, its reader has seen it
                yield from ((key, first, second) for key in sorted(set(keys_of(first)) & set(keys_of(second))))
