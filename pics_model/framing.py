"""The square of a photo that a model sees, and where masks and boxes lie in it; numpy and OpenCV only.

Legend: a `Box` is (x0, y0, x1, y1) in whole pixels of the photo, x1 and y1 exclusive. A `Frame` is a square of the
photo in whole pixels; it may reach outside, which is padding. R is the side of the frame's picture in model pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]
MOST_PHASES = 16  # of resizing by a ratio n + 1 : n that is done by rows


@dataclass(frozen=True, slots=True)
class Frame:
    """Square of the photo, in its pixels: left, top, side."""

    x: int
    y: int
    side: int

    def reduced(self, by: int) -> "Frame":
        """The same square of the photo at a whole fraction of its size."""
        assert all(value % by == 0 for value in (self.x, self.y, self.side)), "a frame that cuts through pixels"
        return Frame(self.x // by, self.y // by, self.side // by)


def frame_photo(height: int, width: int) -> Frame:
    """The published frame: the whole photo in the middle of a square, padding on the two shorter sides."""
    side = max(height, width)
    return Frame(-((side - width) // 2), -((side - height) // 2), side)


def frame_pair(boxes: Sequence[Box], height: int, width: int, context: float) -> Frame:
    """The square around all boxes, its side `context` times the longer side of their union.

    It is moved to lie inside the photo where it fits, and is never larger than the whole photo's frame. A photo
    that is narrower than the square stands in its middle.
    """
    x0, y0 = min(box[0] for box in boxes), min(box[1] for box in boxes)
    x1, y1 = max(box[2] for box in boxes), max(box[3] for box in boxes)
    # Four pixels more: enlarged boxes are rounded outwards, and must lie in the frame at any `context` >= their factor.
    side = min(math.ceil(context * max(x1 - x0, y1 - y0)) + 4, max(height, width))
    return Frame(_start(x0, x1, side, width), _start(y0, y1, side, height), side)


def _start(low: int, high: int, side: int, size: int) -> int:
    if side >= size:
        return -((side - size) // 2)
    return min(max((low + high - side) // 2, 0), size - side)


def tight_box(mask: NDArray[np.bool_]) -> Box:
    """The box of what is set in mask [H, W]. At least one pixel must be."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    assert width > 0, "an empty mask has no box"
    return x, y, x + width, y + height


def enlarge(box: Box, factor: float, height: int, width: int) -> Box:
    """`box` grown about its centre by `factor` >= 1, rounded outwards, cut to the photo."""
    x0, y0, x1, y1 = box
    dx, dy = (factor - 1) * (x1 - x0) / 2, (factor - 1) * (y1 - y0) / 2
    return (
        max(math.floor(x0 - dx), 0),
        max(math.floor(y0 - dy), 0),
        min(math.ceil(x1 + dx), width),
        min(math.ceil(y1 + dy), height),
    )


def dilate(mask: NDArray[np.bool_], box: Box, factor: float) -> tuple[NDArray[np.bool_], Box]:
    """`mask`, whose tight box is `box`, grown by as many pixels as `factor` moves the ends of the box's longer side.

    Returns the part of the photo that holds the grown mask: its pixels, and where it lies.
    """
    height, width = mask.shape
    radius = max((factor - 1) * max(box[2] - box[0], box[3] - box[1]) / 2, 1.0)
    reach = math.ceil(radius)
    x0, y0 = max(box[0] - reach, 0), max(box[1] - reach, 0)
    x1, y1 = min(box[2] + reach, width), min(box[3] + reach, height)
    away = cv2.distanceTransform((~mask[y0:y1, x0:x1]).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return away <= radius, (x0, y0, x1, y1)


def cut(image: NDArray[np.uint8], frame: Frame, fill: tuple[int, ...] | None = None) -> NDArray[np.uint8]:
    """The pixels of `frame`, [side, side, ...]; outside of the image the colour `fill`, or its border repeated."""
    height, width = image.shape[:2]
    left, top = max(-frame.x, 0), max(-frame.y, 0)
    right, bottom = max(frame.x + frame.side - width, 0), max(frame.y + frame.side - height, 0)
    inner = image[max(frame.y, 0) : frame.y + frame.side, max(frame.x, 0) : frame.x + frame.side]
    if not (left or top or right or bottom):
        return inner
    assert inner.size, "a frame must touch the image"
    kind = cv2.BORDER_REPLICATE if fill is None else cv2.BORDER_CONSTANT
    return np.asarray(cv2.copyMakeBorder(inner, top, bottom, left, right, kind, value=fill or ()), np.uint8)


def frame_picture(image: NDArray[np.uint8], frame: Frame, size: int) -> tuple[NDArray[np.uint8], tuple[slice, slice]]:
    """`cut` and `resize` of the frame of a photo [H, W, 3], 0 in the padding: [R, R, 3], and the rows and columns that
    the photo touches. The photo's border is repeated into the padding before it is resized, so that no black bleeds
    into its edge pixels."""
    touched = cells((0, 0, image.shape[1], image.shape[0]), frame, size)
    # Padding need not be resized. `step` pixels of the frame are `whole` pixels of its picture, both whole numbers: a
    # part that begins and ends with such a step comes out as it would in the whole.
    common = math.gcd(frame.side, size)
    step, whole = frame.side // common, size // common
    spans = [(span.start // whole, -(-span.stop // whole)) for span in touched]
    (top, bottom), (left, right) = spans
    part = _padded(image, frame.x + left * step, frame.y + top * step, (right - left) * step, (bottom - top) * step)
    out = np.zeros((size, size, image.shape[2]), np.uint8)
    rows, columns = touched
    if step == whole + 1 and whole <= MOST_PHASES:
        resized = cv2.transpose(_fewer_rows(cv2.transpose(_fewer_rows(part, whole)), whole))
    else:
        resized = _resized(part, (bottom - top) * whole, (right - left) * whole)
    out[rows, columns] = resized[
        rows.start - top * whole : rows.stop - top * whole, columns.start - left * whole : columns.stop - left * whole
    ]
    return out, touched


def _fewer_rows(image: NDArray[np.uint8], whole: int) -> NDArray[np.uint8]:
    """Rows [n * (whole + 1), W, C] -> [n * whole, W, C], each the mean of the rows that it covers, rounded.

    Each covers two: row i of such a step has the shares whole - i of row i and i + 1 of the next. It is INTER_AREA in a
    quarter of its time, and 640 px to 512 is what most photos need.
    """
    step = whole + 1
    out = np.empty((len(image) // step * whole, *image.shape[1:]), np.uint8)
    for i in range(whole):
        cv2.addWeighted(image[i::step], (whole - i) / step, image[i + 1 :: step], (i + 1) / step, 0, dst=out[i::whole])
    return out


def reduction(frame: Frame, height: int, width: int, size: int) -> int:
    """The largest n of 1, 2, 4, 8 for which a photo may be reduced to means of n x n pixels before its frame is resized
    to `size`: each pixel of that is still a mean of whole ones, so that it comes out the same but for rounding."""
    numbers = (frame.x, frame.y, height, width)
    return next(n for n in (8, 4, 2, 1) if n == 1 or not (frame.side % (n * size) or any(v % n for v in numbers)))


def _padded(image: NDArray[np.uint8], x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
    """A rectangle that touches the image, its border repeated outside of it."""
    inner = image[max(y, 0) : y + height, max(x, 0) : x + width]
    above, left = max(-y, 0), max(-x, 0)
    below, right = height - above - inner.shape[0], width - left - inner.shape[1]
    if not (above or below or left or right):
        return inner
    return np.asarray(cv2.copyMakeBorder(inner, above, below, left, right, cv2.BORDER_REPLICATE), np.uint8)


def resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A square image resized to [size, size, ...]: by area when shrunk, bicubic when enlarged."""
    return _resized(image, size, size)


def _resized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if image.shape[0] == height:
        return image
    how = cv2.INTER_AREA if image.shape[0] > height else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


def cells(box: Box, frame: Frame, size: int) -> tuple[slice, slice]:
    """Rows and columns of the `size` x `size` picture of `frame` that the box touches, even with a part of a pixel."""
    scale = size / frame.side
    rows = _span(box[1] - frame.y, box[3] - frame.y, scale, size)
    return rows, _span(box[0] - frame.x, box[2] - frame.x, scale, size)


def _span(low: int, high: int, scale: float, size: int) -> slice:
    # 1e-6: a side that falls on a pixel's border must not touch the next pixel by rounding.
    start, stop = math.floor(low * scale + 1e-6), math.ceil(high * scale - 1e-6)
    return slice(min(max(start, 0), size), min(max(stop, 0), size))


def to_frame(box: Box | tuple[float, float, float, float], frame: Frame) -> tuple[float, float, float, float]:
    """A box in photo pixels in coordinates of the frame, 0 to 1 inside of it."""
    x0, y0, x1, y1 = box
    return (
        (x0 - frame.x) / frame.side,
        (y0 - frame.y) / frame.side,
        (x1 - frame.x) / frame.side,
        (y1 - frame.y) / frame.side,
    )
