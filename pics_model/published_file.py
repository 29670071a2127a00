"""Reads a PyTorch checkpoint (`torch.save`'s zip) without running or importing anything that its pickle names.

The file is mapped into memory, not read: a weight costs memory from when it is used until it is let go. Weights are
views of a read-only mapping and must never be written to.
"""

import io
import math
import mmap
import pickle
import pickletools
import reprlib
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pics_common.errors import UserError, require_file

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # torch's own mark of its format before 1.6
MOST_PICKLE_BYTES = 512 * 2**20  # the pickle of the published file has some 10 MB: it holds names, not weights
CHUNK_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Record:
    """Where the bytes of a storage lie in the file, and their CRC-32."""

    offset: int
    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`weights` by name, views of the mapped file; `records` by name, where each one's storage lies; `skipped`: what
    the pickle named, `module.name`, and nobody imported."""

    path: Path
    weights: dict[str, Tensor]
    records: dict[str, Record]
    skipped: list[str]
    mapped: mmap.mmap

    def check_sums(self, names: Iterable[str], progress: Callable[[int], None]) -> None:
        """Reads the bytes of these weights once and compares their CRC-32 with the file's. `progress` is told each
        number of bytes. Raises `UserError` for the first that differs."""
        bytes_of = memoryview(self.mapped)
        for record, name in {self.records[name]: name for name in names}.items():
            found = 0
            for start in range(record.offset, record.offset + record.size, CHUNK_BYTES):
                chunk = bytes_of[start : min(start + CHUNK_BYTES, record.offset + record.size)]
                found = zlib.crc32(chunk, found)
                progress(len(chunk))
            if found != record.crc:
                raise UserError(f"{self.path}: weight {name} is damaged (its checksum differs); fetch the file again")
            self.let_go(name)

    def let_go(self, name: str) -> None:
        """Gives back the memory that a weight takes; it is read from the file again if it is used again."""
        record = self.records[name]
        start = record.offset - record.offset % mmap.PAGESIZE
        if record.size:
            self.mapped.madvise(mmap.MADV_DONTNEED, start, record.offset + record.size - start)


def read_checkpoint(path: Path) -> Checkpoint:
    """Maps the `state_dict` of a checkpoint; nothing else of it is looked at.

    Raises `UserError`, one line, for a file that is no such checkpoint, is cut short, is compressed or of another byte
    order, or whose weights do not lie where it says.
    """
    require_file(path, "checkpoint")
    archive = _open_zip(path)
    with archive, path.open("rb") as file:
        root = _root(path, archive)
        _require_little_endian(path, archive, root)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        entries = {info.filename: info for info in archive.infolist()}
        reader = _Unpickler(_pickle_bytes(path, archive, entries[f"{root}/data.pkl"]))
    state = _unpickled(path, reader)
    weights: dict[str, Tensor] = {}
    records: dict[str, Record] = {}
    found: dict[str, Record] = {}
    for name, what in state.items():
        if not isinstance(name, str) or not isinstance(what, _View):
            raise UserError(f"{path}: state_dict: {_short(name)} is no tensor; expected names and tensors")
        dtype, key, count = _storage(path, name, what.storage)
        if key not in found:
            found[key] = _record(path, name, mapped, entries.get(f"{root}/data/{key}"))
        record = found[key]
        _check_view(path, name, what, dtype, count, record)
        weights[name], records[name] = _mapped(mapped, record, dtype, count, what), record
    return Checkpoint(path, weights, records, sorted(set(reader.skipped)), mapped)


# The zip around it


def _open_zip(path: Path) -> zipfile.ZipFile:
    start = path.open("rb").read(len(LEGACY_START))
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
        if start.startswith(b"PK\x03\x04"):
            why = f"is cut short or damaged ({error}); fetch it again"
        elif start == LEGACY_START or start[:2] in (b"\x80\x02", b"\x80\x04"):
            why = "is in torch's format of before 2020, which is not read; load it with torch and save it once more"
        else:
            why = "is no PyTorch checkpoint (no zip file); expected what torch.save writes"
        raise UserError(f"checkpoint {path}: {why}") from None


def _root(path: Path, archive: zipfile.ZipFile) -> str:
    names = archive.namelist()
    roots = [name.removesuffix("/data.pkl") for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise UserError(f"checkpoint {path}: holds {len(roots)} data.pkl; expected one, as torch.save writes")
    if len(set(names)) != len(names):
        raise UserError(f"checkpoint {path}: two records have the same name; fetch it again")
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise UserError(
                f"checkpoint {path}: record {_short(info.filename)} is compressed or encrypted; expected stored "
                f"records, as torch.save writes: load it with torch and save it once more"
            )
    return roots[0]


def _require_little_endian(path: Path, archive: zipfile.ZipFile, root: str) -> None:
    name = f"{root}/byteorder"
    order = _read(path, archive, name) if name in archive.namelist() else b"little"
    if order != b"little":
        raise UserError(f"checkpoint {path}: byte order is {_short(order)}; expected little")


def _pickle_bytes(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.file_size > MOST_PICKLE_BYTES:
        raise UserError(f"checkpoint {path}: its data.pkl has {info.file_size} bytes; expected names, not weights")
    data = _read(path, archive, info.filename)
    try:
        # An index into the memo makes the unpickler reserve room for as many; none can be beyond the file's length.
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name.endswith("PUT") and isinstance(argument, int) and argument > len(data):
                raise ValueError("an index that cannot be")
    except (EOFError, ValueError, UnicodeError, OverflowError) as error:
        raise UserError(f"checkpoint {path}: its data.pkl is damaged ({_short(str(error))}); fetch it again") from None
    return data


def _read(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise UserError(
            f"checkpoint {path}: {_short(name)} is damaged ({_short(str(error))}); fetch it again"
        ) from None


def _record(path: Path, name: str, mapped: mmap.mmap, info: zipfile.ZipInfo | None) -> Record:
    if info is None:
        raise UserError(f"checkpoint {path}: weight {_short(name)}: its record is not in the file; fetch it again")
    header = mapped[info.header_offset : info.header_offset + 30]
    if len(header) == 30 and header.startswith(b"PK\x03\x04"):
        name_length, extra_length = struct.unpack("<HH", header[26:])
        offset = info.header_offset + 30 + name_length + extra_length
        if offset + info.file_size <= len(mapped):
            return Record(offset, info.file_size, info.CRC)
    raise UserError(f"checkpoint {path}: weight {_short(name)}: its record lies beyond the file; fetch it again")


# The pickle


@dataclass(frozen=True, slots=True)
class _View:
    """What the pickle says of a tensor; nothing of it is checked yet."""

    storage: Any
    offset: Any
    shape: Any
    stride: Any


class _Dict(dict[Any, Any]):
    """In the place of `OrderedDict`, whose pickle also sets attributes."""

    __slots__ = ()

    def __setstate__(self, _: Any) -> None: ...


class _Inert:
    """Stands for whatever else the pickle names: takes anything, keeps and does nothing."""

    __slots__ = ()

    def __new__(cls, *_: Any, **__: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __setstate__(self, _: Any) -> None: ...
    def __setitem__(self, _: Any, __: Any) -> None: ...
    def append(self, _: Any) -> None: ...
    def extend(self, _: Any) -> None: ...
    def add(self, _: Any) -> None: ...


class _RebuildTensor:
    """`torch._utils._rebuild_tensor_v2`, to be called in its place. No function: a pickle can set those's defaults."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _View:
        return _View(storage, offset, shape, stride)


class _RebuildParameter:
    """`torch._utils._rebuild_parameter`: a tensor that trains."""

    __slots__ = ()

    def __call__(self, data: Any, *_: Any) -> Any:
        return data


class _Unpickler(pickle.Unpickler):
    """Knows dictionaries, tensors and the kinds of storage by name. The rest is `_Inert`, and listed in `skipped`."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.skipped: list[str] = []

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "torch._utils._rebuild_tensor_v2": _RebuildTensor(),
            "torch._utils._rebuild_parameter": _RebuildParameter(),
            "collections.OrderedDict": _Dict,
        }
        wanted = f"{module}.{name}"
        if wanted in known:
            return known[wanted]
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        self.skipped.append(_short(wanted))
        return _Inert

    def persistent_load(self, pid: Any) -> Any:
        return pid


def _unpickled(path: Path, reader: _Unpickler) -> dict[Any, Any]:
    try:
        top = reader.load()
    except Exception as error:  # whatever bytes can make an unpickler say
        raise UserError(
            f"checkpoint {path}: its pickle cannot be read ({_short(str(error))}); fetch it again"
        ) from None
    state = top.get("state_dict") if isinstance(top, dict) else None
    if not isinstance(state, dict) or not state:
        found = ", ".join(map(_short, list(top)[:6])) if isinstance(top, dict) else "no dictionary"
        raise UserError(f"checkpoint {path}: no `state_dict` in it (found {found or 'nothing'}); expected one")
    return state


def _storage(path: Path, name: str, storage: Any) -> tuple[torch.dtype, str, int]:
    """Type, key and number of elements."""
    if isinstance(storage, tuple) and len(storage) == 5 and storage[0] == "storage":
        dtype, key, count = storage[1], storage[2], storage[4]
        if isinstance(dtype, torch.dtype) and isinstance(key, str) and _counts([count]):
            return dtype, key, count
    raise UserError(
        f"checkpoint {path}: weight {_short(name)}: its storage is of no known kind; expected {', '.join(STORAGES)}"
    )


def _check_view(path: Path, name: str, view: _View, dtype: torch.dtype, count: int, record: Record) -> None:
    where = f"checkpoint {path}: weight {_short(name)}:"
    if count * dtype.itemsize > record.size:
        raise UserError(f"{where} {count * dtype.itemsize} bytes, but its record has {record.size}; fetch it again")
    shape, stride = view.shape, view.stride
    if not (_counts(shape) and _counts(stride) and _counts([view.offset]) and len(shape) == len(stride)):
        raise UserError(f"{where} shape {_short(shape)}, strides {_short(stride)}; expected whole numbers")
    if not math.prod(shape):
        return
    if view.offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) >= count:
        raise UserError(f"{where} shape {_short(shape)} reaches beyond its storage of {count} elements")
    least = 1
    for step, size in sorted((step, size) for size, step in zip(shape, stride, strict=True) if size > 1):
        if step < least:
            raise UserError(f"{where} strides {_short(stride)} of shape {_short(shape)} overlap; expected each once")
        least = step * size


def _mapped(mapped: mmap.mmap, record: Record, dtype: torch.dtype, count: int, view: _View) -> Tensor:
    if not math.prod(view.shape):
        return torch.empty(view.shape, dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        flat = torch.frombuffer(mapped, dtype=dtype, count=count, offset=record.offset)
    return flat.as_strided(view.shape, view.stride, view.offset)


def _counts(values: Sequence[Any] | Any) -> bool:
    """Whether these are whole numbers that a size can be."""
    return isinstance(values, tuple | list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _short(what: Any) -> str:
    """A stranger's text in a message of ours: short, and with nothing that a terminal would obey."""
    text = what if isinstance(what, str) else reprlib.repr(what)
    return "".join(c if c.isprintable() else "?" for c in text)[:120]
