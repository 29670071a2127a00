"""What a sample's metadata says of its silhouettes: quality of each, relation of two. All of it is cheap.

Boxes are (x, y, width, height) in whole pixels. Where a mask's box is not given, it is measured.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]
Points = NDArray[np.int64]

ROWS = 256  # of a table of distances, made at a time
CROSS_OVER = 3  # how often the search for a short way between two outlines changes sides
SOBEL_STEP = 4 * 255  # what a 3 x 3 Sobel filter answers to a straight step from black to white


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a silhouette is; see `objects` in shards/schema.json."""

    box: Box
    area: float
    parts: int
    holes: int
    border: float
    edge: float


@dataclass(frozen=True, slots=True)
class Relation:
    """How two silhouettes stand to each other; see `relations` in shards/schema.json."""

    box_iou: float
    gap_px: float
    contact_px: int
    overlap_px: int


def bounding_box(mask: Mask) -> Box:
    """The box of a mask; its width and height are 0 where the mask is empty."""
    return cv2.boundingRect(mask.view(np.uint8))


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes that are not empty."""
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    both = max(width, 0) * max(height, 0)
    return both / (first[2] * first[3] + second[2] * second[3] - both)


def measure_quality(rgb: NDArray[np.uint8], mask: Mask, box: Box | None = None) -> Quality:
    """Measures one silhouette. rgb [H, W, 3], mask [H, W], not empty."""
    height, width = mask.shape
    x, y, w, h = box or bounding_box(mask)
    tight = mask[y : y + h, x : x + w]
    padded = np.pad(tight, 1).view(np.uint8)
    _, hierarchy = cv2.findContours(padded, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    is_hole = hierarchy[0, :, 3] >= 0
    return Quality(
        box=(x, y, w, h),
        area=round(int(np.count_nonzero(tight)) / (height * width), 6),
        parts=int(np.count_nonzero(~is_hole)),
        holes=int(np.count_nonzero(is_hole)),
        border=round(_border_share(mask, padded), 4),
        edge=round(_edge_sharpness(rgb, mask, (x, y, w, h)), 4),
    )


def _border_share(mask: Mask, padded: NDArray[np.uint8]) -> float:
    """Share of the outline, counted in sides of pixels, that lies on the photo's border or one pixel from it.

    One pixel, as polygons drawn up to the border are often rasterised to just before it.
    """
    outline = int(np.count_nonzero(padded[1:] != padded[:-1]) + np.count_nonzero(padded[:, 1:] != padded[:, :-1]))
    along = (mask[:2].any(axis=0), mask[-2:].any(axis=0), mask[:, :2].any(axis=1), mask[:, -2:].any(axis=1))
    return sum(int(np.count_nonzero(line)) for line in along) / outline


def _edge_sharpness(rgb: NDArray[np.uint8], mask: Mask, box: Box) -> float:
    """Mean gradient of luminance at the outline's pixels, 1 = black beside white; the photo's border is left out."""
    height, width = mask.shape
    x, y, w, h = box
    rows, columns = slice(max(0, y - 2), min(height, y + h + 2)), slice(max(0, x - 2), min(width, x + w + 2))
    grey = cv2.cvtColor(rgb[rows, columns], cv2.COLOR_RGB2GRAY)
    # Erosion treats what is outside as object, so the outline has no pixel where the photo cuts the object.
    around = mask[rows, columns].view(np.uint8)
    outline = around != cv2.erode(around, np.ones((3, 3), np.uint8))
    if not outline.any():
        return 0.0
    across, down = cv2.Sobel(grey, cv2.CV_16S, 1, 0), cv2.Sobel(grey, cv2.CV_16S, 0, 1)
    return min(1.0, float(np.hypot(across[outline], down[outline], dtype=np.float32).mean()) / SOBEL_STEP)


def measure_relation(first: Mask, second: Mask, boxes: tuple[Box, Box] | None = None) -> Relation:
    """Measures how two silhouettes [H, W] of one photo stand to each other; neither is empty."""
    boxes = boxes or (bounding_box(first), bounding_box(second))
    both = _common(*boxes, first.shape, reach=0)
    contact, gap = contact_and_gap(first, second, boxes)
    return Relation(
        box_iou=round(box_iou(*boxes), 6),
        gap_px=gap,
        contact_px=contact,
        overlap_px=int(np.count_nonzero(first[both] & second[both])) if contact else 0,
    )


def contact_and_gap(first: Mask, second: Mask, boxes: tuple[Box, Box] | None = None) -> tuple[int, float]:
    """Pixels of the first silhouette that touch (8 neighbours) or overlap the second, and the gap between the two.

    The gap is the least distance between their pixels' centres, less one; 0 where they touch.
    """
    boxes = boxes or (bounding_box(first), bounding_box(second))
    near = _common(*boxes, first.shape, reach=1)
    around = cv2.dilate(second[near].view(np.uint8), np.ones((3, 3), np.uint8)) if first[near].size else None
    contact = 0 if around is None else int(np.count_nonzero(first[near] & around.view(np.bool_)))
    if contact:
        return contact, 0.0
    # The closest two pixels are no further from the other's box than any two pixels are from each other.
    near = _common(*boxes, first.shape, reach=math.ceil(_short_way(first, second, boxes)))
    return 0, round(_least_distance(_outline(first[near]), _outline(second[near])) - 1, 2)


def _common(first: Box, second: Box, shape: tuple[int, ...], reach: int) -> tuple[slice, slice]:
    """Rows and columns of the photo that are within `reach` pixels of both boxes."""
    left, right = max(first[0], second[0]) - reach, min(first[0] + first[2], second[0] + second[2]) + reach
    top, bottom = max(first[1], second[1]) - reach, min(first[1] + first[3], second[1] + second[3]) + reach
    top, left = max(0, top), max(0, left)
    return slice(top, max(top, min(bottom, shape[0]))), slice(left, max(left, min(right, shape[1])))


def _short_way(first: Mask, second: Mask, boxes: tuple[Box, Box]) -> float:
    """The distance between some pixel of each mask, mostly close to the least one."""
    outlines = []
    for mask, (x, y, w, h) in zip((first, second), boxes, strict=True):
        outlines.append(_outline(mask[y : y + h, x : x + w], cv2.CHAIN_APPROX_SIMPLE) + np.array([x, y]))
    here, distance = outlines[0][0], math.inf
    for step in range(1, CROSS_OVER + 1):
        other = outlines[step % 2]
        squares = ((other - here) ** 2).sum(axis=1)
        here, distance = other[squares.argmin()], math.sqrt(squares.min())
    return distance


def _outline(mask: Mask, chain: int = cv2.CHAIN_APPROX_NONE) -> Points:
    """The pixels (x, y) of a mask, not empty, that have another beside them, [N, 2]; or the corners among them."""
    lines, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_LIST, chain)
    return np.concatenate(lines).reshape(-1, 2).astype(np.int64)


def _least_distance(first: Points, second: Points) -> float:
    """The least distance between a point of each, in the memory of `ROWS` times the second's points."""
    x, y = second.T
    least = min(
        int(((rows[:, :1] - x) ** 2 + (rows[:, 1:] - y) ** 2).min())
        for rows in (first[start : start + ROWS] for start in range(0, len(first), ROWS))
    )
    return math.sqrt(least)
