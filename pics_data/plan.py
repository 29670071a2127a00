"""Photos -> compositions -> the plan: which sample stands in which shard. No pixel is read here.

The plan is a Parquet file, a row a sample, a row group a shard: a worker reads one row group and nothing else.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pics_common.errors import UserError
from pics_data.config import BuildConfig
from pics_data.records import Composition, Instance, Photo, Reject

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
        "width": pa.int64(),
        "height": pa.int64(),
        "license": pa.string(),
        "url": pa.string(),
        "instances": pa.string(),  # JSON, as polygons and RLE nest differently
    }
)
MAX_KEY = 80  # characters: a tar header holds 100, member extension included
PLAIN_WORD = re.compile(r"[A-Za-z0-9_]{1,32}")


@dataclass(slots=True)
class Plan:
    """The planned samples in the order of the shards, and the count of all that went in."""

    table: pa.Table
    shards: list[str]
    digest: str
    photos: int = 0  # photos that the source named
    missing: int = 0  # of these, photos that are not there
    without_pair: int = 0  # of these, photos in which no composition was found
    rejects: list[Reject] = field(default_factory=list)

    @property
    def num_samples(self) -> int:
        return self.table.num_rows


def make_plan(records: Iterable[Photo | Reject], config: BuildConfig) -> Plan:
    """Chooses the compositions of each photo, permutes the photos by seed and spreads them over shards.

    The samples of one photo stay next to each other, so that a photo is decoded once. Keys, shards and seeds depend
    on `records` and `config` only. Raises `UserError` where nothing can be built or two samples get the same key.
    """
    rows: list[dict[str, Any]] = []
    plan = Plan(SCHEMA.empty_table(), [], "")
    for record in records:
        if isinstance(record, Reject):
            plan.rejects.append(record)
            plan.photos += record.reason == "missing photo"
            plan.missing += record.reason == "missing photo"
            continue
        plan.photos += 1
        chosen = choose_pairs(record, config.min_area, config.pairs_per_photo)
        plan.without_pair += not chosen
        rows += [_row(record, i, j, iou, config) for i, j, iou in chosen]
        if config.limit and plan.photos - plan.missing == config.limit:
            break
    _check_not_empty(plan, rows, config)
    rows.sort(key=lambda row: row.pop("order"))  # stable: the pairs of a photo stay in their order
    _assign_shards(rows, config.shard_samples or shard_samples_of_plan(len(rows)))
    keys = {row["key"] for row in rows}
    if len(keys) != len(rows):
        raise UserError(f"plan: {len(rows) - len(keys)} samples share a key; annotation ids must differ within a photo")
    plan.table = pa.Table.from_pylist(rows, schema=SCHEMA)
    plan.shards = [shard for shard, _ in groupby(row["shard"] for row in rows)]
    plan.digest = _digest(rows)
    return plan


def choose_pairs(photo: Photo, min_area: float, count: int) -> list[tuple[int, int, float]]:
    """At most `count` pairs (i, j, box IoU), i < j, of instances of `photo` that may compose one sample.

    Both have at least `min_area` (share of the photo) and are no crowd; their boxes overlap and none contains the
    other. Highest IoU first; of equal ones, the first in the photo's order.
    """
    floor = min_area * photo.width * photo.height
    able = [i for i, item in enumerate(photo.instances) if not item.crowd and item.area >= floor]
    if len(able) < 2:
        return []
    x, y, w, h = np.array([photo.instances[i].box for i in able], dtype=np.float64).T
    right, bottom = x + w, y + h
    i, j = np.triu_indices(len(able), k=1)
    inner_w = np.minimum(right[i], right[j]) - np.maximum(x[i], x[j])
    inner_h = np.minimum(bottom[i], bottom[j]) - np.maximum(y[i], y[j])
    inner = np.maximum(inner_w, 0) * np.maximum(inner_h, 0)
    union = w[i] * h[i] + w[j] * h[j] - inner
    iou = np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)
    held = _contains(x, y, right, bottom, i, j) | _contains(x, y, right, bottom, j, i)
    fit = np.flatnonzero((iou > 0) & ~held)
    best = fit[np.argsort(-iou[fit], kind="stable")][:count]
    return [(able[i[k]], able[j[k]], float(iou[k])) for k in best]


def _contains(x: Any, y: Any, right: Any, bottom: Any, outer: Any, inner: Any) -> Any:
    """Whether each box `outer` contains the box `inner`; equal boxes contain each other. [N] bool."""
    horizontally = (x[outer] <= x[inner]) & (right[inner] <= right[outer])
    return horizontally & (y[outer] <= y[inner]) & (bottom[inner] <= bottom[outer])


def sample_key(photo: Photo, instances: Iterable[Instance]) -> str:
    """The key of a sample: source, photo id and instance ids, in letters, digits, `-` and `_`."""
    key = "-".join(map(_word, (photo.source, photo.id, *(item.id for item in instances))))
    return key if len(key) <= MAX_KEY else f"{key[: MAX_KEY - 11]}-{_digest_of(key)}"


def _word(text: str) -> str:
    """`text` itself where it is plain and short, else what is plain of it and a digest that keeps it apart."""
    if PLAIN_WORD.fullmatch(text):
        return text
    return re.sub(r"[^A-Za-z0-9_]", "_", text)[:20] + "_" + _digest_of(text)


def _digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def split_of(photo_id: str, val_fraction: float) -> str:
    """The split of a photo. Its id alone decides, so that COCO and LVIS, which share photos, split them alike."""
    return "val" if _uniform(f"split/{photo_id}") < val_fraction else "train"


def shard_samples_of_plan(num_samples: int) -> int:
    """Samples a shard where the user gives none: 1000, but at least 16 shards, of 16 samples at least.

    It looks at the plan only, never at the machine: the shards are the same whoever builds them.
    """
    return min(1000, max(16, -(-num_samples // 16)))


def _assign_shards(rows: list[dict[str, Any]], shard_samples: int) -> None:
    """Names the shard of each row: shards of even size, train first, no photo in two of them."""
    rows.sort(key=lambda row: row["split"])
    for split, group in groupby(rows, key=lambda row: row["split"]):
        members = list(group)
        num_shards = -(-len(members) // shard_samples)
        done, numbers = 0, dict[int, int]()
        for _, samples in groupby(members, key=lambda row: row["photo_id"]):
            photo_rows = list(samples)
            middle = done + len(photo_rows) / 2
            number = int(middle * num_shards / len(members))
            number = numbers.setdefault(number, len(numbers))  # no gap, where a photo holds more than a whole shard
            done += len(photo_rows)
            for row in photo_rows:
                row["shard"] = f"{split}-{number:06d}"


def _row(photo: Photo, i: int, j: int, iou: float, config: BuildConfig) -> dict[str, Any]:
    pair = [photo.instances[i], photo.instances[j]]
    key = sample_key(photo, pair)
    # Sources list objects in an order of their own (scenes: often from back to front), which must not tell anything.
    if _uniform(f"order/{config.seed}/{key}") < 0.5:
        pair.reverse()
    return {
        "order": hashlib.sha256(f"order/{config.seed}/{photo.id}".encode()).digest(),
        "key": key,
        "split": split_of(photo.id, config.val_fraction),
        # 48 bits: every JSON reader keeps them.
        "seed": int.from_bytes(hashlib.sha256(f"sample/{config.seed}/{key}".encode()).digest()[:6]),
        "box_iou": iou,
        "photo_id": photo.id,
        "source": photo.source,
        "path": photo.path,
        "width": photo.width,
        "height": photo.height,
        "license": photo.license,
        "url": photo.url,
        "instances": orjson.dumps([_instance_to_json(item) for item in pair]).decode(),
    }


def _instance_to_json(item: Instance) -> dict[str, Any]:
    return {
        "id": item.id,
        "category": item.category,
        "box": item.box,
        "area": item.area,
        "segmentation": item.segmentation,
    }


def _uniform(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def _digest(rows: list[dict[str, Any]]) -> str:
    """SHA-256 of all that a sample is made from. Of a photo's path only the name counts: data may move."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(orjson.dumps({**row, "path": PurePath(row["path"]).name}, option=orjson.OPT_SORT_KEYS))
    return digest.hexdigest()


def _check_not_empty(plan: Plan, rows: list[dict[str, Any]], config: BuildConfig) -> None:
    if rows:
        return
    if plan.photos and plan.photos == plan.missing:
        folders = ", ".join(map(str, config.images))
        raise UserError(
            f"images: none of the {plan.photos} photos of the annotations is in {folders} "
            f"(the first is {plan.rejects[0].detail}); give --images the folder that holds the files"
        )
    raise UserError(
        f"plan: no composition in {plan.photos} photos: {plan.missing} missing, {plan.without_pair} without two large "
        f"objects that touch, {len(plan.rejects) - plan.missing} other rejects; a lower --min-area allows more"
    )


def write_plan(plan: Plan, path: Path) -> None:
    """Writes the plan with one row group a shard, in the order of `plan.shards`."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        start = 0
        for shard, count in zip(plan.shards, shard_sizes(plan), strict=True):
            rows = plan.table.slice(start, count)
            assert rows["shard"][0].as_py() == shard
            writer.write_table(rows, row_group_size=count)
            start += count


def shard_sizes(plan: Plan) -> list[int]:
    """Planned samples of each of `plan.shards`."""
    return [len(list(group)) for _, group in groupby(plan.table["shard"].to_pylist())]


def read_shard_plan(path: Path, number: int) -> Iterator[Composition]:
    """The compositions of shard `number` (its place in `Plan.shards`)."""
    with pq.ParquetFile(path) as file:
        table = file.read_row_group(number)
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
        )
        yield Composition(row["key"], row["shard"], row["split"], photo, row["box_iou"], row["seed"])
