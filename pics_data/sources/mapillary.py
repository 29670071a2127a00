"""Mapillary Vistas (https://www.mapillary.com/dataset/vistas), v1.2 and v2.0, from its pictures of instances.

    config_v1.2.json  config_v2.0.json
    training/images/<id>.jpg
    training/v1.2/instances/<id>.png   v1.2's labels, 16 bits: 256 * label + number of the object
    training/v2.0/instances/<id>.png   v2.0's labels of the same photos

`--images` is `training/images`, `--annotations` is `training/v2.0` (or `training/v1.2`, or the folder `instances`
below); the labels' names come from the config of that version, which stands above. The first edition has `config.json`
and `training/instances` without a version; there, `--annotations` is `training`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import orjson

from pics_common import storage
from pics_common.errors import UserError
from pics_data.labels import Region
from pics_data.records import Instance, Photo, Reject, RejectError
from pics_data.sources.annotated_files import (
    Pair,
    box_of,
    label_pictures,
    label_pixels,
    photo_files,
    photo_of_labels,
    read_pairs,
    require_folders,
    without_annotation,
)
from pics_data.sources.photo_folders import PhotoFolders

SOURCE = "mapillary"
LICENSE = "Mapillary Vistas Dataset Research Use License"
EXPECTED = "a folder of Mapillary Vistas that holds `instances`, such as training/v2.0"
PER_LABEL = 256


@dataclass(frozen=True, slots=True)
class Config:
    """The labels of one version, by number: their readable names, and whether objects of them are told apart."""

    name: str
    labels: tuple[tuple[str, bool], ...]


def photos(images: Sequence[str], annotations: Sequence[str], check_photos: bool = True) -> Iterator[Photo | Reject]:
    """The photos of Mapillary Vistas with their objects, folder by folder of `annotations`, sorted by name.

    Objects are those of labels with `instances` in the config, under their readable names. A label picture that cannot
    be read or has labels that the config lacks gives a `Reject`, as does a photo or label picture without the other.
    Raises `UserError` for a folder that is not there, another layout, or a config that is missing or not Mapillary's.
    """
    folders = PhotoFolders(require_folders("--images", images, "Mapillary's training/images"), check_photos)
    seen: set[str] = set()
    for folder in require_folders("--annotations", annotations, EXPECTED):
        instances = _instances_folder(folder)
        config = _read_config(instances)
        files = label_pictures(instances, EXPECTED)
        yield from read_pairs(SOURCE, folders, files, partial(_read, config), seen)
    if check_photos:
        yield from without_annotation(SOURCE, photo_files(images), seen)


def _read(config: Config, pair: Pair) -> list[Photo | Reject]:
    def objects(regions: list[Region]) -> Iterable[Instance]:
        for region in regions:
            label = region.value // PER_LABEL
            if label >= len(config.labels):
                raise RejectError(
                    "unknown label",
                    f"{pair.annotation} has label {label}; {config.name} knows {len(config.labels)} labels",
                )
            name, has_instances = config.labels[label]
            if has_instances:
                pixels = label_pixels([region.value])
                yield Instance(str(region.value), name, box_of(region), float(region.area), pixels)

    return [photo_of_labels(SOURCE, LICENSE, pair, objects)]


def _instances_folder(folder: str) -> str:
    below = storage.join(folder, "instances")
    if storage.is_folder(below):
        return below
    if storage.base_name(folder) == "instances":
        return folder
    versions = [v for v in ("v2.0", "v1.2") if storage.is_folder(storage.join(folder, v, "instances"))]
    hint = f"; it holds {' and '.join(versions)}: name one of them" if versions else ""
    raise UserError(f"--annotations: {folder} holds no folder `instances`; expected {EXPECTED}{hint}")


def _read_config(instances: str) -> Config:
    version_folder = _parent(instances)
    version = storage.base_name(version_folder)
    name = f"config_{version}.json" if version in ("v1.2", "v2.0") else "config.json"
    places = [version_folder, _parent(version_folder), _parent(_parent(version_folder))]
    for place in places:
        url = storage.join(place, name)
        try:
            return Config(name, _labels(url, storage.read(url)))
        except FileNotFoundError:
            continue
    raise UserError(
        f"--annotations: found no {name} in {', '.join(places)}; expected it in the root of Mapillary Vistas"
    )


def _labels(url: str, data: bytes) -> tuple[tuple[str, bool], ...]:
    try:
        return tuple((str(label["readable"]), bool(label["instances"])) for label in orjson.loads(data)["labels"])
    except orjson.JSONDecodeError as error:
        raise UserError(f"--annotations: {url} is not JSON ({error})") from None
    except (KeyError, TypeError):
        raise UserError(
            f"--annotations: {url} is not Mapillary's: expected `labels`, each with `readable` and `instances`"
        ) from None


def _parent(url: str) -> str:
    return url.rstrip("/").rpartition("/")[0] or "/"
