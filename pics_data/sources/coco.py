"""COCO instances (https://cocodataset.org): `instances_train2017.json` and the folders `train2017`, `val2017`."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pics_data.records import Photo, Reject
from pics_data.sources import coco_json


def photos(images: Sequence[Path], annotations: Sequence[Path]) -> Iterator[Photo | Reject]:
    """The photos of COCO annotation files; see `coco_json.photos`."""
    return coco_json.photos("coco", images, annotations, file_names)


def file_names(image: dict[str, Any]) -> list[str]:
    """Where a photo may lie under an image folder: `file_name` as it stands, then its last part."""
    name = str(image.get("file_name", ""))
    return [name, PurePosixPath(name).name]
