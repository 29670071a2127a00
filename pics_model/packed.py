"""A batch on its way from a loader process to the device of training: uint8, and a bit for what is true or false.

Of a sample at 512 px with two objects that is 1.3 MB in place of 2.9, and in floats 5. Loader processes write batches
into memory that they share with the training process, made once and used in turn: the system would have to clear new
memory for each, which can cost as much as decoding a photo. It does not count as /dev/shm, which containers keep small.

Legend: a *slot* is room for one batch; batch t of a loader is written to slot t modulo their number.
"""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pics_model.encoded import Encodings
from pics_model.inputs import Batch, FramingSettings, Inputs, collate, in_memory

BITS = ("regions", "silhouettes", "valid")  # of `Batch` and `Inputs`: packed along their rows of R pixels
ALIGNED = 64  # bytes: where arrays in a slot begin
MOST_OBJECTS = 4  # that a slot has room for in each picture; rarer batches go through a pipe, as slowly as that is


@dataclass(slots=True)
class Packed:
    """A batch whose `BITS` are uint8 [..., R / 8], rounded up. `borrowed` says that its memory will be used again."""

    batch: Batch
    borrowed: bool = False

    def unpack(self, device: torch.device | str) -> Batch:
        """The batch on a device, in memory of its own; there the bits are taken apart."""
        given: dict[str, Any] = {name.name: getattr(self.batch, name.name) for name in fields(Batch)}
        size = self.batch.target.shape[1]
        for name, values in given.items():
            if isinstance(values, Tensor):
                # Waits for the copy, so that what is borrowed can be given back.
                moved = values.to(device)
                if name in BITS:
                    given[name] = _bools(moved, size)
                else:
                    given[name] = moved.clone() if self.borrowed and moved is values else moved
        return Batch(**given)


def pack(inputs: Sequence[Inputs]) -> Packed:
    """Stacks inputs."""
    return Packed(collate([_bits(one) for one in inputs]))


@dataclass(slots=True)
class Parcel:
    """What a pipe carries of a batch that lies in a slot: `places` are name -> (dtype, shape, byte) of its arrays
    there, `rest` all else by name; arrays that found no room are among it."""

    slot: int
    places: dict[str, tuple[str, tuple[int, ...], int]] = field(default_factory=dict)
    rest: dict[str, Any] = field(default_factory=dict)


class Slots:
    """Shared memory for `num` batches of `num_bytes` each. Processes that are forked from this one have it too."""

    def __init__(self, num: int, num_bytes: int) -> None:
        self.num, self.num_bytes = num, -(-num_bytes // ALIGNED) * ALIGNED
        # Pages that are never written take no memory.
        self.memory = mmap.mmap(-1, max(num * self.num_bytes, 1))

    def send(self, inputs: Sequence[Inputs], slot: int) -> Parcel:
        """Stacks inputs into a slot; for a loader process."""
        end = (slot + 1) * self.num_bytes
        at = slot * self.num_bytes
        placed: dict[int, int] = {}

        def new(shape: Sequence[int], dtype: np.dtype[Any]) -> Tensor:
            nonlocal at
            size = int(np.prod(shape)) * dtype.itemsize
            if at + size > end or not size:
                return in_memory(shape, dtype)
            tensor = torch.from_numpy(np.frombuffer(self.memory, dtype, int(np.prod(shape)), at).reshape(tuple(shape)))
            placed[tensor.data_ptr()] = at
            at += -(-size // ALIGNED) * ALIGNED
            return tensor

        batch = collate([_bits(one) for one in inputs], new)
        parcel = Parcel(slot)
        for name in fields(Batch):
            value = getattr(batch, name.name)
            if not isinstance(value, Tensor):
                parcel.rest[name.name] = value
            elif value.data_ptr() in placed:
                array = value.numpy()
                parcel.places[name.name] = array.dtype.str, array.shape, placed[value.data_ptr()]
            else:
                parcel.rest[name.name] = value.numpy()
        return parcel

    def receive(self, parcel: Parcel) -> Packed:
        """The batch of a parcel, in the slot; for the training process."""
        values: dict[str, Any] = {
            name: np.frombuffer(self.memory, dtype, int(np.prod(shape)), at).reshape(shape)
            for name, (dtype, shape, at) in parcel.places.items()
        }
        values |= parcel.rest
        tensors: dict[str, Any] = {
            name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in values.items()
        }
        return Packed(Batch(**tensors), borrowed=True)


def slot_bytes(framing: FramingSettings, num_samples: int, encodings: Encodings | None = None) -> int:
    """Room for a batch of `num_samples`, of up to `MOST_OBJECTS` objects each, and with their encodings, if any."""
    size, picture = framing.resolution, 4 * framing.object_resolution**2
    bits = size * -(-size // 8)
    sample = 3 * size**2 + bits + MOST_OBJECTS * (2 * bits + picture * (1 + framing.views) + 1024)
    if encodings is not None:
        sample += encodings.num_bytes(MOST_OBJECTS, framing.views)
    return num_samples * sample + 64 * ALIGNED


def _bits(inputs: Inputs) -> Inputs:
    """`BITS` as uint8 [..., R / 8], rounded up."""
    given = {name: getattr(inputs, name) for name in BITS}
    packed: dict[str, Any] = {name: np.packbits(v, axis=-1) for name, v in given.items() if v is not None}
    return replace(inputs, **packed)


def _bools(bits: Tensor, size: int) -> Tensor:
    """uint8 [..., R / 8] -> bool [..., R]: the highest bit is the first pixel."""
    if bits.device.type != "cpu":
        return bools_by_torch(bits, size)
    unpacked: NDArray[np.uint8] = np.unpackbits(bits.numpy(), axis=-1, count=size)
    return torch.from_numpy(unpacked.view(bool))


def bools_by_torch(bits: Tensor, size: int) -> Tensor:
    """The same on any device."""
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    return ((bits[..., None] >> places) & 1).flatten(-2)[..., :size].bool()
