"""Whether a sample's parts belong together: each cut-out, laid back at its place, shows the photo under its mask.

This needs nothing beyond the sample: `crop` in meta.json says which square of the photo a cut-out shows.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from pics_data.cutout import premultiply, shrink
from pics_data.measure import bounding_box
from pics_data.tar_read import DamageError
from pics_data.verify_sample import Opened

# Of 300 cut-outs of real photos, right ones are off by at most 0.11 px and 2.3 of 255, and by 0.51 px and 10 where
# --size shrank the photo, to 128 px at worst. A mask 3 px beside its place is off by 0.43 px or more.
MAX_SHIFT = 0.3  # how far a cut-out's outline may lie from its mask's, mean, in pixels of the photo
MAX_SHIFT_RESIZED = 0.8
MAX_COLOUR = 16.0  # mean difference of the colours within it, of 255
COARSE = 0.5  # share of the pixels at which photos that --size shrank are compared: they went through other filters
OPAQUE = 250  # alpha from which on a pixel's colour is the object's own
MIN_OPAQUE = 16  # pixels: fewer tell nothing of colour


def check_cutouts(sample: Opened) -> int:
    """Compares all cut-outs of a sample that has metadata with photo and masks, and returns how many.

    Raises `DamageError` for one that shows something else.
    """
    allowed = MAX_SHIFT_RESIZED if _is_resized(sample) else MAX_SHIFT
    for i in range(sample.num_objects):
        shift, colour = differences(sample, i)
        if shift > allowed:
            raise DamageError(f"obj{i}.png: its outline is {shift:.1f} px from that of mask{i}.png")
        if colour > MAX_COLOUR:
            raise DamageError(
                f"obj{i}.png: its colours are not the photo's under mask{i}.png ({colour:.0f} of 255 off)"
            )
    return sample.num_objects


def differences(sample: Opened, i: int) -> tuple[float, float]:
    """How far cut-out `i` is from what photo and mask show at its place: outline in pixels, colour of 255."""
    mask = sample.mask(i)
    side = sample.meta["objects"][i]["crop"][2]
    cutout = sample.pictures[f"obj{i}.png"]
    fine = side * COARSE if _is_resized(sample) else side
    grid = min(cutout.shape[0], max(1, round(fine)))
    found = _premultiplied(cutout, grid)
    wanted = _square_of_photo(sample.pictures["bg.jpg"], mask, sample.meta["objects"][i]["crop"], grid)

    beyond = np.abs(found[..., 3].astype(np.float32) - wanted[..., 3]).sum() / 255 * (side / grid) ** 2
    shift = float(beyond / _outline_length(mask))
    opaque = (found[..., 3] >= OPAQUE) & (wanted[..., 3] >= OPAQUE)
    if np.count_nonzero(opaque) < MIN_OPAQUE:
        return shift, 0.0
    colour = np.abs(found[opaque][:, :3].astype(np.int16) - wanted[opaque][:, :3]).mean()
    return shift, float(colour)


def _is_resized(sample: Opened) -> bool:
    photo = sample.meta["photo"]
    return sample.pictures["bg.jpg"].shape[:2] != (photo["height"], photo["width"])


def _premultiplied(cutout: NDArray[np.uint8], grid: int) -> NDArray[np.uint8]:
    """A stored cut-out [n, n, 4] without its white, [grid, grid, 4]."""
    around = cv2.bitwise_not(cv2.extractChannel(cutout, 3))
    return shrink(cv2.subtract(cutout, cv2.merge([around, around, around, np.zeros_like(around)])), grid, grid)


def _square_of_photo(
    rgb: NDArray[np.uint8], mask: NDArray[np.bool_], crop: tuple[float, float, float], grid: int
) -> NDArray[np.uint8]:
    """What photo and mask show in the square `crop`, whose corner may lie between pixels: [grid, grid, 4]."""
    x, y, side = crop
    left, top = math.floor(x) - 1, math.floor(y) - 1
    around = premultiply(rgb, mask, (left, top, math.ceil(side) + 3))
    dense = grid * math.ceil(side / grid)
    step = side / dense
    place = np.array([[step, 0, x - left + step / 2 - 0.5], [0, step, y - top + step / 2 - 0.5]])
    square = cv2.warpAffine(around, place, (dense, dense), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return cv2.resize(square, (grid, grid), interpolation=cv2.INTER_AREA)


def _outline_length(mask: NDArray[np.bool_]) -> int:
    """The sides of pixels between object and not."""
    x, y, w, h = bounding_box(mask)
    tight = np.pad(mask[y : y + h, x : x + w], 1)
    return int(np.count_nonzero(tight[1:] != tight[:-1]) + np.count_nonzero(tight[:, 1:] != tight[:, :-1]))
