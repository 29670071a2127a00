"""What `inspect` makes of the numbers: signs of poor data, and measures for samples that carry no metadata."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pics_data.inspect_pictures import BrokenSampleError, View, decode_view
from pics_data.inspect_read import OBJECT_COLUMNS, SAMPLE_COLUMNS, Survey, read_members
from pics_data.measure import bounding_box, contact_and_gap, measure_quality

MIN_AREA = 0.0117  # of the photo: the published rule's smallest object
MEASURED_BARE = 200  # samples without metadata that are measured from their masks


@dataclass(frozen=True, slots=True)
class Flag:
    """A sign of poor data: `samples` are the indices of the samples that bear it, `whole` how many were looked at."""

    name: str
    meaning: str
    samples: Any
    whole: int


def quality_flags(survey: Survey) -> list[Flag]:
    """The signs of poor data that the metadata shows; a sign that no sample has metadata for is left out."""
    objects = {name: np.asarray(values) for name, values in survey.objects.items()}
    samples = {name: np.asarray(values) for name, values in survey.samples.items()}
    rules: list[tuple[str, str, dict[str, Any], str, Any]] = [
        ("tiny object", f"an object covers less than {100 * MIN_AREA:.2f} % of the photo", objects, "area",
         lambda v: v < MIN_AREA),
        ("in pieces", "an object's silhouette falls into more than 4 parts", objects, "parts", lambda v: v > 4),
        ("riddled", "an object's silhouette has more than 4 holes", objects, "holes", lambda v: v > 4),
        ("cut off", "more than 20 % of an object's outline lies on the photo's border", objects, "border",
         lambda v: v > 0.2),
        ("soft outline", "hardly a change of brightness along an object's outline (mean gradient below 0.02): blurred, "
         "or the annotation misses the edge", objects, "edge", lambda v: v < 0.02),
        ("mostly hidden", "others hide more than 60 % of an object", objects, "hidden", lambda v: v > 0.6),
        ("far apart", "the silhouettes are further apart than 2 % of the photo's longer side: no contact to learn from",
         samples, "gap_share", lambda v: v > 0.02),
    ]  # fmt: skip
    flags = []
    for name, meaning, columns, column, rule in rules:
        known = np.isfinite(columns[column])
        if known.any():
            indices = columns["index"][known].astype(int)
            flags.append(Flag(name, meaning, np.unique(indices[rule(columns[column][known])]), len(np.unique(indices))))
    return flags


def spread(total: int, count: int) -> list[int]:
    """At most `count` of the indices below `total`, evenly apart, in order, each once."""
    count = min(total, count)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def measure_bare(survey: Survey) -> int:
    """Adds what pictures and masks tell of samples without metadata, for a part of them; returns how many."""
    known = np.zeros(len(survey.keys), bool)
    known[np.asarray(survey.samples["index"], dtype=int)] = True
    bare = np.flatnonzero(~known)
    measured = 0
    for at in spread(len(bare), MEASURED_BARE):
        index = int(bare[at])
        try:
            view = decode_view(survey.keys[index], read_members(survey, index))
        except BrokenSampleError as error:
            survey.broken[survey.keys[index]] = str(error)
            continue
        measured += 1
        _measure_view(survey, index, view)
    return measured


def _measure_view(survey: Survey, index: int, view: View) -> None:
    nan = float("nan")
    for mask in view.masks:
        values: tuple[float, ...] = (index, 0.0, 0, 0, nan, nan, nan)
        if mask.any():
            q = measure_quality(view.rgb, mask)
            values = (index, q.area, q.parts, q.holes, q.border, q.edge, nan)
        for name, value in zip(OBJECT_COLUMNS, values, strict=True):
            survey.objects[name].append(value)
    iou, gap, contact = nan, nan, nan
    if len(view.masks) > 1 and view.masks[0].any() and view.masks[1].any():
        first, second = view.masks[:2]
        iou = box_iou(bounding_box(first), bounding_box(second))
        contact, gap = contact_and_gap(first, second)
    row = (index, -1 - index, len(view.masks), iou, gap, gap / max(view.rgb.shape[:2]), contact, nan)
    for name, value in zip(SAMPLE_COLUMNS, row, strict=True):
        survey.samples[name].append(value)


def box_iou(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Intersection over union of two boxes (x, y, width, height) that are not empty."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)
