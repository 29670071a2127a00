"""Pixels -> bytes, with every setting of the encoders fixed: the same pixels give the same bytes.

A PNG is a stream of rows, each predicted from what stands left and above (its filter), then deflated. General encoders
try all filters on each row and search for repetitions. Cut-outs of photographs have none worth the search but the
plain white around the object, so here each row is predicted by Paeth's rule and deflate looks for runs alone: within
1 % of the bytes of all filters and zlib's level 6, at a seventh of the time (benchmarks/codecs.py).
"""

import struct
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

JPEG_QUALITY = 95  # of a photo at its own size that has to be encoded anew: nothing is to be seen of it
RESIZED_JPEG_QUALITY = 85  # with `--size`: 4:4:4 keeps the colour edges, where two objects meet, that 4:2:0 smears

SIGNATURE = b"\x89PNG\r\n\x1a\n"
NONE, PAETH = 0, 4  # filters of a row
GREY, RGBA = 0, 6  # colour types
MASK_LEVEL = 6  # of zlib: a mask is 40 KB of whole bytes that repeat from row to row


def jpeg(rgb: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> bytes:
    """[H, W, 3] uint8 -> JPEG with full resolution of colour (4:4:4)."""
    settings = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), settings)
    assert done
    return encoded.tobytes()


def png(pixels: NDArray[np.uint8]) -> bytes:
    """[H, W] grey or [H, W, 4] RGBA uint8 -> PNG of 8 bits a channel."""
    height, width = pixels.shape[:2]
    # zlib-ng gives the very bytes of zlib here, in three quarters of the time.
    runs = zlib_ng.compressobj(1, zlib_ng.DEFLATED, 15, 8, zlib_ng.Z_RLE)
    data = runs.compress(_paeth_rows(pixels).data) + runs.flush()
    return _png(width, height, 8, GREY if pixels.ndim == 2 else RGBA, data)


def mask_png(mask: NDArray[np.bool_]) -> bytes:
    """[H, W] bool -> 1-bit grey PNG, True = 1."""
    height, width = mask.shape
    packed = np.packbits(mask, axis=1)
    rows = np.empty((height, 1 + packed.shape[1]), np.uint8)
    rows[:, 0] = NONE
    rows[:, 1:] = packed
    return _png(width, height, 1, GREY, zlib.compress(rows.data, MASK_LEVEL))


def depth_png(depth: NDArray[np.float32]) -> bytes:
    """[H, W] distances, infinite for the open sky -> 16-bit grey PNG in thousandths up to 65534; 65535: infinite."""
    steps = np.where(np.isfinite(depth), np.minimum(np.rint(depth * np.float32(1000)), 65534), 65535)
    done, encoded = cv2.imencode(".png", steps.astype(np.uint16), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done
    return encoded.tobytes()


def _paeth_rows(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The rows of an 8-bit PNG, [H, 1 + W * channels] uint8: Paeth's filter, then what its prediction misses by.

    With a left, b above, c above left: the prediction is whichever of a, b, c is nearest to a + b - c, in this order
    where they tie (PNG specification, 9.4). |a + b - c - a| is |b - c|, and so on; |a + b - 2c| fits no byte, but is
    | |a - c| - |b - c| | where c lies between a and b, and elsewhere too large for c to be chosen.
    """
    height, width = pixels.shape[:2]
    channels = pixels.size // (height * width)
    padded = np.zeros((height + 1, (width + 1) * channels), np.uint8)
    padded[1:, channels:] = pixels.reshape(height, -1)
    above, row = padded[:-1], padded[1:]
    a, b, c = row[:, :-channels], above[:, channels:], above[:, :-channels]

    far_a, far_b = cv2.absdiff(b, c), cv2.absdiff(a, c)
    far_c = cv2.absdiff(far_a, far_b)
    outside = cv2.bitwise_or(cv2.compare(c, cv2.min(a, b), cv2.CMP_LE), cv2.compare(c, cv2.max(a, b), cv2.CMP_GE))
    far_c = cv2.bitwise_or(far_c, outside)
    predicted = c.copy()
    cv2.copyTo(b, cv2.compare(far_b, far_c, cv2.CMP_LE), predicted)
    cv2.copyTo(a, cv2.compare(far_a, cv2.min(far_b, far_c), cv2.CMP_LE), predicted)

    rows = np.empty((height, 1 + width * channels), np.uint8)
    rows[:, 0] = PAETH
    np.subtract(row[:, channels:], predicted, out=rows[:, 1:])  # modulo 256
    return rows


def _png(width: int, height: int, bits: int, colour: int, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))
