"""Label pictures: the silhouettes of all objects of a photo in one PNG, where a pixel's value says whose it is.

How a value is written differs between data sets; the forms are
* `rgb`: R + 256 G + 65536 B (COCO panoptic);
* `bdd`: 256 B + A, the instance id of BDD100K's bitmasks; R is the category, G holds the attributes;
* `rgba`: R + 256 G + 65536 B + 2^24 A, all that such a bitmask says, with bit 31 as the sign;
* `index`: one channel of 1 to 16 bits, or the index into a palette, as it stands.
"""

import io
import zlib
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pics_common import storage
from pics_data.photofile import BROKEN, read_file
from pics_data.records import RejectError

Form = Literal["rgb", "bdd", "rgba", "index"]
Labels = NDArray[np.int32]

FORMS: tuple[str, ...] = get_args(Form)
MAX_PIXELS = 100_000_000
MAX_RUNS = 4_000_000  # real label pictures of 12 megapixels have some ten thousand
GREY, PALETTE = 0, 3  # PNG's colour types
_HEADER = 26  # bytes of a PNG up to its colour type


@dataclass(frozen=True, slots=True)
class Region:
    """The pixels of one value: their box (x, y, width, height), which they touch on each side, and their number."""

    value: int
    box: tuple[int, int, int, int]
    area: int


def read_labels(url: str, form: str, size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS) -> Labels:
    """The values of a label picture, [H, W].

    `size` is the photo's (height, width), where it is known; nothing is decoded of a picture of another size.
    Raises `RejectError`: "missing labels"; "broken labels" if the file is cut off, damaged, no PNG, above `max_pixels`
    or not of the form; "label size mismatch". Each names the file.
    """
    name = storage.base_name(url)
    try:
        data = read_file(url)
    except FileNotFoundError:
        raise RejectError("missing labels", url) from None
    except OSError as error:
        raise RejectError("broken labels", f"{url}: {error.strerror or error}") from None
    return decode_labels(data, form, name, size, max_pixels)


def decode_labels(
    data: bytes, form: str, name: str, size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> Labels:
    """As `read_labels`, from the bytes of a file called `name`."""
    assert form in FORMS, form
    if len(data) < _HEADER or not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise RejectError("broken labels", f"{name} is not a PNG file")
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    depth, colours = data[24], data[25]
    if size is not None and (height, width) != size:
        raise RejectError(
            "label size mismatch", f"{name} is {width} x {height} pixels, its photo {size[1]} x {size[0]}"
        )
    if width * height > max_pixels:
        raise RejectError("broken labels", f"{name}: {width} x {height} pixels are more than {max_pixels}")
    _check_chunks(data, name)
    if form == "index" and colours == PALETTE:
        return _palette_indices(data, name)
    pixels = _decode(data, name)
    if form == "index":
        if pixels.ndim != 2:
            raise RejectError("broken labels", f"{name}: expected one channel, found {pixels.shape[2]}")
        values = pixels.astype(np.int32)
        if colours == GREY and depth < 8:
            values //= 255 // (2**depth - 1)  # the decoder stretches fewer than 8 bits to the range of 8
        return values
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if pixels.dtype != np.uint8 or channels not in ((3, 4) if form == "rgb" else (4,)):
        expected = "RGB" if form == "rgb" else "RGBA"
        raise RejectError(
            "broken labels", f"{name}: expected {expected} of 8 bits, found {channels} x {8 * pixels.itemsize}"
        )
    if form == "bdd":
        values = pixels[..., 0].astype(np.int32)
        values <<= 8
        values |= pixels[..., 3]
        return values
    packed = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGBA if channels == 3 else cv2.COLOR_BGRA2RGBA)
    values = np.ascontiguousarray(packed).view("<i4")[..., 0].astype(np.int32, copy=False)
    if form == "rgb":
        values &= 0xFFFFFF
    return values


def label_instances(labels: Labels, name: str = "the label picture") -> list[Region]:
    """The regions of all values of a label picture, [H, W], in the values' order; one pass over the pixels.

    Rows are taken apart into runs of one value: objects are compact, so that millions of pixels make some thousand
    runs. Raises `RejectError` "broken labels" for noise.
    """
    height, width = labels.shape
    if not labels.size:
        return []
    starts_here = np.ones((height, width), dtype=np.bool_)  # whether a run starts at a pixel
    np.not_equal(labels[:, 1:], labels[:, :-1], out=starts_here[:, 1:])
    if (runs := int(np.count_nonzero(starts_here))) > MAX_RUNS:
        raise RejectError("broken labels", f"{name} is noise: {runs} runs of a value in {labels.size} pixels")
    starts = np.flatnonzero(starts_here)
    lengths = np.diff(starts, append=labels.size)
    rows, lefts = np.divmod(starts, width)
    values, codes = np.unique(labels[rows, lefts], return_inverse=True)
    order = np.argsort(codes, kind="stable")  # the runs of each value, together
    firsts = np.searchsorted(codes[order], np.arange(len(values)))
    lengths, rows, lefts = lengths[order], rows[order], lefts[order]
    areas = np.add.reduceat(lengths, firsts)
    x0, x1 = np.minimum.reduceat(lefts, firsts), np.maximum.reduceat(lefts + lengths, firsts)
    y0, y1 = np.minimum.reduceat(rows, firsts), np.maximum.reduceat(rows, firsts) + 1
    columns = (column.tolist() for column in (values, x0, y0, x1 - x0, y1 - y0, areas))
    return [
        Region(value, (x, y, box_width, box_height), area)
        for value, x, y, box_width, box_height, area in zip(*columns, strict=True)
    ]


def _check_chunks(data: bytes, name: str) -> None:
    """Raises `RejectError` unless the file is a chain of whole parts, each with the sum that PNG keeps of it.

    OpenCV makes room for whatever length a part claims: 4 GB for a single changed bit.
    """
    at = 8
    while (end := at + 12 + int.from_bytes(data[at : at + 4])) <= len(data):
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            break
        if data[at + 4 : at + 8] == b"IEND":
            return
        at = end
    raise RejectError("broken labels", f"{name} is cut off or damaged at byte {min(at, len(data))}")


def _decode(data: bytes, name: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """[H, W] or [H, W, C], colours in OpenCV's order."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise RejectError("broken labels", f"{name}: {' '.join(str(error).split())}") from None
    if pixels is None:
        raise RejectError("broken labels", f"{name} is cut off or damaged")
    return pixels


def _palette_indices(data: bytes, name: str) -> Labels:
    """OpenCV looks a palette's colours up; Pillow keeps the indices."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            return np.asarray(picture).astype(np.int32)
    except BROKEN as error:
        raise RejectError("broken labels", f"{name} is cut off or damaged ({error})") from None
