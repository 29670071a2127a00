"""Fingerprints of photos: 256 bits that stay when a photo is encoded anew, resized, brightened or trimmed a little.

They come from the lowest frequencies of the picture: grey, 32 x 32, cosine transform, in the order of frequency,
without the mean. 192 bits are the signs of as many of them; 64 bits say which of two neighbours among the lowest is
the larger. That forgets brightness, contrast, size and compression. A frequency that the picture hardly holds says
nothing: its bit is taken from a digest of the file instead. So plain pictures, black ones say, are alike only where
their files are the same, and need no rule of their own. A mirrored or turned copy has another fingerprint.

    python benchmarks/duplicates.py recall

prints how far copies of real photos are from them; the table is in `duplicates.py`.
"""

import hashlib
import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from pics_common import storage
from pics_data.photofile import BROKEN, MAX_PIXELS, ORIENTATION, TURNS, open_image, read_file

# A row a photo, 37 bytes. `words` are the 256 bits: first the signs, the lowest frequency in the lowest bit of the
# first word, then the comparisons. `pixels` are width times height. Where `valid` is False the photo could not be read
# or decoded, and the rest is 0.
WORDS = 4
FINGERPRINT = np.dtype([("words", "<u8", (WORDS,)), ("pixels", "<u4"), ("valid", "?")])
Fingerprints = NDArray[np.void]
Photos = Sequence[tuple[str, str]]  # key, path or URL

VERSION = 1  # to be raised with every change that makes other bits of the same photo
SIGNS, COMPARISONS, APART = 192, 64, 7  # frequency i is compared with frequency i + 7
SIDE = 32
# Grey levels times 32: what the grain of a plain picture makes of a frequency stays below.
NOISE = 1.0
# Pillow lets the JPEG decoder halve a picture as long as both its sides stay above; with fewer pixels the bits of a
# resized copy differ more, with more the decoding takes longer.
LEAST_SIDE = 96
DIGEST_KEY = b"pics.chunk"
_COLUMNS = (*(f"word{i}" for i in range(WORDS)), "pixels", "valid")


def _transform() -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """The orthonormal cosine transform of 32 values, [32, 32], and the places of the 192 lowest frequencies in it."""
    k = np.arange(SIDE)
    cosines = np.cos(np.pi * (2 * k[None] + 1) * k[:, None] / (2 * SIDE)) * np.sqrt(2 / SIDE)
    cosines[0] /= np.sqrt(2)
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    by_frequency = np.lexsort((rows, rows + columns))
    return cosines.astype(np.float32), by_frequency[1 : SIGNS + 1]


COSINES, LOWEST = _transform()


def fingerprint(data: bytes, max_pixels: int = MAX_PIXELS) -> Fingerprints:
    """The fingerprint of a photo's encoded bytes: an array of no dimensions, of `FINGERPRINT`.

    The picture is taken as EXIF turns it. A JPEG is decoded at a fraction of its size. `valid` is False for what
    cannot be decoded whole, has more than `max_pixels`, or more than 8 bits a channel: no picture of a shard.
    """
    out = np.zeros((), FINGERPRINT)
    try:
        grey, pixels = _small_grey(data, max_pixels)
    except BROKEN:
        return out
    if grey is None:
        return out
    frequencies = (COSINES @ grey @ COSINES.T).reshape(-1)[LOWEST]
    sizes = np.abs(frequencies)
    ones, others = sizes[:COMPARISONS], sizes[APART : COMPARISONS + APART]
    bits = np.packbits(np.concatenate([frequencies > 0, ones > others]), bitorder="little")
    known = np.packbits(np.concatenate([sizes, np.maximum(ones, others)]) > NOISE, bitorder="little")
    digest = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
    out["words"] = ((bits & known) | (digest & ~known)).view("<u8")
    out["pixels"] = min(pixels, 2**32 - 1)
    out["valid"] = True
    return out


def _small_grey(data: bytes, max_pixels: int) -> tuple[NDArray[np.float32] | None, int]:
    """The picture in grey, [32, 32] of 0 to 255, and its pixels at full size; None where it is no picture of a shard.

    Raises what Pillow raises (`BROKEN`). It decodes rather than OpenCV, since it says when a file is cut off: half a
    photo must not drop a whole one.
    """
    with open_image(data) as image:
        width, height = image.size
        if width * height > max_pixels or image.mode.startswith(("I", "F")):
            return None, 0
        image.draft("L", (LEAST_SIDE, LEAST_SIDE))
        # The last column and row of a reduced picture may stand for fewer pixels than the others.
        scale = 2 ** round(np.log2(width / image.size[0]))
        orientation = image.getexif().get(ORIENTATION, 1)
        image.load()
        grey = image if image.mode == "L" else image.convert("RGB").convert("L")
        # A triangle filter: a box lets more of the high frequencies through, which change when a photo is resized.
        small = grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(0, 0, width / scale, height / scale))
    upright = TURNS.get(orientation, lambda pixels: pixels)(np.asarray(small, np.float32))
    return np.ascontiguousarray(upright), width * height


def fingerprint_chunk(photos: Photos, max_pixels: int = MAX_PIXELS) -> Fingerprints:
    """The fingerprints of some photos, [N] of `FINGERPRINT`, in their order.

    A photo that cannot be read or decoded is not `valid`: it stays, and the build says later what is wrong with it.
    Raises `UserError` for a URL of a kind that needs a package which is not installed.
    """
    out = np.zeros(len(photos), FINGERPRINT)
    for row, (_, path) in enumerate(photos):
        try:
            data = read_file(path)
        except (OSError, ValueError):  # a ValueError: a name that no file can have
            continue
        out[row] = fingerprint(data, max_pixels)
    return out


def kept_chunk(photos: Photos, url: str, max_pixels: int = MAX_PIXELS) -> Fingerprints:
    """As `fingerprint_chunk`; the result is kept in the Parquet file `url`, where a rerun finds it.

    A file that was made of other photos, by other code, or is damaged, is made again. What was not `valid` stays so:
    a rerun must come to the same plan. Whoever mended photos removes the file.
    """
    digest = _digest(photos, max_pixels)
    found = _load(url, digest)
    if found is None:
        found = fingerprint_chunk(photos, max_pixels)
        storage.write(url, _encode(found, digest))
    return found


def _digest(photos: Photos, max_pixels: int) -> bytes:
    """What a chunk's fingerprints depend on; not the photos' places, as a data set may move between two runs."""
    digest = hashlib.sha256(f"{VERSION} {max_pixels} {len(photos)}\n".encode())
    for key, _ in photos:
        digest.update(f"{len(key)} {key}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest().encode()


def _encode(found: Fingerprints, digest: bytes) -> bytes:
    columns = [*found["words"].T, found["pixels"], found["valid"]]
    table = pa.table(dict(zip(_COLUMNS, map(pa.array, columns), strict=True)))
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({DIGEST_KEY: digest}), sink)
    return sink.getvalue()


def _load(url: str, digest: bytes) -> Fingerprints | None:
    """The fingerprints of a chunk with this digest, if `url` holds them."""
    try:
        data = storage.read(url)
    except FileNotFoundError:
        return None
    try:
        table = pq.read_table(io.BytesIO(data))
    except (OSError, pa.ArrowException):  # damaged
        return None
    if (table.schema.metadata or {}).get(DIGEST_KEY) != digest:
        return None
    out = np.zeros(table.num_rows, FINGERPRINT)
    for i in range(WORDS):
        out["words"][:, i] = table[_COLUMNS[i]].to_numpy()
    out["pixels"] = table["pixels"].to_numpy()
    out["valid"] = table["valid"].to_numpy()
    return out
