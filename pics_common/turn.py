"""A cut-out turned in the plane, with its alpha: nothing cut off, nothing of the background or of black in its edges.

Legend: a picture is [h, w, 4] uint8 RGBA, n the longer of h and w, m the side of the turned one. Colours come in three
forms: straight (colour beside alpha), premultiplied (alpha / 255 * colour), and on white as shards store them
(premultiplied + 255 - alpha). Only premultiplied values may be interpolated: the other two pass through them.
"""

import math
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = TypeVar("Pixels", NDArray[np.uint8], NDArray[np.float32])

RING = 1  # pixels left free on each side, for the soft edge of what is turned
DENSE = 2  # samples a pixel and axis where a picture is shrunk, for each of its own pixels to count


def turn_picture(rgba: NDArray[np.uint8], degrees: float, grow: bool = False) -> NDArray[np.uint8]:
    """Turns a picture with straight alpha counterclockwise; [m, m, 4], white where alpha is 0.

    What alpha shows is centred (to half a pixel: what is so already is not moved). By default m = n, and it is shrunk
    where it would not fit; with `grow` it keeps its size, and m > n where it needs the room. Multiples of 90 degrees
    move pixels and interpolate nothing, unless something has to shrink.
    """
    ink = rgba.astype(np.float32)
    ink[..., :3] *= ink[..., 3:] / 255
    turned = turn_premultiplied(ink, degrees, grow)
    turned[..., :3] *= 255 / np.maximum(turned[..., 3:], 0.5)
    turned[turned[..., 3] < 0.5] = (255, 255, 255, 0)
    return np.rint(turned).astype(np.uint8)


def turn_on_white(picture: NDArray[np.uint8], degrees: float, grow: bool = False) -> NDArray[np.uint8]:
    """The same for a picture whose colour is on white, the form of cut-outs in shards: in and out."""
    return on_white(turn_premultiplied(premultiplied(picture), degrees, grow))


def premultiplied(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """On white -> premultiplied."""
    # Saturated: rounding may have left a colour a little below 255 - alpha.
    return np.asarray(cv2.subtract(picture, _white_through(picture)), np.uint8)


def on_white(ink: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Premultiplied -> on white."""
    # Saturated: a colour that rounding has lifted above its alpha ends at 255 all the same.
    return np.asarray(cv2.add(ink, _white_through(ink)), np.uint8)


def _white_through(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """How much white [h, w, 4] shows through a picture's alpha."""
    white = cv2.bitwise_not(cv2.extractChannel(picture, 3))
    return np.asarray(cv2.merge([white, white, white, np.zeros_like(white)]), np.uint8)


def turn_premultiplied(ink: Pixels, degrees: float, grow: bool = False) -> Pixels:
    """The same for premultiplied pixels [h, w, 4], uint8 or float32 in 0 to 255: in and out; 0 where alpha is 0.

    Bicubic. Where it overshoots an opaque edge, colour and alpha are scaled back together, so that the edge keeps its
    colour; no colour is above its alpha.
    """
    turn = _turn_matrix(degrees)
    side = max(ink.shape[:2])
    x0, y0, x1, y1 = _extent(ink[..., 3] > 0, turn)
    extent = max(x1 - x0, y1 - y0)
    room = math.ceil(extent - 1e-6) + (2 * RING if degrees % 90 else 0)
    if grow:
        side = max(side, room)
    scale = min(1.0, side / room)
    fold = DENSE if scale < 1 else 1

    # From the middle of the old canvas to that of the new one, then by whole pixels to where the object is centred.
    middle = turn @ (ink.shape[1] / 2, ink.shape[0] / 2)
    shift = np.rint(scale * (middle - ((x0 + x1) / 2, (y0 + y1) / 2)))
    start = side / 2 + shift - scale * middle
    # OpenCV counts from the centres of pixels.
    move = np.column_stack([fold * scale * turn, fold * (scale * turn @ (0.5, 0.5) + start) - 0.5])
    # In floats, as bytes would cut the overshoots of each channel by itself.
    turned = cv2.warpAffine(ink.astype(np.float32), move, (fold * side, fold * side), flags=cv2.INTER_CUBIC)
    if fold > 1:
        turned = cv2.resize(turned, (side, side), interpolation=cv2.INTER_AREA)
    alpha = cv2.extractChannel(turned, 3)
    turned *= cv2.merge([255 / np.maximum(alpha, 255)] * 4)
    turned = np.maximum(cv2.min(turned, cv2.merge([np.minimum(alpha, 255)] * 4)), 0)
    return turned if ink.dtype == np.float32 else np.rint(turned).astype(np.uint8)


def _turn_matrix(degrees: float) -> NDArray[np.float64]:
    """[2, 2]: (x, y), y downwards, turned counterclockwise; without rounding where it is a multiple of 90 degrees."""
    quarters, rest = divmod(degrees, 90)
    cos, sin = math.cos(math.radians(rest)), math.sin(math.radians(rest))
    quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return np.linalg.matrix_power(quarter, int(quarters % 4)) @ np.array([[cos, sin], [-sin, cos]])


def _extent(shown: NDArray[np.bool_], turn: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of the pixels of `shown` [h, w], as squares, once turned; of all of them where none is set."""
    rows = np.flatnonzero(shown.any(1))
    if not rows.size:
        shown, rows = np.ones_like(shown), np.arange(len(shown))
    first, last = shown[rows].argmax(1), shown.shape[1] - shown[rows, ::-1].argmax(1)
    # What reaches furthest in any direction is a corner of the first or of the last pixel of some row.
    corners = np.array([(x, y) for x in (first, last) for y in (rows, rows + 1)]).transpose(0, 2, 1).reshape(-1, 2)
    turned = corners @ turn.T
    (x0, y0), (x1, y1) = turned.min(0).tolist(), turned.max(0).tolist()
    return x0, y0, x1, y1
