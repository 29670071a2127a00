"""A build by plain functions in one process, without Ray: what every other way of building must equal."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import pyarrow as pa
import pyarrow.parquet as pq

from pics_common import storage
from pics_data.config import BuildConfig
from pics_data.ledger import Ledger, write_index, write_rejects
from pics_data.mixture import Member, members_of
from pics_data.pipeline import build_shard
from pics_data.plan import Plan, make_plan, read_shard_plan, shards_of
from pics_data.planning import basis_of, install
from pics_data.records import Composition, Photo, Reject
from pics_data.sources import records_of

FOLDERS = TemporaryDirectory(prefix="pics-test-")  # goes with the process


def plan_of(records: Iterable[Photo | Reject], config: BuildConfig, folder: Path | None = None) -> Plan:
    """The plan of `records` in `folder`, or in one of its own."""
    folder = folder or Path(mkdtemp(dir=FOLDERS.name))
    folder.mkdir(exist_ok=True, parents=True)
    return make_plan([Member("", 1.0, config)], lambda _: records, config, folder)


def table_of(plan: Plan) -> pa.Table:
    """All rows of a plan, in the order of the shards."""
    files = sorted(path for path in Path(plan.folder).glob("*.parquet") if path.stem != "rejects")
    return pa.concat_tables([pq.read_table(path) for path in files])


def rejects_of(plan: Plan) -> list[Reject]:
    return [Reject(**row) for row in pq.read_table(Path(plan.folder) / "rejects.parquet").to_pylist()]


def shard_names(plan: Plan, members: list[Member] | None = None) -> list[str]:
    members = members or [Member("", 1.0, BuildConfig())]
    return [shard for _, shard, _ in shards_of(plan, members)]


def compositions_of(plan: Plan) -> list[Composition]:
    return [composition for n in range(plan.num_shards) for composition in read_shard_plan(plan.folder, n)]


def build_plainly(config: BuildConfig, *, backwards: bool = False) -> Plan:
    """Builds what `config` says, last shard first if `backwards`."""
    members = members_of(config)
    config = replace(config, out=storage.absolute(config.out))
    basis = basis_of(members)
    plan = make_plan(members, lambda m: records_of(m.config), config, Path(mkdtemp(dir=FOLDERS.name)))
    plan = install(plan, config, basis)
    ledger = Ledger(plan.num_shards)
    shards = list(shards_of(plan, members))
    for number, shard, member in reversed(shards) if backwards else shards:
        ledger.enter(number, build_shard(number, shard, plan.folder, config.out, members[member].config))
    write_rejects(config.out, plan, members, ledger)
    write_index(config.out, plan, members, ledger, basis.recipe)
    return plan


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each tar and each table of samples in a folder of shards."""
    files = sorted([*folder.glob("*.tar"), *folder.glob("parts/*.parquet")])
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
