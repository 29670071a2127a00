"""COCO instances (https://cocodataset.org): `instances_train2017.json` and the folders `train2017`, `val2017`."""

from collections.abc import Iterator, Sequence

from pics_data.records import Photo, Reject
from pics_data.sources import coco_json


def photos(images: Sequence[str], annotations: Sequence[str], check_photos: bool = True) -> Iterator[Photo | Reject]:
    """The photos of COCO annotation files; see `coco_json.photos`."""
    return coco_json.photos("coco", images, annotations, coco_json.plain_names, check_photos=check_photos)
