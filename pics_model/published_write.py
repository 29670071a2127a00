"""Writes weights one after the other: safetensors in shards, as diffusers names them, and PyTorch's zip.

The libraries' own writers hold a whole shard, or a whole file, in memory; these hold one weight.
"""

import json
import pickle
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from pics_model.published_file import CHUNK_BYTES, STORAGES

SAFETENSORS_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
STEM = "diffusion_pytorch_model"
ALIGNMENT = 64
PRINT_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight to be written. `make` gives its values when their turn comes; `done` is called when they are written."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]
    done: Callable[[], None] = lambda: None

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


class Progress:
    """Prints how many bytes are done of how many, how fast, and how long it will take."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self.start = self.printed = time.monotonic()

    def __call__(self, num_bytes: int) -> None:
        self.done += num_bytes
        now = time.monotonic()
        if now - self.printed >= PRINT_EVERY_S or self.done == self.total:
            self.printed = now
            rate = self.done / max(now - self.start, 1e-3)
            left = (self.total - self.done) / rate if rate else 0.0
            of = f"{self.done / 1e9:.2f}/{self.total / 1e9:.2f} GB"
            print(f"{self.what} {of}  {rate / 1e6:.0f} MB/s  {left:.0f} s left", flush=True)


def write_part(folder: Path, weights: Mapping[str, Weight], shard_bytes: int, progress: Progress) -> None:
    """Writes a part's weights into `folder` in the files that diffusers' `from_pretrained` looks for."""
    shards = list(_shards(weights, shard_bytes))
    if len(shards) == 1:
        write_safetensors(folder / f"{STEM}.safetensors", weights, progress)
        return
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"{STEM}-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / file, {name: weights[name] for name in names}, progress)
        places |= dict.fromkeys(names, file)
    total = sum(weight.num_bytes for weight in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / f"{STEM}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _shards(weights: Mapping[str, Weight], shard_bytes: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, weight in weights.items():
        if names and size + weight.num_bytes > shard_bytes:
            yield names
            names, size = [], 0
        names.append(name)
        size += weight.num_bytes
    yield names


def write_safetensors(
    path: Path, weights: Mapping[str, Weight], progress: Progress, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file: the header's length (8 bytes), the header (JSON), the values in order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    # The format's readers refuse values that do not lie at multiples of their size: wide types come first.
    order = sorted(weights, key=lambda name: -weights[name].dtype.itemsize)
    end = 0
    for name in order:
        weight = weights[name]
        start, end = end, end + weight.num_bytes
        kind = SAFETENSORS_TYPES[weight.dtype]
        header[name] = {"dtype": kind, "shape": list(weight.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            _write_values(file, weights[name], progress)


def write_torch(path: Path, weights: Mapping[str, Weight], progress: Progress) -> None:
    """Writes `{"state_dict": weights}` as `torch.save` does; `torch.load(weights_only=True)` reads it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open(_entry("archive/data.pkl", 0, archive), "w") as file:
            state = OrderedDict((name, _Rebuilt(str(i), weight)) for i, (name, weight) in enumerate(weights.items()))
            _Pickler(file, protocol=2).dump({"state_dict": state})
        for name, text in (("byteorder", "little"), ("version", "3\n")):
            archive.writestr(_entry(f"archive/{name}", 0, archive), text)
        for i, weight in enumerate(weights.values()):
            with archive.open(_entry(f"archive/data/{i}", weight.num_bytes, archive), "w") as file:
                _write_values(file, weight, progress)


def _write_values(file: IO[bytes], weight: Weight, progress: Progress) -> None:
    values = weight.make()
    assert values.dtype == weight.dtype
    assert tuple(values.shape) == weight.shape
    if values.numel():
        data = values.detach().cpu().reshape(-1).view(torch.uint8).numpy()
        for start in range(0, len(data), CHUNK_BYTES):
            file.write(data[start : start + CHUNK_BYTES].data)
            progress(min(CHUNK_BYTES, len(data) - start))
    weight.done()


def _entry(name: str, size: int, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """A record whose values lie at a multiple of `ALIGNMENT`, by an extra field of zeros, so that they can be mapped;
    of a fixed date, so that the same weights give the same file."""
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.file_size = size
    assert archive.fp is not None
    start = archive.fp.tell() + 30 + len(name) + (20 if size * 1.05 > zipfile.ZIP64_LIMIT else 0)
    room = -(start + 4) % ALIGNMENT
    info.extra = b"FB" + room.to_bytes(2, "little") + b"\0" * room
    return info


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True, slots=True)
class _Rebuilt:
    """A tensor in the pickle: its storage's key and its sizes."""

    key: str
    weight: Weight

    def __reduce__(self) -> tuple[Any, ...]:
        shape = self.weight.shape
        strides = [1]
        for size in reversed(shape[1:]):
            strides.insert(0, strides[0] * size)
        storage = _Storage(self.key, self.weight.dtype, torch.Size(shape).numel())
        stride = tuple(strides) if shape else ()
        return torch._utils._rebuild_tensor_v2, (storage, 0, shape, stride, False, OrderedDict())


class _Pickler(pickle.Pickler):
    """Writes storages as references to records, as `torch.save` does."""

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, _Storage):
            return None
        kinds = {dtype: name for name, dtype in STORAGES.items()}
        return "storage", getattr(torch, kinds[obj.dtype]), obj.key, "cpu", obj.count


def total_bytes(*groups: Iterable[Weight]) -> int:
    """Bytes of all these weights."""
    return sum(weight.num_bytes for group in groups for weight in group)
