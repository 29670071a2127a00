"""The shard format, writing side: one tar a shard, its completion mark, the index. See shards/README.md.

A tar is written beside its name, flushed, renamed; then its mark is written the same way. What has a mark is whole,
what has none is not there: so a run may be killed at any point and taken up again.
"""

import hashlib
import os
import tarfile
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pics_common.errors import UserError
from pics_common.files import flush
from pics_data.records import Reject, Sample

BLOCK = 512
RECORD = 20 * BLOCK
REJECT_SCHEMA = pa.schema({name: pa.string() for name in ("key", "stage", "reason", "detail")})


@dataclass(frozen=True, slots=True)
class ShardMark:
    """The completion mark of a shard. A shard whose samples were all rejected has no tar and `num_bytes` 0."""

    shard: str
    nsamples: int
    num_bytes: int
    sha256: str
    rejects: tuple[Reject, ...] = ()

    @property
    def split(self) -> str:
        return self.shard.partition("-")[0]


def tar_member(name: str, data: bytes) -> bytes:
    """A tar member, header and padding included, that depends on name and data only: no time, no owner."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    info.mtime = 0
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % BLOCK)


def write_shard(folder: Path, shard: str, records: Iterable[Sample | Reject]) -> ShardMark:
    """Writes `folder/<shard>.tar` and its mark from `records`, one sample in memory at a time."""
    target = folder / f"{shard}.tar"
    temporary = _temporary(target)
    try:
        with temporary.open("wb") as file:
            mark = _write_tar(file, shard, records)
        if mark.nsamples:
            temporary.rename(target)
        else:
            target.unlink(missing_ok=True)
    finally:
        temporary.unlink(missing_ok=True)
    flush(folder)
    write_json(mark_path(folder, shard), asdict(mark))
    return mark


def _write_tar(file: BinaryIO, shard: str, records: Iterable[Sample | Reject]) -> ShardMark:
    digest = hashlib.sha256()
    nsamples = num_bytes = 0
    rejects: list[Reject] = []

    def write(data: bytes) -> None:
        nonlocal num_bytes
        digest.update(data)
        num_bytes += file.write(data)

    for record in records:
        if isinstance(record, Reject):
            rejects.append(record)
            continue
        nsamples += 1
        for extension, data in record.members.items():
            write(tar_member(f"{record.key}.{extension}", data))
    write(bytes(2 * BLOCK))
    write(bytes(-num_bytes % RECORD))  # whole records, as every tar program writes them
    _flush(file)
    if not nsamples:
        return ShardMark(shard, 0, 0, "", tuple(rejects))
    return ShardMark(shard, nsamples, num_bytes, digest.hexdigest(), tuple(rejects))


def mark_path(folder: Path, shard: str) -> Path:
    return folder / "parts" / f"{shard}.json"


def read_mark(folder: Path, shard: str) -> ShardMark | None:
    """The mark of a shard if the shard is whole: the mark is there and the tar has the size it says."""
    try:
        values = orjson.loads(mark_path(folder, shard).read_bytes())
        rejects = tuple(Reject(**reject) for reject in values.pop("rejects"))
        mark = ShardMark(**values, rejects=rejects)
    except (FileNotFoundError, orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        return None  # none, or not one that this version writes
    tar = folder / f"{shard}.tar"
    size = tar.stat().st_size if tar.is_file() else 0
    return mark if size == mark.num_bytes else None


def write_index(folder: Path, marks: Sequence[ShardMark], recipe: dict[str, Any], plan_digest: str) -> dict[str, Any]:
    """Writes `index.json`, the last file of a build, in the layout of `wids`; returns what it wrote."""
    index = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": f"pics-{recipe['source']}",
        "shardlist": [
            {
                "url": f"{mark.shard}.tar",
                "nsamples": mark.nsamples,
                "filesize": mark.num_bytes,
                "sha256": mark.sha256,
                "split": mark.split,
            }
            for mark in marks
            if mark.nsamples
        ],
        "recipe": recipe,
        "plan_sha256": plan_digest,
    }
    write_json(folder / "index.json", index)
    return index


def write_rejects(folder: Path, rejects: Iterable[Reject]) -> None:
    """Writes `rejects.parquet`, a row for everything that went in and did not come out, in the order of keys."""
    rows = sorted((asdict(reject) for reject in rejects), key=lambda row: (row["key"], row["stage"], row["detail"]))
    path = folder / "rejects.parquet"
    temporary = _temporary(path)
    pq.write_table(pa.Table.from_pylist(rows, schema=REJECT_SCHEMA), temporary)
    replace(temporary, path)


def read_rows(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    """Rows of a Parquet file beside the shards. Raises `UserError` where it is damaged or of another kind."""
    try:
        return pq.read_table(path, columns=columns).to_pylist()
    except (OSError, ValueError, KeyError, NotImplementedError) as error:  # pyarrow's errors are of these kinds too
        raise UserError(f"{path}: cannot be read ({error}); run the same build command again") from None


def remove_leftovers(folder: Path) -> int:
    """Removes what killed writes left behind; returns how many files that were."""
    leftovers = [*folder.glob(".*.tmp"), *(folder / "parts").glob(".*.tmp")]
    for path in leftovers:
        with suppress(FileNotFoundError):
            path.unlink()
    return len(leftovers)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically: after a crash it is there as a whole or not at all."""
    temporary = _temporary(path)
    with temporary.open("wb") as file:
        file.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        _flush(file)
    replace(temporary, path)


def replace(temporary: Path, path: Path) -> None:
    """Gives a flushed temporary file its name."""
    temporary.replace(path)
    flush(path.parent)


def _temporary(path: Path) -> Path:
    """A name beside `path` that no other writer uses, not even another attempt at the same shard."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
