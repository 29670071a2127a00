"""LVIS instances (https://www.lvisdataset.org), which annotate COCO's photos of 2017.

v1 names a photo by `coco_url` alone. v0.5 has a `file_name` too, but after the files of 2014
(`COCO_val2014_000000011813.jpg`), which most users do not have. So the URL goes first.
"""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from pics_data.records import Photo, Reject
from pics_data.sources import coco_json


def photos(images: Sequence[str], annotations: Sequence[str], check_photos: bool = True) -> Iterator[Photo | Reject]:
    """The photos of LVIS annotation files; see `coco_json.photos`."""
    return coco_json.photos("lvis", images, annotations, file_names, check_photos=check_photos)


def file_names(image: dict[str, Any]) -> list[str]:
    """Where a photo may lie under an image folder: with the URL's split folder, without, then by `file_name`."""
    url = PurePosixPath(coco_json.text_of(image, "coco_url").partition("?")[0])
    name = coco_json.text_of(image, "file_name")
    return ["/".join(url.parts[-2:]), url.name, name, PurePosixPath(name).name]
