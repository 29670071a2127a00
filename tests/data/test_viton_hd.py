"""VITON-HD: the classes of a parse map become the garments and parts of a person that one can name."""

from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pics_common.errors import UserError
from pics_data.labels import read_labels
from pics_data.masks import mask_of
from pics_data.records import Instance, Photo, Reject
from pics_data.sources import viton_hd

HEIGHT, WIDTH = 64, 48
HAIR, UPPER, DRESS, COAT, TROUSERS, NECK, FACE, LEFT_ARM, SOCKS = 2, 5, 6, 7, 9, 10, 13, 14, 8


def person() -> np.ndarray:
    """[H, W] uint8: classes of a person with an open coat, trousers, one arm bare, and socks."""
    classes = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    classes[4:14, 18:30] = HAIR
    classes[7:14, 20:28] = FACE
    classes[14:18, 22:26] = NECK
    classes[16:40, 14:34] = UPPER
    classes[16:20, 22:26] = NECK
    classes[16:42, 14:18] = COAT
    classes[36:60, 18:32] = TROUSERS
    classes[20:44, 34:38] = LEFT_ARM
    classes[60:63, 20:28] = SOCKS
    return classes


def write(root: Path, photo_id: str, classes: np.ndarray, split: str = "train") -> None:
    """A photo and its parse map, with a palette in which several classes look alike."""
    for folder in ("image", "image-parse-v3"):
        (root / split / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (classes.shape[1], classes.shape[0])).save(root / split / "image" / f"{photo_id}.jpg")
    picture = Image.fromarray(classes, mode="P")
    picture.putpalette([0, 0, 0, 254, 0, 0] * 128)
    picture.save(root / split / "image-parse-v3" / f"{photo_id}.png")


def read(root: Path, splits: Sequence[str] = ("train",), parse: str = "image-parse-v3") -> list[Photo | Reject]:
    images = [str(root / split / "image") for split in splits]
    return list(viton_hd.photos(images, [str(root / split / parse) for split in splits]))


def test_objects_are_the_merged_classes(tmp_path: Path) -> None:
    write(tmp_path, "00001_00", person())
    (photo,) = read(tmp_path)
    assert isinstance(photo, Photo)
    assert (photo.width, photo.height) == (WIDTH, HEIGHT)
    expected = {
        "upper_clothes": ("upper clothes", (UPPER, COAT)),
        "lower_clothes": ("lower clothes", (TROUSERS,)),
        "head": ("head", (HAIR, NECK, FACE)),
        "left_arm": ("arm", (LEFT_ARM,)),
    }
    assert {instance.id for instance in photo.instances} == set(expected)
    reader = partial(read_labels, photo.labels)
    for instance in photo.instances:
        category, classes = expected[instance.id]
        truth = np.isin(person(), classes)
        assert (mask_of(instance.segmentation, HEIGHT, WIDTH, reader) == truth).all()
        rows, columns = np.nonzero(truth)
        assert instance.box == (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert (instance.category, instance.area) == (category, len(rows))


def test_each_class_is_in_one_object_at_most() -> None:
    classes = [value for _, _, values in viton_hd.OBJECTS for value in values]
    assert len(classes) == len(set(classes))
    assert set(range(1, 20)) - set(classes) == {3, SOCKS}  # gloves and socks
    assert len({name for name, _, _ in viton_hd.OBJECTS}) == len(viton_hd.OBJECTS)


def test_photos_by_name_of_both_splits(tmp_path: Path) -> None:
    for photo_id in ("00009_00", "00001_00"):
        write(tmp_path, photo_id, person())
    write(tmp_path, "00006_00", person(), "test")
    found = read(tmp_path, ("train", "test"))
    assert [item.id for item in found if isinstance(item, Photo)] == ["00001_00", "00009_00", "00006_00"]
    assert [Path(item.path).parts[-3] for item in found if isinstance(item, Photo)] == ["train", "train", "test"]


def test_a_photo_without_a_person_has_no_objects(tmp_path: Path) -> None:
    write(tmp_path, "00001_00", np.zeros((HEIGHT, WIDTH), dtype=np.uint8))
    (photo,) = read(tmp_path)
    assert isinstance(photo, Photo)
    assert photo.instances == ()


def test_bad_files_are_rejects_and_their_neighbours_are_there(tmp_path: Path) -> None:
    for photo_id in ("00001_00", "00002_00", "00003_00", "00004_00", "00005_00"):
        write(tmp_path, photo_id, person())
    parse = tmp_path / "train" / "image-parse-v3"
    (parse / "00001_00.png").write_bytes((parse / "00001_00.png").read_bytes()[:150])
    (parse / "00002_00.png").unlink()
    (tmp_path / "train" / "image" / "00003_00.jpg").unlink()
    write(tmp_path, "00004_00", person() + 200)
    found = read(tmp_path)
    assert {item.key: item.reason for item in found if isinstance(item, Reject)} == {
        "viton_hd-00001_00": "broken labels",
        "viton_hd-00002_00": "missing annotation",
        "viton_hd-00003_00": "missing photo",
        "viton_hd-00004_00": "unknown label",
    }
    assert [item.id for item in found if isinstance(item, Photo)] == ["00005_00"]
    assert len(found) == 5


def test_another_layout_is_named(tmp_path: Path) -> None:
    write(tmp_path, "00001_00", person())
    with pytest.raises(UserError, match=r"image-parse does not exist.*such as train/image-parse-v3"):
        read(tmp_path, parse="image-parse")
    with pytest.raises(UserError, match=r"train/image holds no \.png"):
        read(tmp_path, parse="image")
    with pytest.raises(UserError, match="--images: expected"):
        list(viton_hd.photos([], []))


def iou(first: Instance, second: Instance) -> float:
    """Intersection over union of two boxes; 0 where one contains the other, which makes no pair."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = first.box, second.box
    width, height = min(ax + aw, bx + bw) - max(ax, bx), min(ay + ah, by + bh) - max(ay, by)
    if width <= 0 or height <= 0 or width * height in (aw * ah, bw * bh):
        return 0.0
    return width * height / (aw * ah + bw * bh - width * height)


@pytest.mark.shared
def test_a_real_person_wears_two_garments(shared_data: Path) -> None:
    (photo,) = read(shared_data / "formats" / "viton_hd", ("test",))
    assert isinstance(photo, Photo)
    assert (photo.width, photo.height) == Image.open(photo.path).size == (768, 1024)
    large = [instance for instance in photo.instances if instance.area >= 0.01171 * 768 * 1024]
    assert [instance.category for instance in large] == ["upper clothes", "lower clothes", "head", "arm"]
    # The two largest make the published pair; here it is the one with the highest box IoU, too.
    pair = max(combinations(large, 2), key=lambda two: iou(*two))
    assert {instance.id for instance in pair} == {"upper_clothes", "lower_clothes"}
    assert sorted(large, key=lambda instance: -instance.area)[:2] == list(pair)
    truth = np.asarray(Image.open(photo.labels))
    for instance in photo.instances:
        mask = mask_of(instance.segmentation, 1024, 768, partial(read_labels, photo.labels))
        assert (mask == np.isin(truth, instance.segmentation["values"])).all()
