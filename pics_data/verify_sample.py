"""One stored sample held to shards/README.md: complete, decodable, and in agreement with its own metadata."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import orjson
from numpy.typing import NDArray

from pics_data.members import as_mask, decode
from pics_data.photofile import MAX_PIXELS
from pics_data.tar_read import DamageError

KEY = re.compile(r"[A-Za-z0-9_-]+")
MEMBER = re.compile(r"bg\.jpg|meta\.json|(front|depth)\.png|(obj|mask|full|amodal)\d+\.png|obj\d+_(view|rot)\d+\.png")
SCHEMA = Path(__file__).with_name("schema.json")
AREA_TOLERANCE = 1e-5  # of the photo; metadata rounds to 1e-6


@dataclass(frozen=True, slots=True)
class Rules:
    """What samples are held to. `own` is the format that this toolkit writes; published shards are allowed more."""

    own: bool = True
    split: str = ""  # "": any
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True, slots=True)
class Opened:
    """A sample whose members were decoded and found in agreement; `meta` is {} where it has none."""

    key: str
    members: Mapping[str, bytes]
    pictures: Mapping[str, NDArray[Any]]
    meta: Mapping[str, Any]

    @property
    def num_objects(self) -> int:
        return sum(name.startswith("mask") for name in self.members)

    def mask(self, i: int) -> NDArray[np.bool_]:
        return as_mask(self.pictures[f"mask{i}.png"])


def open_sample(key: str, members: Mapping[str, bytes], rules: Rules) -> Opened:
    """Decodes a sample. Raises `DamageError` for one that is not complete, does not decode or contradicts itself."""
    if rules.own and not KEY.fullmatch(key):
        raise DamageError("keys hold letters, digits, `-` and `_` only")
    num_objects = _check_names(members, rules)
    pictures = {name: decode(name, data, rules.max_pixels) for name, data in members.items() if name != "meta.json"}
    size = pictures["bg.jpg"].shape[:2]
    for name, pixels in pictures.items():
        _check_picture(name, pixels, size, rules)
    meta = _checked_meta(members["meta.json"], pictures, num_objects, rules) if "meta.json" in members else {}
    return Opened(key, members, pictures, meta)


def _check_names(members: Mapping[str, bytes], rules: Rules) -> int:
    """Returns the number of objects."""
    for name in members:
        if not MEMBER.fullmatch(name):
            raise DamageError(f"{name}: not a member of the format")
    num_objects = sum(bool(re.fullmatch(r"obj\d+\.png", name)) for name in members)
    needed = ["bg.jpg", *(f"{part}{i}.png" for i in range(max(1, num_objects)) for part in ("obj", "mask"))]
    needed += ["meta.json"] if rules.own else []
    for name in needed:
        if name not in members:
            raise DamageError(f"{name}: missing")
    for name in members:
        number = re.match(r"[a-z]+(\d+)", name)
        if number and int(number[1]) >= num_objects:
            raise DamageError(f"{name}: belongs to no object; the sample has {num_objects}")
    return num_objects


def _check_picture(name: str, pixels: NDArray[Any], size: tuple[int, ...], rules: Rules) -> None:
    kind = re.match(r"[a-z]+", name)
    assert kind is not None
    if kind[0] in ("mask", "amodal", "front", "depth"):
        is_mask = kind[0] in ("mask", "amodal")
        _check_silhouette(name, pixels, size, one_bit=rules.own and is_mask, is_mask=is_mask)
    elif kind[0] in ("obj", "full"):
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        if pixels.shape[0] != pixels.shape[1]:
            raise DamageError(f"{name}: {pixels.shape[1]} x {pixels.shape[0]}; expected a square")
        if channels != 4 and (rules.own or channels != 3):
            raise DamageError(f"{name}: {channels} channels; expected {'RGBA' if rules.own else 'RGB or RGBA'}")
        if rules.own and (pixels[..., :3] < 255 - pixels[..., 3:]).any():
            raise DamageError(f"{name}: darker than its alpha over white allows")


def _check_silhouette(name: str, pixels: NDArray[Any], size: tuple[int, ...], *, one_bit: bool, is_mask: bool) -> None:
    if pixels.ndim != 2:
        raise DamageError(f"{name}: {pixels.shape[2]} channels; expected grey")
    if pixels.shape != size:
        raise DamageError(f"{name}: {pixels.shape[1]} x {pixels.shape[0]}; the photo is {size[1]} x {size[0]}")
    if one_bit and pixels.dtype != np.bool_:
        raise DamageError(f"{name}: {pixels.dtype}; expected 1 bit a pixel")
    if is_mask and not as_mask(pixels).any():
        raise DamageError(f"{name}: empty")


@cache
def meta_validator() -> Any:
    """The validator of shards/schema.json."""
    return jsonschema.Draft202012Validator(orjson.loads(SCHEMA.read_bytes()))


def _checked_meta(data: bytes, pictures: Mapping[str, NDArray[Any]], num_objects: int, rules: Rules) -> dict[str, Any]:
    try:
        meta = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DamageError(f"meta.json: not JSON ({error})") from None
    problem = jsonschema.exceptions.best_match(meta_validator().iter_errors(meta))
    if problem is not None:
        raise DamageError(f"meta.json: {problem.json_path}: {problem.message}")
    if len(meta["objects"]) != num_objects:
        raise DamageError(f"meta.json: speaks of {len(meta['objects'])} objects; the sample has {num_objects}")
    if tuple(meta["size"]) != pictures["bg.jpg"].shape[:2]:
        raise DamageError(f"meta.json: `size` {meta['size']}; the photo has {list(pictures['bg.jpg'].shape[:2])}")
    if rules.split and meta["split"] != rules.split:
        raise DamageError(f"meta.json: `split` {meta['split']} in a shard of {rules.split}")
    _check_relations(meta, num_objects)
    for i, item in enumerate(meta["objects"]):
        mask = as_mask(pictures[f"mask{i}.png"])
        area = np.count_nonzero(mask) / mask.size
        if abs(area - item["area"]) > AREA_TOLERANCE:
            raise DamageError(f"meta.json: `area` {item['area']} of object {i}; its mask covers {area:.6f}")
    return meta


def _check_relations(meta: Mapping[str, Any], num_objects: int) -> None:
    pairs = [[i, j] for i in range(num_objects) for j in range(i + 1, num_objects)]
    found = [relation["objects"] for relation in meta["relations"]]
    if found != pairs:
        raise DamageError(f"meta.json: `relations` of {found}; expected {pairs}")
    if meta.get("relation") != (meta["relations"][0] if pairs else None):
        raise DamageError("meta.json: `relation` is not the first of `relations`")
    for relation in meta["relations"]:
        if relation["front"] is not None and relation["front"] not in relation["objects"]:
            raise DamageError(f"meta.json: `front` is object {relation['front']} of the pair {relation['objects']}")
