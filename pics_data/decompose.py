"""One photo and its compositions -> samples: background, cut-outs, silhouettes, metadata. Plain functions, no Ray.

A drop is a `Reject` with the sample's key in the sample's place; the other samples go on.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import PurePath
from typing import Any

import cv2
import numpy as np
import orjson
from numpy.typing import NDArray

from pics_data import codecs
from pics_data.config import BuildConfig
from pics_data.cutout import on_white, premultiply, premultiply_rgba, square_crop
from pics_data.masks import mask_of
from pics_data.measure import bounding_box, contact_and_gap, measure_quality
from pics_data.photofile import read_photo
from pics_data.records import Composition, Photo, Pixels, Reject, RejectError, Sample

SCHEMA_VERSION = 1


def decompose_all(compositions: Iterable[Composition], config: BuildConfig) -> Iterator[Sample | Reject]:
    """The samples of `compositions`, in order; a photo is decoded once if its compositions stand together."""
    for _, of_photo in groupby(compositions, key=lambda c: c.photo.id):
        yield from decompose_photo(of_photo, config)


def decompose_photo(compositions: Iterable[Composition], config: BuildConfig) -> Iterator[Sample | Reject]:
    """The samples of one photo's compositions, in order."""
    read = None
    for composition in compositions:
        photo = composition.photo
        try:
            if config.source == "scenes":
                pixels = render_scene(photo, config)
            else:
                read = read or read_photo(photo, config.max_pixels)
                pixels = annotated_pixels(photo, *read)
            sample = decompose(composition, pixels, config)
        except RejectError as error:
            yield Reject(composition.key, "decompose", error.reason, error.detail)
        else:
            yield sample


def annotated_pixels(photo: Photo, rgb: NDArray[np.uint8], photo_jpeg: bytes | None) -> Pixels:
    """The pixels of an annotated photo. Raises `RejectError` for a silhouette that cannot be made."""
    masks = []
    for item in photo.instances:
        try:
            masks.append(mask_of(item.segmentation, photo.height, photo.width))
        except RejectError as error:
            raise RejectError(error.reason, f"annotation {item.id}: {error.detail}".rstrip(": ")) from None
    return Pixels(rgb=rgb, masks=masks, photo_jpeg=photo_jpeg)


def render_scene(photo: Photo, config: BuildConfig) -> Pixels:
    """The pixels of a rendered scene, whole objects among them."""
    from pics_data.sources import scenes  # the renderer takes a second to import: only who renders pays

    return scenes.render(photo, config.scene_settings())


def decompose(composition: Composition, pixels: Pixels, config: BuildConfig) -> Sample:
    """Makes one sample of a photo taken apart. Raises `RejectError` for an empty silhouette.

    Objects are cut at the photo's own resolution; with `config.size`, background and silhouettes are then resized.
    Randomness (the cut-outs' margins) comes from the composition's seed and the object's place alone.
    """
    height, width = pixels.rgb.shape[:2]
    out_height, out_width = output_size(height, width, config.size)
    resized = (out_height, out_width) != (height, width)
    scale = out_width / width
    rgb = cv2.resize(pixels.rgb, (out_width, out_height), interpolation=cv2.INTER_AREA) if resized else pixels.rgb
    masks = [resize_mask(mask, out_height, out_width) if resized else mask for mask in pixels.masks]
    members = {"bg.jpg": codecs.jpeg(rgb) if resized or pixels.photo_jpeg is None else pixels.photo_jpeg}
    objects: list[dict[str, Any]] = []
    for i, (item, mask) in enumerate(zip(composition.photo.instances, masks, strict=True)):
        if not mask.any():
            raise RejectError("empty mask", f"object {i} ({item.category})")
        rng = np.random.default_rng([composition.seed, i])
        crop = square_crop(bounding_box(pixels.masks[i]), rng)
        cut = on_white(premultiply(pixels.rgb, pixels.masks[i], crop), config.object_size)
        members[f"obj{i}.png"] = codecs.png(cut)
        members[f"mask{i}.png"] = codecs.mask_png(mask)
        quality = measure_quality(rgb, mask)
        entry: dict[str, Any] = {
            "id": item.id,
            "category": item.category,
            "box": quality.box,
            "area": quality.area,
            "parts": quality.parts,
            "holes": quality.holes,
            "border": quality.border,
            "edge": quality.edge,
            "crop": [round(value * scale, 2) for value in crop],
        }
        if pixels.full_masks:
            _add_whole_object(i, pixels, rng, config, members, entry)
        objects.append(entry)
    if pixels.front is not None:
        members["front.png"] = codecs.png((pixels.front + 1).astype(np.uint8))
    members["meta.json"] = orjson.dumps(_meta(composition, pixels, masks, objects, config))
    return Sample(composition.key, members)


def _add_whole_object(
    i: int, pixels: Pixels, rng: np.random.Generator, config: BuildConfig, members: dict[str, bytes], entry: Any
) -> None:
    """Adds what is known of object `i` beyond what the photo shows: its full cut-out and silhouette."""
    full = pixels.full_masks[i]
    box = bounding_box(full)
    crop = square_crop(box, rng)
    cut = on_white(premultiply_rgba(pixels.full_rgba[i], crop), config.object_size)
    members[f"full{i}.png"] = codecs.png(cut)
    members[f"amodal{i}.png"] = codecs.mask_png(full)
    entry["full_box"] = box
    entry["full_crop"] = crop
    entry["hidden"] = round(1 - int(np.count_nonzero(pixels.masks[i] & full)) / int(np.count_nonzero(full)), 4)


def _meta(
    composition: Composition, pixels: Pixels, masks: list[Any], objects: list[dict[str, Any]], config: BuildConfig
) -> dict[str, Any]:
    """The metadata of a sample; see shards/schema.json."""
    photo = composition.photo
    contact, gap = contact_and_gap(masks[0], masks[1])
    relation: dict[str, Any] = {
        "box_iou": round(composition.box_iou, 6),
        "gap_px": gap,
        "contact_px": contact,
        "front": front_object(pixels.front),
    }
    if config.source == "scenes":
        from pics_data.sources import scenes

        relation["label"] = scenes.relation_label(photo, config.scene_settings())
    return {
        "schema": SCHEMA_VERSION,
        "source": photo.source,
        "photo": {
            "id": photo.id,
            "file_name": PurePath(photo.path).name,
            "width": photo.width,
            "height": photo.height,
            "license": photo.license,
            "url": photo.url,
        },
        "split": composition.split,
        "size": list(masks[0].shape),
        "objects": objects,
        "relation": relation,
        "seed": composition.seed,
    }


def front_object(front: Any) -> int | None:
    """The object that is in front where whole objects meet, if it is on at least 90 % of those pixels, else None.

    Not on all: objects that touch share pixels along the seam, where either may win.
    """
    if front is None:
        return None
    counts = np.bincount(front[front >= 0])
    if not len(counts) or counts.max() < 0.9 * counts.sum():
        return None
    return int(counts.argmax())


def output_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """(height, width) with the longest side at most `longest` pixels; 0 leaves all as it is."""
    if not longest or max(height, width) <= longest:
        return height, width
    scale = longest / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_mask(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """A smaller mask: a pixel belongs to the object if at least half of it did."""
    grey = mask.view(np.uint8) * np.uint8(255)
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA) >= 128
