"""What COCO, LVIS and others share: an annotation file with `images`, `annotations` and `categories`, of any size.

The file is read once. Photos and annotations go into buckets by the photo's id, on disk where they are many; then one
bucket after the other is grouped by photo. So memory does not grow with the file.
"""

import json
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import orjson

from pics_common import storage
from pics_common.errors import UserError
from pics_data.records import Instance, Photo, Reject
from pics_data.sources.json_arrays import scan
from pics_data.sources.photo_folders import PhotoFolders
from pics_data.spool import Spool

KEYS = ("images", "annotations", "categories")
BUCKET = 2**25  # bytes of the file for each bucket


def photos(
    source: str,
    images: Sequence[str],
    annotations: Sequence[str],
    file_names: Callable[[dict[str, Any]], list[str]],
    *,
    check_photos: bool = True,
    boxes_only: bool = False,
) -> Iterator[Photo | Reject]:
    """Yields each photo of the annotation files, or a `Reject` of stage "plan" in its place.

    The order is that of a small file, and else depends on the photos' ids. `file_names` says under which names an
    element of `images` may be found in the folders `images`, best first. A photo that is in none of the folders gives
    a `Reject` "missing photo"; an annotation that cannot be read "malformed annotation", and its photo goes on without
    it. With `boxes_only` annotations need no `segmentation`, nor `area` (that of the box is taken then).
    Raises `UserError` for a missing folder or file, and for a file that is not COCO JSON.
    """
    if not images:
        raise UserError(f"--images: expected at least one folder of photos for --source {source}")
    if not annotations:
        raise UserError(f"--annotations: expected at least one annotation file for --source {source}")
    folders = PhotoFolders(images, check_photos)
    for url in annotations:
        if storage.file_size(url) is None:
            kind = "is a folder" if storage.is_folder(url) else "does not exist"
            raise UserError(f"annotations: {url} {kind}; expected a file of COCO JSON")
    for url in annotations:
        file = AnnotationFile(url)
        yield from (Reject(f"{source}-{r.key}", r.stage, r.reason, r.detail) for r in file.rejects)
        for image, items in file.photos():
            if isinstance(items, Reject):
                yield Reject(f"{source}-{items.key}", items.stage, items.reason, items.detail)
                continue
            names = file_names(image)
            path = folders.find(names)
            if path is None:
                name = next(filter(None, names), "no file name")
                yield Reject(f"{source}-{image['id']}", "plan", "missing photo", name)
            else:
                yield from _photo(source, file, image, items, path, boxes_only)


def _photo(
    source: str, file: "AnnotationFile", image: dict[str, Any], items: list[bytes], path: str, boxes_only: bool
) -> Iterator[Photo | Reject]:
    photo_id = str(image["id"])
    instances: dict[str, Instance] = {}
    for text in items:
        annotation = file.load(text)
        try:
            instance = read_instance(annotation, file.categories, boxes_only)
            if instance.id in instances:
                raise ValueError(f"`id` {instance.id} stands twice")
        except ValueError as error:
            key = f"{source}-{photo_id}-{annotation.get('id')}"
            yield Reject(key, "plan", "malformed annotation", f"{file.name}: {error}")
        else:
            instances[instance.id] = instance
    yield Photo(
        id=photo_id,
        source=source,
        path=path,
        width=int(image["width"]),
        height=int(image["height"]),
        instances=tuple(instances.values()),
        license=file.licenses.get(str(image.get("license")), ""),
        url=str(image.get("coco_url") or image.get("flickr_url") or ""),
    )


def read_instance(annotation: dict[str, Any], categories: dict[str, str], boxes_only: bool = False) -> Instance:
    """One element of `annotations`. Raises `ValueError` that says which key is missing or unfit."""
    for key in ("id", "bbox", "category_id", *(() if boxes_only else ("area", "segmentation"))):
        if key not in annotation:
            raise ValueError(f"`{key}` is missing")
    segmentation = None if boxes_only else annotation["segmentation"]
    if not boxes_only and not isinstance(segmentation, list | dict):
        raise ValueError("`segmentation` is neither polygons nor RLE")
    try:
        x, y, width, height = map(float, annotation["bbox"])
        area = float(annotation.get("area", width * height))
    except (TypeError, ValueError):
        raise ValueError("`bbox` is not [x, y, width, height] or `area` is not a number") from None
    if not all(map(math.isfinite, (x, y, width, height, area))) or min(width, height, area) < 0:
        raise ValueError("`bbox` or `area` is not finite and at least 0")
    category = categories.get(str(annotation["category_id"]))
    if category is None:
        raise ValueError(f"`category_id` {annotation['category_id']} is not in `categories`")
    return Instance(
        id=str(annotation["id"]),
        category=category,
        box=(x, y, width, height),
        area=area,
        segmentation=segmentation,
        crowd=bool(annotation.get("iscrowd", 0)),
    )


def plain_names(image: dict[str, Any]) -> list[str]:
    """Where a photo may lie under an image folder: `file_name` as it stands, then its last part."""
    name = str(image.get("file_name", ""))
    return [name, PurePosixPath(name).name]


class AnnotationFile:
    """One annotation file, read into buckets: the photos with the texts of their annotations.

    `rejects` are the elements that belong to no photo, with keys that lack the source. Raises `UserError`, which names
    the file, if it is empty, is not JSON or is not COCO's JSON.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = storage.base_name(url)
        self.rejects: list[Reject] = []
        self.raw_categories: list[dict[str, Any]] = []
        self._licenses: list[dict[str, Any]] = []
        self._counts = {"images": 0, "annotations": 0}
        self._spool = Spool(-(-(storage.file_size(url) or 0) // BUCKET) or 1)
        with storage.local_copy(url) as path:
            document = scan(path, frozenset((*KEYS, "licenses")), self._take, "COCO JSON")
        self._check(document)
        self.categories = {str(c.get("id")): str(c.get("name", "")) for c in self.raw_categories}
        self.licenses = {str(item.get("id")): str(item.get("url") or item.get("name") or "") for item in self._licenses}

    def photos(self) -> Iterator[tuple[dict[str, Any], "list[bytes] | Reject"]]:
        """Each element of `images`, parsed, with the texts of its annotations (see `load`), or with why it is dropped.

        Annotations of a photo that is not in `images` come as a single reject.
        """
        for number in range(self._spool.num_buckets):
            images: list[tuple[str, bytes]] = []
            items: dict[str, list[bytes]] = {}
            for record in self._spool.read(number):
                kind, own_id, text = record.split(b"\n", 2)
                if kind == b"i":
                    images.append((own_id.decode(), text))
                else:
                    items.setdefault(own_id.decode(), []).append(text)
            seen = set()
            for photo_id, text in images:
                image = self.load(text)
                wrong = _what_is_wrong(image) or ("`id` stands twice" if photo_id in seen else "")
                if wrong:
                    yield image, Reject(photo_id, "plan", "malformed photo entry", f"{self.name}: {wrong}")
                else:
                    yield image, items.get(photo_id, [])
                seen.add(photo_id)
            for photo_id, texts in items.items():
                if photo_id not in seen:
                    yield {}, Reject(photo_id, "plan", "not in images", f"{len(texts)} annotations in {self.name}")

    def load(self, text: bytes) -> dict[str, Any]:
        """Parses an element."""
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            pass
        try:
            # Slower, but reads the NaN and Infinity that Python's own writer leaves.
            element = json.loads(text, parse_int=_parse_int)
            json.dumps(element, ensure_ascii=False).encode()  # half a surrogate pair is no text, and none can write it
            return element
        except (ValueError, RecursionError) as error:
            start = text[:40].decode(errors="replace")
            raise UserError(f"annotations: {self.url} is not JSON at `{start}` ({error})") from None

    def _take(self, key: str, text: bytes) -> None:
        element = self.load(text)
        if key == "categories":
            self.raw_categories.append(element)
        elif key == "licenses":
            self._licenses.append(element)
        else:
            self._counts[key] += 1
            own = "id" if key == "images" else "image_id"
            if own not in element:
                reason = "malformed photo entry" if key == "images" else "malformed annotation"
                name = str(element.get("file_name" if key == "images" else "id", "?"))
                self.rejects.append(Reject(name, "plan", reason, f"{self.name}: `{own}` is missing"))
                return
            photo_id = str(element[own]).encode(errors="replace").replace(b"\n", b" ")
            bucket = zlib.crc32(photo_id) % self._spool.num_buckets
            self._spool.add(bucket, b"\n".join((key[:1].encode(), photo_id, text)))

    def _check(self, document: Any) -> None:
        """What remains of the document without its elements must look like COCO's."""
        if not isinstance(document, dict):
            kind = "a list" if isinstance(document, list) else type(document).__name__
            raise UserError(
                f"annotations: {self.url} holds {kind}; expected COCO's object with `images`, `annotations`, ..."
            )
        for key in KEYS:
            if key not in document:
                raise UserError(f"annotations: {self.url} lacks the key `{key}`; expected COCO or LVIS instance JSON")
            if document[key] not in ([], [0]):
                raise UserError(f"annotations: {self.url}: `{key}` is not a list of objects as in COCO")
        for key, count in self._counts.items():
            if not count:
                raise UserError(f"annotations: {self.url} has an empty list `{key}`; there is nothing to build from")


def _what_is_wrong(image: dict[str, Any]) -> str:
    for key in ("width", "height"):
        value = image.get(key)
        if not isinstance(value, int) or not 0 < value < 2**31:
            return f"`{key}` is {'missing' if value is None else 'not a whole number above 0'}"
    return ""


def _parse_int(digits: str) -> int | float:
    """As orjson reads whole numbers: one that does not fit 64 bits becomes a float, infinite where it must."""
    if len(digits) <= 20 and -(2**63) <= (value := int(digits)) < 2**64:
        return value
    return float(digits)
