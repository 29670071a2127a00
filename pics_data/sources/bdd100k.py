"""BDD100K instances (https://bdd-data.berkeley.edu): Scalabel JSON with RLE or polygons, or folders of bitmasks.

A bitmask is an RGBA PNG named after its photo: R is the category, G = truncated << 3 | occluded << 2 | crowd << 1 |
ignored, 256 B + A the instance. The data set's authors advise to use these: polygons overlap, and have to be drawn in
their order, the later before the earlier. What is a crowd or to be ignored is marked as a crowd.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

from pics_common import storage
from pics_common.errors import UserError
from pics_data.labels import MAX_PIXELS, Region, label_instances, read_labels
from pics_data.masks import are_finite, check_polygons, measure
from pics_data.records import Instance, Photo, Reject, RejectError
from pics_data.sources.annotated_files import Annotation, Pair, box_of, read_pairs
from pics_data.sources.coco_json import id_text
from pics_data.sources.photo_folders import PhotoFolders
from pics_data.sources.scalabel_json import read_config, read_frames

SOURCE = "bdd100k"
SIZE = (720, 1280)  # height and width of nearly every photo

THINGS = ("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")  # in bitmasks: 1 to 8
SAME = {"person": "pedestrian", "bike": "bicycle", "motor": "motorcycle", "caravan": "car", "van": "car"}
IGNORED = {"other person": "pedestrian", "other vehicle": "car", "trailer": "truck"}
# The categories of panoptic bitmasks that are things; others reach from 0 (unlabeled) to 30 (sky).
PANOPTIC = ("person", "rider", "bicycle", "bus", "car", "caravan", "motorcycle", "trailer", "train", "truck")
FIRST_PANOPTIC_THING = 31

CROWD_OR_IGNORED = 0b11  # bits of G
CURVE_STEPS = 32  # lines that stand for a Bezier curve: a quarter of a pixel off at most, for one within 100 x 100


def photos(images: Sequence[str], annotations: Sequence[str], check_photos: bool = True) -> Iterator[Photo | Reject]:
    """Yields each photo that the annotations speak of, or a `Reject` of stage "plan" in its place.

    `annotations` are Scalabel JSON files, or folders of bitmasks such as `labels/ins_seg/bitmasks/train`; JSON files in
    a folder without PNGs are read too. A photo that is in none of the folders `images` gives "missing photo"; a label
    that cannot be read gives "malformed annotation" (or "malformed RLE" ...), and its photo goes on without it.
    Raises `UserError` for a missing folder or file, and for a file that is not Scalabel JSON.
    """
    if not images:
        raise UserError(f"--images: expected at least one folder of photos for --source {SOURCE}")
    if not annotations:
        raise UserError(f"--annotations: expected a JSON file or a folder of bitmasks for --source {SOURCE}")
    folders = PhotoFolders(images, check_photos)
    parts = [_files(url) for url in annotations]
    seen: set[str] = set()  # photos that have a bitmask
    for bitmasks, json_files in parts:
        yield from read_pairs(SOURCE, folders, map(_annotation, bitmasks), _from_bitmask, seen)
        for url in json_files:
            yield from _from_json(url, folders)


def _files(url: str) -> tuple[list[str], list[str]]:
    """The bitmasks and the JSON files that an annotation path stands for."""
    if storage.file_size(url) is not None:
        return [], [url]
    if not storage.is_folder(url):
        raise UserError(f"annotations: {url} does not exist; expected Scalabel JSON or a folder of bitmasks")
    if any(entry.is_folder and entry.name == "bitmasks" for entry in storage.list_folder(url)):
        raise UserError(f"annotations: {url} holds several kinds of labels; give {storage.join(url, 'bitmasks')}")
    found = [storage.join(url, *name.split("/")) for name in storage.walk(url, (".png", ".json"))]
    if not found:
        raise UserError(f"annotations: {url} holds neither PNGs nor JSON files; expected BDD100K's bitmasks")
    bitmasks = [file for file in found if file.lower().endswith(".png")]
    return (bitmasks, []) if bitmasks else ([], found)


def _annotation(bitmask: str) -> Annotation:
    photo_id = PurePosixPath(bitmask).stem
    folder = storage.base_name(bitmask.rpartition("/")[0])
    return Annotation(photo_id, bitmask, tuple(_names(f"{photo_id}.jpg", folder)))


def _from_bitmask(pair: Pair) -> list[Photo | Reject]:
    labels = read_labels(pair.annotation, "rgba")
    height, width = labels.shape
    instances = bitmask_instances(pair.annotation, label_instances(labels, storage.base_name(pair.annotation)))
    return [Photo(pair.photo_id, SOURCE, pair.photo, width, height, tuple(instances), labels=pair.annotation)]


def _names(name: str, folder: str) -> list[str]:
    """Where a photo may lie: frames of a video are named after it and lie in its folder."""
    name = PurePosixPath(name).name
    names = [name, f"{folder}/{name}"] if folder else [name]
    return names[::-1] if name.startswith(f"{folder}-") else names


def bitmask_instances(url: str, regions: Sequence[Region]) -> Iterator[Instance]:
    """The things of a bitmask that was read in the form `rgba`."""
    # Panoptic bitmasks number the categories otherwise; what covers a whole photo goes beyond the eight things.
    panoptic = "pan_seg" in url.split("/") or any(_channel(region, 0) > len(THINGS) for region in regions)
    names, first = (PANOPTIC, FIRST_PANOPTIC_THING) if panoptic else (THINGS, 1)
    for region in regions:
        number = _channel(region, 0) - first
        if not 0 <= number < len(names):
            continue
        category, ignored = _category(names[number])
        yield Instance(
            id=str(256 * _channel(region, 2) + _channel(region, 3)),
            category=category,
            box=box_of(region),
            area=float(region.area),
            segmentation={"labels": "rgba", "values": [region.value]},
            crowd=ignored or bool(_channel(region, 1) & CROWD_OR_IGNORED),
        )


def _channel(region: Region, number: int) -> int:
    return region.value >> 8 * number & 255


def _category(name: str) -> tuple[str, bool]:
    """BDD100K's name for instances, and whether its evaluation ignores these."""
    name = SAME.get(name, name)
    return IGNORED.get(name, name), name in IGNORED


def _from_json(url: str, folders: PhotoFolders) -> Iterator[Photo | Reject]:
    try:
        size = _size(read_config(url).get("imageSize"), SIZE, "config.imageSize")
    except ValueError as error:
        raise UserError(f"annotations: {url}: {error}") from None
    for number, frame in enumerate(read_frames(url)):
        name = frame.get("name")
        if not isinstance(name, str) or not _is_text(name) or not PurePosixPath(name).name:
            detail = f"{storage.base_name(url)}: frame {number} has no `name`"
            yield Reject(f"{SOURCE}-{number}", "plan", "malformed photo entry", detail)
            continue
        stem = PurePosixPath(name).stem
        video = frame.get("videoName")
        path = folders.find(_names(name, video if isinstance(video, str) else ""))
        if path is None:
            yield Reject(f"{SOURCE}-{stem}", "plan", "missing photo", name)
            continue
        try:
            yield from _photo(url, stem, path, frame, size)
        except ValueError as error:
            detail = f"{storage.base_name(url)}: {name}: {error}"
            yield Reject(f"{SOURCE}-{stem}", "plan", "malformed photo entry", detail)


def _photo(
    url: str, photo_id: str, path: str, frame: dict[str, Any], size: tuple[int, int]
) -> Iterator[Photo | Reject]:
    labels = frame.get("labels") or []
    if not isinstance(labels, list):
        raise ValueError("`labels` is no list")
    height, width = _size(frame.get("size"), _rle_size(labels) or size, "size")
    drawn = [_drawn(label, height, width) for label in labels]
    boxes = [_extent(polygons) for polygons in drawn]
    instances: dict[str, Instance] = {}
    for i, label in enumerate(labels):
        front = [polygon for j in range(i + 1, len(labels)) if _meet(boxes[i], boxes[j]) for polygon in drawn[j]]
        try:
            instance = read_label(label, front, height, width)
        except (ValueError, RejectError) as error:
            key = f"{SOURCE}-{photo_id}-{_id_of(label) or i}"
            malformed = "malformed annotation", str(error)
            reason, detail = (error.reason, error.detail) if isinstance(error, RejectError) else malformed
            yield Reject(key, "plan", reason, f"{storage.base_name(url)}: {detail}".removesuffix(": "))
            continue
        if instance is not None:
            if instance.id in instances:  # ids are those of tracks, and may stand twice in a frame
                instance = replace(instance, id=f"{instance.id}-{i}")
            instances[instance.id] = instance
    yield Photo(photo_id, SOURCE, path, width, height, tuple(instances.values()))


def read_label(label: Any, front: list[list[float]], height: int, width: int) -> Instance | None:
    """A label of a frame, as far as the polygons `front`, drawn after it, do not hide it; None for stuff.

    Raises `ValueError` that says which key is missing or unfit, or `RejectError` for a silhouette that is none.
    """
    if not isinstance(label, dict) or not isinstance(label.get("category"), str):
        raise ValueError("`category` is missing")
    category, ignored = _category(label["category"])
    if category not in THINGS:
        return None
    number, attributes = _id_of(label), label.get("attributes") or {}
    if number is None:
        raise ValueError("`id` is missing or no text")
    if not isinstance(attributes, dict):
        raise ValueError("`attributes` is no object")
    segmentation = _segmentation(label, front, height, width)
    if segmentation is None:
        box = _box(label.get("box2d"))
        area = box[2] * box[3]
    else:
        box, area = measure(segmentation, height, width)
    return Instance(
        id=number,
        category=category,
        box=box,
        area=area,
        segmentation=segmentation,
        crowd=ignored or any(bool(of.get(key)) for of in (attributes, label) for key in ("crowd", "ignored")),
    )


def _id_of(label: Any) -> str | None:
    number = id_text(label.get("id")) if isinstance(label, dict) else None
    return number if number and _is_text(number) else None


def _segmentation(label: dict[str, Any], front: list[list[float]], height: int, width: int) -> Any:
    """As `Instance.segmentation`; None where a label has a box alone."""
    if label.get("rle") is not None:
        rle = label["rle"]
        if not isinstance(rle, dict):
            raise ValueError("`rle` is no object")
        return {"size": rle.get("size"), "counts": rle.get("counts")}
    if not label.get("poly2d"):
        return None
    polygons = _polygons(label)
    check_polygons(polygons, height, width)
    return {"polygons": polygons, "minus": front} if front else polygons


def _drawn(label: Any, height: int, width: int) -> list[list[float]]:
    """The polygons of any label, stuff too; none where they are broken, which `read_label` says of things."""
    try:
        polygons = _polygons(label)
        check_polygons(polygons, height, width)
    except (ValueError, RejectError):
        return []
    return polygons


def _polygons(label: Any) -> list[list[float]]:
    found = label.get("poly2d") if isinstance(label, dict) else None
    polygons = [read_polygon(item) for item in _list(found or [], "poly2d")]
    return [polygon for polygon in polygons if len(polygon) >= 6]  # a single line covers nothing


def read_polygon(item: Any) -> list[float]:
    """An element of `poly2d` as [x, y, x, y, ...]. Raises `ValueError` where it is broken.

    `types` has a letter for each vertex: L is a corner; two C in turn are the control points of a cubic Bezier curve
    from the corner before to that after them, which may be the first.
    """
    if not isinstance(item, dict):
        raise ValueError("`poly2d` holds something else than objects")
    vertices = _list(item.get("vertices"), "vertices")
    if not vertices or set(map(type, vertices)) != {list} or set(map(len, vertices)) != {2}:
        raise ValueError("`vertices` are not [x, y] each")
    flat = list(chain.from_iterable(vertices))
    if not are_finite(flat):
        raise ValueError("`vertices` are not finite numbers")
    types = item.get("types") or "L" * len(vertices)
    if not isinstance(types, str) or len(types) != len(vertices) or set(types) - {"L", "C"}:
        raise ValueError("`types` is not a letter L or C for each vertex")
    if "C" not in types:
        return flat
    points = [*vertices, vertices[0]]
    line = list(vertices[0])
    i = 1
    while i < len(vertices):
        if types[i] == "L":
            line += vertices[i]
            i += 1
            continue
        if i + 2 >= len(points):
            raise ValueError("`types` ends within a curve")
        line += _curve(*points[i - 1 : i + 3])
        i += 3
    return line


def _curve(start: list[float], first: list[float], second: list[float], end: list[float]) -> list[float]:
    """Points on a cubic Bezier curve, without its start."""
    line = []
    for step in range(1, CURVE_STEPS + 1):
        t = step / CURVE_STEPS
        weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
        line += [
            sum(w * point[axis] for w, point in zip(weights, (start, first, second, end), strict=True))
            for axis in (0, 1)
        ]
    return line


def _extent(polygons: list[list[float]]) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom of polygons; None where there are none."""
    if not polygons:
        return None
    xs = [x for polygon in polygons for x in polygon[::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _meet(a: tuple[float, float, float, float] | None, b: tuple[float, float, float, float] | None) -> bool:
    """Whether two extents share a pixel, or may after rounding."""
    if a is None or b is None:
        return False
    return a[0] <= b[2] + 1 and b[0] <= a[2] + 1 and a[1] <= b[3] + 1 and b[1] <= a[3] + 1


def _box(box2d: Any) -> tuple[float, float, float, float]:
    """Scalabel's boxes include their last pixel."""
    if not isinstance(box2d, dict) or not are_finite([box2d.get(key) for key in ("x1", "y1", "x2", "y2")]):
        raise ValueError("expected `rle`, `poly2d` or `box2d`")
    x1, y1, x2, y2 = (float(box2d[key]) for key in ("x1", "y1", "x2", "y2"))
    if x2 < x1 or y2 < y1:
        raise ValueError("`box2d` has its corners the wrong way round")
    return x1, y1, x2 - x1 + 1, y2 - y1 + 1


def _rle_size(labels: list[Any]) -> tuple[int, int] | None:
    """(height, width) as the first RLE of a frame says."""
    for label in labels:
        rle = label.get("rle") if isinstance(label, dict) else None
        size = rle.get("size") if isinstance(rle, dict) else None
        if not isinstance(size, list) or len(size) != 2 or not all(type(v) is int and v > 0 for v in size):
            continue
        if size[0] * size[1] <= MAX_PIXELS:
            return size[0], size[1]
    return None


def _size(value: Any, default: tuple[int, int], key: str) -> tuple[int, int]:
    """(height, width) of Scalabel's {"width", "height"}; `default` where there is none."""
    if value is None:
        return default
    height, width = (value.get("height"), value.get("width")) if isinstance(value, dict) else (0, 0)
    if type(height) is not int or type(width) is not int or min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"`{key}` is not a whole `width` and `height` of a photo")
    return height, width


def _list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"`{key}` is no list")
    return value


def _is_text(value: str) -> bool:
    """Half a surrogate pair, which JSON can hold, is no text: nothing could write it."""
    return not any("\ud800" <= char <= "\udfff" for char in value)
