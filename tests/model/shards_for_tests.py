"""Small shards for tests, written by hand with tarfile: our format, and the published one."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def encode(pixels: NDArray[Any], kind: str, **options: Any) -> bytes:
    """An array as PNG or JPEG bytes; bool becomes 1-bit."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def make_scene(
    seed: int, size: tuple[int, int] = (96, 128), num_objects: int = 2
) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]], list[NDArray[np.uint8]]]:
    """A photo [H, W, 3] of plain ellipses on a slope of colour, their silhouettes, their colours."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width]
    photo = np.stack([x * 127 // width, y * 127 // height, (x + y) * 63 // (width + height)], -1).astype(np.uint8)
    masks, colours = [], []
    for k in range(num_objects):
        cx, cy = width * (0.35 + 0.25 * k) + rng.integers(-5, 6), height * 0.5 + rng.integers(-5, 6)
        rx, ry = rng.uniform(0.12, 0.2) * width, rng.uniform(0.12, 0.3) * height
        mask = ((x + 0.5 - cx) / rx) ** 2 + ((y + 0.5 - cy) / ry) ** 2 <= 1
        colour = rng.integers(30, 220, 3).astype(np.uint8)
        photo[mask] = colour
        masks = [before & ~mask for before in masks]
        masks.append(mask)
        colours.append(colour)
    return photo, masks, colours


def cut_out(
    photo: NDArray[np.uint8], mask: NDArray[np.bool_], factor: float = 1.25, size: int = 64
) -> tuple[NDArray[np.uint8], list[float]]:
    """RGBA cut-out on white [size, size, 4] by nearest neighbour, and the square (x, y, side) that it shows."""
    ys, xs = np.nonzero(mask)
    side = factor * (max(np.ptp(xs), np.ptp(ys)) + 1)
    left, top = (xs.min() + xs.max() + 1 - side) / 2, (ys.min() + ys.max() + 1 - side) / 2
    line = (np.arange(size) + 0.5) * side / size
    rows, columns = np.floor(top + line).astype(int), np.floor(left + line).astype(int)
    inside = ((rows >= 0) & (rows < mask.shape[0]))[:, None] & ((columns >= 0) & (columns < mask.shape[1]))
    rows, columns = rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1)
    alpha = mask[rows][:, columns] & inside
    rgb = np.where(alpha[..., None], photo[rows][:, columns], 255)
    return np.dstack([rgb, alpha * 255]).astype(np.uint8), [float(left), float(top), float(side)]


def make_members(seed: int, published: bool = False, whole: bool = False, **scene: Any) -> dict[str, bytes]:
    """The members of one sample: kind -> bytes. `whole` adds `full` and `amodal` pictures."""
    photo, masks, _ = make_scene(seed, **scene)
    members = {"bg.jpg": encode(photo, "JPEG", quality=95)}
    objects = []
    for k, mask in enumerate(masks):
        picture, square = cut_out(photo, mask)
        members[f"obj{k}.png"] = encode(picture[..., :3] if published else picture, "PNG")
        members[f"mask{k}.png"] = encode(mask.astype(np.uint8) * 255 if published else mask, "PNG")
        objects.append({"crop": square, "full_crop": square})
        if whole:
            members[f"full{k}.png"] = encode(picture, "PNG")
            grown = mask | np.roll(mask, 3, axis=1)
            members[f"amodal{k}.png"] = encode(grown, "PNG")
    if not published:
        members["meta.json"] = json.dumps({"schema": 1, "objects": objects, "seed": seed}).encode()
    return members


def write_tar(path: Path, samples: Iterable[tuple[str, dict[str, bytes]]]) -> Path:
    """A tar of (key, members) in the given order."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples:
            for kind, data in members.items():
                info = tarfile.TarInfo(f"{key}.{kind}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def write_index(folder: Path, counts: dict[str, int]) -> None:
    """`index.json` for tars of `folder`: name -> number of samples."""
    entries = []
    for name, num_samples in counts.items():
        data = (folder / name).read_bytes()
        split = "val" if name.startswith("val") else "train"
        digest = hashlib.sha256(data).hexdigest()
        entries.append({"url": name, "nsamples": num_samples, "filesize": len(data), "sha256": digest, "split": split})
    index = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": "tests", "shardlist": entries}
    (folder / "index.json").write_text(json.dumps(index))


def write_shards(
    folder: Path, counts: dict[str, int], published: bool = False, index: bool = True, **scene: Any
) -> Path:
    """A folder of shards, name -> number of samples, with keys `s000000`, `s000001`, ... over all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for name, num_samples in counts.items():
        samples = [(f"s{i:06}", make_members(i, published, **scene)) for i in range(number, number + num_samples)]
        write_tar(folder / name, samples)
        number += num_samples
    if index:
        write_index(folder, counts)
    return folder
