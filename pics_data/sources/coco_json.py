"""What COCO, LVIS and others share: an annotation file with `images`, `annotations` and `categories`, of any size.

The file is read once. Photos and annotations go into buckets by the photo's id, on disk where they are many; then one
bucket after the other is grouped by photo. So memory does not grow with the file.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from pics_common import storage
from pics_common.errors import UserError
from pics_data.masks import are_finite
from pics_data.records import Instance, Photo, Reject
from pics_data.sources.json_arrays import parse, scan
from pics_data.sources.photo_folders import PhotoFolders
from pics_data.spool import Spool

KEYS = ("images", "annotations", "categories")
BUCKET = 2**25  # bytes of the file for each bucket
LINE_BREAK = ("\n", "\ue00a")  # in an id, and what stands for it in the spool


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
    folders = open_inputs(source, images, annotations, check_photos, "a file of COCO JSON")
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
                yield Reject(f"{source}-{id_text(image['id'])}", "plan", "missing photo", name)
            else:
                yield from _photo(source, file, image, items, path, boxes_only)


def open_inputs(
    source: str, images: Sequence[str], annotations: Sequence[str], check_photos: bool, expected: str
) -> PhotoFolders:
    """The folders of photos. Raises `UserError` where they or the annotation files, `expected`, are not there."""
    if not images:
        raise UserError(f"--images: expected at least one folder of photos for --source {source}")
    if not annotations:
        raise UserError(f"--annotations: expected {expected} for --source {source}")
    folders = PhotoFolders(images, check_photos)
    for url in annotations:
        if storage.file_size(url) is None:
            kind = "is a folder" if storage.is_folder(url) else "does not exist"
            raise UserError(f"annotations: {url} {kind}; expected {expected}")
    return folders


def _photo(
    source: str, file: "AnnotationFile", image: dict[str, Any], items: list[bytes], path: str, boxes_only: bool
) -> Iterator[Photo | Reject]:
    photo_id = str(id_text(image["id"]))
    instances: dict[str, Instance] = {}
    for text in items:
        annotation = file.load(text)
        try:
            instance = read_instance(annotation, file.categories, boxes_only)
            if instance.id in instances:
                raise ValueError(f"`id` {instance.id} stands twice")
            check_box(instance.box, int(image["width"]), int(image["height"]))
        except ValueError as error:
            key = f"{source}-{photo_id}-{id_text(annotation.get('id')) or '?'}"
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
        license=file.licenses.get(id_text(image.get("license")) or "", ""),
        url=text_of(image, "coco_url") or text_of(image, "flickr_url"),
    )


def read_instance(annotation: dict[str, Any], categories: dict[str, str], boxes_only: bool = False) -> Instance:
    """One element of `annotations`. Raises `ValueError` that says which key is missing or unfit.

    Of polygons and run lengths, only the types are looked at here: most are never chosen.
    """
    for key in ("id", "bbox", "category_id", *(() if boxes_only else ("area", "segmentation"))):
        if key not in annotation:
            raise ValueError(f"`{key}` is missing")
    number = id_text(annotation["id"])
    if number is None:
        raise ValueError("`id` is neither a whole number nor text")
    box = read_box(annotation["bbox"])
    area = read_area(annotation["area"] if "area" in annotation else box[2] * box[3])
    category = categories.get(id_text(annotation["category_id"]) or "")
    if category is None:
        raise ValueError(f"`category_id` {str(id_text(annotation['category_id']))[:40]} is not in `categories`")
    return Instance(
        id=number,
        category=category,
        box=box,
        area=area,
        segmentation=None if boxes_only else _segmentation(annotation["segmentation"]),
        crowd=bool(annotation.get("iscrowd", 0)),
    )


def read_box(box: Any) -> tuple[float, float, float, float]:
    """A `bbox` as numbers. Raises `ValueError` where it is none."""
    if not isinstance(box, list) or len(box) != 4 or not are_finite(box) or min(box[2:]) < 0:
        raise ValueError("`bbox` is not [x, y, width, height] in finite numbers, with a size of 0 or more")
    x, y, width, height = box
    return float(x), float(y), float(width), float(height)


def read_area(area: Any) -> float:
    """An `area` as a number. Raises `ValueError` where it is none."""
    if not are_finite([area]) or area < 0:
        raise ValueError("`area` is not a finite number of 0 or more")
    return float(area)


def _segmentation(value: Any) -> Any:
    """Polygons, or an RLE without whatever else stands there."""
    if isinstance(value, list) and all(type(polygon) is list and _are_numbers(polygon) for polygon in value):
        return value
    if isinstance(value, dict) and _are_numbers(value.get("size")):
        counts = value.get("counts")
        if isinstance(counts, str) or _are_numbers(counts):
            return {"size": value["size"], "counts": counts}
    raise ValueError("`segmentation` is neither polygons [[x, y, x, y, ...], ...] nor an RLE of `size` and `counts`")


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and set(map(type, value)) <= {int, float}


def check_box(box: tuple[float, float, float, float], width: int, height: int) -> None:
    """Raises `ValueError` for a box that does not meet the photo or goes far beyond it: objects are chosen by it."""
    x, y, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    if x >= width or y >= height or right < 0 or bottom < 0:
        raise ValueError(f"`bbox` lies outside of the photo of {width} x {height} pixels")
    if x < -width or y < -height or right > 2 * width or bottom > 2 * height:
        raise ValueError(f"`bbox` goes far beyond the photo of {width} x {height} pixels")


def id_text(value: Any) -> str | None:
    """An id as text, the same for 5, 5.0 and "5"; None for what is no id."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return str(value) if type(value) is int or (type(value) is str and value) else None


def text_of(element: dict[str, Any], key: str) -> str:
    """The text at a key; "" where it is missing or something else."""
    value = element.get(key)
    return value if isinstance(value, str) else ""


def plain_names(image: dict[str, Any]) -> list[str]:
    """Where a photo may lie under an image folder: `file_name` as it stands, then its last part."""
    name = text_of(image, "file_name")
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
        self._counts = Counter[str]()
        self._spool = Spool(-(-(storage.file_size(url) or 0) // BUCKET) or 1)
        with storage.local_copy(url) as path:
            document = scan(path, frozenset((*KEYS, "licenses")), self._take, "COCO JSON")
        self._check(document)
        self.categories = self._named(self.raw_categories)
        self.licenses = {
            id_text(item.get("id")) or "": text_of(item, "url") or text_of(item, "name") for item in self._licenses
        }

    def photos(self) -> Iterator[tuple[dict[str, Any], "list[bytes] | Reject"]]:
        """Each element of `images`, parsed, with the texts of its annotations (see `load`), or with why it is dropped.

        Annotations of a photo that is not in `images` come as a single reject.
        """
        for number in range(self._spool.num_buckets):
            images: dict[str, list[bytes]] = {}
            items: dict[str, list[bytes]] = {}
            for record in self._spool.read(number):
                kind, own_id, text = record.split(b"\n", 2)
                of_kind = images if kind == b"i" else items
                of_kind.setdefault(own_id.decode().replace(*LINE_BREAK[::-1]), []).append(text)
            for photo_id, texts in images.items():
                image, *others = map(self.load, texts)
                wrong = _what_is_wrong(image)
                if any(_is_other_photo(image, other) for other in others):
                    wrong = "`id` stands twice, for different photos"
                if wrong:
                    yield image, Reject(photo_id, "plan", "malformed photo entry", f"{self.name}: {wrong}")
                else:
                    yield image, items.get(photo_id, [])
                for other in others:
                    yield other, Reject(photo_id, "plan", "malformed photo entry", f"{self.name}: `id` stands twice")
            for photo_id, texts in items.items():
                if photo_id not in images:
                    yield {}, Reject(photo_id, "plan", "not in images", f"{len(texts)} annotations in {self.name}")

    def load(self, text: bytes) -> dict[str, Any]:
        """Parses an element. Raises `UserError` where it is not JSON, `RecursionError` where it nests too deep."""
        try:
            return dict(parse(text))
        except ValueError as error:
            start = text[:40].decode(errors="replace")
            raise UserError(f"annotations: {self.url} is not JSON at `{start}` ({error})") from None

    def _take(self, key: str, text: bytes) -> None:
        self._counts[key] += 1
        try:
            element = self.load(text)
        except RecursionError:
            start = text[:40].decode(errors="replace")
            self._reject(key, "?", f"nests too deep, at `{start}`")
            return
        if key == "categories":
            self.raw_categories.append(element)
        elif key == "licenses":
            self._licenses.append(element)
        else:
            own = "id" if key == "images" else "image_id"
            photo_id = id_text(element.get(own))
            if photo_id is None:
                name = text_of(element, "file_name") if key == "images" else id_text(element.get("id"))
                wrong = "is neither a whole number nor text" if own in element else "is missing"
                self._reject(key, name or "?", f"`{own}` {wrong}")
                return
            own_id = photo_id.replace(*LINE_BREAK).encode()
            bucket = zlib.crc32(own_id) % self._spool.num_buckets
            self._spool.add(bucket, b"\n".join((key[:1].encode(), own_id, text)))

    def _reject(self, key: str, name: str, what: str) -> None:
        reason = "malformed photo entry" if key == "images" else "malformed annotation"
        self.rejects.append(Reject(name, "plan", reason, f"{self.name}: an element of `{key}`: {what}"))

    def _named(self, categories: list[dict[str, Any]]) -> dict[str, str]:
        """Id -> name, of those that have both."""
        names: dict[str, str] = {}
        for category in categories:
            number, name = id_text(category.get("id")), text_of(category, "name")
            if number is None or not name:
                continue
            if names.setdefault(number, name) != name:
                raise UserError(
                    f"annotations: {self.url}: `categories` has id {number} twice, for {names[number]} and {name}"
                )
        return names

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
        for key in ("images", "annotations"):
            if not self._counts[key]:
                raise UserError(f"annotations: {self.url} has an empty list `{key}`; there is nothing to build from")


def _what_is_wrong(image: dict[str, Any]) -> str:
    for key in ("width", "height"):
        value = image.get(key)
        if type(value) is not int or not 0 < value < 2**31:
            return f"`{key}` is {'missing' if value is None else 'not a whole number above 0'}"
    return ""


def _is_other_photo(image: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two elements of the same id are of different photos: then nobody knows whose the annotations are."""
    return any(image.get(key) != other.get(key) for key in ("file_name", "coco_url", "width", "height"))
