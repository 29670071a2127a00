"""The table of samples: `parts/<shard>.parquet` beside each shard, a row a sample, to filter and to chart by.

It holds what `meta.json` says in flat columns, so that any Parquet reader answers questions about all samples without
opening a tar. Columns of lists hold a value for each object, or for each pair of objects in the order of `pairs`.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pics_common import storage
from pics_common.errors import UserError
from pics_data.ahead import read_ahead
from pics_data.parquet_read import AGAIN, told_if_damaged

FOLDER = "parts"
SUFFIX = ".parquet"
FILES_AHEAD = 8
# Column -> its name in meta.json, and the type of one value.
OF_PHOTO = {
    "photo_id": ("id", pa.string()),
    "file_name": ("file_name", pa.string()),
    "license": ("license", pa.string()),
    "url": ("url", pa.string()),
    "photo_width": ("width", pa.int32()),  # as the source has it; `width` and `height` are those of bg.jpg
    "photo_height": ("height", pa.int32()),
}
OF_OBJECTS = {
    "ids": ("id", pa.string()),
    "categories": ("category", pa.string()),
    "areas": ("area", pa.float64()),
    "boxes": ("box", pa.list_(pa.int32())),
    "parts": ("parts", pa.int32()),
    "holes": ("holes", pa.int32()),
    "borders": ("border", pa.float64()),
    "edges": ("edge", pa.float64()),
    "hidden": ("hidden", pa.float64()),
}
OF_PAIRS = {
    "pairs": ("objects", pa.list_(pa.int32())),
    "box_iou": ("box_iou", pa.float64()),
    "gap_px": ("gap_px", pa.float64()),
    "contact_px": ("contact_px", pa.int32()),
    "overlap_px": ("overlap_px", pa.int32()),
    "front": ("front", pa.int32()),
    "labels": ("label", pa.string()),
    "supporters": ("supporter", pa.int32()),
    "containers": ("container", pa.int32()),
    "contacts": ("contact", pa.bool_()),
}
COUNTS = {"num_views": "views", "num_rotations": "rotations"}  # of an object
SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "shard": pa.string(),
        "split": pa.string(),
        "source": pa.string(),
        **{column: kind for column, (_, kind) in OF_PHOTO.items()},
        "width": pa.int32(),
        "height": pa.int32(),
        "num_objects": pa.int32(),
        **{column: pa.list_(kind) for column, (_, kind) in OF_OBJECTS.items()},
        **{column: pa.list_(pa.int32()) for column in COUNTS},
        **{column: pa.list_(kind) for column, (_, kind) in OF_PAIRS.items()},
        "seed": pa.int64(),
        "num_bytes": pa.int64(),  # of the sample in its tar
    }
)


def table_of(metas: Iterable[Mapping[str, Any]], shard: str) -> pa.Table:
    """The table of a shard's samples. Each of `metas` is a `meta.json` with the sample's `key` and `num_bytes`."""
    return pa.Table.from_pylist([_row(meta, shard) for meta in metas], schema=SCHEMA)


def _row(meta: Mapping[str, Any], shard: str) -> dict[str, Any]:
    objects, pairs = meta["objects"], meta["relations"]
    return {
        "key": meta["key"],
        "shard": shard,
        "split": meta["split"],
        "source": meta["source"],
        **{column: meta["photo"][name] for column, (name, _) in OF_PHOTO.items()},
        "width": meta["size"][1],
        "height": meta["size"][0],
        "num_objects": len(objects),
        **{column: [item.get(name) for item in objects] for column, (name, _) in OF_OBJECTS.items()},
        **{column: [len(item.get(name, ())) for item in objects] for column, name in COUNTS.items()},
        **{column: [item.get(name) for item in pairs] for column, (name, _) in OF_PAIRS.items()},
        "seed": meta["seed"],
        "num_bytes": meta["num_bytes"],
    }


def write_table(url: str, metas: Iterable[Mapping[str, Any]]) -> None:
    """Writes `<shard>.parquet` as a whole; the same `metas` give the same bytes.

    A shard's mark is written after its table, so a table without a mark is one of a shard that is still to be made.
    """
    file = io.BytesIO()
    shard = storage.base_name(url).removesuffix(SUFFIX)
    pq.write_table(table_of(metas, shard), file, compression="zstd", compression_level=3)
    storage.write(url, file.getvalue())


def read_tables(folder: str, split: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """The samples of all whole shards in `folder`, a path or URL, in the order of the shards' names.

    `split` and `columns` take a part only. Raises `UserError` where there is no table, and for one that is damaged.
    """
    return pa.concat_tables([*iter_tables(folder, split, columns), _part_of_schema(columns).empty_table()])


def iter_tables(folder: str, split: str | None = None, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """As `read_tables`, a shard at a time: for more samples than memory holds."""
    _part_of_schema(columns)  # before anything is read
    urls = [storage.join(folder, FOLDER, shard + SUFFIX) for shard in _whole_shards(folder, split)]
    for _, table in read_ahead(urls, lambda url: read_table(url, columns), FILES_AHEAD):
        yield table.result()


def _part_of_schema(columns: Sequence[str] | None) -> pa.Schema:
    names = SCHEMA.names if columns is None else columns
    if unknown := [name for name in names if name not in SCHEMA.names]:
        raise UserError(f"table of samples: no column `{unknown[0]}`; there are {', '.join(SCHEMA.names)}")
    return pa.schema([SCHEMA.field(name) for name in names])


def _whole_shards(folder: str, split: str | None) -> list[str]:
    names = {entry.name for entry in storage.list_folder(storage.join(folder, FOLDER))}
    shards = [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX) and not name.startswith(".")]
    if not shards:
        raise UserError(f"{folder}: no {FOLDER}/*{SUFFIX}; expected a folder that `pics-data build` wrote")
    return sorted(s for s in shards if f"{s}.json" in names and split in (None, s.partition("-")[0]))


def read_table(url: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The samples of one shard, from its `<shard>.parquet`; `columns` takes a part only. Raises `UserError`."""
    schema = _part_of_schema(columns)
    with told_if_damaged(url, f"delete it and {AGAIN}"):
        return pq.read_table(io.BytesIO(storage.read(url)), columns=schema.names).select(schema.names).cast(schema)
