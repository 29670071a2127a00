"""One file of encodings: what a model's frozen parts make of the samples of one shard, to be read by offset.

It is a safetensors file whose tensors stack the samples, so that any program opens it, a row of it is a slice of it,
and its length and every row's place are known before the first pixel is encoded. Each sample has a checksum.

Legend: N samples of a shard, T objects and U views of all of them together, C variants of the objects' pictures,
latents [L, n, n], M tokens of width W a picture. A sample's rows stand together, in order: its first variant's K
objects, then those of the next variant.

    checks [N, C] int64           CRC-32 of what is read for a sample and a variant; -1 where it could not be encoded
    origins [N] int64             CRC-32 of the sample's key and of its members' names and lengths
    num_objects [N], num_views [T] int64
    object_boxes [C * T, 4], cameras [C * U, 3] float32                              see `inputs.Inputs`
    latents [N, L, n, n] float16                                                     where there is an autoencoder
    features [C * T, M, W], view_features [C * U, M, W], nothing [M, W] float16      where there is a frozen trunk
"""

import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pics_common.errors import UserError
from pics_model.shard_table import Stored

FORMAT = "pics-encoded-1"
DTYPES: dict[str, np.dtype[Any]] = {"I64": np.dtype("<i8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
# In this order in the file: the widest first, so that each is aligned.
TENSORS = {
    "checks": "I64",
    "origins": "I64",
    "num_objects": "I64",
    "num_views": "I64",
    "object_boxes": "F32",
    "cameras": "F32",
    "latents": "F16",
    "features": "F16",
    "view_features": "F16",
    "nothing": "F16",
}
ALWAYS = ("checks", "origins", "num_objects", "num_views")
MAX_HEADER = 100_000_000  # bytes; safetensors' own limit
ABSENT = -1  # in the place of a checksum
MEND = "delete it, and run `pics-data encode` again"

Array = NDArray[Any]


@dataclass(slots=True)
class Encoded:
    """One variant of one sample: `latent` [L, n, n] and `features` [K, M, W] float16, each None where a model has no
    frozen part that makes it; with features, `object_boxes` [K, 4] float32, and of each object's V_k views `views[k]`
    [V_k, M, W] float16 and `cameras[k]` [V_k, 3] float32."""

    latent: Array | None = None
    features: Array | None = None
    object_boxes: Array | None = None
    views: list[Array] = field(default_factory=list)
    cameras: list[Array] = field(default_factory=list)

    def crc(self) -> int:
        """CRC-32 of all of it, as it stands in the file."""
        return _crc(self.latent, self.features, self.object_boxes, *self.views, *self.cameras)


def _crc(*arrays: Array | None) -> int:
    crc = 0
    for values in arrays:
        if values is not None:
            crc = zlib.crc32(np.ascontiguousarray(values).data, crc)
    return crc


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each tensor of a file lies: name -> (type, shape, first byte). `num_bytes` is the file's length, `about`
    what its header says in words."""

    tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...], int]]
    num_bytes: int
    about: Mapping[str, str]

    def span(self, name: str, start: int, stop: int) -> tuple[int, int, tuple[int, ...]]:
        """First byte, bytes and shape of rows `start` to `stop` of a tensor."""
        dtype, shape, begin = self.tensors[name]
        row = dtype.itemsize * math.prod(shape[1:])
        return begin + start * row, (stop - start) * row, (stop - start, *shape[1:])


def lay_out(shapes: Mapping[str, tuple[int, ...]], about: Mapping[str, str]) -> tuple[bytes, Layout]:
    """The header of a file with tensors of these shapes, and where they then lie."""
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, **about}}
    at = 0
    for name, kind in TENSORS.items():
        if name in shapes:
            end = at + DTYPES[kind].itemsize * math.prod(shapes[name])
            header[name] = {"dtype": kind, "shape": list(shapes[name]), "data_offsets": [at, end]}
            at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = len(text).to_bytes(8, "little") + text
    return data, _layout_of(header, len(data))


def _layout_of(header: Mapping[str, Any], begin: int) -> Layout:
    """Raises `KeyError`, `TypeError` or `ValueError` for a header that is none of ours."""
    tensors, at = {}, 0
    for name in TENSORS:
        if name not in header:
            continue
        dtype, shape = DTYPES[header[name]["dtype"]], tuple(map(int, header[name]["shape"]))
        start, end = header[name]["data_offsets"]
        if header[name]["dtype"] != TENSORS[name] or start != at or end - at != dtype.itemsize * math.prod(shape):
            raise ValueError(f"`{name}` lies where it should not")
        tensors[name] = (dtype, shape, begin + at)
        at = end
    about = header["__metadata__"]
    ours = about["format"] == FORMAT and len(tensors) == len(header) - 1 and all(name in tensors for name in ALWAYS)
    if not ours or len(tensors["checks"][1]) != 2:
        raise ValueError(f"not of format {FORMAT}")
    return Layout(tensors, begin + at, about)


def read_layout(path: Path) -> Layout:
    """The layout of a file that is all there. Raises `UserError` that names it, if it is no such file or is cut off."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER:
                raise ValueError("no header")
            layout = _layout_of(json.loads(file.read(length)), 8 + length)
            found = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise UserError(f"encodings {path}: missing; run `pics-data encode` again") from None
    except OSError as error:
        raise UserError(f"encodings {path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"encodings {path}: damaged, or of another version ({error}); {MEND}") from None
    if found != layout.num_bytes:
        raise UserError(f"encodings {path}: {found} bytes, expected {layout.num_bytes}; {MEND}")
    return layout


class EncodedFile:
    """A file of encodings, opened: which rows belong to which sample, and `nothing` [M, W], the features of the picture
    of no object, None where there is no trunk. It is opened anew for each read, so that there is no limit to how many
    a run reads.

    Raises `UserError` as `read_layout` does.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.layout = path, read_layout(path)
        self._origins, num_objects, num_views = (self._all(name) for name in ("origins", "num_objects", "num_views"))
        self.nothing = self._all("nothing") if "nothing" in self.layout.tensors else None
        if str(_crc(self._origins, num_objects, num_views, self.nothing)) != self.layout.about.get("crc"):
            raise UserError(f"encodings {path}: damaged; {MEND}")
        self.num_variants = self.layout.tensors["checks"][1][1]
        self.rows = Rows(num_objects, num_views, self.num_variants)

    def __len__(self) -> int:
        return len(self.rows.first_object) - 1

    def present(self) -> list[bool]:
        """Whether each sample was encoded."""
        found: list[bool] = (self._all("checks") != ABSENT).all(1).tolist()
        return found

    def is_of(self, place: int, stored: Stored) -> bool:
        """Whether the sample at `place` was, when it was encoded, what is `stored` now, by names and lengths."""
        return place < len(self) and int(self._origins[place]) == origin_of(stored)

    def read(self, place: int, variant: int, stored: Stored) -> Encoded:
        """One variant of the sample at `place`, which is `stored` in its shard.

        Raises `UserError` where that is not the sample that was encoded, where none was as it could not be read, and
        where its bytes are not those that were written.
        """
        where = f"encodings {self.path}, key {stored.key}"
        if not self.is_of(place, stored):
            raise UserError(f"{where}: made of another sample than the shard has there now; {MEND}")
        with self._opened() as file:
            check = int(self._rows(file, "checks", place, place + 1)[0, variant])
            if check == ABSENT:
                raise UserError(f"{where}: not encoded, as the sample could not be read; `pics-data verify` tells more")
            found = self._read(file, place, variant)
        if found.crc() != check:
            raise UserError(f"{where}: damaged; {MEND}")
        return found

    def _read(self, file: BinaryIO, place: int, variant: int) -> Encoded:
        found = Encoded()
        if "latents" in self.layout.tensors:
            found.latent = self._rows(file, "latents", place, place + 1)[0]
        if "features" in self.layout.tensors:
            objects, views, counts = self.rows.of(place, variant)
            found.features = self._rows(file, "features", *objects)
            found.object_boxes = self._rows(file, "object_boxes", *objects)
            ends = np.cumsum(counts)[:-1]
            found.views = np.split(self._rows(file, "view_features", *views), ends)
            found.cameras = np.split(self._rows(file, "cameras", *views), ends)
        return found

    def _all(self, name: str) -> Array:
        with self._opened() as file:
            return self._rows(file, name, 0, self.layout.tensors[name][1][0])

    def _opened(self) -> BinaryIO:
        try:
            return self.path.open("rb", buffering=0)
        except OSError as error:
            raise UserError(f"encodings {self.path}: cannot be read ({error.strerror})") from None

    def _rows(self, file: BinaryIO, name: str, start: int, stop: int) -> Array:
        begin, num_bytes, shape = self.layout.span(name, start, stop)
        rows = np.empty(shape, self.layout.tensors[name][0])
        if os.preadv(file.fileno(), [rows.reshape(-1).view(np.uint8).data], begin) != num_bytes:
            raise UserError(f"encodings {self.path}: the file has shrunk since the start; {MEND}")
        return rows


class Rows:
    """Which rows of the stacked tensors are whose: num_objects [N], num_views [T], C variants."""

    def __init__(self, num_objects: Array, num_views: Array, num_variants: int) -> None:
        self.num_variants, self.num_views = num_variants, num_views
        self.first_object = np.concatenate([[0], np.cumsum(num_objects)])
        self.first_view = np.concatenate([[0], np.cumsum(num_views)])

    def of(self, place: int, variant: int) -> tuple[tuple[int, int], tuple[int, int], Array]:
        """(start, stop) of the objects' rows, of their views' rows, and how many views each object has."""
        first, last = (int(self.first_object[place + step]) for step in (0, 1))
        objects = self._span(first, last, variant)
        views = self._span(int(self.first_view[first]), int(self.first_view[last]), variant)
        return objects, views, self.num_views[first:last]

    def _span(self, first: int, last: int, variant: int) -> tuple[int, int]:
        start = first * self.num_variants + (last - first) * variant
        return start, start + last - first


def origin_of(stored: Stored) -> int:
    """By what a sample of a shard is known again: CRC-32 of its key and of its members' names and lengths."""
    members = " ".join(f"{kind}={length}" for kind, (_, length) in stored.members.items())
    return zlib.crc32(f"{stored.key} {members}".encode())


class EncodedWriter:
    """Writes a file of encodings, sample by sample and in any order, into `file`, new and empty.

    `num_views` has a number for each object of all `samples`. `latent_shape` is (L, n, n), `nothing` [M, W] are the
    features of the picture of no object, each None where a model has none such. `about` goes into the header.
    """

    def __init__(
        self,
        file: BinaryIO,
        samples: Sequence[Stored],
        num_views: Sequence[int],
        num_variants: int,
        latent_shape: tuple[int, ...] | None,
        nothing: Array | None,
        about: Mapping[str, str],
    ) -> None:
        self._file = file
        self._checks = np.full((len(samples), num_variants), ABSENT, DTYPES["I64"])
        known = {
            "origins": np.array([origin_of(stored) for stored in samples], DTYPES["I64"]),
            "num_objects": np.array([stored.num_objects for stored in samples], DTYPES["I64"]),
            "num_views": np.array(num_views, DTYPES["I64"]),
        }
        self._rows = Rows(known["num_objects"], known["num_views"], num_variants)
        shapes: dict[str, tuple[int, ...]] = {"checks": self._checks.shape}
        shapes |= {name: values.shape for name, values in known.items()}
        if latent_shape is not None:
            shapes["latents"] = (len(samples), *latent_shape)
        if nothing is not None:
            objects, views = num_variants * len(num_views), num_variants * sum(num_views)
            shapes |= {"object_boxes": (objects, 4), "cameras": (views, 3), "nothing": nothing.shape}
            shapes |= {"features": (objects, *nothing.shape), "view_features": (views, *nothing.shape)}
        header, self.layout = lay_out(shapes, {**about, "crc": str(_crc(*known.values(), nothing))})
        file.write(header)
        file.truncate(self.layout.num_bytes)  # so that what could not be encoded has its place, too
        for name, values in {**known, "nothing": nothing}.items():
            if values is not None:
                self._put(name, 0, values)

    def write(self, place: int, variant: int, encoded: Encoded) -> None:
        """One variant of the sample at `place`."""
        if encoded.latent is not None and variant == 0:
            self._put("latents", place, encoded.latent[None])
        if encoded.features is not None and encoded.object_boxes is not None:
            (objects, _), (views, _), counts = self._rows.of(place, variant)
            assert [len(some) for some in encoded.views] == counts.tolist(), "as many views as the shard's names tell"
            self._put("features", objects, encoded.features)
            self._put("object_boxes", objects, encoded.object_boxes)
            for name, parts in (("view_features", encoded.views), ("cameras", encoded.cameras)):
                for first, values in zip(np.cumsum(counts) - counts, parts, strict=True):
                    self._put(name, views + int(first), values)
        self._checks[place, variant] = encoded.crc()

    def finish(self) -> None:
        """Writes the checksums, the last of the file; what was not written has none, and counts as not encoded."""
        self._put("checks", 0, self._checks)

    def _put(self, name: str, row: int, values: Array) -> None:
        begin, _, shape = self.layout.span(name, row, row + len(values))
        data = np.ascontiguousarray(values, self.layout.tensors[name][0])
        assert data.shape == shape, (name, data.shape, shape)
        self._file.seek(begin)
        self._file.write(data.reshape(-1).view(np.uint8).data)
