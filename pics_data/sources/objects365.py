"""Objects365 (https://www.objects365.org): COCO's JSON with boxes alone, and photos in folders `patch0` to `patch50`.

There are no silhouettes: a mask predictor makes them (`--masks`), of the chosen objects only.
"""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from pics_data.records import Photo, Reject
from pics_data.sources import coco_json


def photos(images: Sequence[str], annotations: Sequence[str], check_photos: bool = True) -> Iterator[Photo | Reject]:
    """The photos of Objects365 annotation files, v1 or v2; see `coco_json.photos`."""
    return coco_json.photos("objects365", images, annotations, file_names, check_photos=check_photos, boxes_only=True)


def file_names(image: dict[str, Any]) -> list[str]:
    """Where a photo may lie under an image folder, after `file_name` `images/v1/patch8/objects365_v1_00420917.jpg`:
    as it stands, below its patch (as unpacked), or on its own."""
    name = PurePosixPath(coco_json.text_of(image, "file_name"))
    return [str(name), "/".join(name.parts[-2:]), name.name]
