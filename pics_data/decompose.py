"""One photo and its compositions -> samples: background, cut-outs, silhouettes, metadata. Plain functions, no Ray.

A drop is a `Reject` with the sample's key in the sample's place; the other samples go on.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations, groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from pics_common import storage
from pics_data import codecs
from pics_data.ahead import read_ahead
from pics_data.config import BuildConfig
from pics_data.cutout import Crop, on_white, premultiply, premultiply_rgba, shrink, square_crop
from pics_data.filters import FilteredError, why_dropped
from pics_data.labels import Labels, decode_labels
from pics_data.masks import mask_of
from pics_data.measure import Box, bounding_box, measure_quality, measure_relation
from pics_data.photofile import decode_photo, read_bytes, read_file
from pics_data.records import Composition, Photo, Pixels, Reject, RejectError, Sample

if TYPE_CHECKING:
    from pics_data.sources.scenes import PairTruth

SCHEMA_VERSION = 3
PHOTOS_AHEAD = 8  # photos whose files are read while one is taken apart
BYTES_AHEAD = 64 * 2**20  # no further file is read while those that wait for their turn hold this much


@dataclass(frozen=True, slots=True)
class PhotoFiles:
    """The bytes of a photo's file and of its label picture; b"" where it has none."""

    photo: bytes
    labels: bytes


def decompose_all(compositions: Iterable[Composition], config: BuildConfig) -> Iterator[Sample | Reject]:
    """The samples of `compositions`, in order; a photo is read and decoded once if its compositions stand together.

    Files of the next photos are read meanwhile: from an object store, one takes longer to come than to be taken apart.
    """
    photos = (list(group) for _, group in groupby(compositions, key=lambda c: c.photo.id))
    if config.source == "scenes":
        for of_photo in photos:
            yield from _samples(of_photo, lambda photo: render_scene(photo, config), config)
        return
    with closing(read_ahead(photos, _read_files, PHOTOS_AHEAD, _num_bytes, BYTES_AHEAD)) as ahead:
        for of_photo, files in ahead:
            yield from _samples(of_photo, _OpenPhoto(files.result, config.max_pixels).pixels, config)


def _samples(
    compositions: Iterable[Composition], pixels_of: Callable[[Photo], Pixels], config: BuildConfig
) -> Iterator[Sample | Reject]:
    """The samples of one photo's compositions, in order."""
    for composition in compositions:
        try:
            sample = decompose(composition, pixels_of(composition.photo), config)
        except FilteredError as error:
            yield Reject(composition.key, "filter", error.reason, error.detail)
        except RejectError as error:
            yield Reject(composition.key, "decompose", error.reason, error.detail)
        else:
            yield sample


def _read_files(compositions: list[Composition]) -> PhotoFiles:
    """Reads what one photo's compositions are made from. Raises `RejectError` where a file is missing or unreadable."""
    photo = compositions[0].photo
    data = read_bytes(photo)
    try:
        return PhotoFiles(data, read_file(photo.labels) if photo.labels else b"")
    except FileNotFoundError:
        raise RejectError("missing labels", photo.labels) from None
    except OSError as error:
        raise RejectError("unreadable labels", f"{photo.labels}: {error.strerror}") from None


def _num_bytes(files: PhotoFiles) -> int:
    return len(files.photo) + len(files.labels)


class _OpenPhoto:
    """An annotated photo whose compositions are asked for one after the other: decoded once, when first needed."""

    def __init__(self, files: Callable[[], PhotoFiles], max_pixels: int) -> None:
        self._files = files
        self._max_pixels = max_pixels
        self._decoded: tuple[NDArray[np.uint8], bytes | None] | None = None
        self._labels: dict[str, Labels] = {}

    def pixels(self, photo: Photo) -> Pixels:
        """The pixels of this photo with the silhouettes of `photo.instances`. Raises `RejectError`."""
        if self._decoded is None:
            self._decoded = decode_photo(photo, self._files().photo, self._max_pixels)
        rgb, photo_jpeg = self._decoded
        masks = []
        for item in photo.instances:
            try:
                masks.append(mask_of(item.segmentation, photo.height, photo.width, partial(self._labels_as, photo)))
            except RejectError as error:
                raise RejectError(error.reason, f"annotation {item.id}: {error.detail}".rstrip(": ")) from None
        return Pixels(rgb=rgb, masks=masks, photo_jpeg=photo_jpeg)

    def _labels_as(self, photo: Photo, form: str) -> Labels:
        if not photo.labels:
            raise RejectError("missing labels", "the photo has no label picture")
        if form not in self._labels:
            size = photo.height, photo.width
            self._labels[form] = decode_labels(
                self._files().labels, form, storage.base_name(photo.labels), size, self._max_pixels
            )
        return self._labels[form]


def render_scene(photo: Photo, config: BuildConfig) -> Pixels:
    """The pixels of a rendered scene, whole objects among them."""
    from pics_data.sources import scenes  # the renderer takes a second to import: only who renders pays

    return scenes.render(photo, config.scene_settings())


def decompose(composition: Composition, pixels: Pixels, config: BuildConfig) -> Sample:
    """Makes one sample of a photo taken apart.

    Objects are cut at the photo's own resolution; with `config.size`, background and silhouettes are then resized.
    Randomness (the cut-outs' margins) comes from the composition's seed and the object's place alone.
    Raises `RejectError` "empty mask", and `FilteredError` for what the filters of `config` drop: they look at what was
    measured, before anything is encoded.
    """
    stored = _at_stored_size(pixels, config.size)
    scale = stored.rgb.shape[1] / pixels.rgb.shape[1]
    boxes: list[Box] = []
    cuts: list[_Cut] = []
    objects: list[dict[str, Any]] = []
    for i, item in enumerate(composition.photo.instances):
        box = bounding_box(stored.masks[i])
        if not box[2]:
            raise RejectError("empty mask", f"object {i} ({item.category})")
        boxes.append(box)
        cuts.append(_cut_of(i, pixels, np.random.default_rng([composition.seed, i])))
        objects.append({"id": item.id, "category": item.category, **_measured(i, stored, box, cuts[i], scale)})
    relations = measure_relations(composition.photo, stored, boxes, config)
    meta = _meta(composition, stored.rgb.shape[:2], objects, relations)
    if drop := why_dropped(meta, config):
        raise FilteredError(drop.reason, drop.detail)

    quality = codecs.JPEG_QUALITY if stored is pixels else codecs.RESIZED_JPEG_QUALITY
    members = {"bg.jpg": stored.photo_jpeg or codecs.jpeg(stored.rgb, quality)}
    for i, cut in enumerate(cuts):
        square = on_white(premultiply(pixels.rgb, pixels.masks[i], cut.crop), config.object_size)
        members[f"obj{i}.png"] = codecs.png(square)
        members[f"mask{i}.png"] = codecs.mask_png(stored.masks[i])
        if cut.full_crop:
            whole = on_white(premultiply_rgba(pixels.full_rgba[i], cut.full_crop), config.object_size)
            members[f"full{i}.png"] = codecs.png(whole)
            members[f"amodal{i}.png"] = codecs.mask_png(pixels.full_masks[i])
    if pixels.front is not None:
        members["front.png"] = codecs.png((pixels.front + 1).astype(np.uint8))
    if pixels.depth is not None:
        members["depth.png"] = codecs.depth_png(pixels.depth)
    members["meta.json"] = orjson.dumps(meta)
    return Sample(composition.key, members)


@dataclass(frozen=True, slots=True)
class _Cut:
    """The squares of the photo that an object's cut-outs show; `full_box` and `full_crop` where all of it is known."""

    crop: Crop
    full_box: Box | None = None
    full_crop: Crop | None = None


def _cut_of(i: int, pixels: Pixels, rng: np.random.Generator) -> _Cut:
    crop = square_crop(bounding_box(pixels.masks[i]), rng)
    if not pixels.full_masks:
        return _Cut(crop)
    full_box = bounding_box(pixels.full_masks[i])
    return _Cut(crop, full_box, square_crop(full_box, rng))


def _at_stored_size(pixels: Pixels, longest: int) -> Pixels:
    """Photo and visible silhouettes as the sample stores them; rendered scenes are made at their size."""
    height, width = pixels.rgb.shape[:2]
    out_height, out_width = output_size(height, width, longest)
    if (out_height, out_width) == (height, width):
        return pixels
    return replace(
        pixels,
        rgb=shrink(pixels.rgb, out_height, out_width),
        masks=[resize_mask(mask, out_height, out_width) for mask in pixels.masks],
        photo_jpeg=None,
    )


def _measured(i: int, stored: Pixels, box: Box, cut: _Cut, scale: float) -> dict[str, Any]:
    """What the metadata says of object `i` beyond the annotation; `scale` is stored pixels a pixel of the photo."""
    quality = measure_quality(stored.rgb, stored.masks[i], box)
    entry = {**asdict(quality), "crop": [round(value * scale, 2) for value in cut.crop]}
    if cut.full_crop:
        full = stored.full_masks[i]
        seen = int(np.count_nonzero(stored.masks[i] & full)) / int(np.count_nonzero(full))
        entry |= {"full_box": cut.full_box, "full_crop": cut.full_crop, "hidden": round(1 - seen, 4)}
    return entry


def measure_relations(photo: Photo, stored: Pixels, boxes: list[Box], config: BuildConfig) -> list[dict[str, Any]]:
    """How each two of `photo.instances` stand to each other: pairs (i, j), i < j, in order."""
    relations = []
    for i, j in combinations(range(len(photo.instances)), 2):
        measured = measure_relation(stored.masks[i], stored.masks[j], (boxes[i], boxes[j]))
        relation = {"objects": [i, j], **asdict(measured), "front": front_of_pair(stored, i, j)}
        if config.source == "scenes":
            from pics_data.sources import scenes

            pair = replace(photo, instances=(photo.instances[i], photo.instances[j]))
            relation["label"] = scenes.relation_label(pair, config.scene_settings())
            if stored.hides is not None:
                relation |= _truth_of_pair(scenes.pair_truth(pair, config.scene_settings()), stored, i, j)
        relations.append(relation)
    return relations


def _truth_of_pair(truth: "PairTruth", stored: Pixels, i: int, j: int) -> dict[str, Any]:
    """What a scene knows of objects i and j of the sample."""

    def name(which: int | None) -> int | None:
        return None if which is None else (i, j)[which]

    hides = [round(float(share), 4) for share in (stored.hides[i, j], stored.hides[j, i])]
    return {
        "supporter": name(truth.supporter),
        "container": name(truth.container),
        "contact": truth.contact,
        "hides": hides,
    }


def front_of_pair(pixels: Pixels, i: int, j: int) -> int | None:
    """Which of objects i and j is in front: the one that is on at least 90 % of the pixels where both whole objects are
    and one of the two is in front of all. None where that is neither or not known.

    Not on all: objects that touch share pixels along the seam, where either may win.
    """
    if pixels.front is None:
        return None
    in_front = pixels.front[pixels.full_masks[i] & pixels.full_masks[j]]
    counts = {k: int(np.count_nonzero(in_front == k)) for k in (i, j)}
    first = max(counts, key=lambda k: counts[k])
    return first if counts[first] and counts[first] >= 0.9 * sum(counts.values()) else None


def _meta(
    composition: Composition, size: tuple[int, int], objects: list[dict[str, Any]], relations: list[dict[str, Any]]
) -> dict[str, Any]:
    """The metadata of a sample; see shards/schema.json."""
    photo = composition.photo
    return {
        "schema": SCHEMA_VERSION,
        "source": photo.source,
        "photo": {
            "id": photo.id,
            "file_name": storage.base_name(photo.path),
            "width": photo.width,
            "height": photo.height,
            "license": photo.license,
            "url": photo.url,
        },
        "split": composition.split,
        "size": list(size),
        "objects": objects,
        **({"relation": relations[0]} if relations else {}),
        "relations": relations,
        "seed": composition.seed,
    }


def output_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """(height, width) with the longest side at most `longest` pixels; 0 leaves all as it is."""
    if not longest or max(height, width) <= longest:
        return height, width
    scale = longest / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_mask(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """A smaller mask: a pixel belongs to the object if at least half of it did."""
    return shrink(mask.view(np.uint8) * np.uint8(255), height, width) >= 128
