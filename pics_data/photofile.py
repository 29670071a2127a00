"""A photo's file -> its pixels in the annotation's frame, and its own bytes where they can stand in the shard."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pics_data.records import Photo, RejectError

Image.MAX_IMAGE_PIXELS = None  # whoever decodes has a limit of its own, and checks it on the header before
MAX_PIXELS = 100_000_000  # of a picture in a shard
ORIENTATION = 0x0112  # EXIF
# What Pillow's decoders raise on broken files.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


def what_is_wrong(error: Exception) -> str:
    """What a `BROKEN` error says to a user."""
    return "not a picture" if isinstance(error, UnidentifiedImageError) else str(error)


def read_photo(photo: Photo, max_pixels: int) -> tuple[NDArray[np.uint8], bytes | None]:
    """The photo as [H, W, 3] uint8 in the frame of its annotations, and its file's bytes if they show just that.

    The bytes are given for a JPEG of 3 channels without an EXIF rotation; else None, and the photo has to be encoded.
    COCO's annotations refer to the pixels as stored; other tools' to the picture as EXIF turns it. The annotated
    width and height tell which. Pillow decodes rather than OpenCV, since it says when a file is cut off.
    Raises `RejectError`: "missing photo", "unreadable photo", "broken photo", "photo too large", "size mismatch".
    """
    try:
        data = Path(photo.path).read_bytes()
    except FileNotFoundError:
        raise RejectError("missing photo", photo.path) from None
    except OSError as error:
        raise RejectError("unreadable photo", f"{photo.path}: {error.strerror}") from None
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
    except BROKEN as error:
        raise RejectError("broken photo", f"{photo.path}: {what_is_wrong(error)}") from None
    width, height = image.size
    if width * height > max_pixels:
        raise RejectError("photo too large", f"{photo.path}: {width} x {height} pixels, limit {max_pixels}")
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
        image.load()
    except BROKEN as error:
        raise RejectError("broken photo", f"{photo.path}: {error}") from None
    if image.mode.startswith(("I", "F")):
        raise RejectError("unreadable photo", f"{photo.path}: {image.mode} pixels; expected 8 bits a channel")
    as_stored = image.size == (photo.width, photo.height)
    verbatim = image.format == "JPEG" and image.mode == "RGB" and orientation == 1 and as_stored
    if not as_stored:
        image = ImageOps.exif_transpose(image)
        if image.size != (photo.width, photo.height):
            detail = f"{photo.path}: {width} x {height}, annotated {photo.width} x {photo.height}"
            raise RejectError("size mismatch", detail)
    return np.asarray(image.convert("RGB")), data if verbatim else None
