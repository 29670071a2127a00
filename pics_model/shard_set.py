"""Which shards there are: those of a folder, of an object store, of a web server, or several of these, mixed.

An index says of each shard how many samples it has, its bytes and their SHA-256, so that nothing else is read at the
start. Bare tars, the published ones too, are known by name and size alone: their samples are counted when they are
first opened (see `shard_table`).
"""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pics_common import storage
from pics_common.errors import UserError

Split = Literal["train", "val", "all"]
Place: TypeAlias = str | Path
Sources: TypeAlias = Place | Sequence[tuple[Place, float]]
"""One place of shards, or several, each with a weight: how often its samples are seen relative to the others'."""


class MissingSplitError(UserError):
    """The shards are there, and none belongs to the split that was asked for."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar, and what is known without opening it: `num_samples`, `size` in bytes and `sha256`, None and "" where
    nobody says; `weight` is how often training sees its samples relative to those of other shards."""

    url: str
    num_samples: int | None = None
    size: int | None = None
    sha256: str = ""
    weight: float = 1.0

    @property
    def name(self) -> str:
        """The last part of its path or URL."""
        return storage.base_name(self.url)

    @property
    def is_remote(self) -> bool:
        """Whether it has to be fetched."""
        return storage.is_remote(self.url)

    @property
    def path(self) -> Path:
        """Path or URL as a path, for its name's parts."""
        return Path(self.url)


def find_shards(sources: Sources, split: Split = "all", whole: bool = True) -> list[Shard]:
    """The shards of all sources in order: those that an `index.json` names, or every `.tar` of a folder without one, or
    a tar that is named itself, whatever its split.

    With `whole` it is an error if an index names a tar that its folder does not have; stores and servers are not asked.
    Raises `UserError` if a source has no shards, or none of `split`.
    """
    if isinstance(sources, str | Path):
        return _find(str(sources), split, whole)
    found = []
    for place, weight in sources:
        if not 0 < weight < math.inf:
            raise UserError(f"shards {place}: weight {weight}; expected a number above 0")
        found += [replace(shard, weight=shard.weight * weight) for shard in _find(str(place), split, whole)]
    if not found:
        raise UserError("shards: none are named; expected a folder, a tar, or a URL of either")
    return found


def is_one_tar(place: Place) -> bool:
    """Whether a source is a tar, which has no splits."""
    url = str(place)
    return url.endswith(".tar") if storage.is_remote(url) else storage.local_path(url).is_file()


def digest_of(shards: Sequence[Shard], counts: Sequence[int], copies: Sequence[int]) -> tuple[str, list[str]]:
    """What the data is: SHA-256 of a line for each shard, and these lines: name, samples, copies, content.

    The content is what the index says of its SHA-256; for bare tars it is their size.
    """
    lines = [
        f"{shard.name} samples={count} copies={times} {shard.sha256 or f'bytes={shard.size}'}"
        for shard, count, times in zip(shards, counts, copies, strict=True)
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest(), lines


def _find(place: str, split: Split, whole: bool) -> list[Shard]:
    url = place if storage.is_remote(place) else str(storage.local_path(place))
    try:
        if is_one_tar(url):
            return [Shard(url, size=storage.file_size(url))]
        data = _read_if_there(storage.join(url, "index.json"))
        if data is not None:
            found = _from_index(url, data, whole)
        elif storage.is_folder(url):
            listed = [
                entry for entry in storage.list_folder(url) if entry.name.endswith(".tar") and not entry.is_folder
            ]
            found = [(Shard(storage.join(url, entry.name), size=entry.size), "") for entry in listed]
        else:
            raise UserError(f"shards {url}: does not exist; expected a folder of shards with index.json, or a tar")
    except OSError as error:
        raise UserError(f"shards {url}: cannot be read ({error.strerror})") from None
    if not found:
        raise UserError(f"shards {url}: no tar files; build some with `pics-data build`")
    # Without a word from the index the name tells: published shards are all for training.
    named = [(shard, said or ("val" if shard.name.startswith("val") else "train")) for shard, said in found]
    chosen = [shard for shard, its_split in named if split in ("all", its_split)]
    if not chosen:
        raise MissingSplitError(f"shards {url}: {len(found)} tar files, none of split {split}")
    return chosen


def _read_if_there(url: str) -> bytes | None:
    try:
        return storage.read(url)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _from_index(folder: str, data: bytes, whole: bool) -> list[tuple[Shard, str]]:
    """The shards that an index names, each with its split."""
    index = storage.join(folder, "index.json")
    try:
        entries = [_entry(folder, entry) for entry in json.loads(data)["shardlist"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"index {index}: expected `shardlist` of `url` and `nsamples` ({error!r})") from None
    there = set(os.listdir(folder)) if whole and not storage.is_remote(folder) else None  # noqa: PTH208
    for name, shard, _ in entries:
        if not 0 < shard.weight < math.inf:
            raise UserError(f"index {index}: weight {shard.weight} of {name}; expected a number above 0")
        if Path(name).name != name:
            raise UserError(f"index {index}: url {name!r}; expected the name of a tar beside the index")
        if shard.num_samples is None or shard.num_samples < 0:
            raise UserError(f"index {index}: nsamples {shard.num_samples} of {name}; expected 0 or more")
        if there is not None and name not in there:
            raise UserError(f"index {index}: names {name}, which is not there; build again, or fetch the missing tar")
    return [(shard, split) for _, shard, split in entries]


def _entry(folder: str, entry: dict[str, Any]) -> tuple[str, Shard, str]:
    name, size = str(entry["url"]), entry.get("filesize")
    shard = Shard(
        storage.join(folder, name),
        int(entry["nsamples"]),
        None if size is None else int(size),
        str(entry.get("sha256", "")),
        float(entry.get("weight", 1)),
    )
    return name, shard, str(entry.get("split", ""))
