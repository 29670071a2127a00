"""The two kinds of picture that shards are full of, decoded in less time than Pillow needs: JPEG photos, RGBA PNGs.

Whatever is not plainly one of these, sound, and within the limits is left to Pillow, which also says what is wrong with
it: here that is None, never an error.
"""

import struct
import zlib

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

MAX_PIXELS = 100_000_000
MAX_SIDE = 20_000  # a long strip is framed in a square of its longer side
PNG = b"\x89PNG\r\n\x1a\n"
RGBA8 = b"\x08\x06\x00\x00\x00"  # bits, colour type, compression, filter, not interlaced
KNOWN_CHUNKS = (b"IHDR", b"IDAT", b"IEND")  # others may change what the pixels mean


def within_limits(width: int, height: int) -> bool:
    """Whether a picture may be decoded."""
    return width * height <= MAX_PIXELS and max(width, height) <= MAX_SIDE


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG in grey or YCbCr, from its header."""
    if not data.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (height, width) if space in ("YCbCr", "Gray") else None


def decode_jpeg(data: bytes, reduction: int = 1) -> NDArray[np.uint8] | None:
    """[H / n, W / n, 3] uint8 with n = `reduction`, one of 1, 2, 4, 8: means of n x n pixels, as good as, out of the
    decoder. Both sides must be multiples of n."""
    size = jpeg_size(data)
    if size is None or not within_limits(*size):
        return None
    height, width = size
    try:
        return np.asarray(
            simplejpeg.decode_jpeg(
                data,
                min_height=height // reduction if reduction > 1 else 0,
                min_width=width // reduction if reduction > 1 else 0,
                min_factor=reduction,
            )
        )
    except ValueError:  # damage, that of the kind included which Pillow reads over
        return None


def decode_rgba_png(data: bytes) -> NDArray[np.uint8] | None:
    """[H, W, 4] uint8 of a PNG with 8 bits a channel."""
    if data[:8] != PNG or data[12:16] != b"IHDR" or data[24:29] != RGBA8:
        return None
    if not within_limits(*struct.unpack(">II", data[16:24])) or not _chunks_are_sound(data):
        return None
    # OpenCV's other flags would turn pictures as their EXIF says, or drop alpha.
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint8 or decoded.ndim != 3 or decoded.shape[2] != 4:
        return None
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGRA2RGBA, dst=decoded), np.uint8)


def _chunks_are_sound(data: bytes) -> bool:
    """Whether a PNG is whole, each chunk has its checksum, and all are of known kinds: OpenCV would tell of damage on
    the terminal."""
    at, kind = 8, b""
    while kind != b"IEND":
        head = data[at : at + 8]
        if len(head) < 8:
            return False
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        end = at + 8 + length
        if kind not in KNOWN_CHUNKS or data[end : end + 4] != zlib.crc32(data[at + 4 : end]).to_bytes(4, "big"):
            return False
        at = end + 4
    return True
