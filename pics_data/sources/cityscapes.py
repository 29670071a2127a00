"""Cityscapes (https://www.cityscapes-dataset.com), from the polygons of its fine annotations.

    leftImg8bit/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png
    gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_polygons.json
    gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_instanceIds.png   read where the polygons are not there

`--images` is `leftImg8bit` and `--annotations` is `gtFine`; both may be a folder below, such as `gtFine/train`. The
annotations of `test` are empty: its photos have no objects.

Polygons are painted in the order of the file, each over those before it; that is how the data set's own tools
(`json2instanceImg`) make their label pictures. So what shows of an object is its polygon without all later ones. Its
box and area are those of what shows, rasterised as `pics_data.masks` does it. A label with `group` at its end
(`cargroup`) stands for objects that nobody could tell apart: a crowd.
"""

import json
import math
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pics_common import storage
from pics_common.errors import UserError
from pics_data.labels import MAX_PIXELS, Region
from pics_data.masks import check_polygons, rle_runs
from pics_data.photofile import read_file
from pics_data.records import Instance, Photo, Reject, RejectError
from pics_data.sources.annotated_files import (
    Annotation,
    Pair,
    box_of,
    label_pixels,
    photo_of_labels,
    read_pairs,
    require_folders,
    without_annotation,
)
from pics_data.sources.photo_folders import PhotoFolders

SOURCE = "cityscapes"
LICENSE = "https://www.cityscapes-dataset.com/license/"
POLYGONS, INSTANCE_IDS = "_gtFine_polygons.json", "_gtFine_instanceIds.png"
PHOTO = "_leftImg8bit.png"
EXPECTED = f"Cityscapes' gtFine, or its train, val or test: folders of cities with files *{POLYGONS}"

# The labels whose objects are told apart, and their numbers in label pictures.
THINGS = {
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "caravan": 29,
    "trailer": 30,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
NAMES = {number: name for name, number in THINGS.items()}
PER_LABEL = 1000  # an object's pixels are 1000 * label + its number; those of a crowd are the label alone
NEVER_PAINTED = "license plate"  # a note on the car, not a thing in front of it
GROUP = "group"


@dataclass(slots=True)
class Outline:
    """An element of `objects`: `points` are [x, y, x, y, ...] as `outline_points` places them.

    The box (left, top, right, bottom) is in whole pixels inside of the photo; `mask` are the polygon's pixels there.
    """

    id: str
    label: str
    points: list[float]
    box: tuple[int, int, int, int]
    photo_size: tuple[int, int]  # height, width
    mask: NDArray[np.bool_] | None = None


def photos(images: Sequence[str], annotations: Sequence[str], check_photos: bool = True) -> Iterator[Photo | Reject]:
    """The photos of Cityscapes with their objects, city by city in the order of the folders `annotations`, by name.

    An annotation file that cannot be read gives a `Reject`, as does a polygon that is none or of which nothing shows,
    and a photo or annotation without the other.
    Raises `UserError` for a folder that is not there or has another layout.
    """
    folders = PhotoFolders(require_folders("--images", images, "Cityscapes' leftImg8bit"), check_photos)
    seen: set[str] = set()
    for folder in require_folders("--annotations", annotations, EXPECTED):
        yield from read_pairs(SOURCE, folders, _annotations(folder), _read, seen)
    if check_photos:
        yield from without_annotation(SOURCE, _photo_files(images, {_city(photo_id) for photo_id in seen}), seen)


def _annotations(root: str) -> Iterator[Annotation]:
    found = False
    suffixes = (POLYGONS.lower(), INSTANCE_IDS.lower())
    for folder, paths in groupby(storage.walk(root, suffixes), key=posixpath.dirname):
        files: dict[str, str] = {}
        for name in map(posixpath.basename, paths):  # `instanceIds` come before `polygons`, which win
            files[name.removesuffix(POLYGONS).removesuffix(INSTANCE_IDS)] = name
        below = [part for part in folder.split("/") if part]
        path = [*root.split("/")[-2:], *below]  # the two folders may be of different depth
        places = [below, *(path[i:] for i in range(len(path) + 1))]
        for photo_id, name in sorted(files.items()):
            found = True
            names = ("/".join([*place, photo_id + PHOTO]) for place in places)
            yield Annotation(photo_id, storage.join(root, *below, name), tuple(dict.fromkeys(names)))
    if not found:
        raise UserError(f"--annotations: {root} holds no files *{POLYGONS} or *{INSTANCE_IDS}; expected {EXPECTED}")


def _photo_files(images: Iterable[str], cities: set[str]) -> Iterator[tuple[str, str]]:
    """The photos of the cities that have annotations, as (id, file name): `train_extra` has coarse ones only."""
    for folder in images:
        for path in storage.walk(folder, (PHOTO.lower(),)):
            photo_id = posixpath.basename(path).removesuffix(PHOTO)
            if _city(photo_id) in cities:
                yield photo_id, path


def _city(photo_id: str) -> str:
    return photo_id.partition("_")[0]


def _read(pair: Pair) -> list[Photo | Reject]:
    if pair.annotation.endswith(INSTANCE_IDS):
        return [photo_of_labels(SOURCE, LICENSE, pair, _objects_of_labels)]
    document = _load(pair.annotation)
    width, height = document["imgWidth"], document["imgHeight"]
    outlines: list[Outline] = []
    made: list[Photo | Reject] = []
    for index, element in enumerate(document["objects"]):
        try:
            outline = _outline(str(index), element, width, height)
        except ValueError as error:
            detail = f"{pair.annotation}: element {index} of `objects`: {error}"
            made.append(Reject(f"{SOURCE}-{pair.photo_id}-{index}", "plan", "malformed annotation", detail))
        else:
            outlines += [outline] if outline else []
    instances: list[Instance] = []
    for place, outline in enumerate(outlines):
        if outline.label.removesuffix(GROUP) in THINGS:
            instance = _visible(outline, outlines[place + 1 :])
            if instance is None:
                made.append(Reject(f"{SOURCE}-{pair.photo_id}-{outline.id}", "plan", "empty mask", pair.annotation))
            else:
                instances.append(instance)
    photo = Photo(pair.photo_id, SOURCE, pair.photo, width, height, tuple(instances), license=LICENSE)
    return [*made, photo]


def _objects_of_labels(regions: list[Region]) -> Iterator[Instance]:
    for region in regions:
        crowd = region.value < PER_LABEL
        category = NAMES.get(region.value if crowd else region.value // PER_LABEL)
        if category:
            pixels = label_pixels([region.value])
            yield Instance(str(region.value), category, box_of(region), float(region.area), pixels, crowd)


def _load(url: str) -> dict[str, Any]:
    """A file of polygons. Raises `RejectError` where it is not JSON, or not Cityscapes'."""
    try:
        data = read_file(url)
    except OSError as error:
        raise RejectError("unreadable annotation", f"{url}: {error.strerror}") from None
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            document = json.loads(data)  # reads the NaN and Infinity that Python's own writer leaves
        except (ValueError, RecursionError) as error:
            raise RejectError("malformed annotation", f"{url} is not JSON ({error})") from None
    if not isinstance(document, dict) or not isinstance(document.get("objects"), list):
        raise RejectError("malformed annotation", f"{url} has no list `objects`")
    width, height = document.get("imgWidth"), document.get("imgHeight")
    if type(width) is not int or type(height) is not int or min(width, height) < 1 or width * height > MAX_PIXELS:
        raise RejectError("malformed annotation", f"{url}: `imgWidth` x `imgHeight` is no size of a photo")
    return document


def _outline(element_id: str, element: Any, width: int, height: int) -> Outline | None:
    """An element of `objects`; None for one that is not painted. Raises `ValueError` that says what is wrong."""
    if not isinstance(element, dict) or not isinstance(element.get("label"), str):
        raise ValueError("`label` is missing")
    if element.get("deleted") or element["label"] == NEVER_PAINTED:
        return None
    polygon = element.get("polygon")
    if not isinstance(polygon, list) or len(polygon) < 3:
        raise ValueError("`polygon` is not a list of three or more points")
    values = [value for point in polygon if isinstance(point, list) and len(point) == 2 for value in point]
    if len(values) != 2 * len(polygon):
        raise ValueError("`polygon` has a point that is not two numbers")
    try:
        check_polygons([values], height, width)
    except RejectError as error:
        raise ValueError(f"{error.reason}: {error.detail}") from None
    points = outline_points(values, width, height)
    box = (
        max(0, math.floor(min(points[::2]))),
        max(0, math.floor(min(points[1::2]))),
        min(width, math.ceil(max(points[::2]))),
        min(height, math.ceil(max(points[1::2]))),
    )
    return Outline(element_id, element["label"], points, box, (height, width))


def outline_points(values: list[float], width: int, height: int) -> list[float]:
    """Cityscapes' points as COCO's rasteriser counts: here (0, 0) is the middle of the first pixel, there its corner.

    A point in the outermost row or column of pixels moves to the photo's edge, or that row would be lost.
    """

    def moved(value: float, size: int) -> float:
        return 0.0 if value == 0 else float(size) if value == size - 1 else value + 0.5

    return [moved(value, height if i % 2 else width) for i, value in enumerate(values)]


def _visible(outline: Outline, later: list[Outline]) -> Instance | None:
    """What shows of an outline below `later` ones, of which it keeps those that hide a pixel; None if nothing shows."""
    left, top, right, bottom = outline.box
    if left >= right or top >= bottom:
        return None
    shows = _pixels(outline).copy()
    hiding: list[list[float]] = []
    for other in later:
        x0, y0 = max(left, other.box[0]), max(top, other.box[1])
        x1, y1 = min(right, other.box[2]), min(bottom, other.box[3])
        if x0 >= x1 or y0 >= y1:
            continue
        here = shows[y0 - top : y1 - top, x0 - left : x1 - left]
        theirs = _pixels(other)[y0 - other.box[1] : y1 - other.box[1], x0 - other.box[0] : x1 - other.box[0]]
        if (here & theirs).any():
            here &= ~theirs
            hiding.append(other.points)
    rows, columns = np.flatnonzero(shows.any(axis=1)), np.flatnonzero(shows.any(axis=0))
    if not rows.size:
        return None
    box = (
        float(left + columns[0]),
        float(top + rows[0]),
        float(columns[-1] - columns[0] + 1),
        float(rows[-1] - rows[0] + 1),
    )
    segmentation: Any = {"polygons": [outline.points], "minus": hiding} if hiding else [outline.points]
    label = outline.label
    crowd = label not in THINGS
    return Instance(
        outline.id, label.removesuffix(GROUP), box, float(np.count_nonzero(shows)), segmentation, crowd=crowd
    )


def _pixels(outline: Outline) -> NDArray[np.bool_]:
    """The polygon's pixels inside of its box, [height, width]; kept, since a polygon may hide several objects.

    Rasterised in the frame of the photo, as later on: shifted to the box, ties of rounding could fall otherwise.
    """
    if outline.mask is None:
        left, top, right, bottom = outline.box
        height, width = outline.photo_size
        runs = rle_runs(coco_mask.frPyObjects([outline.points], height, width)[0]["counts"].decode())
        ends = np.clip(np.cumsum(runs), left * height, right * height)  # runs go down the columns
        columns = np.repeat(np.arange(len(runs)) % 2 == 1, np.diff(ends, prepend=left * height))
        outline.mask = columns.reshape(right - left, height)[:, top:bottom].T
    return outline.mask
