"""COCO panoptic (https://cocodataset.org): `panoptic_train2017.json`, and beside it the folder of the same name with a
PNG for each photo, in which R + 256 G + 65536 B is the segment of a pixel.

Only things become instances; stuff (sky, grass) has no shape of its own. BDD100K's panoptic labels in COCO's form are
read as well: there the PNGs may lie beside the JSON, and segments lack boxes, which are then measured.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from pics_common import storage
from pics_common.errors import UserError
from pics_data.labels import Region, label_instances, read_labels
from pics_data.records import Instance, Photo, Reject, RejectError
from pics_data.sources.coco_json import (
    AnnotationFile,
    check_box,
    id_text,
    open_inputs,
    plain_names,
    read_area,
    read_box,
    text_of,
)
from pics_data.sources.photo_folders import PhotoFolders

SOURCE = "coco_panoptic"


def photos(images: Sequence[str], annotations: Sequence[str], check_photos: bool = True) -> Iterator[Photo | Reject]:
    """Yields each photo of the annotation files, or a `Reject` of stage "plan" in its place.

    A photo that is in none of the folders `images` gives "missing photo", one without its PNG "missing labels"; with
    `check_photos` False neither is looked for here. A segment that cannot be read gives "malformed annotation", and
    its photo goes on without it. Raises `UserError` for a missing folder or file, and for one that is not COCO
    panoptic JSON.
    """
    folders = open_inputs(SOURCE, images, annotations, check_photos, "a file like panoptic_train2017.json")
    for url in annotations:
        yield from _photos_of(AnnotationFile(url), folders, PhotoFolders([_label_folder(url)], check_photos))


def _label_folder(url: str) -> str:
    beside = url.removesuffix(".json")
    return beside if beside != url and storage.is_folder(beside) else url.rpartition("/")[0] or "."


def _photos_of(file: AnnotationFile, folders: PhotoFolders, label_folder: PhotoFolders) -> Iterator[Photo | Reject]:
    if not any("isthing" in category for category in file.raw_categories):
        raise UserError(
            f"annotations: {file.url}: no element of `categories` has `isthing`; expected COCO panoptic JSON "
            "(for instances use --source coco)"
        )
    of_things = {id_text(c.get("id")) for c in file.raw_categories if c.get("isthing")}
    things = {number: name for number, name in file.categories.items() if number in of_things}
    for dropped in file.rejects:
        yield Reject(f"{SOURCE}-{dropped.key}", dropped.stage, dropped.reason, dropped.detail)
    for image, items in file.photos():
        if isinstance(items, Reject):
            yield Reject(f"{SOURCE}-{items.key}", items.stage, items.reason, items.detail)
            continue
        key = f"{SOURCE}-{id_text(image['id'])}"
        path = folders.find(plain_names(image))
        if path is None:
            name = next(filter(None, plain_names(image)), "no file name")
            yield Reject(key, "plan", "missing photo", name)
            continue
        if len(items) > 1:
            yield Reject(key, "plan", "malformed annotation", f"{file.name}: {len(items)} panoptic annotations, not 1")
            continue
        annotation = file.load(items[0]) if items else {}
        labels = label_folder.find([text_of(annotation, "file_name")])
        if labels is None:
            detail = text_of(annotation, "file_name") or f"{file.name} names no PNG"
            yield Reject(key, "plan", "missing labels", detail)
            continue
        yield from _photo(file, things, image, annotation, path, labels)


def _photo(
    file: AnnotationFile,
    things: dict[str, str],
    image: dict[str, Any],
    annotation: dict[str, Any],
    path: str,
    labels: str,
) -> Iterator[Photo | Reject]:
    photo_id = str(id_text(image["id"]))
    width, height = int(image["width"]), int(image["height"])
    segments = annotation.get("segments_info")
    if not isinstance(segments, list):
        detail = f"{file.name}: `segments_info` is no list"
        yield Reject(f"{SOURCE}-{photo_id}", "plan", "malformed annotation", detail)
        return
    instances: list[Instance] = []
    regions: dict[int, Region] | None = None
    for i, segment in enumerate(segments):
        try:
            category = id_text(_key(segment, "category_id"))
            if category in file.categories and category not in things:
                continue
            if regions is None and not {"bbox", "area"} <= segment.keys():
                found = label_instances(read_labels(labels, "rgb", (height, width)), storage.base_name(labels))
                regions = {region.value: region for region in found}
            instance = read_segment(segment, things, regions)
            check_box(instance.box, width, height)
            instances.append(instance)
        except ValueError as error:
            name = (id_text(segment.get("id")) if isinstance(segment, dict) else None) or f"segment {i}"
            yield Reject(f"{SOURCE}-{photo_id}-{name}", "plan", "malformed annotation", f"{file.name}: {error}")
        except RejectError as error:
            yield Reject(f"{SOURCE}-{photo_id}", "plan", error.reason, error.detail)
            return
    yield Photo(
        id=photo_id,
        source=SOURCE,
        path=path,
        width=width,
        height=height,
        instances=tuple(instances),
        license=file.licenses.get(id_text(image.get("license")) or "", ""),
        url=text_of(image, "coco_url") or text_of(image, "flickr_url"),
        labels=labels,
    )


def read_segment(segment: dict[str, Any], things: dict[str, str], regions: dict[int, Region] | None) -> Instance:
    """One element of `segments_info`, a thing; without `bbox` or `area`, both are taken from `regions`.

    Raises `ValueError` that says which key is missing or unfit.
    """
    number = _key(segment, "id")
    if type(number) is not int or not 0 <= number < 2**24:
        raise ValueError(f"`id` {str(id_text(number))[:40]} is no whole number of 24 bits")
    category_id = id_text(_key(segment, "category_id"))
    category = things.get(category_id or "")
    if category is None:
        raise ValueError(f"`category_id` {str(category_id)[:40]} is not in `categories`")
    if {"bbox", "area"} <= segment.keys():
        box, area = segment["bbox"], segment["area"]
    elif regions is not None and number in regions:
        box, area = list(regions[number].box), regions[number].area
    else:
        raise ValueError(f"no pixel has the value of segment {number}")
    return Instance(
        id=str(number),
        category=category,
        box=read_box(box),
        area=read_area(area),
        segmentation={"labels": "rgb", "values": [number]},
        crowd=bool(segment.get("iscrowd") or segment.get("ignore")),
    )


def _key(segment: Any, key: str) -> Any:
    if not isinstance(segment, dict) or key not in segment:
        raise ValueError(f"`{key}` is missing")
    return segment[key]
