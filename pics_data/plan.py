"""Photos -> compositions -> the plan: which sample stands in which shard. No photo is opened here.

The plan is a folder of Parquet files: a row a sample, a row group a shard, `SHARDS_A_FILE` shards a file. A worker
reads one row group and nothing else. Rows pass through buckets on disk, in the order of a hash of their photos: that
permutes the photos, brings together what is of one photo, and needs the memory of one bucket however large the plan.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pics_common import storage
from pics_common.errors import UserError
from pics_data.choose import Choice, choose
from pics_data.config import BuildConfig
from pics_data.keys import sample_key
from pics_data.mixture import Member
from pics_data.records import Composition, Instance, Photo, Reject
from pics_data.reject_file import RejectFile
from pics_data.spool import Spool

SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "shard": pa.string(),
        "split": pa.string(),
        "seed": pa.int64(),
        "box_iou": pa.float64(),
        "photo_id": pa.string(),
        "source": pa.string(),
        "path": pa.string(),
        "labels": pa.string(),
        "upright": pa.bool_(),
        "width": pa.int64(),
        "height": pa.int64(),
        "license": pa.string(),
        "url": pa.string(),
        "instances": pa.string(),  # JSON, as polygons and RLE nest differently
    }
)
SHARDS_A_FILE = 256
SPLITS = ("train", "val")
BUCKETS = 1024  # of each split of each member
ORDER = 16  # bytes of the hash that orders photos

PhotoRef = tuple[str, str, str]  # `<source>-<photo id>`, split, path
FindDuplicates = Callable[[Iterator[PhotoRef]], dict[str, str]]


@dataclass(slots=True)
class ShardGroup:
    """Shards of one split of one member; they stand together in the plan."""

    split: str
    member: int
    num_shards: int
    num_samples: int


@dataclass(slots=True)
class Counts:
    """What became of the photos that the sources named; the rest of `photos` have compositions."""

    photos: int = 0
    missing: int = 0  # not there
    without_pair: int = 0  # no composition found
    left_out: int = 0  # by licence, or as duplicates


@dataclass(slots=True)
class Plan:
    """What the plan in `folder` holds."""

    folder: str
    digest: str = ""
    groups: list[ShardGroup] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    @property
    def num_samples(self) -> int:
        return sum(group.num_samples for group in self.groups)

    @property
    def num_shards(self) -> int:
        return sum(group.num_shards for group in self.groups)


def shard_name(split: str, member_name: str, number: int) -> str:
    """The name of a shard; its split comes first."""
    return "-".join(filter(None, (split, member_name, f"{number:06d}")))


def shards_of(plan: Plan, members: list[Member]) -> Iterator[tuple[int, str, int]]:
    """Number, name and member of each shard, in the order of the plan."""
    number = 0
    for group in plan.groups:
        for i in range(group.num_shards):
            yield number, shard_name(group.split, members[group.member].name, i), group.member
            number += 1


def make_plan(
    members: list[Member],
    records: Callable[[Member], Iterable[Photo | Reject]],
    config: BuildConfig,
    folder: Path,
    find_duplicates: FindDuplicates | None = None,
    tick: Callable[[int, int], None] = lambda photos, samples: None,
) -> Plan:
    """Chooses the compositions of the photos of each member, permutes the photos by seed and spreads them over shards.

    Writes the plan into the empty local `folder`, and beside it `rejects.parquet`. The samples of one photo stay next
    to each other, so that a photo is decoded once. Keys, shards and seeds depend on `records` and `config` only.
    `find_duplicates` names photos to leave out, and of which other each is a duplicate. `tick` is told the photos and
    samples so far. Raises `UserError` where nothing can be built.
    """
    plan = Plan(str(folder))
    spool = Spool(len(SPLITS) * len(members) * BUCKETS)
    with RejectFile(folder / "rejects.parquet") as rejects:
        totals = _spool_all(members, records, config, spool, plan.counts, rejects, tick)
        _check_not_empty(plan.counts, sum(totals), config, rejects)
        dropped = find_duplicates(_photo_refs(spool)) if find_duplicates else {}
        _write_plan(plan, members, config, spool, totals, dropped, rejects)
    return plan


def _spool_all(
    members: list[Member],
    records: Callable[[Member], Iterable[Photo | Reject]],
    config: BuildConfig,
    spool: Spool,
    counts: Counts,
    rejects: RejectFile,
    tick: Callable[[int, int], None],
) -> list[int]:
    """Puts a row for each composition into the bucket of its photo; returns the rows of each group of buckets."""
    totals = [0] * (len(SPLITS) * len(members))
    for number, member in enumerate(members):
        present = 0
        for record in records(member):
            if isinstance(record, Reject):
                rejects.add(record)
                counts.photos += record.reason == "missing photo"
                counts.missing += record.reason == "missing photo"
                continue
            counts.photos += 1
            present += 1
            record = _with_unique_ids(record, rejects)
            if not _licensed(record, member.config):
                rejects.add(Reject(f"{record.source}-{record.id}", "filter", "licence", record.license or "none given"))
                counts.left_out += 1
            else:
                split = split_of(record.id, config.val_fraction)
                group = SPLITS.index(split) * len(members) + number
                order = hashlib.sha256(f"order/{config.seed}/{record.source}/{record.id}".encode()).digest()[:ORDER]
                bucket = group * BUCKETS + int.from_bytes(order[:2]) * BUCKETS // 2**16
                chosen = choose(record, member.config)
                counts.without_pair += not chosen
                totals[group] += len(chosen)
                for choice in chosen:
                    row = {"turn": counts.photos, "split": split, **_row(record, choice, config.seed)}
                    spool.add(bucket, order + orjson.dumps(row))
            tick(counts.photos, sum(totals))
            if member.config.limit and present == member.config.limit:
                break
    return totals


def _photo_refs(spool: Spool) -> Iterator[PhotoRef]:
    """Each photo that has compositions, once."""
    for bucket in range(spool.num_buckets):
        for _, rows in groupby(_sorted_rows(spool, bucket), key=lambda row: row["photo_id"]):
            row = next(rows)
            yield f"{row['source']}-{row['photo_id']}", row["split"], row["path"]


def _sorted_rows(spool: Spool, bucket: int) -> Iterator[dict[str, Any]]:
    """The rows of a bucket by the order of their photos; those of one photo stay in their order."""
    return (orjson.loads(record[ORDER:]) for record in sorted(spool.read(bucket), key=lambda record: record[:ORDER]))


def _write_plan(
    plan: Plan,
    members: list[Member],
    config: BuildConfig,
    spool: Spool,
    totals: list[int],
    dropped: dict[str, str],
    rejects: RejectFile,
) -> None:
    digest = hashlib.sha256()
    shard_samples = config.shard_samples or shard_samples_of_plan(sum(totals))
    with _PlanFiles(Path(plan.folder)) as files:
        for number, total in enumerate(totals):
            split, member = SPLITS[number // len(members)], number % len(members)
            group = ShardGroup(split, member, 0, 0)
            photos = _photos_of_group(spool, number, dropped, plan.counts, rejects)
            for shard, rows in _shards(photos, total, shard_samples):
                for row in rows:
                    row["shard"] = shard_name(split, members[member].name, shard)
                    # Of a file's place only the name counts: data may move.
                    names = {"path": storage.base_name(row["path"]), "labels": storage.base_name(row["labels"])}
                    digest.update(orjson.dumps({**row, **names}, option=orjson.OPT_SORT_KEYS))
                files.add_shard(rows)
                group.num_shards += 1
                group.num_samples += len(rows)
            if group.num_shards:
                plan.groups.append(group)
    plan.digest = digest.hexdigest()


def _photos_of_group(
    spool: Spool, group: int, dropped: dict[str, str], counts: Counts, rejects: RejectFile
) -> Iterator[list[dict[str, Any]]]:
    """The rows of each photo of a group, in the order of the plan, less what stands twice or is dropped."""
    for bucket in range(group * BUCKETS, (group + 1) * BUCKETS):
        for photo_id, of_photo in groupby(_sorted_rows(spool, bucket), key=lambda row: row["photo_id"]):
            rows = list(of_photo)
            name = f"{rows[0]['source']}-{photo_id}"
            again = {row["turn"] for row in rows} - {rows[0]["turn"]}
            for _ in again:
                rejects.add(Reject(name, "plan", "duplicate photo id", "named twice in the annotations"))
                counts.left_out += 1
            if name in dropped:
                rejects.add(Reject(name, "plan", "near duplicate", f"of {dropped[name]}"))
                counts.left_out += 1
                continue
            yield [row for row in rows if row.pop("turn") not in again]


def _shards(
    photos: Iterator[list[dict[str, Any]]], total: int, shard_samples: int
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Number and rows of each shard: shards of even size, no photo in two of them, no number left out."""
    num_shards = max(1, -(-total // shard_samples))
    number, place, done = -1, -1, 0
    rows: list[dict[str, Any]] = []
    for photo in photos:
        middle = int((done + len(photo) / 2) * num_shards / total)
        if middle != place:
            if rows:
                yield number, rows
            number, place, rows = number + 1, middle, []
        rows += photo
        done += len(photo)
    if rows:
        yield number, rows


class _PlanFiles:
    """Writes shards one after the other into as many Parquet files as it takes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: pq.ParquetWriter | None = None
        self._num_shards = 0

    def add_shard(self, rows: list[dict[str, Any]]) -> None:
        if self._num_shards % SHARDS_A_FILE == 0:
            self._close()
            path = self._folder / plan_file(self._num_shards)
            self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        assert self._writer is not None
        self._writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), row_group_size=len(rows))
        self._num_shards += 1

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> "_PlanFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def plan_file(number: int) -> str:
    """The name of the file that holds shard `number` of a plan."""
    return f"{number // SHARDS_A_FILE:06d}.parquet"


def read_shard_plan(folder: str, number: int) -> Iterator[Composition]:
    """The compositions of shard `number` of the plan in `folder`, a path or URL."""
    with storage.open_read(storage.join(folder, plan_file(number))) as stream, pq.ParquetFile(stream) as file:
        table = file.read_row_group(number % SHARDS_A_FILE)
    for row in table.to_pylist():
        instances = (Instance(**{**item, "box": tuple(item["box"])}) for item in orjson.loads(row["instances"]))
        photo = Photo(
            id=row["photo_id"],
            source=row["source"],
            path=row["path"],
            width=row["width"],
            height=row["height"],
            instances=tuple(instances),
            license=row["license"],
            url=row["url"],
            labels=row["labels"],
            upright=row["upright"],
        )
        yield Composition(row["key"], row["shard"], row["split"], photo, row["box_iou"], row["seed"])


def split_of(photo_id: str, val_fraction: float) -> str:
    """The split of a photo. Its id alone decides, so that COCO and LVIS, which share photos, split them alike."""
    share = int.from_bytes(hashlib.sha256(f"split/{photo_id}".encode()).digest()[:6]) / 2**48
    return "val" if share < val_fraction else "train"


def shard_samples_of_plan(num_samples: int) -> int:
    """Samples a shard where the user gives none: 1000, but at least 16 shards, of 16 samples at least.

    It looks at the plan only, never at the machine: the shards are the same whoever builds them.
    """
    return min(1000, max(16, -(-num_samples // 16)))


def _with_unique_ids(photo: Photo, rejects: RejectFile) -> Photo:
    """The photo without instances whose id an earlier one has: samples are named after the ids."""
    first = {item.id: item for item in reversed(photo.instances)}
    if len(first) == len(photo.instances):
        return photo
    kept = tuple(item for item in photo.instances if first[item.id] is item)
    for item in photo.instances:
        if first[item.id] is not item:
            key = f"{photo.source}-{photo.id}-{item.id}"
            rejects.add(Reject(key, "plan", "duplicate annotation id", f"{item.category} in photo {photo.id}"))
    return replace(photo, instances=kept)


def _licensed(photo: Photo, config: BuildConfig) -> bool:
    return not config.licenses or any(word.lower() in photo.license.lower() for word in config.licenses)


def _row(photo: Photo, choice: Choice, seed: int) -> dict[str, Any]:
    objects = [photo.instances[i] for i in choice.places]
    key = sample_key(photo, objects)
    # Sources list objects in an order of their own (scenes: often from back to front), which must not tell anything.
    objects.sort(key=lambda item: hashlib.sha256(f"order/{seed}/{key}/{item.id}".encode()).digest())
    return {
        "key": key,
        # 48 bits: every JSON reader keeps them.
        "seed": int.from_bytes(hashlib.sha256(f"sample/{seed}/{key}".encode()).digest()[:6]),
        "box_iou": choice.box_iou,
        "photo_id": photo.id,
        "source": photo.source,
        "path": photo.path,
        "labels": photo.labels,
        "upright": photo.upright,
        "width": photo.width,
        "height": photo.height,
        "license": photo.license,
        "url": photo.url,
        "instances": orjson.dumps([_instance_to_json(item) for item in objects]).decode(),
    }


def _instance_to_json(item: Instance) -> dict[str, Any]:
    return {name: getattr(item, name) for name in ("id", "category", "box", "area", "segmentation")}


def _check_not_empty(counts: Counts, num_samples: int, config: BuildConfig, rejects: RejectFile) -> None:
    if num_samples:
        return
    if counts.photos and counts.photos == counts.missing:
        folders = ", ".join(config.images)
        raise UserError(
            f"images: none of the {counts.photos} photos of the annotations is in {folders} "
            f"(the first is {rejects.first.detail if rejects.first else ''}); "
            "give --images the folder that holds the files"
        )
    raise UserError(
        f"plan: no composition in {counts.photos} photos: {counts.missing} missing, {counts.without_pair} without "
        f"{config.objects} large objects that touch, {counts.left_out} left out by licence, "
        f"{rejects.count - counts.missing} other rejects; a lower --min-area allows more"
    )
