"""The model's picture back into the photo: only the regions change, with a soft seam.

Legend: H x W the photo, R the side of the model's picture.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from pics_model.framing import Box, resize
from pics_model.inputs import Inputs


def region_union(inputs: Inputs) -> tuple[NDArray[np.bool_], Box]:
    """The union of the regions at the photo's resolution, and the box of the photo that it is given for."""
    x0, y0 = inputs.pixel_boxes[:, :2].min(0).tolist()
    x1, y1 = inputs.pixel_boxes[:, 2:].max(0).tolist()
    union = np.zeros((y1 - y0, x1 - x0), bool)
    for left, top, right, bottom in inputs.pixel_boxes:
        union[top - y0 : bottom - y0, left - x0 : right - x0] = True
    if inputs.region_kind == "silhouette":
        side, x, y = inputs.frame.side, x0 - inputs.frame.x, y0 - inputs.frame.y
        grown = cv2.resize(inputs.regions.any(0).astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
        union &= np.asarray(grown)[y : y + union.shape[0], x : x + union.shape[1]] >= 0.5
    return union, (x0, y0, x1, y1)


def paste_back(
    photo: NDArray[np.uint8],
    result: NDArray[np.uint8] | NDArray[np.floating],
    inputs: Inputs,
    feather: float | None = None,
) -> NDArray[np.uint8]:
    """Puts the model's picture `result` [R, R, 3], values 0 to 255, into the photo [H, W, 3]; returns a new photo.

    Only pixels in the union of the regions change. The seam is soft over `feather` photo pixels inside of it, one
    model pixel by default and at least two. Where the region ends at the photo's border there is no seam.
    """
    assert photo.shape[:2] == inputs.photo_size, "the photo must be the one that was composed"
    frame, size = inputs.frame, len(inputs.target)
    union, (x0, y0, x1, y1) = region_union(inputs)
    whole = resize(_without_padding(result, inputs.valid), frame.side)
    new = whole[y0 - frame.y : y1 - frame.y, x0 - frame.x : x1 - frame.x].astype(np.float32)
    old = photo[y0:y1, x0:x1]
    reach = max(frame.side / size, 2.0) if feather is None else feather
    weight = np.clip(_depth(union, (x0, y0, x1, y1), inputs.photo_size) / (reach + 1), 0, 1)[..., None]
    mixed = np.clip(np.rint(old + weight * (new - old)), 0, 255).astype(np.uint8)
    out = photo.copy()
    out[y0:y1, x0:x1][union] = mixed[union]
    return out


def _without_padding(result: NDArray[np.uint8] | NDArray[np.floating], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """What the model makes of the padding means nothing: the edge of the photo is repeated in its place."""
    rows, columns = np.flatnonzero(valid.any(1)), np.flatnonzero(valid.any(0))
    pixels = result if result.dtype == np.uint8 else np.clip(np.rint(result), 0, 255).astype(np.uint8)
    inner = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    above, below = int(rows[0]), len(valid) - 1 - int(rows[-1])
    left, right = int(columns[0]), len(valid) - 1 - int(columns[-1])
    return np.asarray(cv2.copyMakeBorder(inner, above, below, left, right, cv2.BORDER_REPLICATE), np.uint8)


def _depth(union: NDArray[np.bool_], box: Box, photo_size: tuple[int, int]) -> NDArray[np.float32]:
    """How many pixels inside the union each pixel lies; the photo's border is no border of the union."""
    ringed = cv2.copyMakeBorder(union.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    # A ring around: as the pixel beside it where the photo ends, outside of the union where the photo goes on.
    (x0, y0, x1, y1), (height, width) = box, photo_size
    ringed[0] &= y0 == 0
    ringed[-1] &= y1 == height
    ringed[:, 0] &= x0 == 0
    ringed[:, -1] &= x1 == width
    return np.asarray(cv2.distanceTransform(ringed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1], np.float32)
