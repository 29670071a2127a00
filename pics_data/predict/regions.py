"""Geometry of predicted masks: boxes and crops, grids of points, stability, duplicates, specks. NumPy and OpenCV only.

Shapes: H, W a photo; h, w a small map of it; N prompts or masks.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from pics_common.masks import Mask as Mask
from pics_common.masks import clean as clean

Box = tuple[float, float, float, float]


def clip_box(box: Box, width: int, height: int) -> Box | None:
    """The part of (x, y, width, height) that lies in the photo; None where none does, or where a value is no number."""
    if not all(map(math.isfinite, box)):
        return None
    x, y, w, h = box
    left, top, right, bottom = max(0.0, x), max(0.0, y), min(float(width), x + w), min(float(height), y + h)
    return (left, top, right - left, bottom - top) if left < right and top < bottom else None


def enlarged(box: Box, margin: float, width: int, height: int) -> tuple[slice, slice]:
    """Rows and columns of whole pixels that hold the box and, on each side, `margin` of its size; clipped."""
    x, y, w, h = box
    rows = slice(max(0, math.floor(y - margin * h)), min(height, math.ceil(y + h + margin * h)))
    columns = slice(max(0, math.floor(x - margin * w)), min(width, math.ceil(x + w + margin * w)))
    return rows, columns


def clipped(mask: Mask, box: Box, margin: float) -> Mask:
    """The mask [H, W] within the box enlarged by `margin`; nothing beyond."""
    area = enlarged(box, margin, mask.shape[1], mask.shape[0])
    inside = np.zeros_like(mask)
    inside[area] = mask[area]
    return inside


def grid_points(per_side: int, width: int, height: int) -> NDArray[np.float64]:
    """[per_side ** 2, 2] points (x, y) in pixels, each in the middle of its cell, row by row."""
    steps = (np.arange(per_side) + 0.5) / per_side
    x, y = np.meshgrid(steps * width, steps * height)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def stability(logits: NDArray[np.float32], offset: float) -> NDArray[np.float64]:
    """[N, h, w] -> [N]: IoU of the mask above +offset with the mask above -offset, 0 where both are empty.

    Kirillov et al. 2023 (Segment Anything), appendix B: a mask that hardly changes with the threshold is a sure one.
    """
    high = np.count_nonzero(logits > offset, axis=(1, 2))
    low = np.count_nonzero(logits > -offset, axis=(1, 2))
    return high / np.maximum(low, 1)


def distinct(masks: NDArray[np.bool_], scores: NDArray[np.float64], max_iou: float) -> list[int]:
    """Indices of the masks [N, h, w] that remain when, best first, none has an IoU above `max_iou` with one before it.

    Equal scores are taken in order.
    """
    flat = masks.reshape(len(masks), math.prod(masks.shape[1:]))
    areas = np.count_nonzero(flat, axis=1)
    kept: list[int] = []
    rows = np.empty(flat.shape, np.float32)  # counts exactly up to 2^24 pixels, and is what BLAS is fast at
    for index in np.argsort(-scores, kind="stable").tolist():
        row = flat[index].astype(np.float32)
        shared = rows[: len(kept)] @ row
        union = areas[kept] + areas[index] - shared
        if np.any(shared > max_iou * union):
            continue
        rows[len(kept)] = row
        kept.append(index)
    return kept


def tight_box(mask: Mask) -> Box:
    """(x, y, width, height) of a mask that is not empty."""
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    return float(x), float(y), float(w), float(h)
