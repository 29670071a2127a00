"""Samples of shards -> examples: what each member holds, decoded and checked (see shards/README.md).

Published shards read the same way: they lack alpha and `meta.json`. Nothing is unpickled, and no member is written
anywhere.
"""

import json
import math
from collections.abc import Callable, Container
from itertools import count, islice, takewhile
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pics_common.errors import UserError
from pics_model.examples import Example, View, camera_of
from pics_model.fast_pictures import decode_jpeg, jpeg_size
from pics_model.framing import Box, reduction, tight_box
from pics_model.inputs import FramingSettings, Lean, frame_of
from pics_model.pictures import read_mask, read_object, read_photo
from pics_model.shard_set import MissingSplitError as MissingSplitError
from pics_model.shard_set import Split as Split
from pics_model.shard_set import find_shards as find_shards
from pics_model.shard_table import ShardTable as ShardTable
from pics_model.shard_table import Stored
from pics_model.shard_table import open_shards as open_shards

Cutouts = Literal["visible", "full", "mix"]
# An object's number and the angles of its turned pictures -> which of these is taken, or None.
PickTurned: TypeAlias = Callable[[int, list[float]], int | None]
NO_PICTURE = np.full((1, 1, 4), 255, np.uint8)
BOXES_SINCE = 2  # version of meta.json from which on `box` is that of the silhouette as stored


def read_example(
    table: ShardTable, index: int, whole: bool = False, views: int = 0, pick: PickTurned | None = None
) -> Example:
    """Decodes one sample. `whole` asks for pictures of whole objects, where the shard knows them; `views` for so many
    other views of each object, where it has them: the first ones; `pick` says which of the turned pictures of an object
    is taken in place of its upright one. There are none of whole objects.

    Raises `UserError` that names shard, key and member for anything that is missing or wrong.
    """
    return decode(table.sample(index), whole, views, pick)[0]


def decode(
    stored: Stored,
    whole: bool = False,
    views: int = 0,
    pick: PickTurned | None = None,
    framing: FramingSettings | None = None,
    pictures_too: bool = True,
) -> tuple[Example, Lean]:
    """`read_example` of a sample at hand. With `framing` it goes without what training by these settings does not need:
    masks whose boxes are known, and pixels of a large photo that would be averaged anyway. Without `pictures_too` those
    of objects are not decoded: each is a white pixel, upright."""
    kinds, where, num_objects = stored.members, stored.where, stored.num_objects
    if not num_objects:
        raise UserError(f"{where}: no obj0.png; expected objects obj0.png, obj1.png, ...")
    names = ["bg.jpg"]
    pictures, whole_here = [], []
    for k in range(num_objects):
        whole_here.append(whole and f"full{k}.png" in kinds and f"amodal{k}.png" in kinds)
        pictures.append(f"full{k}.png" if whole_here[k] else f"obj{k}.png")
        names += [pictures[k], f"mask{k}.png"] + ([f"amodal{k}.png"] if whole_here[k] else [])
    for name in names:
        if name not in kinds:
            raise UserError(f"{where}: no {name}; expected one for each of {num_objects} objects")
    meta = _meta(stored.read("meta.json") if "meta.json" in kinds else None, where)
    photo, size, lean = _photo(stored, meta, whole_here, framing)
    masks: list[NDArray[np.bool_]] = []
    if lean.boxes is None:
        masks = [_mask(stored, f"mask{k}.png", size) for k in range(num_objects)]
    squares = [_square(meta, k, "full_crop" if whole_here[k] else "crop", where) for k in range(num_objects)]
    angles: list[float | None] = [None] * num_objects
    for k in range(num_objects):
        turned = _numbered(kinds, f"obj{k}_rot") if pick and pictures_too and not whole_here[k] else []
        its_angles = _rotations(meta, k, len(turned), where) if turned else []
        number = pick(k, its_angles) if pick and turned else None
        if number is not None:
            pictures[k], angles[k] = turned[number], its_angles[number]
    objects = [_object_picture(stored, name) if pictures_too else NO_PICTURE for name in pictures]
    for k, angle in enumerate(angles):
        if angle is not None:
            mask = masks[k] if masks else _mask(stored, f"mask{k}.png", size)
            squares[k] = _turned_square(objects[k], mask)
    example = Example(
        key=stored.key,
        photo=photo,
        objects=objects,
        masks=masks,
        squares=squares,
        angles=angles,
        texts=[_text(meta, k) for k in range(num_objects)],
        meta=meta,
    )
    if views and pictures_too:
        example.views = [
            [
                View(_object_picture(stored, name), **_camera(meta, k, v, where))
                for v, name in enumerate(_numbered(kinds, f"obj{k}_view", views))
            ]
            for k in range(num_objects)
        ]
    if any(whole_here) and masks:
        example.whole_masks = [
            _mask(stored, f"amodal{k}.png", size) if whole_here[k] else masks[k] for k in range(num_objects)
        ]
    return example, lean


def _photo(
    stored: Stored, meta: dict[str, Any], whole: list[bool], framing: FramingSettings | None
) -> tuple[NDArray[np.uint8], tuple[int, int], Lean]:
    """The photo, its true (height, width), and what was left out."""
    data = stored.read("bg.jpg")
    size = jpeg_size(data) if framing else None
    if framing and size:
        boxes = _boxes(meta, whole, size) if framing.region == "box" else None
        by = 1
        if framing.frame == "photo" or boxes is not None:
            by = reduction(frame_of(framing, boxes or [], *size), *size, framing.resolution)
        photo = decode_jpeg(data, by)
        if photo is not None:
            return photo, size, Lean(boxes, by)
    photo = read_photo(data, f"{stored.where}, bg.jpg")
    return photo, (photo.shape[0], photo.shape[1]), Lean()


def _mask(stored: Stored, name: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    return read_mask(stored.read(name), f"{stored.where}, {name}", size)


def _object_picture(stored: Stored, name: str) -> NDArray[np.uint8]:
    return read_object(stored.read(name), f"{stored.where}, {name}", on_white=True)


def _boxes(meta: dict[str, Any], whole: list[bool], size: tuple[int, int]) -> list[Box] | None:
    """The tight boxes of masks, or of whole ones, as `meta` has them; None unless all are there and can be."""
    version = meta.get("schema")
    if not isinstance(version, int) or version < BOXES_SINCE or meta.get("size") != list(size):
        return None
    boxes = []
    for k, is_whole in enumerate(whole):
        box = _object(meta, k).get("full_box" if is_whole else "box")
        if not isinstance(box, list) or len(box) != 4 or any(type(v) is not int for v in box):
            return None
        x, y, width, height = box
        if min(x, y) < 0 or min(width, height) < 1 or x + width > size[1] or y + height > size[0]:
            return None
        boxes.append((x, y, x + width, y + height))
    return boxes


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
