"""A photo's file -> its pixels in the annotation's frame, and its own bytes where they can stand in the shard.

Reading and decoding are apart, so that files can come in ahead while others are decoded.
"""

import errno
import io
import os
import stat
import struct
import zlib

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pics_common import storage
from pics_data.records import Photo, RejectError

Image.MAX_IMAGE_PIXELS = None  # whoever decodes has a limit of its own, and checks it on the header before
MAX_PIXELS = 100_000_000  # of a picture in a shard
MAX_BYTES = 2**29  # of a picture's file: 100 megapixels take 300 MB uncompressed
ORIENTATION = 0x0112  # EXIF
# Pillow knows formats besides that nobody's photos are in: one of them starts another program, others are seldom tried
# on broken files. MPO comes with JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000", "PPM")
# What Pillow's decoders of these raise on broken files; OverflowError and TypeError on malformed EXIF.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    RuntimeError,
    TypeError,
    struct.error,
    zlib.error,
)


def what_is_wrong(error: Exception) -> str:
    """What a `BROKEN` error says to a user."""
    return "not a picture" if isinstance(error, UnidentifiedImageError) else str(error)


def open_image(data: bytes) -> Image.Image:
    """A picture with its header read; nothing is decoded yet. Raises an error of `BROKEN`."""
    return Image.open(io.BytesIO(data), formats=FORMATS)


def read_photo(photo: Photo, max_pixels: int) -> tuple[NDArray[np.uint8], bytes | None]:
    """`read_bytes` and `decode_photo` in one."""
    return decode_photo(photo, read_bytes(photo), max_pixels)


def read_bytes(photo: Photo) -> bytes:
    """The bytes of a photo's file. Raises `RejectError`: "missing photo", "unreadable photo"."""
    try:
        return read_file(photo.path)
    except FileNotFoundError:
        raise RejectError("missing photo", photo.path) from None
    except OSError as error:
        raise RejectError("unreadable photo", f"{photo.path}: {error.strerror or error}") from None


def read_file(url: str) -> bytes:
    """The bytes of a picture's file. Raises `OSError`, also for what has no end (see `check_file`)."""
    check_file(url)
    return storage.read(url)


def check_file(url: str) -> None:
    """Raises `OSError` for a local path that is no plain file, or one of more than `MAX_BYTES`: whoever reads a pipe
    may wait for ever, and a device or a file with holes fills the memory."""
    if storage.is_remote(url):
        return
    path = storage.local_path(url)
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "Not a plain file", str(path))
    if found.st_size > MAX_BYTES:
        raise OSError(errno.EFBIG, f"{found.st_size} bytes, limit {MAX_BYTES}", str(path))


def decode_photo(photo: Photo, data: bytes, max_pixels: int) -> tuple[NDArray[np.uint8], bytes | None]:
    """The photo as [H, W, 3] uint8 in the frame of its annotations, and `data`, its file, if that shows just this.

    `data` comes back for a JPEG of 3 channels without an EXIF rotation; else None, and the photo has to be encoded.
    COCO's annotations refer to the pixels as stored; other tools' to the picture as EXIF turns it. The annotated
    width and height tell which; where both fit, it is the pixels as stored, unless `photo.upright`. Of an animation it
    is the first frame, what is transparent is white, and 16 bits are scaled to 8.
    Raises `RejectError`: "broken photo", "photo too large", "unreadable photo", "size mismatch".
    """
    image, orientation = _open(photo, data, max_pixels)
    width, height = image.size
    as_stored = (width, height) == (photo.width, photo.height) and not photo.upright
    turned = not as_stored and orientation in TURNS
    if turned and orientation in SWAPPED:
        width, height = height, width
    if (width, height) != (photo.width, photo.height):
        detail = f"{photo.path}: {width} x {height}, annotated {photo.width} x {photo.height}"
        raise RejectError("size mismatch", detail)
    is_jpeg = image.format in ("JPEG", "MPO")
    try:
        rgb = _decode_jpeg(image, data) if is_jpeg else _decode(image)
    except BROKEN as error:
        raise RejectError("broken photo", f"{photo.path}: {what_is_wrong(error)}") from None
    if rgb is None:
        raise RejectError("unreadable photo", f"{photo.path}: {image.mode} pixels; expected 8 or 16 bits a channel")
    if turned:
        rgb = np.ascontiguousarray(TURNS[orientation](rgb))
    verbatim = image.format == "JPEG" and image.mode == "RGB" and orientation == 1
    return rgb, data if verbatim else None


# EXIF's orientation -> what brings the stored pixels, [H, W] or [H, W, 3], upright.
TURNS = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}
SWAPPED = (5, 6, 7, 8)  # width and height change places


def _open(photo: Photo, data: bytes, max_pixels: int) -> tuple[Image.Image, int]:
    """The picture with its header read, and EXIF's orientation; nothing is decoded yet."""
    try:
        image = open_image(data)
        width, height = image.size
        if width * height > max_pixels:
            raise RejectError("photo too large", f"{photo.path}: {width} x {height} pixels, limit {max_pixels}")
        return image, image.getexif().get(ORIENTATION, 1)
    except BROKEN as error:
        raise RejectError("broken photo", f"{photo.path}: {what_is_wrong(error)}") from None


def _decode_jpeg(image: Image.Image, data: bytes) -> NDArray[np.uint8]:
    """The pixels of a JPEG file, [H, W, 3]. Raises an error of `BROKEN` where anything in it is damaged.

    Pillow decodes to the end whatever comes, and shows grey or shifted blocks for a damaged middle. simplejpeg raises
    what libjpeg warns of, and gives the same pixels in two thirds of the time.
    """
    width, height = image.size
    if simplejpeg.decode_jpeg_header(data, strict=True)[:2] != (height, width):
        raise ValueError("its headers disagree about its size")
    if image.mode == "CMYK":  # Pillow knows Adobe's inverted ones; here only to hear of damage
        simplejpeg.decode_jpeg(data, "CMYK", strict=True)
        return np.asarray(image.convert("RGB"))
    return simplejpeg.decode_jpeg(data, "RGB", strict=True)


def _decode(image: Image.Image) -> NDArray[np.uint8] | None:
    """The pixels of any other file, [H, W, 3]; None where they have no range that says what is white."""
    image.load()
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        return np.repeat(((grey + 128) // 257).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode.startswith(("I", "F")):
        return None
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(image.convert("RGB"))
