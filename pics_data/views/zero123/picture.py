"""A cut-out as Zero-1-to-3 wants to see it, and the object in the picture that it makes. NumPy, OpenCV and Pillow only.

Legend: n pixels a side of a cut-out [n, n, 4], straight alpha; 256 of the network's picture [256, 256, 3] on white;
all uint8. A window is (left, top, side): a square of a picture, in its pixels, that may reach beyond it.
"""

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pics_common.saliency import Saliency, alpha_of
from pics_data.predict.regions import Mask, clean, tight_box
from pics_data.records import RejectError
from pics_data.views import Picture

Rgb = NDArray[np.uint8]
Window = tuple[float, float, float]

SIDE: Final = 256
# Of the picture's side, for the object's longer one: `load_and_preprocess` in the authors' ldm/util.py, 200 of 256.
FILL: Final = 200 / 256
VISIBLE: Final = 13  # alpha below 5% is haze, not object
WHITE: Final = 12  # a colour this near to white is background, if it is connected to the border
SOFT: Final = 40  # the least distance from white that an edge is taken to fade from
EDGE: Final = 2  # pixels of an object's outline that may be mixed with white


@dataclass(frozen=True, slots=True)
class Framed:
    """A cut-out of `size` n as the network sees it: `rgb` [256, 256, 3] shows the `window` of it, on white."""

    rgb: Rgb
    window: Window
    size: int


def frame(rgba: Picture) -> Framed:
    """The object in the middle, on white, its longer side 200 of 256 pixels. Raises `RejectError` if there is none."""
    assert rgba.ndim == 3
    assert rgba.shape[0] == rgba.shape[1]
    seen = rgba[..., 3] >= VISIBLE
    if not seen.any():
        raise RejectError("empty cut-out")
    x, y, w, h = tight_box(seen)
    side = max(w, h) / FILL
    window = (x + (w - side) / 2, y + (h - side) / 2, side)
    return Framed(_on_white(resample(rgba, window, SIDE)), window, rgba.shape[0])


def unframe(view: Picture, framed: Framed) -> Picture:
    """A view [256, 256, 4] at the size n and the scale of the cut-out, its middle where the cut-out's object has its.

    An object that is longer from this side than the cut-out has room for is drawn smaller, by as much as it takes:
    nothing is cut off.
    """
    left, top, side = framed.window
    centre, middle = (left + side / 2, top + side / 2), SIDE / 2
    x, y, w, h = tight_box(view[..., 3] >= VISIBLE)
    scales = [side / SIDE]
    for at, low, high in ((centre[0], x, x + w), (centre[1], y, y + h)):
        scales += [room / need for room, need in ((at, middle - low), (framed.size - at, high - middle)) if need > 0]
    scale = min(scales)
    window = (middle - centre[0] / scale, middle - centre[1] / scale, framed.size / scale)
    return resample(view, window, framed.size)


def resample(rgba: Picture, window: Window, size: int) -> Picture:
    """The `window` of a picture at [size, size, 4]; transparent where it reaches beyond. Bicubic, free of aliases.

    Mixed as premultiplied colours, so that what is transparent lends its colour to nothing.
    """
    left, top, side = window
    height, width = rgba.shape[:2]
    step = side / size
    x0, x1 = _covered(left, step, width, size)
    y0, y1 = _covered(top, step, height, size)
    result = np.zeros((size, size, 4), np.uint8)
    if x0 >= x1 or y0 >= y1:
        return result
    around = math.ceil(step) + 1  # the outermost pixels of the result reach beyond the picture
    padded = np.pad(rgba, ((around, around), (around, around), (0, 0)))
    left, top = left + around, top + around
    box = (left + x0 * step, top + y0 * step, left + x1 * step, top + y1 * step)
    part = Image.fromarray(padded).resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC, box=box)
    result[y0:y1, x0:x1] = np.asarray(part)
    return result


def _covered(start: float, step: float, length: int, size: int) -> tuple[int, int]:
    """Which of the result's pixels show something of the picture, along one axis."""
    return max(0, math.floor(-start / step)), min(size, math.ceil((length - start) / step))


def _on_white(rgba: Picture) -> Rgb:
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + (255 - alpha) * 255 + 127) // 255).astype(np.uint8)


def cut_out(rgb: Rgb, saliency: Saliency | None = None) -> Picture:
    """The object in a picture on white, [256, 256, 4], its colours without the white that its edges are mixed with.

    By `saliency`; or by its distance from white, where background is what is nearly white and connected to the border.
    White within an object is then the object's, so the hole of a handle is filled; what is white at an object's own
    outline is lost; a shadow on the ground belongs to the object.
    Raises `RejectError` where no object is found, or no background.
    """
    alpha = alpha_on_white(rgb) if saliency is None else alpha_of(saliency(rgb))
    if not (alpha >= VISIBLE).any():
        raise RejectError("empty view")
    if (alpha >= VISIBLE).all():
        raise RejectError("view without background")
    opacity = np.maximum(alpha, 1)[..., None].astype(np.float32) / 255
    colour = 255 - (255 - rgb.astype(np.float32)) / opacity
    return np.dstack([np.clip(colour + 0.5, 0, 255).astype(np.uint8), alpha])


def alpha_on_white(rgb: Rgb) -> NDArray[np.uint8]:
    """Alpha [H, W] of what stands on white: 255 inside, fading where the outline's colours fade into white."""
    distance = 255 - rgb.min(axis=2).astype(np.float32)
    mask = clean(~_background(distance < WHITE))
    solid = mask.view(np.uint8)
    inner = cv2.erode(solid, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * EDGE + 1,) * 2), borderValue=1)
    # The colour that an edge fades from: the mean of what lies further inside, near by.
    near = (4 * EDGE + 1,) * 2
    weight = cv2.blur(inner.astype(np.float32), near)
    full = cv2.blur(inner * distance, near) / np.maximum(weight, 1e-3)
    fading = np.minimum(255, 255 * distance / np.maximum(full, SOFT))
    return np.where(inner, 255, mask * (fading + 0.5)).astype(np.uint8)


def _background(white: Mask) -> Mask:
    """What of `white` [H, W] is connected to the border, at sides: it does not leak in through corners."""
    framed = np.pad(white, 1, constant_values=True)
    _, labels = cv2.connectedComponents(framed.view(np.uint8), connectivity=4)
    return (labels == labels[0, 0])[1:-1, 1:-1]
