"""Shards -> examples: which tars, where in them each sample lies, and what it holds (see shards/README.md).

Tar headers are read once; a sample is then read by offset, in any order. Published shards read the same way: they
lack index, alpha and `meta.json`. Nothing is unpickled, and no member is written anywhere.
"""

import json
import math
import os
from array import array
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pics_common.errors import UserError
from pics_model.examples import Example, View, camera_of
from pics_model.framing import tight_box
from pics_model.pictures import read_mask, read_object, read_photo
from pics_model.tar_index import tar_members

Split = Literal["train", "val", "all"]
Cutouts = Literal["visible", "full", "mix"]
# An object's number and the angles of its turned pictures -> which of these is taken, or None.
PickTurned: TypeAlias = Callable[[int, list[float]], int | None]


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar, and what its index says: how many samples it holds (None without an index), and how often training sees
    them relative to those of other shards."""

    path: Path
    num_samples: int | None = None
    weight: float = 1.0


@dataclass(slots=True)
class ShardTable:
    """Every sample of some shards: whose shard, its key, its members. Compact, as there may be millions.

    Members of sample i are entries `first[i]` to `first[i + 1]` of `kind`, `offset` and `length`; `kinds` are the
    names behind the key, `bg.jpg` and so on.
    """

    shards: list[Shard]
    keys: list[str] = field(default_factory=list)
    shard: "array[int]" = field(default_factory=lambda: array("l"))
    first: "array[int]" = field(default_factory=lambda: array("q", [0]))
    kind: "array[int]" = field(default_factory=lambda: array("H"))
    offset: "array[int]" = field(default_factory=lambda: array("q"))
    length: "array[int]" = field(default_factory=lambda: array("q"))
    kinds: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)

    def where(self, index: int) -> str:
        """Shard and key of a sample, for messages."""
        return f"shard {self.shards[self.shard[index]].path}, key {self.keys[index]}"

    def members(self, index: int) -> dict[str, tuple[int, int]]:
        """Kind -> (offset, length) of a sample's members."""
        entries = range(self.first[index], self.first[index + 1])
        return {self.kinds[self.kind[i]]: (self.offset[i], self.length[i]) for i in entries}

    def num_objects(self, index: int) -> int:
        """How many of obj0.png, obj1.png, ... a sample has, without a gap."""
        kinds = self.members(index)
        return next(k for k in count() if f"obj{k}.png" not in kinds)

    def read(self, index: int, kinds: list[str]) -> dict[str, bytes]:
        """The bytes of those members of a sample that it has."""
        members = self.members(index)
        path = self.shards[self.shard[index]].path
        out: dict[str, bytes] = {}
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"{self.where(index)}: cannot be read ({error.strerror})") from None
        try:
            for kind in kinds:
                if kind in members:
                    offset, length = members[kind]
                    out[kind] = os.pread(handle, length, offset)
                    if len(out[kind]) != length:
                        raise UserError(f"{self.where(index)}: the file has shrunk since the start")
        finally:
            os.close(handle)
        return out


def open_shards(path: Path, split: Split = "all") -> ShardTable:
    """Lists the samples of a folder of shards, or of one tar (whose split does not matter).

    Raises `UserError` if there are none, one is missing, cut off or of another length than the index says, or a
    member has a name that no shard may hold.
    """
    table = ShardTable(find_shards(path, split))
    for number in range(len(table.shards)):
        _scan(table, number)
    if not table.keys:
        raise UserError(f"shards {path}: no sample in {len(table.shards)} tar files")
    return table


def find_shards(path: Path, split: Split = "all") -> list[Shard]:
    """The tars of `path` in order: those that `index.json` names, or every `.tar` of a folder without one."""
    if path.is_file():
        return [Shard(path)]
    if not path.is_dir():
        raise UserError(f"shards {path}: does not exist; expected a folder of shards, or a tar")
    index = path / "index.json"
    found = _from_index(index) if index.is_file() else [(Shard(tar), "") for tar in sorted(path.glob("*.tar"))]
    if not found:
        raise UserError(f"shards {path}: no tar files; build some with `pics-data build`")
    # Without a word from the index the name tells: published shards are all for training.
    named = [(shard, said or ("val" if shard.path.name.startswith("val") else "train")) for shard, said in found]
    chosen = [shard for shard, its_split in named if split in ("all", its_split)]
    if not chosen:
        raise UserError(f"shards {path}: {len(found)} tar files, none of split {split}")
    return chosen


def _from_index(index: Path) -> list[tuple[Shard, str]]:
    try:
        content = json.loads(index.read_text())
        entries = [
            (str(e["url"]), int(e["nsamples"]), str(e.get("split", "")), float(e.get("weight", 1)))
            for e in content["shardlist"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"index {index}: expected `shardlist` of `url` and `nsamples` ({error!r})") from None
    found = []
    for url, num_samples, split, weight in entries:
        if not 0 < weight < math.inf:
            raise UserError(f"index {index}: weight {weight} of {url}; expected a number above 0")
        if Path(url).name != url:
            raise UserError(f"index {index}: url {url!r}; expected the name of a tar beside the index")
        if not (index.parent / url).is_file():
            raise UserError(f"index {index}: names {url}, which is not there; build again, or fetch the missing tar")
        found.append((Shard(index.parent / url, num_samples, weight), split))
    return found


def _scan(table: ShardTable, number: int) -> None:
    """Reads the tar headers of one shard into the table."""
    shard = table.shards[number]
    start = len(table.keys)
    numbers = {kind: i for i, kind in enumerate(table.kinds)}
    key = ""
    for name, offset, length in tar_members(shard.path):
        its_key, _, kind = name.partition(".")
        if its_key != key:
            key = its_key
            table.keys.append(key)
            table.shard.append(number)
            table.first.append(table.first[-1])
        if kind not in numbers:
            numbers[kind] = len(table.kinds)
            table.kinds.append(kind)
        table.kind.append(numbers[kind])
        table.offset.append(offset)
        table.length.append(length)
        table.first[-1] += 1
    num_samples = len(table.keys) - start
    if shard.num_samples not in (None, num_samples):
        raise UserError(f"shard {shard.path}: {num_samples} samples, the index says {shard.num_samples}; build again")


def read_example(
    table: ShardTable, index: int, whole: bool = False, views: int = 0, pick: PickTurned | None = None
) -> Example:
    """Decodes one sample. `whole` asks for pictures of whole objects, where the shard knows them; `views` for so many
    other views of each object, where it has them: the first ones; `pick` says which of the turned pictures of an object
    is taken in place of its upright one. There are none of whole objects.

    Raises `UserError` that names shard, key and member for anything that is missing or wrong.
    """
    kinds, where = table.members(index), table.where(index)
    num_objects = table.num_objects(index)
    if not num_objects:
        raise UserError(f"{where}: no obj0.png; expected objects obj0.png, obj1.png, ...")
    names = ["bg.jpg", "meta.json"]
    pictures, whole_here = [], []
    for k in range(num_objects):
        whole_here.append(whole and f"full{k}.png" in kinds and f"amodal{k}.png" in kinds)
        pictures.append(f"full{k}.png" if whole_here[k] else f"obj{k}.png")
        names += [pictures[k], f"mask{k}.png"] + ([f"amodal{k}.png"] if whole_here[k] else [])
    seen = [_numbered(kinds, f"obj{k}_view", views) for k in range(num_objects)]
    turned = [_numbered(kinds, f"obj{k}_rot") if pick and not whole_here[k] else [] for k in range(num_objects)]
    data = table.read(index, names + [name for some in seen + turned for name in some])
    for name in names:
        if name not in data and name != "meta.json":
            raise UserError(f"{where}: no {name}; expected one for each of {num_objects} objects")
    photo = read_photo(data["bg.jpg"], f"{where}, bg.jpg")
    size = photo.shape[0], photo.shape[1]
    masks = [read_mask(data[f"mask{k}.png"], f"{where}, mask{k}.png", size) for k in range(num_objects)]
    meta = _meta(data.get("meta.json"), where)
    angles: list[float | None] = [None] * num_objects
    for k, some in enumerate(turned):
        its_angles = _rotations(meta, k, len(some), where) if some else []
        number = pick(k, its_angles) if pick and some else None
        if number is not None:
            pictures[k], angles[k] = some[number], its_angles[number]
    objects = [read_object(data[name], f"{where}, {name}", on_white=True) for name in pictures]
    example = Example(
        key=table.keys[index],
        photo=photo,
        objects=objects,
        masks=masks,
        squares=[
            _square(meta, k, "full_crop" if whole_here[k] else "crop", where)
            if angles[k] is None
            else _turned_square(objects[k], masks[k])
            for k in range(num_objects)
        ],
        angles=angles,
        texts=[_text(meta, k) for k in range(num_objects)],
        meta=meta,
    )
    if views:
        example.views = [
            [
                View(read_object(data[name], f"{where}, {name}", on_white=True), **_camera(meta, k, v, where))
                for v, name in enumerate(some)
            ]
            for k, some in enumerate(seen)
        ]
    if any(whole_here):
        example.whole_masks = [
            read_mask(data[f"amodal{k}.png"], f"{where}, amodal{k}.png", size) if whole_here[k] else masks[k]
            for k in range(num_objects)
        ]
    return example


def _meta(data: bytes | None, where: str) -> dict[str, Any]:
    if data is None:
        return {}
    try:
        meta = json.loads(data)
    except ValueError as error:
        raise UserError(f"{where}, meta.json: not JSON ({error})") from None
    if not isinstance(meta, dict):
        raise UserError(f"{where}, meta.json: expected an object, found {type(meta).__name__}")
    return meta


def _numbered(kinds: Container[str], start: str, most: int | None = None) -> list[str]:
    """The members `<start>1.png` and on, without a gap; at most so many."""
    names = (f"{start}{number}.png" for number in islice(count(1), most))
    return list(takewhile(lambda name: name in kinds, names))


def _rotations(meta: dict[str, Any], k: int, num: int, where: str) -> list[float]:
    """The angles of the `num` turned pictures of object k."""
    value = _object(meta, k).get("rotations")
    numbers = isinstance(value, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    if not isinstance(value, list) or not numbers or len(value) != num or not all(abs(v) <= 360 for v in value):
        raise UserError(
            f"{where}, meta.json: objects[{k}].rotations is {value!r}; expected the degrees of {num} turned pictures, "
            f"obj{k}_rot1.png and on"
        )
    return [float(v) for v in value]


def _turned_square(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> tuple[float, float, float]:
    """The square of the photo that a turned picture covers: about the middle of the mask's box, and so large that the
    object has the mask's area, as turning it leaves it that."""
    x0, y0, x1, y1 = tight_box(mask)
    share = float(picture[..., 3].sum(dtype=np.int64)) / 255 / picture.shape[1] ** 2
    side = math.sqrt(np.count_nonzero(mask) / share)
    return (x0 + x1 - side) / 2, (y0 + y1 - side) / 2, side


def _object(meta: dict[str, Any], k: int) -> dict[str, Any]:
    """What `meta` says of object k; nothing, if so."""
    objects = meta.get("objects")
    entry = objects[k] if isinstance(objects, list) and k < len(objects) else {}
    return entry if isinstance(entry, dict) else {}


def _text(meta: dict[str, Any], k: int) -> str:
    """The category of object k in plain words; "" where nobody says."""
    category = _object(meta, k).get("category")
    return category.replace("_", " ") if isinstance(category, str) else ""


def _camera(meta: dict[str, Any], k: int, v: int, where: str) -> dict[str, float]:
    """What `meta` says of the camera of view v, counted from 0, of object k."""
    views = _object(meta, k).get("views")
    entry = views[v] if isinstance(views, list) and v < len(views) else {}
    return camera_of(entry, f"{where}, meta.json: objects[{k}].views[{v}]")


def _square(meta: dict[str, Any], k: int, name: str, where: str) -> tuple[float, float, float] | None:
    """The square of the photo that object k's picture shows, as `meta` has it; None where it says nothing."""
    value = _object(meta, k).get(name)
    if value is None:
        return None
    good = isinstance(value, list) and len(value) == 3 and all(isinstance(v, int | float) for v in value)
    if not good or not all(abs(v) < 1e9 for v in value) or value[2] <= 0:
        raise UserError(f"{where}, meta.json: objects[{k}].{name} is {value!r}; expected [x, y, side], side above 0")
    return float(value[0]), float(value[1]), float(value[2])
