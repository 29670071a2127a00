"""Encoded pictures -> arrays, with limits: what a shard or a job holds is never trusted."""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pics_common.errors import UserError
from pics_model.cut_out import Cut
from pics_model.fast_pictures import MAX_PIXELS, MAX_SIDE, decode_jpeg, decode_rgba_png, within_limits

NEAR_WHITE = 245
# What Pillow's decoders raise on broken files.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
Image.MAX_IMAGE_PIXELS = None  # Pillow's limit is lower, and warns; ours is checked on the header, before decoding


def _open(data: bytes, name: str, upright: bool) -> Image.Image:
    """Decodes JPEG, PNG or WebP bytes; `upright` turns the picture as its EXIF says.

    Raises `UserError` that begins with `name` for anything else, for damage, and above `MAX_PIXELS` or `MAX_SIDE`.
    """
    try:
        picture: Image.Image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
        width, height = picture.size
        if within_limits(width, height):
            picture.load()
            return ImageOps.exif_transpose(picture) if upright else picture
    except BROKEN as error:
        what = "not a JPEG, PNG or WebP picture" if "cannot identify" in str(error) else f"broken picture ({error})"
        raise UserError(f"{name}: {what}") from None
    limits = f"the limit is {MAX_PIXELS:,} pixels, {MAX_SIDE:,} a side"
    raise UserError(f"{name}: picture of {width} x {height} pixels; {limits}")


def read_photo(data: bytes, name: str, upright: bool = False) -> NDArray[np.uint8]:
    """[H, W, 3] uint8."""
    photo = None if upright else decode_jpeg(data)
    return as_photo(_open(data, name, upright)) if photo is None else photo


def as_photo(picture: Image.Image) -> NDArray[np.uint8]:
    """[H, W, 3] uint8 of a decoded picture of any mode."""
    return np.asarray(_eight_bit(picture).convert("RGB"))


def read_mask(data: bytes, name: str, size: tuple[int, int], upright: bool = False) -> NDArray[np.bool_]:
    """[H, W] bool: see `as_mask`."""
    return as_mask(_open(data, name, upright), name, size)


def as_mask(picture: Image.Image, name: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """[H, W] bool from a picture of any mode: grey above 127 is object, unless it is transparent.

    `size` is the photo's (H, W). Raises `UserError` if the mask has another, or if nothing is set.
    """
    if (picture.height, picture.width) != size:
        raise UserError(
            f"{name}: mask of {picture.width} x {picture.height} pixels, its photo has {size[1]} x {size[0]}; "
            f"expected the same size"
        )
    mask: NDArray[np.bool_]
    if picture.has_transparency_data:
        pixels = np.asarray(picture.convert("LA"))
        mask = (pixels[..., 0] > 127) & (pixels[..., 1] > 127)
    else:
        # Not straight from mode "1": its bool arrays hold bytes of 255, which OpenCV and ~ misread.
        mask = np.asarray(_eight_bit(picture).convert("L")) > 127
    if not mask.any():
        raise UserError(f"{name}: empty mask; expected white where the object is or shall be")
    return mask


def read_object(
    data: bytes, name: str, upright: bool = False, on_white: bool = False, cut: Cut | None = None
) -> NDArray[np.uint8]:
    """An object picture, [H, W, 4] uint8 RGBA with the colour on white: see `as_object`."""
    rgba = decode_rgba_png(data) if on_white and not upright else None
    if rgba is None:
        return as_object(_open(data, name, upright), name, on_white, cut)
    return _seen(rgba, name)


def as_object(picture: Image.Image, name: str, on_white: bool = False, cut: Cut | None = None) -> NDArray[np.uint8]:
    """An object picture, [H, W, 4] uint8 RGBA with the colour on white.

    `on_white` says that a picture with alpha has its colour on white already, as in shards. One without alpha is
    taken to be a cut-out on white: see `alpha_from_white`. With `cut`, one without alpha whose border is not white, or
    that is opaque all over, is cut out by it. Raises `UserError` if all of it is transparent, and as `cut` does.
    """
    if not picture.has_transparency_data:
        rgb = np.asarray(_eight_bit(picture).convert("RGB"))
        if cut is None or _stands_on_white(rgb):
            return np.dstack([rgb, alpha_from_white(rgb)])
        return _whitened(np.dstack([rgb, cut(rgb, name)]))
    rgba = np.asarray(picture.convert("RGBA"))
    if cut is not None and not on_white and (rgba[..., 3] == 255).all() and not _stands_on_white(rgba[..., :3]):
        return _whitened(np.dstack([rgba[..., :3], cut(np.ascontiguousarray(rgba[..., :3]), name)]))
    _seen(rgba, name)
    return rgba if on_white else _whitened(rgba)


def _seen(rgba: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    if cv2.minMaxLoc(cv2.extractChannel(rgba, 3))[1] < 128:
        raise UserError(f"{name}: nothing but transparent pixels; expected an object")
    return rgba


def _whitened(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Straight alpha -> the colour on white."""
    alpha = rgba[..., 3:].astype(np.uint16)
    rgb = (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return np.dstack([rgb.astype(np.uint8), rgba[..., 3]])


def _stands_on_white(rgb: NDArray[np.uint8]) -> bool:
    """Whether all of the border is near-white."""
    border = (rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1])
    return all(bool((line >= NEAR_WHITE).all()) for line in border)


def alpha_from_white(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Alpha [H, W] of a cut-out on white, [H, W, 3]: 0 where near-white is connected with the border, 255 elsewhere.

    White inside of the object is kept so. A picture that is near-white all over is all object.
    """
    white = (rgb.min(2) >= NEAR_WHITE).astype(np.uint8)
    _, labels = cv2.connectedComponents(white, connectivity=4)
    outer = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    background = np.isin(labels, outer[outer > 0])
    if background.all():
        background[:] = False
    return np.where(background, 0, 255).astype(np.uint8)


def _eight_bit(picture: Any) -> Any:
    """16-bit grey to 8 bits; Pillow would clip it."""
    if picture.mode.startswith("I;16") or picture.mode == "I":
        return Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8))
    return picture
