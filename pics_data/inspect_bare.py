"""Tars without a table of samples, such as the published shards: a table made by reading some of them.

Where samples carry `meta.json`, it is read; where not, what photo and masks tell is measured. Everything else stays
unknown: null in the table.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from pics_common import storage
from pics_data.inspect_pictures import View, decode_view
from pics_data.measure import bounding_box, measure_quality, measure_relation
from pics_data.sample_table import table_of
from pics_data.tar_read import DamageError, StoredSample, read_members, tar_samples
from pics_data.verify_sample import meta_validator

NUM_TARS = 12  # that are read of a folder of bare tars
NUM_MEASURED = 240  # samples that are decoded in all where metadata is missing


@dataclass(slots=True)
class BareTar:
    """What was read of a tar: a table of the samples that could be used, where each begins, and what was odd."""

    num_samples: int = 0
    num_bytes: int = 0
    with_meta: int = 0
    table: pa.Table = field(default_factory=lambda: table_of([], ""))
    starts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    remarks: list[str] = field(default_factory=list)


def spread(total: int, count: int) -> list[int]:
    """At most `count` of the indices below `total`, evenly apart, in order, each once."""
    count = min(total, count)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def read_bare_tar(url: str, split: str, most_measured: int) -> BareTar:
    """Reads the headers of a whole tar, its metadata, and the pictures of at most `most_measured` samples without."""
    found = BareTar(num_bytes=storage.file_size(url) or 0)
    strangers: Counter[str] = Counter()
    stored: list[StoredSample] = []
    with storage.open_read(url) as file:
        try:
            stored += tar_samples(file, strangers)
        except DamageError as error:
            found.remarks.append(f"{storage.base_name(url)}: {error}. `pics-data verify` says more.")
        found.num_samples = len(stored)
        bare = [sample for sample in stored if "meta.json" not in sample.members]
        found.with_meta = len(stored) - len(bare)
        measured = {bare[i].key for i in spread(len(bare), most_measured)}
        rows: list[tuple[int, Mapping[str, Any]]] = []
        for sample in stored:
            if "meta.json" in sample.members or sample.key in measured:
                try:
                    rows.append((sample.start, _meta(file, sample, split)))
                except DamageError as error:
                    found.remarks.append(f"{storage.base_name(url)}: {sample.key} cannot be used: {error}.")
    if strangers:
        kinds = ", ".join(f"{count:,} of tar type {kind!r}" for kind, count in sorted(strangers.items()))
        found.remarks.append(f"{storage.base_name(url)} holds members that are not `<key>.<extension>`: {kinds}.")
    found.table = table_of([meta for _, meta in rows], storage.base_name(url).removesuffix(".tar"))
    found.starts = np.array([start for start, _ in rows], np.int64)
    return found


def _meta(file: BinaryIO, sample: StoredSample, split: str) -> dict[str, Any]:
    """A sample's metadata as the table takes it. Raises `DamageError` where it is not to be used."""
    own = {"key": sample.key, "num_bytes": sample.num_bytes}
    if "meta.json" not in sample.members:
        return {**own, **measured_meta(decode_view(sample.key, read_members(file, sample)), split)}
    member = sample.members["meta.json"]
    file.seek(member.offset)
    try:
        meta = orjson.loads(file.read(member.size))
    except orjson.JSONDecodeError as error:
        raise DamageError(f"meta.json is not JSON ({error})") from None
    if problem := next(meta_validator().iter_errors(meta), None):
        raise DamageError(f"meta.json: {problem.json_path}: {problem.message}")
    return {**own, **meta}


def measured_meta(view: View, split: str) -> dict[str, Any]:
    """What the pictures of a sample tell, in the form of `meta.json`; None where they do not."""
    height, width = view.rgb.shape[:2]
    seen = [mask.any() for mask in view.masks]
    objects: list[dict[str, Any]] = []
    for mask in view.masks:
        entry: dict[str, Any] = {"area": 0.0}
        if mask.any():
            quality = measure_quality(view.rgb, mask)
            entry = {name: getattr(quality, name) for name in ("box", "area", "parts", "holes", "border", "edge")}
        objects.append(entry)
    relations = []
    for i, j in combinations(range(len(view.masks)), 2):
        relation: dict[str, Any] = {"objects": [i, j]}
        if seen[i] and seen[j]:
            boxes = bounding_box(view.masks[i]), bounding_box(view.masks[j])
            measured = measure_relation(view.masks[i], view.masks[j], boxes)
            relation |= {name: getattr(measured, name) for name in ("box_iou", "gap_px", "contact_px", "overlap_px")}
        relations.append(relation)
    photo = {"id": view.key, "file_name": None, "license": None, "url": None, "width": width, "height": height}
    return {
        "split": split, "source": "", "photo": photo, "size": [height, width], "objects": objects,
        "relations": relations, "seed": None,
    }  # fmt: skip
