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
Box = tuple[float, float, float, float]


def mask_of(segmentation: Any, height: int, width: int, read_labels: ReadLabels | None = None) -> Mask:
    """The mask, [H, W] bool, of an `Instance.segmentation`: see there for its forms.

    `read_labels` gives the photo's label picture, [H, W], in the form that it is asked for (see `labels`).
    Raises `RejectError`: "malformed polygon", "malformed RLE", "malformed labels", "mask size mismatch",
    "missing labels", "label size mismatch", "empty mask", and what `read_labels` raises.
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
    return np.ascontiguousarray(coco_mask.decode(rle)).view(np.bool_)


def check_polygons(polygons: list[Any], height: int, width: int) -> None:
    """Raises `RejectError` "malformed polygon" unless each is [x, y, x, y, x, y, ...], in or near the photo."""
    for polygon in polygons:
        _check_polygon(polygon, height, width)


def _check_polygon(polygon: Any, height: int, width: int) -> None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        size = len(polygon) if isinstance(polygon, list) else type(polygon).__name__
        raise RejectError("malformed polygon", f"expected [x, y, x, y, x, y, ...], found {size} values")
    if not are_finite(polygon):
        wrong = next(value for value in polygon if not are_finite([value]))
        raise RejectError("malformed polygon", f"coordinate {str(wrong)[:40]}")
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
        raise RejectError("mask size mismatch", f"RLE of {size}, photo of [{height}, {width}]")
    runs = rle_runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
        raise RejectError("malformed RLE", "runs are not whole numbers of 0 or more")
    if sum(runs) != height * width:
        raise RejectError("malformed RLE", f"runs cover {sum(runs)} of {height * width} pixels")
    values = np.arange(len(runs)) % 2 == 1  # runs of 0 and 1 in turn, down the columns
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def rle_runs(text: str) -> list[int]:
    """The run lengths of a compressed RLE string (pycocotools' `rleFrString`).

    Each number is a string of characters from 48 on with 5 bits each, lowest first, and a sixth that says whether
    more follow; from the third number on it is the difference to the last but one. Raises `RejectError` where the
    string is broken.
    """
    runs: list[int] = []
    value = shift = 0
    for char in text:
        bits = ord(char) - 48
        if not 0 <= bits < 64 or shift > 40:
            raise RejectError("malformed RLE", f"character {char!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise RejectError("malformed RLE", "ends within a number")
    return runs
