"""`pics-data verify`: reads shards back, every byte, and stops at the first damage with file, key and what is wrong.

Folders that `pics-data build` wrote are held to all of shards/README.md. Tars without an index (the published shards)
are held to what any reader needs: safe names, whole samples, members that decode, masks of the photo's size.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import orjson
from PIL import Image

from pics_common.errors import UserError
from pics_data.ledger import read_rows
from pics_data.photofile import BROKEN, MAX_PIXELS, what_is_wrong

KEY = re.compile(r"[A-Za-z0-9_-]+")
PLAIN_KEY = re.compile(r"[^./\\\x00-\x1f]+")  # published shards: any file stem will do
MEMBER = re.compile(r"bg\.jpg|meta\.json|front\.png|(obj|mask|full|amodal)\d+\.png|obj\d+_(view|rot)\d+\.png")
SCHEMA = Path(__file__).with_name("schema.json")
INDEX_KIND = "wids-shard-index-v1"


@dataclass(slots=True)
class Verified:
    """What was read and found whole."""

    shards: int = 0
    samples: int = 0
    num_bytes: int = 0
    with_meta: int = 0
    keys: set[str] = field(default_factory=set)


def verify(path: Path) -> str:
    """Verifies a folder of shards or one tar; returns a summary. Raises `UserError` for the first damage."""
    if path.is_file():
        return _summary(path, _verify_tars([path]), "a bare tar")
    if not path.is_dir():
        raise UserError(f"shards: {path} does not exist; expected a folder of shards or a tar")
    if (path / "index.json").is_file():
        return _summary(path, _verify_indexed(path), "with index")
    if (path / "recipe.json").is_file():
        raise UserError(f"{path}: index.json is missing, the build is not finished; run the same build command again")
    tars = sorted(path.glob("*.tar"))
    if not tars:
        raise UserError(f"{path}: holds no .tar and no index.json; expected shards")
    return _summary(path, _verify_tars(tars), "bare tars without an index")


def _summary(path: Path, seen: Verified, kind: str) -> str:
    return (
        f"{path}: whole. {seen.samples} samples in {seen.shards} shards ({kind}), {seen.num_bytes / 1e6:.1f} MB, "
        f"{seen.with_meta} samples with metadata"
    )


def _verify_tars(tars: list[Path]) -> Verified:
    seen = Verified()
    for tar in tars:
        samples = _verify_tar(tar, seen, own_format=False)
        if not samples:
            raise UserError(f"{tar}: holds no sample")
    return seen


def _verify_indexed(folder: Path) -> Verified:
    index = _read_index(folder / "index.json")
    listed = [entry["url"] for entry in index["shardlist"]]
    unlisted = sorted({tar.name for tar in folder.glob("*.tar")} - set(listed))
    if unlisted:
        raise UserError(f"{folder / unlisted[0]}: not in index.json; is it of another build?")
    if len(set(listed)) != len(listed):
        raise UserError(f"{folder / 'index.json'}: lists a shard twice")
    seen = Verified()
    for entry in index["shardlist"]:
        tar = folder / entry["url"]
        if not tar.is_file():
            raise UserError(f"{tar}: missing, though index.json lists it")
        size = tar.stat().st_size
        if size != entry["filesize"]:
            raise UserError(f"{tar}: {size} bytes; index.json says {entry['filesize']}")
        with tar.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != entry["sha256"]:
            raise UserError(
                f"{tar}: its bytes have changed: SHA-256 {digest[:12]}..., index.json says {entry['sha256'][:12]}...; "
                "delete it and run the same build command again"
            )
        samples = _verify_tar(tar, seen, own_format=True, split=entry["split"])
        if samples != entry["nsamples"]:
            raise UserError(f"{tar}: {samples} samples; index.json says {entry['nsamples']}")
    _verify_sum(folder, seen)
    return seen


def _verify_sum(folder: Path, seen: Verified) -> None:
    """What was planned must be what is here and what was dropped with a reason."""
    planned, dropped = folder / "plan.parquet", folder / "rejects.parquet"
    if not planned.is_file() or not dropped.is_file():
        return  # shards that were copied without their papers
    keys = {row["key"] for row in read_rows(planned, ["key"])}
    rejects = {row["key"] for row in read_rows(dropped, ["key"])} & keys
    lost = sorted(keys - rejects - seen.keys)
    if lost:
        raise UserError(f"{planned}: {lost[0]}: planned, but neither in a shard nor in rejects.parquet")
    added = sorted(seen.keys - keys)
    if added:
        raise UserError(f"{folder}: {added[0]}: in a shard, but not in plan.parquet")


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if (
        not isinstance(index, dict)
        or index.get("__kind__") != INDEX_KIND
        or not isinstance(index.get("shardlist"), list)
    ):
        raise UserError(f"{path}: no shard index; expected `__kind__` {INDEX_KIND} and a `shardlist`")
    for entry in index["shardlist"]:
        wanted = {"url": str, "nsamples": int, "filesize": int, "sha256": str, "split": str}
        for key, kind in wanted.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                raise UserError(f"{path}: an entry of `shardlist` lacks `{key}`")
        if Path(entry["url"]).name != entry["url"]:
            raise UserError(f"{path}: `{entry['url']}` is not the plain name of a tar beside the index")
    return index


def _verify_tar(tar: Path, seen: Verified, *, own_format: bool, split: str = "") -> int:
    """Verifies all samples of one tar, adds them to `seen` and returns their number."""
    count = 0
    for key, members in read_samples(tar):
        if own_format and not KEY.fullmatch(key):
            raise UserError(f"{tar}: {key}: keys hold letters, digits, `-` and `_` only")
        if key in seen.keys:
            raise UserError(f"{tar}: {key}: this key stands twice in the shards")
        seen.keys.add(key)
        try:
            _verify_sample(members, own_format=own_format, split=split)
        except DamageError as error:
            raise UserError(f"{tar}: {key}: {error}") from None
        seen.with_meta += "meta.json" in members
        count += 1
    seen.shards += 1
    seen.samples += count
    seen.num_bytes += tar.stat().st_size
    return count


class DamageError(Exception):
    """What is wrong with a sample."""


def read_samples(tar: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The samples of a tar: key and members by extension. Raises `UserError` for a broken tar or an unsafe name."""
    key, members = "", dict[str, bytes]()
    closed: set[str] = set()
    try:
        with tarfile.open(tar, "r:") as file:
            for info in file:
                name, _, extension = info.name.partition(".")
                if not info.isreg() or not PLAIN_KEY.fullmatch(name) or not extension or "/" in info.name:
                    raise UserError(
                        f"{tar}: {info.name}: not a plain file `<key>.<extension>`; nothing else may be in a shard"
                    )
                if name != key:
                    if members:
                        yield key, members
                        closed.add(key)
                    key, members = name, {}
                    if key in closed:
                        raise UserError(f"{tar}: {key}: its members do not stand together")
                if extension in members:
                    raise UserError(f"{tar}: {key}: {extension} stands twice")
                content = file.extractfile(info)
                assert content is not None
                members[extension] = content.read()
            end = file.offset
    except tarfile.TarError as error:
        raise UserError(f"{tar}: {key or 'at its start'}: broken tar ({error})") from None
    _check_end(tar, end)
    if members:
        yield key, members


def _check_end(tar: Path, end: int) -> None:
    """From byte `end` on, a whole tar is 1024 zeros or more. Python's reader takes any broken header for the end."""
    if tar.stat().st_size < end + 1024:
        raise UserError(f"{tar}: ends without the closing zeros of a tar; it was cut off")
    with tar.open("rb") as file:
        file.seek(end)
        while chunk := file.read(2**20):
            if chunk.strip(b"\0"):
                raise UserError(f"{tar}: neither a member nor the end of a tar at byte {end}; it is damaged")


def _verify_sample(members: dict[str, bytes], *, own_format: bool, split: str) -> None:
    """Raises `DamageError` for a sample that is not complete, does not decode or contradicts its metadata."""
    for name in members:
        if not MEMBER.fullmatch(name):
            raise DamageError(f"{name}: not a member of the format")
    if "bg.jpg" not in members:
        raise DamageError("bg.jpg: missing")
    num_objects = sum(bool(re.fullmatch(r"obj\d+\.png", name)) for name in members)
    needed = [f"{part}{i}.png" for i in range(max(1, num_objects)) for part in ("obj", "mask")]
    needed += ["meta.json"] if own_format else []
    for name in needed:
        if name not in members:
            raise DamageError(f"{name}: missing")
    for name in members:
        number = re.match(r"[a-z]+(\d+)", name)
        if number and int(number[1]) >= num_objects:
            raise DamageError(f"{name}: belongs to no object; the sample has {num_objects}")
    pictures = {name: decode(name, data) for name, data in members.items() if name != "meta.json"}
    size = pictures["bg.jpg"].shape[:2]
    for name, pixels in pictures.items():
        _verify_picture(name, pixels, size, own_format=own_format)
    if "meta.json" in members:
        _verify_meta(members["meta.json"], pictures, num_objects, split)


def decode(name: str, data: bytes) -> Any:
    """The pixels of a member: [H, W] bool for a 1-bit picture, [H, W] or [H, W, C] uint8. Raises `DamageError`."""
    try:
        image = Image.open(io.BytesIO(data))
        if image.format != ("JPEG" if name.endswith(".jpg") else "PNG"):
            raise DamageError(f"{name}: holds {image.format}")
        if image.width * image.height > MAX_PIXELS:
            raise DamageError(f"{name}: {image.width} x {image.height} pixels, limit {MAX_PIXELS}")
        image.load()
    except BROKEN as error:
        raise DamageError(f"{name}: does not decode ({what_is_wrong(error)})") from None
    return np.asarray(image)


def _verify_picture(name: str, pixels: Any, size: tuple[int, int], *, own_format: bool) -> None:
    kind = re.match(r"[a-z]+", name)
    assert kind is not None
    if kind[0] in ("mask", "amodal", "front"):
        if pixels.ndim != 2:
            raise DamageError(f"{name}: {pixels.shape[2]} channels; expected grey")
        if pixels.shape != size:
            raise DamageError(f"{name}: {pixels.shape[1]} x {pixels.shape[0]}; the photo is {size[1]} x {size[0]}")
        if own_format and kind[0] != "front" and pixels.dtype != np.bool_:
            raise DamageError(f"{name}: {pixels.dtype}; expected 1 bit a pixel")
        if kind[0] != "front" and not (pixels if pixels.dtype == np.bool_ else pixels > 127).any():
            raise DamageError(f"{name}: empty")
    elif kind[0] in ("obj", "full"):
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        if pixels.shape[0] != pixels.shape[1]:
            raise DamageError(f"{name}: {pixels.shape[1]} x {pixels.shape[0]}; expected a square")
        if channels != 4 and (own_format or channels != 3):
            raise DamageError(f"{name}: {channels} channels; expected {'RGBA' if own_format else 'RGB or RGBA'}")
        if own_format and (pixels[..., :3] < 255 - pixels[..., 3:]).any():
            raise DamageError(f"{name}: darker than its alpha over white allows")


@cache
def meta_validator() -> Any:
    """The validator of shards/schema.json."""
    return jsonschema.Draft202012Validator(orjson.loads(SCHEMA.read_bytes()))


def _verify_meta(data: bytes, pictures: dict[str, Any], num_objects: int, split: str) -> None:
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
    front = meta["relation"]["front"]
    if front is not None and not 0 <= front < num_objects:
        raise DamageError(f"meta.json: `front` is object {front}; the sample has {num_objects}")
    if split and meta["split"] != split:
        raise DamageError(f"meta.json: `split` {meta['split']} in a shard of {split}")
    for i, item in enumerate(meta["objects"]):
        mask = pictures[f"mask{i}.png"]
        area = np.count_nonzero(mask if mask.dtype == np.bool_ else mask > 127) / mask.size
        if abs(area - item["area"]) > 1e-5:
            raise DamageError(f"meta.json: `area` {item['area']} of object {i}; its mask covers {area:.6f}")
