"""What data sets with one annotation file a photo share: pairing the files up, and reading many of them at a time."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pics_common import storage
from pics_common.errors import UserError
from pics_data.ahead import read_ahead
from pics_data.labels import Region, label_instances, read_labels
from pics_data.records import Instance, Photo, Reject, RejectError
from pics_data.sources.photo_folders import PhotoFolders

# Annotation files that are read at a time. Decoding a PNG leaves Python's lock alone, so that all CPUs work; a label
# picture of 12 megapixels takes some 100 MB meanwhile.
THREADS = min(8, 1 + (os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class Annotation:
    """An annotation file, the photo that it belongs to, and the names under which that may be found, best first."""

    photo_id: str
    url: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """An annotation file with the path or URL of its photo."""

    photo_id: str
    annotation: str
    photo: str


def require_folders(option: str, folders: Sequence[str], expected: str) -> list[str]:
    """The folders of an option, absolute. Raises `UserError` where none is given or one is not there."""
    if not folders:
        raise UserError(f"{option}: expected {expected}")
    for folder in folders:
        if not storage.is_folder(folder):
            raise UserError(f"{option}: {folder} does not exist or is no folder; expected {expected}")
    return [storage.absolute(folder) for folder in folders]


def read_pairs(
    source: str,
    folders: PhotoFolders,
    annotations: Iterable[Annotation],
    read: Callable[[Pair], list[Photo | Reject]],
    seen: set[str],
) -> Iterator[Photo | Reject]:
    """What `read` makes of each annotation file and its photo, in the order of `annotations`.

    `seen` receives the photos' ids. A photo that is not there gives a `Reject` "missing photo"; what `read` raises as
    `RejectError` becomes the photo's `Reject`. Raises `UserError` for a photo with two annotation files.
    """

    def pairs() -> Iterator[Pair | Reject]:
        for annotation in annotations:
            photo_id = annotation.photo_id
            if photo_id in seen:
                raise UserError(
                    f"--annotations: {annotation.url} is a second annotation of photo {photo_id}; give each photo once"
                )
            seen.add(photo_id)
            if (name := plain(photo_id)) != photo_id:
                yield Reject(f"{source}-{name}", "plan", "name is not UTF-8", name)
            elif photo := folders.find(annotation.names):
                yield Pair(photo_id, annotation.url, photo)
            else:
                yield Reject(f"{source}-{photo_id}", "plan", "missing photo", annotation.names[0])

    def work(item: Pair | Reject) -> list[Photo | Reject]:
        if isinstance(item, Reject):
            return [item]
        try:
            return read(item)
        except RejectError as error:
            return [Reject(f"{source}-{item.photo_id}", "plan", error.reason, error.detail)]

    for _, made in read_ahead(pairs(), work, THREADS):
        yield from made.result()


def without_annotation(source: str, photos: Iterable[tuple[str, str]], seen: Collection[str]) -> Iterator[Reject]:
    """A `Reject` "missing annotation" for each (photo id, file name) whose id is not among those `seen`."""
    for photo_id, name in photos:
        if photo_id not in seen:
            yield Reject(f"{source}-{plain(photo_id)}", "plan", "missing annotation", plain(name))


def plain(name: str) -> str:
    """A file's name as text: bytes in another encoding than UTF-8, which no table can hold, are written out."""
    return name.encode(errors="backslashreplace").decode()


def label_pictures(folder: str, expected: str) -> Iterator[Annotation]:
    """The files `<id>.png` of a folder, by name, whose photos are `<id>.jpg`. Raises `UserError` if there are none."""
    names = file_names(folder, ".png")
    if not names:
        raise UserError(f"--annotations: {folder} holds no .png; expected {expected}")
    for name in names:
        photo_id = name.removesuffix(".png")
        yield Annotation(photo_id, storage.join(folder, name), (f"{photo_id}.jpg",))


def photo_files(folders: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The photos `<id>.jpg` of all folders, as (id, file name)."""
    for folder in folders:
        for name in file_names(folder, ".jpg"):
            yield name.removesuffix(".jpg"), name


def file_names(folder: str, suffix: str) -> list[str]:
    """The files directly in a folder whose names end in `suffix`, sorted."""
    return [entry.name for entry in storage.list_folder(folder) if entry.name.endswith(suffix) and not entry.is_folder]


def photo_of_labels(
    source: str, terms: str, pair: Pair, instances: Callable[[list[Region]], Iterable[Instance]]
) -> Photo:
    """The photo of a label picture of the form `index`; `instances` makes objects of its values' regions.

    `terms` is the photo's licence. The label picture has the photo's size: the photo itself is not read.
    Raises `RejectError` as `read_labels` and `label_instances` do.
    """
    labels = read_labels(pair.annotation, "index")
    height, width = labels.shape
    found = tuple(instances(label_instances(labels, storage.base_name(pair.annotation))))
    return Photo(pair.photo_id, source, pair.photo, width, height, found, license=terms, labels=pair.annotation)


def box_of(region: Region) -> tuple[float, float, float, float]:
    """A region's box as an instance has it."""
    x, y, width, height = region.box
    return (float(x), float(y), float(width), float(height))


def label_pixels(values: Sequence[int]) -> dict[str, object]:
    """The segmentation of an object that is all pixels of these values."""
    return {"labels": "index", "values": list(values)}
