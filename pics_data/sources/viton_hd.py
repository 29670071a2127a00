"""VITON-HD (https://github.com/shadow2496/VITON-HD): people in garments, and which part or garment each pixel shows.

    train/image/<id>.jpg           the photo, 768 x 1024
    train/image-parse-v3/<id>.png  its parse map, 20 classes as indices into a palette; `image-parse` in older releases

`--images` is `train/image`, `--annotations` is `train/image-parse-v3`. (`image-parse-agnostic-v3.2` lacks the garment.)

What is an object. The published builder takes each class as it stands, and of those above the minimum area the two
largest. But the parser calls one and the same top upper clothes in one place and dress or coat in another, and it takes
a head apart into hair, face and neck, of which none is an object and most lie inside another's box. So classes are
merged, garments as VITON-HD's own loader groups them and the body one step further, into things that have a name and
that touch one another:

* upper clothes (upper clothes, dress, coat) and lower clothes (trousers, skirt): as a rule the two largest, which is
  the published pair, and the pair with the highest box IoU, since one reaches over the other at the waist;
* head (hat, hair, sunglasses, face, and the skin of neck and chest): the person. It meets the garment at the neckline,
  with long hair in front of it or a collar in front of the neck;
* each arm, each leg and each shoe: in front of a garment, or coming out of it;
* scarf.

Gloves and socks are left out, being hardly ever large enough. The whole person is no object either: its box would hold
the garments' boxes, and a box within another makes no pair.
"""

from collections.abc import Iterable, Iterator, Sequence

from pics_data.labels import Region
from pics_data.records import Instance, Photo, Reject, RejectError
from pics_data.sources.annotated_files import (
    Pair,
    label_pictures,
    label_pixels,
    photo_files,
    photo_of_labels,
    read_pairs,
    require_folders,
    without_annotation,
)
from pics_data.sources.photo_folders import PhotoFolders

SOURCE = "viton_hd"
LICENSE = "CC BY-NC 4.0"
EXPECTED = "VITON-HD's parse maps, such as train/image-parse-v3"
NUM_CLASSES = 20

# Object, its category, and its classes in the parse map.
OBJECTS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("upper_clothes", "upper clothes", (5, 6, 7)),  # upper clothes, dress, coat
    ("lower_clothes", "lower clothes", (9, 12)),  # trousers, skirt
    ("head", "head", (1, 2, 4, 10, 13)),  # hat, hair, sunglasses, skin of neck and chest, face
    ("left_arm", "arm", (14,)),
    ("right_arm", "arm", (15,)),
    ("left_leg", "leg", (16,)),
    ("right_leg", "leg", (17,)),
    ("left_shoe", "shoe", (18,)),
    ("right_shoe", "shoe", (19,)),
    ("scarf", "scarf", (11,)),
)


def photos(images: Sequence[str], annotations: Sequence[str], check_photos: bool = True) -> Iterator[Photo | Reject]:
    """The photos of VITON-HD with the garments and parts of the person, folder by folder of `annotations`, by name.

    A parse map that cannot be read gives a `Reject`, as does a photo or parse map without the other.
    Raises `UserError` for a folder that is not there or holds no parse map.
    """
    folders = PhotoFolders(require_folders("--images", images, "VITON-HD's photos, such as train/image"), check_photos)
    seen: set[str] = set()
    for folder in require_folders("--annotations", annotations, EXPECTED):
        yield from read_pairs(SOURCE, folders, label_pictures(folder, EXPECTED), _read, seen)
    if check_photos:
        yield from without_annotation(SOURCE, photo_files(images), seen)


def _read(pair: Pair) -> list[Photo | Reject]:
    def objects(regions: list[Region]) -> Iterable[Instance]:
        by_class = {region.value: region for region in regions}
        if by_class and max(by_class) >= NUM_CLASSES:
            raise RejectError("unknown label", f"{pair.annotation} has class {max(by_class)}; expected 0 to 19")
        for name, category, classes in OBJECTS:
            parts = [by_class[value] for value in classes if value in by_class]
            if parts:
                values = [part.value for part in parts]
                area = float(sum(part.area for part in parts))
                yield Instance(name, category, _box_around(parts), area, label_pixels(values))

    return [photo_of_labels(SOURCE, LICENSE, pair, objects)]


def _box_around(regions: list[Region]) -> tuple[float, float, float, float]:
    left = min(region.box[0] for region in regions)
    top = min(region.box[1] for region in regions)
    right = max(region.box[0] + region.box[2] for region in regions)
    bottom = max(region.box[1] + region.box[3] for region in regions)
    return (float(left), float(top), float(right - left), float(bottom - top))
