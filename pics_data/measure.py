"""What a sample's metadata says of its silhouettes: quality of each, relation of two. All of it is cheap."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]

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


def bounding_box(mask: Mask) -> Box:
    """(x, y, width, height) of a mask that is not empty."""
    return cv2.boundingRect(mask.view(np.uint8))


def measure_quality(rgb: NDArray[np.uint8], mask: Mask) -> Quality:
    """Measures one silhouette. rgb [H, W, 3], mask [H, W], not empty."""
    height, width = mask.shape
    x, y, w, h = bounding_box(mask)
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
    across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    return min(1.0, float(np.hypot(across[outline], down[outline]).mean()) / SOBEL_STEP)


def contact_and_gap(first: Mask, second: Mask) -> tuple[int, float]:
    """Pixels of the first silhouette that touch (8 neighbours) or overlap the second, and the gap between the two.

    The gap is the least distance between their pixels' centres, less one; 0 where they touch.
    """
    boxes = bounding_box(first), bounding_box(second)
    left, top = min(b[0] for b in boxes), min(b[1] for b in boxes)
    right, bottom = max(b[0] + b[2] for b in boxes), max(b[1] + b[3] for b in boxes)
    a = first[top:bottom, left:right]
    b = second[top:bottom, left:right].view(np.uint8)
    contact = int(np.count_nonzero(a & (cv2.dilate(b, np.ones((3, 3), np.uint8)) > 0)))
    if contact:
        return contact, 0.0
    distance = cv2.distanceTransform(1 - b, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return 0, round(float(distance[a].min()) - 1, 2)
