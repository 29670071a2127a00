"""One shard, read back whole: its bytes, its samples, and whether index, plan, mark and table of samples agree.

Runs in any process and needs the memory of one sample, and of what the plan and the table say of one shard.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pics_common import storage
from pics_common.errors import UserError
from pics_data.parquet_read import told_if_damaged
from pics_data.plan import read_shard_plan
from pics_data.records import Composition
from pics_data.sample_table import table_of
from pics_data.shards import ShardMark, mark_path, read_mark, table_path
from pics_data.tar_read import DamageError, read_members, tar_samples
from pics_data.verify_cutouts import check_cutouts
from pics_data.verify_keys import hashes_of
from pics_data.verify_papers import Entry, Planned, planned_keys
from pics_data.verify_sample import Opened, Rules, open_sample
from pics_data.verify_source import SourceCheck


@dataclass(frozen=True, slots=True)
class ShardJob:
    """A shard to verify: the tar at `url`, and what is known of it. `folder` is that of the build, "" for bare tars."""

    url: str
    folder: str = ""
    entry: Entry | None = None
    planned: Planned | None = None
    has_parts: bool = False  # mark and table ought to be there
    max_pixels: int = Rules().max_pixels
    deep: bool = False


@dataclass(slots=True)
class ShardReport:
    """What was found; `damage` is the first thing wrong, in a line that names the file, or ""."""

    damage: str = ""
    samples: int = 0
    with_meta: int = 0
    num_bytes: int = 0
    rejected: list[str] | None = None  # keys of the mark's rejects, in order; None where there is no mark
    key_hashes: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    compared: Counter[str] = field(default_factory=Counter)  # what `deep` compared, and what it could not


def verify_shard(job: ShardJob) -> ShardReport:
    """Verifies one shard, to the first thing that is wrong with it."""
    report = ShardReport()
    try:
        _verify(job, report)
    except DamageError as error:
        report.damage = f"{job.url}: {error}"
    except UserError as error:  # plan, mark or table of the shard: names its own file
        report.damage = str(error)
    except OSError as error:
        report.damage = f"{job.url}: cannot be read ({error.strerror or error})"
    return report


def _verify(job: ShardJob, report: ShardReport) -> None:
    mark = _read_mark(job, report) if job.has_parts else None
    keys = planned_keys(storage.join(job.folder, "plan"), job.planned) if job.planned else None
    if job.entry is None and mark is not None:
        if mark.nsamples:
            raise DamageError(f"not in index.json, though its mark says that it holds {mark.nsamples} samples")
        _check_sum(keys, [], report.rejected)
        return
    if storage.file_size(job.url) is None:
        raise DamageError("missing" + (", though index.json lists it" if job.entry else ""))
    metas: list[Mapping[str, Any]] = []
    with storage.local_copy(job.url) as path:
        report.num_bytes = path.stat().st_size
        if job.entry:
            _check_bytes(path, job.entry)
        found = _verify_samples(path, job, report, metas)
    if job.entry and report.samples != job.entry.nsamples:
        raise DamageError(f"{report.samples} samples; index.json says {job.entry.nsamples}")
    if not report.samples:
        raise DamageError("holds no sample")
    if mark and job.entry:
        _check_mark(job, mark, job.entry)
    _check_sum(keys, found, report.rejected)
    if job.has_parts:
        _check_table(job, metas)


def _read_mark(job: ShardJob, report: ShardReport) -> ShardMark:
    mark = read_mark(job.folder, _shard_of(job))
    if mark is None:
        url = mark_path(job.folder, _shard_of(job))
        raise UserError(f"{url}: missing or damaged; run the same build command again to mend it")
    report.rejected = [reject.key for reject in mark.rejects]
    return mark


def _check_mark(job: ShardJob, mark: ShardMark, entry: Entry) -> None:
    if (mark.nsamples, mark.num_bytes, mark.sha256) != (entry.nsamples, entry.filesize, entry.sha256):
        raise UserError(f"{mark_path(job.folder, mark.shard)}: speaks of another tar than index.json does")


def _shard_of(job: ShardJob) -> str:
    return job.planned.shard if job.planned else storage.base_name(job.url).removesuffix(".tar")


def _check_bytes(path: Path, entry: Entry) -> None:
    size = path.stat().st_size
    if size != entry.filesize:
        raise DamageError(f"{size} bytes; index.json says {entry.filesize}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != entry.sha256:
        raise DamageError(
            f"its bytes have changed: SHA-256 {digest[:12]}..., index.json says {entry.sha256[:12]}...; delete it and "
            "run the same build command again"
        )


def _verify_samples(path: Path, job: ShardJob, report: ShardReport, metas: list[Mapping[str, Any]]) -> list[str]:
    """The keys in the tar, in order; `metas` gets the metadata of each sample, as the table of samples takes it."""
    own = job.entry is not None
    rules = Rules(own, job.entry.split if job.entry else "", job.max_pixels)
    deep = _DeepCheck(job, report) if job.deep else None
    keys: list[str] = []
    with path.open("rb") as file:
        for stored in tar_samples(file):
            try:
                sample = open_sample(stored.key, read_members(file, stored), rules)
                if deep:
                    deep.check(sample)
            except DamageError as error:
                raise DamageError(f"{stored.key}: {error}") from None
            keys.append(stored.key)
            report.samples += 1
            if sample.meta:
                report.with_meta += 1
                if job.has_parts:
                    metas.append({"key": stored.key, "num_bytes": stored.num_bytes, **sample.meta})
    if job.planned is None:
        report.key_hashes = hashes_of(keys)
    return keys


class _DeepCheck:
    """The comparisons of `--deep`: within each sample, and with the sources where there is a plan."""

    def __init__(self, job: ShardJob, report: ShardReport) -> None:
        self._compositions: dict[str, Composition] = {}
        self._source: SourceCheck | None = None
        if job.planned:
            plan = read_shard_plan(storage.join(job.folder, "plan"), job.planned.number)
            self._compositions = {composition.key: composition for composition in plan}
            self._source = SourceCheck(job.planned.config)
            report.compared = self._source.counts
        self._counts = report.compared

    def check(self, sample: Opened) -> None:
        if not sample.meta:
            return
        if self._source:
            if sample.key not in self._compositions:
                raise DamageError("in the tar, but not in the plan")
            self._source.check(sample, self._compositions[sample.key])
        self._counts["cut-outs"] += check_cutouts(sample)


def _check_sum(planned: list[str] | None, found: list[str], rejected: list[str] | None) -> None:
    """What was planned is what is in the tar and what the mark has as rejected; `rejected` is None without a mark."""
    if planned is None:
        return
    here, dropped = set(found), set(rejected or ())
    if both := here & dropped:
        raise DamageError(f"{min(both)}: in the tar, and rejected by its mark")
    if added := (here | dropped) - set(planned):
        raise DamageError(f"{min(added)}: not in the plan of this shard")
    if rejected is not None and (lost := [key for key in planned if key not in here and key not in dropped]):
        raise DamageError(f"{lost[0]}: planned, but neither in the tar nor rejected")
    if found != [key for key in planned if key in here]:
        raise DamageError("its samples do not stand in the order of the plan")


def _check_table(job: ShardJob, metas: list[Mapping[str, Any]]) -> None:
    """Raises `UserError` where the table of the shard's samples is not what the samples say."""
    url = table_path(job.folder, _shard_of(job))
    with told_if_damaged(url):
        found = pq.read_table(io.BytesIO(storage.read(url)))
    wanted = table_of(metas, _shard_of(job))
    if found.schema.names != wanted.schema.names:
        raise UserError(f"{url}: has other columns than this version writes; run the same build command again")
    if found.num_rows != wanted.num_rows:
        raise UserError(f"{url}: {found.num_rows} rows; its tar holds {wanted.num_rows} samples")
    for name in wanted.schema.names:
        if not found[name].equals(wanted[name]):
            rows = zip(wanted["key"].to_pylist(), found[name].to_pylist(), wanted[name].to_pylist(), strict=True)
            key, told, true = next(row for row in rows if row[1] != row[2])
            raise UserError(f"{url}: {key}: `{name}` is {told}; the sample in the tar says {true}")
