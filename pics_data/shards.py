"""The shard format, writing side: one tar a shard, and its completion mark. See shards/README.md.

A tar appears under its name when it is complete; then its table of samples, then its mark. What has a mark is whole,
what has none is not there: so a run may be killed at any point and taken up again.
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from pics_common import storage
from pics_common.files import SUFFIX
from pics_data.records import Reject, Sample
from pics_data.sample_table import write_table

BLOCK = 512
RECORD = 20 * BLOCK


@dataclass(frozen=True, slots=True)
class ShardMark:
    """The completion mark of a shard. A shard whose samples were all rejected has no tar and `num_bytes` 0."""

    shard: str
    nsamples: int
    num_bytes: int
    sha256: str
    rejects: tuple[Reject, ...] = ()


def tar_member(name: str, data: bytes) -> bytes:
    """A tar member, header and padding included, that depends on name and data only: no time, no owner."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    info.mtime = 0
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % BLOCK)


def write_shard(folder: str, shard: str, records: Iterable[Sample | Reject]) -> ShardMark:
    """Writes `<shard>.tar`, its table and its mark into `folder`, a path or URL; one sample is in memory at a time."""
    tar = storage.join(folder, f"{shard}.tar")
    metas: list[dict[str, Any]] = []
    with storage.new_file(tar) as (file, commit):
        mark = _write_tar(file.write, shard, records, metas)
        storage.remove(mark_path(folder, shard))  # of an earlier tar, which the next line replaces
        if mark.nsamples:
            commit()
    if not mark.nsamples:
        storage.remove(tar)
    write_table(table_path(folder, shard), metas)
    storage.write(mark_path(folder, shard), orjson.dumps(asdict(mark), option=orjson.OPT_INDENT_2))
    return mark


def _write_tar(
    write_out: Callable[[bytes], int], shard: str, records: Iterable[Sample | Reject], metas: list[dict[str, Any]]
) -> ShardMark:
    digest = hashlib.sha256()
    num_bytes = 0
    rejects: list[Reject] = []

    def write(data: bytes) -> None:
        nonlocal num_bytes
        digest.update(data)
        num_bytes += write_out(data)

    for record in records:
        if isinstance(record, Reject):
            rejects.append(record)
            continue
        start = num_bytes
        for extension, data in record.members.items():
            write(tar_member(f"{record.key}.{extension}", data))
        metas.append({"key": record.key, "num_bytes": num_bytes - start, **orjson.loads(record.members["meta.json"])})
    write(bytes(2 * BLOCK))
    write(bytes(-num_bytes % RECORD))  # whole records, as every tar program writes them
    if not metas:
        return ShardMark(shard, 0, 0, "", tuple(rejects))
    return ShardMark(shard, len(metas), num_bytes, digest.hexdigest(), tuple(rejects))


def mark_path(folder: str, shard: str) -> str:
    return storage.join(folder, "parts", f"{shard}.json")


def table_path(folder: str, shard: str) -> str:
    return storage.join(folder, "parts", f"{shard}.parquet")


def read_mark(folder: str, shard: str) -> ShardMark | None:
    """The mark of a shard; None where there is none, or not one that this version writes."""
    try:
        values = orjson.loads(storage.read(mark_path(folder, shard)))
        return ShardMark(**{**values, "rejects": tuple(Reject(**reject) for reject in values["rejects"])})
    except (FileNotFoundError, orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        return None


def remove_leftovers(folder: str) -> None:
    """Removes what killed writes left behind. A store keeps nothing of an upload that was not completed."""
    if storage.is_remote(folder):
        return
    path = storage.local_path(folder)
    for leftover in path.rglob(f".*{SUFFIX}"):
        with suppress(FileNotFoundError):
            leftover.unlink()
