"""`inspect` reads a folder of shards: the tables of samples where there are any, else some of its tars."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pics_common import storage
from pics_common.errors import UserError
from pics_data.ahead import read_ahead
from pics_data.inspect_bare import NUM_MEASURED, NUM_TARS, read_bare_tar, spread
from pics_data.inspect_survey import COLUMNS, NUM_EXAMPLES, Survey, add_table
from pics_data.mixture import members_of_identity
from pics_data.parquet_read import read_batches
from pics_data.progress import TimeLeft
from pics_data.sample_table import FOLDER, SUFFIX, read_table
from pics_data.verify_papers import Index, read_index, read_recipe

TABLES_AHEAD = 16


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar of the folder."""

    name: str  # without `.tar`
    num_bytes: int
    split: str

    @property
    def member(self) -> str:
        """Which member of a mixture it is of: `lvis` in `train-lvis-000000`."""
        return self.name.partition("-")[2].rpartition("-")[0]


@dataclass(slots=True)
class RejectReason:
    """Rejects of one stage and reason, with the first few as (key, detail)."""

    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Found:
    """What lies in a folder of shards."""

    folder: str
    shards: list[Shard]
    index: Index | None = None
    recipe: Mapping[str, Any] | None = None
    survey: Survey = field(default_factory=Survey)
    num_samples: int = 0  # in all; about so many where `estimated`
    estimated: bool = False
    num_read: int = 0  # tars that were read in place of tables
    unknown: str = ""  # what could not be known, in words
    rejects: dict[tuple[str, str], RejectReason] | None = None
    remarks: list[str] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        return sum(shard.num_bytes for shard in self.shards)

    def weights(self) -> dict[str, float]:
        """How often training sees a sample of each source, relative to others; {} where nothing says so."""
        if self.index:
            return {entry.source: entry.weight for entry in self.index.entries if entry.source}
        if self.recipe:
            return {member.config.source: member.weight for member in members_of_identity(self.recipe["recipe"])}
        return {}


def read_folder(folder: str, num_chosen: int) -> Found:
    """Reads what a folder of shards, a path or URL, says of its samples, and chooses `num_chosen` to be shown.

    Raises `UserError` for a missing folder, one without shards, and one whose papers are damaged.
    """
    if not storage.is_folder(folder):
        kind = "is a file" if storage.file_size(folder) is not None else "does not exist"
        raise UserError(f"shards: {folder} {kind}; expected a folder of shards")
    entries = storage.list_folder(folder)
    names = {entry.name for entry in entries}
    index = read_index(folder) if "index.json" in names else None
    splits = {entry.shard: entry.split for entry in index.entries} if index else {}
    shards = [
        Shard(name, entry.size, splits.get(name) or (name.partition("-")[0] if "-" in name else ""))
        for entry in entries
        if entry.name.endswith(".tar") and not entry.name.startswith(".") and (name := entry.name.removesuffix(".tar"))
    ]
    if not shards:
        raise UserError(f"shards: {folder} holds no *.tar; expected a folder that `pics-data build` wrote")
    found = Found(folder, shards, index, read_recipe(folder))
    _compare_with_index(found)
    parts = set(storage.list_names(storage.join(folder, FOLDER)))
    whole = [shard for shard in shards if {shard.name + SUFFIX, f"{shard.name}.json"} <= parts]
    if whole:
        _read_tables(found, whole, num_chosen)
    else:
        _read_tars(found, num_chosen)
    if not found.num_samples:
        raise UserError(f"shards: {folder}: its tars hold no sample; expected a folder that `pics-data build` wrote")
    if "rejects.parquet" in names:
        found.rejects = _read_rejects(storage.join(folder, "rejects.parquet"))
    return found


def _compare_with_index(found: Found) -> None:
    if found.index is None:
        found.remarks.append("index.json is missing: the build has not ended yet, or these are bare tars.")
        return
    listed, here = {entry.shard for entry in found.index.entries}, {shard.name for shard in found.shards}
    found.remarks += [f"{name}.tar stands in index.json and is not in the folder." for name in sorted(listed - here)]
    found.remarks += [f"{name}.tar is in the folder and not in index.json." for name in sorted(here - listed)]


def _read_tables(found: Found, whole: list[Shard], num_chosen: int) -> None:
    if rest := len(found.shards) - len(whole):
        found.remarks.append(f"{rest:,} tars have no table of samples or no mark, and are not counted here.")
    picks = _picks([shard.member for shard in whole], num_chosen)
    urls = [storage.join(found.folder, FOLDER, shard.name + SUFFIX) for shard in whole]
    with TimeLeft("inspect", "tables", len(whole)) as progress:
        tables = read_ahead(urls, lambda url: read_table(url, COLUMNS), TABLES_AHEAD)
        for i, (_, future) in enumerate(tables):
            table = future.result()
            sizes = np.asarray(table["num_bytes"], np.int64)
            rows = spread(table.num_rows, picks.get(i, 0))
            tar = storage.join(found.folder, f"{whole[i].name}.tar")
            add_table(found.survey, table, tar, np.cumsum(sizes) - sizes, rows)
            progress.advance()
    found.num_samples = found.survey.num_samples


def _picks(members: list[str], num_chosen: int) -> dict[int, int]:
    """How many samples of each shard to show: as many of each member of a mixture, spread over its shards.

    `members` names the member of each shard.
    """
    picks: Counter[int] = Counter()
    distinct = sorted(set(members))
    for place, member in enumerate(distinct):
        mine = [i for i, name in enumerate(members) if name == member]
        share = num_chosen * (place + 1) // len(distinct) - num_chosen * place // len(distinct)
        for turn in range(-(-share // len(mine))):
            picks.update(mine[i] for i in spread(len(mine), share - turn * len(mine)))
    return picks


def _read_tars(found: Found, num_chosen: int) -> None:
    shards = [found.shards[i] for i in spread(len(found.shards), NUM_TARS)]
    samples = num_bytes = with_meta = 0
    picks = _picks(["" for _ in shards], num_chosen)
    with TimeLeft("inspect", "tars", len(shards)) as progress:
        for i, shard in enumerate(shards):
            url = storage.join(found.folder, f"{shard.name}.tar")
            tar = read_bare_tar(url, shard.split, -(-NUM_MEASURED // len(shards)))
            add_table(found.survey, tar.table, url, tar.starts, spread(tar.table.num_rows, picks.get(i, 0)))
            samples, num_bytes, with_meta = (
                samples + tar.num_samples, num_bytes + tar.num_bytes, with_meta + tar.with_meta,
            )  # fmt: skip
            found.remarks += tar.remarks
            progress.advance()
    found.num_read = len(shards)
    if len(shards) < len(found.shards) and found.index is None:
        found.estimated = True
        found.num_samples = round(samples * found.num_bytes / max(num_bytes, 1))
    else:
        found.num_samples = sum(entry.nsamples for entry in found.index.entries) if found.index else samples
    found.unknown = "how many photos there are and what was rejected" + (
        "" if with_meta else "; what the objects are, where the photos come from and under which licence"
    )


def _read_rejects(url: str) -> dict[tuple[str, str], RejectReason]:
    """Rejects by stage and reason, the most frequent first; a batch is in memory at a time."""
    reasons: dict[tuple[str, str], RejectReason] = {}
    for batch in read_batches(url, ["key", "stage", "reason", "detail"]):
        table = pa.Table.from_batches([batch])
        counted = table.group_by(["stage", "reason"]).aggregate([([], "count_all")])
        for row in counted.to_pylist():
            entry = reasons.setdefault((row["stage"], row["reason"]), RejectReason())
            entry.count += row["count_all"]
            if len(entry.examples) < NUM_EXAMPLES:
                same = pc.and_(pc.equal(table["stage"], row["stage"]), pc.equal(table["reason"], row["reason"]))
                first = table.filter(same).slice(0, NUM_EXAMPLES - len(entry.examples))
                entry.examples += zip(first["key"].to_pylist(), first["detail"].to_pylist(), strict=True)
    return dict(sorted(reasons.items(), key=lambda item: -item[1].count))
