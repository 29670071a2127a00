"""What COCO and LVIS share: reading an annotation file of any size, and finding a photo's file in the given folders.

The file is scanned once for where each element of `images` and `annotations` begins and ends; an element is parsed
when its photo's turn comes. So the memory is some hundred bytes an annotation, however large the polygons are.
"""

import json
import math
import mmap
import re
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import orjson

from pics_common.errors import UserError, require_file, require_folder
from pics_data.records import Instance, Photo, Reject

KEYS = ("images", "annotations", "categories")
ARRAYS = {b'"images"', b'"annotations"', b'"categories"', b'"licenses"'}
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)
Span = tuple[int, int]


def photos(
    source: str,
    images: Sequence[Path],
    annotations: Sequence[Path],
    file_names: Callable[[dict[str, Any]], list[str]],
) -> Iterator[Photo | Reject]:
    """Yields each photo of the annotation files, in their order, or a `Reject` of stage "plan" in its place.

    `file_names` says under which names an element of `images` may be found in the folders `images`, best first.
    A photo that is in none of the folders gives a `Reject` "missing photo". An annotation that cannot be read gives
    a `Reject` "malformed annotation" beside its photo, which goes on without it.
    Raises `UserError` for a missing folder, a file that is not COCO JSON, or a photo that two files hold.
    """
    if not images:
        raise UserError(f"--images: expected at least one folder of photos for --source {source}")
    if not annotations:
        raise UserError(f"--annotations: expected at least one annotation file for --source {source}")
    folders = PhotoFolders(images)
    files = [AnnotationFile(require_file(path, "annotations")) for path in annotations]
    seen: dict[str, Path] = {}
    for file in files:
        for image, spans in file.images():
            photo_id = str(image["id"])
            if photo_id in seen:
                raise UserError(
                    f"annotations: {file.path} holds photo id {photo_id}, which {seen[photo_id]} held before; "
                    "give each photo once"
                )
            seen[photo_id] = file.path
            names = file_names(image)
            path = folders.find(names)
            if path is None:
                yield Reject(f"{source}-{photo_id}", "plan", "missing photo", next(filter(None, names), "no file name"))
            else:
                yield from _photo(source, file, image, spans, path)
        for photo_id, count in file.orphans(seen):
            yield Reject(f"{source}-{photo_id}", "plan", "not in images", f"{count} annotations in {file.path.name}")


def _photo(
    source: str, file: "AnnotationFile", image: dict[str, Any], spans: list[Span], path: Path
) -> Iterator[Photo | Reject]:
    photo_id = str(image["id"])
    instances: list[Instance] = []
    for span in spans:
        annotation = file.load(span)
        try:
            instances.append(read_instance(annotation, file.categories))
        except ValueError as error:
            key = f"{source}-{photo_id}-{annotation.get('id')}"
            yield Reject(key, "plan", "malformed annotation", f"{file.path.name}: {error}")
    yield Photo(
        id=photo_id,
        source=source,
        path=str(path),
        width=int(image["width"]),
        height=int(image["height"]),
        instances=tuple(instances),
        license=file.licenses.get(str(image.get("license")), ""),
        url=str(image.get("coco_url") or image.get("flickr_url") or ""),
    )


def read_instance(annotation: dict[str, Any], categories: dict[str, str]) -> Instance:
    """One element of `annotations`. Raises `ValueError` that says which key is missing or unfit."""
    for key in ("id", "bbox", "area", "category_id", "segmentation"):
        if key not in annotation:
            raise ValueError(f"`{key}` is missing")
    if not isinstance(annotation["segmentation"], list | dict):
        raise ValueError("`segmentation` is neither polygons nor RLE")
    try:
        x, y, width, height = map(float, annotation["bbox"])
        area = float(annotation["area"])
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
        segmentation=annotation["segmentation"],
        crowd=bool(annotation.get("iscrowd", 0)),
    )


class PhotoFolders:
    """The folders of photos, each listed once: asking a network file system for each photo takes hours."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [require_folder(folder, "images").absolute() for folder in folders]
        self._listings: dict[Path, frozenset[str]] = {}

    def find(self, names: Sequence[str]) -> Path | None:
        """The first of `names` that is in one of the folders; a name may have folders in it, but cannot lead out."""
        for name in names:
            relative = PurePosixPath(name)
            if relative.is_absolute() or ".." in relative.parts or not relative.name:
                continue
            for folder in self._folders:
                path = folder / relative
                if path.name in self._listing(path.parent):
                    return path
        return None

    def _listing(self, folder: Path) -> frozenset[str]:
        if folder not in self._listings:
            names = (entry.name for entry in folder.iterdir()) if folder.is_dir() else ()
            self._listings[folder] = frozenset(names)
        return self._listings[folder]


class AnnotationFile:
    """One annotation file, mapped into memory: the photos with the places of their annotations.

    Raises `UserError`, which names the file, if it is empty, is not JSON or is not COCO's JSON.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.stat().st_size == 0:
            raise UserError(f"annotations: {path} is empty; expected COCO JSON")
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        places = self._scan()
        spans = places["annotations"]
        self._image_spans = places["images"]
        if not self._image_spans or not spans:
            empty = "images" if not self._image_spans else "annotations"
            raise UserError(f"annotations: {path} has an empty list `{empty}`; there is nothing to build from")
        self.categories = {str(c.get("id")): str(c.get("name", "")) for c in map(self.load, places["categories"])}
        licenses = map(self.load, places["licenses"])
        self.licenses = {str(item.get("id")): str(item.get("url") or item.get("name") or "") for item in licenses}
        # Annotations come in any order: sorted by photo, stable, as three columns of numbers.
        image_ids = [self._image_id(span) for span in spans]
        self._ids, codes = np.unique(np.array(image_ids, dtype=str), return_inverse=True)
        order = np.argsort(codes, kind="stable")
        self._spans = np.array(spans, dtype=np.int64)[order]
        self._starts = np.searchsorted(codes[order], np.arange(len(self._ids) + 1))

    def images(self) -> Iterator[tuple[dict[str, Any], list[Span]]]:
        """Each element of `images`, parsed, with the places of its annotations."""
        for span in self._image_spans:
            image = self.load(span)
            if not {"id", "width", "height"} <= image.keys():
                raise UserError(f"annotations: {self.path}: an element of `images` lacks `id`, `width` or `height`")
            if not all(isinstance(image[key], int) and 0 < image[key] < 2**31 for key in ("width", "height")):
                raise UserError(
                    f"annotations: {self.path}: image {image['id']}: `width` or `height` is not whole or not above 0"
                )
            i = int(np.searchsorted(self._ids, str(image["id"])))
            if i < len(self._ids) and self._ids[i] == str(image["id"]):
                rows = self._spans[self._starts[i] : self._starts[i + 1]]
                yield image, [(int(start), int(end)) for start, end in rows]
            else:
                yield image, []

    def orphans(self, known: Container[str]) -> Iterator[tuple[str, int]]:
        """Photo ids that `annotations` speak of but `images` do not, with the number of their annotations."""
        for photo_id, count in zip(self._ids, np.diff(self._starts), strict=True):
            if str(photo_id) not in known:
                yield str(photo_id), int(count)

    def load(self, span: Span) -> dict[str, Any]:
        """Parses the element at `span`."""
        text = self._bytes[span[0] : span[1]]
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
            raise UserError(f"annotations: {self.path} is not JSON from byte {span[0]} on ({error})") from None

    def _image_id(self, span: Span) -> str:
        annotation = self.load(span)
        if "image_id" not in annotation:
            raise UserError(f"annotations: {self.path}: annotation {annotation.get('id')} lacks `image_id`")
        return str(annotation["image_id"])

    def _scan(self) -> dict[str, list[Span]]:
        spans, rest = _split(self._bytes)
        try:
            document = orjson.loads(rest)
        except orjson.JSONDecodeError as error:
            raise UserError(f"annotations: {self.path} is not JSON, or is cut off ({error})") from None
        if not isinstance(document, dict):
            kind = "a list" if isinstance(document, list) else type(document).__name__
            raise UserError(
                f"annotations: {self.path} holds {kind}; expected COCO's object with `images`, `annotations`, ..."
            )
        for key in KEYS:
            if key not in document:
                raise UserError(f"annotations: {self.path} lacks the key `{key}`; expected COCO or LVIS instance JSON")
            if document[key] not in ([], [0]):
                raise UserError(f"annotations: {self.path}: `{key}` is not a list of objects as in COCO")
        return {key: spans.get(key, []) for key in (*KEYS, "licenses")}


def _parse_int(digits: str) -> int | float:
    """As orjson reads whole numbers: one that does not fit 64 bits becomes a float, infinite where it must."""
    if len(digits) <= 20 and -(2**63) <= (value := int(digits)) < 2**64:
        return value
    return float(digits)


def _split(text: mmap.mmap) -> tuple[dict[str, list[Span]], bytes]:
    """Places of the objects in COCO's arrays, by key, and the text with a single 0 in place of all objects of an array.

    The rest must still parse as JSON, with those arrays [] or [0]: that is how broken structure is noticed.
    """
    spans: dict[str, list[Span]] = {}
    rest: list[bytes] = []
    depth = start = end = 0
    key = b""
    current: list[Span] | None = None  # the spans of the array that we are in
    for match in TOKEN.finditer(text):
        token = match.group()
        first = token[0]
        if first == 0x22:  # a string
            if depth == 1:
                key = token
        elif first in b"{[":
            depth += 1
            if depth == 2 and first == 0x5B and key in ARRAYS:
                current = spans.setdefault(key.decode()[1:-1], [])
            elif depth == 3 and first == 0x7B and current is not None:
                start = match.start()
        else:
            depth -= 1
            if depth == 2 and first == 0x7D and current is not None:
                gap = text[end:start]
                if not current or gap.strip() != b",":
                    rest += [gap, b"0"]
                end = match.end()
                current.append((start, end))
            elif depth == 1:
                current = None
    rest.append(text[end:])
    return spans, b"".join(rest)
