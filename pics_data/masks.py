"""Annotated silhouettes -> masks: COCO polygons, uncompressed and compressed RLE, values of a label picture.

Annotations come from strangers: lengths, sizes and numbers are checked here, before any C code trusts them.
"""

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pics_data.labels import FORMS, Labels
from pics_data.records import RejectError

Mask = NDArray[np.bool_]
ReadLabels = Callable[[str], Labels]
LONGEST_NUMBER = 9  # characters; pycocotools writes 7 for its largest run
LONGEST_OUTLINE = 2_000_000  # pixels, of all polygons of an object: the rasteriser takes 60 bytes and 0.3 us for each
# pycocotools writes a byte beyond its memory where each of four runs, or twelve, takes six characters: the first three
# runs of such a mask have 2^24 pixels or more, and the fourth twice as many. No mask of fewer pixels has them.
MOST_PIXELS_IN_RUNS = 5 * 2**24
Box = tuple[float, float, float, float]


def mask_of(segmentation: Any, height: int, width: int, read_labels: ReadLabels | None = None) -> Mask:
    """The mask, [H, W] bool, of an `Instance.segmentation`: see there for its forms.

    `read_labels` gives the photo's label picture, [H, W], in the form that it is asked for (see `labels`).
    Raises `RejectError`: "malformed polygon", "photo too large", "malformed RLE", "malformed labels",
    "mask size mismatch", "missing labels", "label size mismatch", "empty mask", and what `read_labels` raises.
    """
    mask = _any_mask(segmentation, height, width, read_labels)
    if not mask.any():
        raise RejectError("empty mask")
    return mask


def measure(segmentation: Any, height: int, width: int) -> tuple[Box, float]:
    """The box (x, y, width, height) and the number of pixels of an `Instance.segmentation` that needs no label picture.

    For data sets that say neither. Raises `RejectError` as `mask_of` does.
    """
    mask = mask_of(segmentation, height, width)
    x, y, box_width, box_height = cv2.boundingRect(mask.view(np.uint8))
    return (float(x), float(y), float(box_width), float(box_height)), float(np.count_nonzero(mask))


def _any_mask(segmentation: Any, height: int, width: int, read_labels: ReadLabels | None) -> Mask:
    if isinstance(segmentation, list):
        return _polygon_mask(segmentation, height, width)
    if not isinstance(segmentation, dict):
        raise RejectError("malformed polygon", f"{type(segmentation).__name__} instead of polygons or RLE")
    if "labels" in segmentation:
        return _label_mask(segmentation, height, width, read_labels)
    if "polygons" in segmentation:
        return _visible_mask(segmentation, height, width)
    return _rle_mask(segmentation, height, width)


def _label_mask(segmentation: dict[str, Any], height: int, width: int, read_labels: ReadLabels | None) -> Mask:
    form, values = segmentation["labels"], segmentation.get("values")
    if form not in FORMS:
        raise RejectError("malformed labels", f"form {form!r}; expected one of {', '.join(FORMS)}")
    if not isinstance(values, list) or not values or not all(type(v) is int and -(2**31) <= v < 2**31 for v in values):
        raise RejectError("malformed labels", "values are not whole numbers of 32 bits")
    if read_labels is None:
        raise RejectError("missing labels", "the photo has no label picture")
    labels = read_labels(form)
    if labels.shape != (height, width):
        found = f"{labels.shape[1]} x {labels.shape[0]}"
        raise RejectError("label size mismatch", f"labels of {found} pixels, photo of {width} x {height}")
    return labels == values[0] if len(values) == 1 else np.isin(labels, np.array(values, dtype=np.int32))


def _visible_mask(segmentation: dict[str, Any], height: int, width: int) -> Mask:
    """Polygons without the pixels of those that hide them."""
    front = segmentation.get("minus", [])
    if not isinstance(segmentation["polygons"], list) or not isinstance(front, list):
        raise RejectError("malformed polygon", "`polygons` or `minus` is no list of polygons")
    mask = _polygon_mask(segmentation["polygons"], height, width)
    if front:
        mask &= ~_polygon_mask(front, height, width)
    return mask


def _polygon_mask(polygons: list[Any], height: int, width: int) -> Mask:
    if not polygons:
        raise RejectError("empty mask", "no polygon")
    check_polygons(polygons, height, width)
    rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return _mask_of_runs(rle_runs(rle["counts"].decode()), height, width)


def check_polygons(polygons: list[Any], height: int, width: int) -> None:
    """Raises `RejectError` "malformed polygon" unless each is [x, y, x, y, x, y, ...], in or near the photo, and all of
    them can be rasterised in bounded memory; "photo too large" from `MOST_PIXELS_IN_RUNS` on."""
    if height * width >= MOST_PIXELS_IN_RUNS:
        raise RejectError(
            "photo too large", f"{width} x {height}; polygons are drawn below {MOST_PIXELS_IN_RUNS} pixels"
        )
    for polygon in polygons:
        _check_polygon(polygon, height, width)
    # A line within the limits that `_check_polygon` sets has at most three times the longer side.
    if 3 * max(height, width) * sum(map(len, polygons)) // 2 > LONGEST_OUTLINE:
        length = sum(map(_length, polygons))
        if length > LONGEST_OUTLINE:
            raise RejectError("malformed polygon", f"an outline of {length:.0f} pixels")


def _length(polygon: list[float]) -> float:
    """The length of a closed outline, each line as long as its longer side."""
    points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def _check_polygon(polygon: Any, height: int, width: int) -> None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        size = len(polygon) if isinstance(polygon, list) else type(polygon).__name__
        raise RejectError("malformed polygon", f"expected [x, y, x, y, x, y, ...], found {size} values")
    if not are_finite(polygon):
        wrong = next(value for value in polygon if not are_finite([value]))
        shown = repr(wrong)[:40] if isinstance(wrong, int | float | str) else type(wrong).__name__
        raise RejectError("malformed polygon", f"coordinate {shown}")
    # The rasteriser's memory grows with the outline's length: nobody draws a photo's width beyond the photo.
    if min(polygon) < -max(height, width) or max(polygon) > 2 * max(height, width):
        raise RejectError("malformed polygon", "coordinates far outside of the photo")


def are_finite(values: list[Any]) -> bool:
    """Whether all are finite numbers that fit a float; polygons have thousands, so no loop of Python's."""
    if not set(map(type, values)) <= {int, float}:
        return False
    try:
        return all(map(math.isfinite, values))
    except OverflowError:
        return False


def _rle_mask(rle: dict[str, Any], height: int, width: int) -> Mask:
    size, counts = rle.get("size"), rle.get("counts")
    if size != [height, width]:
        is_size = isinstance(size, list) and set(map(type, size)) <= {int}
        found = str(size)[:40] if is_size else "no size"
        raise RejectError("mask size mismatch", f"RLE of {found}, photo of [{height}, {width}]")
    if isinstance(counts, str):
        runs = rle_runs(counts)
    elif isinstance(counts, list) and set(map(type, counts)) <= {int} and _fit_int64(counts):
        runs = np.array(counts, dtype=np.int64)
    else:
        raise RejectError("malformed RLE", "runs are not whole numbers")
    if runs.size and (runs.min() < 0 or runs.max() > height * width):
        raise RejectError("malformed RLE", f"runs are not within 0 to {height * width}, the pixels of the photo")
    if runs.sum() != height * width:
        raise RejectError("malformed RLE", f"runs cover {runs.sum()} of {height * width} pixels")
    return _mask_of_runs(runs, height, width)


def _fit_int64(values: list[int]) -> bool:
    return not values or (min(values) >= -(2**63) and max(values) < 2**63)


def _mask_of_runs(runs: NDArray[np.int64], height: int, width: int) -> Mask:
    """Runs of 0 and 1 in turn, down the columns; several times as fast as pycocotools' own decoder."""
    columns = np.repeat((np.arange(len(runs)) % 2).astype(np.uint8), runs).reshape(width, height)
    return cv2.transpose(columns).reshape(height, width).view(np.bool_)


def rle_runs(text: str) -> NDArray[np.int64]:
    """The run lengths of a compressed RLE string (pycocotools' `rleFrString`).

    Each number is a string of characters from 48 on with 5 bits each, lowest first, and a sixth that says whether
    more follow; the highest bit is the sign. From the fourth number on it is the difference to the last but one.
    Raises `RejectError` where the string is broken.
    """
    try:
        bits = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        raise RejectError("malformed RLE", "characters beyond ASCII") from None
    if not bits.size:
        return bits
    if bits.min() < 0 or bits.max() >= 64:
        raise RejectError("malformed RLE", "characters that stand for no bits")
    last = np.flatnonzero(bits < 32)  # the last character of each number
    if not last.size or last[-1] != bits.size - 1:
        raise RejectError("malformed RLE", "ends within a number")
    first = np.concatenate(([0], last[:-1] + 1))
    lengths = last - first + 1
    if lengths.max() > LONGEST_NUMBER:
        raise RejectError("malformed RLE", f"a number of {lengths.max()} characters")
    shifts = 5 * (np.arange(bits.size) - np.repeat(first, lengths))
    runs = np.add.reduceat((bits & 31) << shifts, first)
    runs -= np.where(bits[last] & 16, np.int64(1) << 5 * lengths, 0)
    for start in (1, 2):
        runs[start::2] = np.cumsum(runs[start::2])
    return runs
