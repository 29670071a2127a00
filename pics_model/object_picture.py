"""An object's picture for the model: a square crop of its cut-out, and which square of the photo that is.

Legend: S is the side of the object picture, R that of the frame's picture, both in model pixels.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from pics_model.framing import Box, Frame, cut, resize

EMPTY = (255, 255, 255, 0)  # RGBA of nothing, on white
MAX_CROP = 4096  # pixels a side of what is cut out before it is resized
Square = tuple[float, float, float]  # left, top, side in pixels of the photo


def crop(picture: NDArray[np.uint8], margin: float, size: int) -> NDArray[np.uint8]:
    """The square around what a cut-out [h, w, 4] shows, `margin` times its longer side; [S, S, 4]."""
    return resize(cut(picture, _square_around(_shown(picture), margin), EMPTY), size)


def _shown(picture: NDArray[np.uint8]) -> Box:
    """The box of what the alpha of a cut-out shows; all of it, where that is nothing."""
    _, shown = cv2.threshold(cv2.extractChannel(picture, 3), 127, 255, cv2.THRESH_BINARY)
    x, y, width, height = cv2.boundingRect(shown)
    return (x, y, x + width, y + height) if width else (0, 0, picture.shape[1], picture.shape[0])


def _square_around(box: Box, margin: float) -> Frame:
    x0, y0, x1, y1 = box
    side = max(round(margin * max(x1 - x0, y1 - y0)), 1)
    return Frame((x0 + x1 - side) // 2, (y0 + y1 - side) // 2, side)


class PlacedCutout:
    """A cut-out [h, w, 4] uint8 and where it lies in the photo: its pixel (u, v) at `origin` + `scale` * (u, v).

    `square` is the part of the photo that the cut-out shows. Where that is not known, what its alpha shows is taken to
    lie in the middle of the object's `box` in the photo, as large as fits.
    """

    def __init__(self, picture: NDArray[np.uint8], box: Box, square: Square | None) -> None:
        self.picture, self.box = picture, box
        self.tight = _shown(picture)
        x0, y0, x1, y1 = self.tight
        if square is not None:
            self.scale = square[2] / picture.shape[1]
            self.origin = square[0], square[1]
        else:
            self.scale = min((box[2] - box[0]) / (x1 - x0), (box[3] - box[1]) / (y1 - y0))
            self.origin = (
                (box[0] + box[2] - (x0 + x1) * self.scale) / 2,
                (box[1] + box[3] - (y0 + y1) * self.scale) / 2,
            )

    def showing(self, picture: NDArray[np.uint8]) -> "PlacedCutout":
        """The object in another picture of the same scale; the middle of what is shown stays where it is."""
        (x0, y0, x1, y1), (u0, v0, u1, v1) = self.tight, _shown(picture)
        left = self.origin[0] + (x0 + x1 - u0 - u1) / 2 * self.scale
        top = self.origin[1] + (y0 + y1 - v0 - v1) / 2 * self.scale
        return PlacedCutout(picture, self.box, (left, top, picture.shape[1] * self.scale))

    def cropped(self, margin: float, size: int) -> tuple[NDArray[np.uint8], Square]:
        """The square around what is shown, `margin` times its longer side; [S, S, 4] and what it shows."""
        square = _square_around(self.tight, margin)
        left, top = self.origin[0] + square.x * self.scale, self.origin[1] + square.y * self.scale
        return resize(cut(self.picture, square, EMPTY), size), (left, top, square.side * self.scale)

    def snapped(self, frame: Frame, resolution: int, size: int, grid: int) -> tuple[NDArray[np.uint8], Square]:
        """A square at the scale of the frame's picture whose corner lies on its grid of `grid` model pixels, so that
        patches of both pictures lie on each other. A larger object is shown at a half, a third ... of the scale."""
        pixel = frame.side / resolution  # photo pixels a model pixel
        x0, y0, x1, y1 = self.tight
        longer = max(x1 - x0, y1 - y0) * self.scale / pixel
        # One grid step is lost where the corner is moved onto the grid.
        factor = max(1, math.ceil(longer / (size - grid)))
        side = size * factor

        def corner(low: float, high: float, origin: float, start: int) -> float:
            middle = (origin + (low + high) / 2 * self.scale - start) / pixel
            return start + round((middle - side / 2) / grid) * grid * pixel

        left = corner(x0, x1, self.origin[0], frame.x)
        top = corner(y0, y1, self.origin[1], frame.y)
        step = side * pixel / self.scale / size  # pixels of the cut-out a pixel of the object picture
        start = (left - self.origin[0]) / self.scale, (top - self.origin[1]) / self.scale
        return self._resampled(start, step, size), (left, top, side * pixel)

    def _resampled(self, start: tuple[float, float], step: float, size: int) -> NDArray[np.uint8]:
        """[S, S, 4] from the corner `start` on, `step` pixels of the cut-out for each of its own."""
        if step < 2:
            # Whole pixels of a coarse cut-out would be off by more than a pixel of the object picture.
            shift = (step - 1) / 2  # OpenCV counts from the centres of pixels
            move = np.array([[step, 0, start[0] + shift], [0, step, start[1] + shift]])
            how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            return np.asarray(cv2.warpAffine(self.picture, move, (size, size), flags=how, borderValue=EMPTY), np.uint8)
        # A fine cut-out of a small object would be padded to a square of gigabytes.
        fold = math.ceil(step * size / MAX_CROP)
        square = Frame(round(start[0] / fold), round(start[1] / fold), round(step * size / fold))
        return resize(cut(_folded(self.picture, fold), square, EMPTY), size)


def _folded(picture: NDArray[np.uint8], fold: int) -> NDArray[np.uint8]:
    """Means of `fold` x `fold` pixels each; what lacks to a whole number of them is empty."""
    if fold == 1:
        return picture
    height, width = picture.shape[:2]
    padded = cv2.copyMakeBorder(picture, 0, -height % fold, 0, -width % fold, cv2.BORDER_CONSTANT, value=EMPTY)
    size = padded.shape[1] // fold, padded.shape[0] // fold
    return np.asarray(cv2.resize(padded, size, interpolation=cv2.INTER_AREA), np.uint8)
