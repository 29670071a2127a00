"""Every sample of some shards, to be read by number in any order: what fetches, opens and closes files.

A shard is looked at when the first of its samples is asked for: it is fetched if it is remote, its samples are counted
and held against the index. Bare tars are counted at the start, as the order of all samples depends on it.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pics_common.errors import UserError
from pics_model.sample_index import Starts, count_local, count_samples, load
from pics_model.shard_cache import FETCHES, ShardCache, default_folder
from pics_model.shard_set import Shard, Sources, Split, find_shards
from pics_model.tar_index import BLOCK, members_between

MAX_OPEN = 64  # shards whose files a process holds open
OPENINGS = 3  # tries to open a file that others may remove from the cache


class OpenFile:
    """A file that is open for as long as anybody has this."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@dataclass(slots=True)
class Stored:
    """One sample as it lies in its shard: `members` are kind -> (offset, length) in the file. `where` names shard and
    key, for messages."""

    key: str
    where: str
    members: dict[str, tuple[int, int]]
    file: OpenFile

    @property
    def num_objects(self) -> int:
        """How many of obj0.png, obj1.png, ... it has, without a gap."""
        return next(k for k in count() if f"obj{k}.png" not in self.members)

    def read(self, kind: str) -> bytes:
        """The bytes of a member that it has."""
        offset, length = self.members[kind]
        data = os.pread(self.file.descriptor, length, offset)
        if len(data) != length:
            raise UserError(f"{self.where}: the file has shrunk since the start")
        return data


class ShardTable:
    """The samples of `shards`, numbered through. `cache` is a folder: for remote shards, together at most `cache_bytes`
    of them, and for what was counted."""

    def __init__(self, shards: Sequence[Shard], cache: Path | None = None, cache_bytes: int | None = None) -> None:
        self.shards = list(shards)
        folder = cache or default_folder()
        self.remote, self.saved = ShardCache(folder / "shards", cache_bytes), folder / "starts"
        self._starts: dict[int, Starts] = {}
        self._failed: dict[int, str] = {}
        self._renewed: set[int] = set()
        self._open: OrderedDict[int, OpenFile] = OrderedDict()
        self._lock = threading.RLock()
        self._count_bare()
        self.counts = [
            len(self._starts[number]) - 1 if shard.num_samples is None else shard.num_samples
            for number, shard in enumerate(self.shards)
        ]
        self.begin = np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])  # the first sample of each shard

    def __len__(self) -> int:
        return int(self.begin[-1])

    @cached_property
    def shard(self) -> NDArray[np.int64]:
        """The number of each sample's shard."""
        return np.repeat(np.arange(len(self.shards)), self.counts)

    @cached_property
    def keys(self) -> list[str]:
        """The key of every sample; reads the headers of all."""
        return [self.sample(index).key for index in range(len(self))]

    def sample(self, index: int) -> Stored:
        """Sample `index` of all. Raises as `sample_of`."""
        number = int(np.searchsorted(self.begin, index, "right")) - 1
        return self.sample_of(number, index - int(self.begin[number]))

    def members(self, index: int) -> dict[str, tuple[int, int]]:
        """Kind -> (offset, length) of the members of sample `index`."""
        return self.sample(index).members

    def num_objects(self, index: int) -> int:
        """How many objects sample `index` has."""
        return self.sample(index).num_objects

    def sample_of(self, number: int, place: int) -> Stored:
        """Sample `place` of shard `number`. Raises `UserError` that names the shard if it is missing or damaged."""
        shard, file = self.shards[number], self._file(number)
        begin, end = (int(start) * BLOCK for start in self._starts[number][place : place + 2])
        members: dict[str, tuple[int, int]] = {}
        key = ""
        try:
            for name, _, offset, length in members_between(file.descriptor, begin, end, shard.url):
                key, _, kind = name.partition(".")
                members[kind] = offset, length
        except (OSError, ValueError) as error:
            raise UserError(f"shard {shard.url}: cannot be read as a tar ({error})") from None
        return Stored(key, f"shard {shard.url}, key {key}", members, file)

    def has_failed(self, number: int) -> bool:
        """Whether a shard could not be opened."""
        return number in self._failed

    def renew(self, number: int) -> bool:
        """Has a remote shard opened anew, or fetched anew where its copy here has gone bad, when it is next asked for;
        returns whether that may help. It does so once a shard, as all of it is read for that."""
        shard = self.shards[number]
        if number in self._renewed or not shard.is_remote:
            return False
        self._renewed.add(number)
        self.remote.drop_if_damaged(shard)  # unless another process has just done so
        self._failed.pop(number, None)
        self._open.pop(number, None)
        return True

    def _file(self, number: int) -> OpenFile:
        """The open file of a shard. One that could not be had once is not tried again."""
        with self._lock:
            if number in self._open:
                self._open.move_to_end(number)
                return self._open[number]
            if number in self._failed:
                raise UserError(self._failed[number])
            try:
                file = self._opened(number)
            except UserError as error:
                self._failed[number] = str(error)
                raise
            except OSError as error:
                self._failed[number] = f"shard {self.shards[number].url}: cannot be read ({error.strerror})"
                raise UserError(self._failed[number]) from None
            while len(self._open) >= MAX_OPEN:
                self._open.popitem(last=False)
            self._open[number] = file
            return file

    def _opened(self, number: int) -> OpenFile:
        """A shard's file, its samples counted."""
        for tried in range(OPENINGS):
            path = self._local(number)
            try:
                file = OpenFile(path)
                if number not in self._starts:
                    self._starts[number] = self._count(number, path)
                return file
            except (FileNotFoundError, UserError):
                # Another run that shares the cache may have made room just now.
                if not self.shards[number].is_remote or path.exists() or tried == OPENINGS - 1:
                    raise
        raise AssertionError

    def _local(self, number: int) -> Path:
        """The shard's file on this machine, fetched if need be."""
        shard = self.shards[number]
        if not shard.is_remote:
            return Path(shard.url)
        path = self.remote.fetch(shard)
        assert path is not None
        return path

    def _count(self, number: int, path: Path) -> Starts:
        """Where the samples of a shard begin. A copy of a remote one that proves damaged is fetched once more."""
        try:
            return count_samples(self.shards[number], path, self.saved)
        except UserError:
            if not self.renew(number):
                raise
        return count_samples(self.shards[number], self._local(number), self.saved)

    def _count_bare(self) -> None:
        """Counts the samples of tars that no index tells of, several at a time."""
        bare = [number for number, shard in enumerate(self.shards) if shard.num_samples is None]
        here = [number for number in bare if not self.shards[number].is_remote]
        self._starts.update(zip(here, count_local([self.shards[number] for number in here], self.saved), strict=True))
        remote = [number for number in bare if number not in self._starts]
        for number in remote:
            starts = load(self.shards[number], self.saved)
            if starts is not None:
                self._starts[number] = starts
        remote = [number for number in remote if number not in self._starts]
        if remote:
            print(f"note: {len(remote)} remote tars have no index.json: each is fetched once to count its samples")
        with ThreadPoolExecutor(FETCHES) as threads:
            found = threads.map(lambda number: self._count(number, self._local(number)), remote)
            self._starts.update(zip(remote, found, strict=True))


def open_shards(sources: Sources, split: Split = "all") -> ShardTable:
    """The samples of a folder of shards, of one tar (whose split does not matter), or of several such places.

    Raises `UserError` if there are none, or a shard that no index tells of is damaged.
    """
    return filled(ShardTable(find_shards(sources, split)), sources)


def filled(table: ShardTable, sources: Sources) -> ShardTable:
    """The table. Raises `UserError` if it has no sample."""
    if not len(table):
        named = sources if isinstance(sources, str | Path) else ", ".join(str(place) for place, _ in sources)
        raise UserError(f"shards {named}: no sample in {len(table.shards)} tar files")
    return table
