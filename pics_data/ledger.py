"""Which shards of a build are done, in some 60 bytes a shard; and the files that are made of it at the end."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
import orjson

from pics_common import storage
from pics_data.ahead import read_ahead
from pics_data.mixture import Member
from pics_data.parquet_read import read_batches
from pics_data.plan import Plan, shards_of
from pics_data.records import Reject
from pics_data.reject_file import RejectFile
from pics_data.shards import ShardMark, read_mark

READERS = 32  # marks read at the same time: a store answers each after some 20 ms
INDEX_KIND = "wids-shard-index-v1"


class Ledger:
    """The marks of a plan's shards, by number, without their rejects."""

    def __init__(self, num_shards: int) -> None:
        self.nsamples = np.full(num_shards, -1, np.int64)  # -1: not done
        self.num_bytes = np.zeros(num_shards, np.int64)
        self.num_rejects = np.zeros(num_shards, np.int64)
        self._sha256 = np.zeros((num_shards, 32), np.uint8)

    def enter(self, number: int, mark: ShardMark) -> None:
        """Takes a shard as done."""
        self.nsamples[number], self.num_bytes[number] = mark.nsamples, mark.num_bytes
        self.num_rejects[number] = len(mark.rejects)
        self._sha256[number] = np.frombuffer(bytes.fromhex(mark.sha256) or bytes(32), np.uint8)

    def take(self, other: "Ledger") -> None:
        """Takes over what is done in another ledger of the same plan."""
        done = other.nsamples >= 0
        for name in ("nsamples", "num_bytes", "num_rejects", "_sha256"):
            getattr(self, name)[done] = getattr(other, name)[done]

    def is_done(self, number: int) -> bool:
        return bool(self.nsamples[number] >= 0)

    def sha256(self, number: int) -> str:
        return self._sha256[number].tobytes().hex()


def read_ledger(folder: str, plan: Plan, members: list[Member]) -> Ledger:
    """The shards of `plan` that are whole in `folder`: mark and table are there, and the tar has the size it should."""
    ledger = Ledger(plan.num_shards)
    tars = {entry.name: entry.size for entry in storage.list_folder(folder) if entry.name.endswith(".tar")}
    parts = set(storage.list_names(storage.join(folder, "parts")))
    begun = ((n, s) for n, s, _ in shards_of(plan, members) if f"{s}.json" in parts and f"{s}.parquet" in parts)
    for number, shard, mark in _read_marks(folder, begun):
        if mark is not None and tars.get(f"{shard}.tar", 0) == mark.num_bytes:
            ledger.enter(number, mark)
    return ledger


def _read_marks(folder: str, shards: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str, ShardMark | None]]:
    """The marks of some shards, in their order."""
    for (number, shard), mark in read_ahead(shards, lambda shard: read_mark(folder, shard[1]), READERS):
        yield number, shard, mark.result()


def write_rejects(folder: str, plan: Plan, members: list[Member], ledger: Ledger) -> Counter[tuple[str, str]]:
    """Writes `rejects.parquet`: those of the plan, then those of each shard in order. Returns the counts by stage and
    reason."""
    having = ((n, s) for n, s, _ in shards_of(plan, members) if ledger.num_rejects[n])
    with TemporaryDirectory(prefix="pics-") as temporary:
        path = Path(temporary) / "rejects.parquet"
        with RejectFile(path) as rejects:
            for reject in _plan_rejects(plan):
                rejects.add(reject)
            for _, _, mark in _read_marks(folder, having):
                for reject in mark.rejects if mark else ():
                    rejects.add(reject)
        storage.upload(path, storage.join(folder, "rejects.parquet"))
    return rejects.reasons


def _plan_rejects(plan: Plan) -> Iterator[Reject]:
    for batch in read_batches(storage.join(plan.folder, "rejects.parquet")):
        yield from (Reject(**row) for row in batch.to_pylist())


def write_index(folder: str, plan: Plan, members: list[Member], ledger: Ledger, recipe: dict[str, Any]) -> None:
    """Writes `index.json`, the last file of a build, in the layout of `wids`."""
    name = recipe["source"] if len(members) == 1 and not members[0].name else "mixture"
    head = {"__kind__": INDEX_KIND, "wids_version": 1, "name": f"pics-{name}"}
    with storage.new_file(storage.join(folder, "index.json")) as (file, commit):
        file.write(orjson.dumps(head)[:-1] + b',\n"shardlist": [')
        _write_entries(file, plan, members, ledger)
        tail = {"recipe": recipe, "plan_sha256": plan.digest}
        file.write(b"\n],\n" + orjson.dumps(tail)[1:] + b"\n")
        commit()


def _write_entries(file: BinaryIO, plan: Plan, members: list[Member], ledger: Ledger) -> None:
    comma = b"\n"
    for number, shard, place in shards_of(plan, members):
        if not ledger.nsamples[number]:
            continue
        entry = {
            "url": f"{shard}.tar",
            "nsamples": int(ledger.nsamples[number]),
            "filesize": int(ledger.num_bytes[number]),
            "sha256": ledger.sha256(number),
            "split": shard.partition("-")[0],
            "source": members[place].config.source,
            "weight": members[place].weight,
        }
        file.write(comma + orjson.dumps(entry))
        comma = b",\n"
