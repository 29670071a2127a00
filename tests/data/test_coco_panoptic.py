"""COCO panoptic, in its true layout: masks equal what was drawn, each unsound piece is a reject beside its photo."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pics_common.errors import UserError
from pics_data.labels import read_labels
from pics_data.masks import mask_of
from pics_data.records import Photo, Reject
from pics_data.sources.coco_panoptic import photos

HEIGHT, WIDTH = 48, 64
PERSON, DOG, SKY, GRASS = 1, 18, 187, 193


@dataclass
class Panoptic:
    """`annotations/panoptic_val2017.json`, the folder of PNGs beside it, `val2017` with the photos; and the truth."""

    root: Path
    document: dict[str, Any]
    values: dict[str, np.ndarray]  # by photo id: the segment of each pixel

    @property
    def json(self) -> Path:
        return self.root / "annotations" / "panoptic_val2017.json"

    @property
    def pngs(self) -> Path:
        return self.json.with_suffix("")

    @property
    def images(self) -> Path:
        return self.root / "val2017"

    def segments(self, i: int) -> list[dict[str, Any]]:
        return self.document["annotations"][i]["segments_info"]

    def read(self, **options: Any) -> tuple[dict[str, Photo], list[Reject]]:
        self.json.write_text(json.dumps(self.document))
        found = list(photos([str(self.images)], [str(self.json)], **options))
        return {p.id: p for p in found if isinstance(p, Photo)}, [r for r in found if isinstance(r, Reject)]


@pytest.fixture
def panoptic(tmp_path: Path) -> Panoptic:
    rng = np.random.default_rng(3)
    categories = [(PERSON, "person", 1), (DOG, "dog", 1), (SKY, "sky-other-merged", 0), (GRASS, "grass-merged", 0)]
    data = Panoptic(
        tmp_path,
        {
            "info": {"year": 2018},
            "licenses": [{"id": 4, "url": "https://creativecommons.org/licenses/by/2.0/"}],
            "categories": [{"id": i, "name": name, "isthing": t, "supercategory": "x"} for i, name, t in categories],
            "images": [],
            "annotations": [],
        },
        {},
    )
    data.pngs.mkdir(parents=True)
    data.images.mkdir()
    for i in range(4):
        photo_id = 139 + 1000 * i
        name = f"{photo_id:012d}"
        values = np.zeros((HEIGHT, WIDTH), dtype=np.int32)
        numbers = rng.choice(2**24 - 1, 5, replace=False) + 1
        values[: HEIGHT // 2], values[HEIGHT // 2 :] = numbers[0], numbers[1]
        cv2.circle(values, (20 + i, 24), 12, int(numbers[2]), -1)
        cv2.circle(values, (34 + i, 26), 11, int(numbers[3]), -1)
        cv2.ellipse(values, (50, 12), (9, 5), 30, 0, 360, int(numbers[4]), -1)
        segments = []
        for number, category in zip(numbers.tolist(), [SKY, GRASS, PERSON, DOG, PERSON], strict=True):
            x, y, width, height = cv2.boundingRect((values == number).astype(np.uint8))
            segments.append(
                {
                    "id": number,
                    "category_id": category,
                    "iscrowd": int(number == numbers[4]),
                    "bbox": [x, y, width, height],
                    "area": int((values == number).sum()),
                }
            )
        rgb = np.stack([values & 255, values >> 8 & 255, values >> 16], axis=-1).astype(np.uint8)
        Image.fromarray(rgb).save(data.pngs / f"{name}.png")
        Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(data.images / f"{name}.jpg")
        image = {"id": photo_id, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT, "license": 4}
        data.document["images"].append({**image, "coco_url": f"http://images.cocodataset.org/val2017/{name}.jpg"})
        data.document["annotations"].append(
            {"image_id": photo_id, "file_name": f"{name}.png", "segments_info": segments}
        )
        data.values[str(photo_id)] = values
    return data


def test_things_and_only_things_have_the_masks_that_were_drawn(panoptic: Panoptic) -> None:
    found, rejects = panoptic.read()
    assert rejects == []
    assert found.keys() == panoptic.values.keys()
    for i, (photo_id, values) in enumerate(panoptic.values.items()):
        photo = found[photo_id]
        assert (photo.source, photo.height, photo.width) == ("coco_panoptic", HEIGHT, WIDTH)
        assert photo.path == str(panoptic.images / f"{int(photo_id):012d}.jpg")
        assert photo.labels == str(panoptic.pngs / f"{int(photo_id):012d}.png")
        assert "creativecommons" in photo.license
        assert photo.url.startswith("http://images.cocodataset.org")
        assert [item.category for item in photo.instances] == ["person", "dog", "person"]
        assert [item.crowd for item in photo.instances] == [False, False, True]
        read = partial(read_labels, photo.labels)
        for item, segment in zip(photo.instances, panoptic.segments(i)[2:], strict=True):
            mask = mask_of(item.segmentation, HEIGHT, WIDTH, read)
            assert np.array_equal(mask, values == segment["id"])
            assert (list(item.box), item.area) == (segment["bbox"], segment["area"])


def test_boxes_and_areas_that_are_not_given_are_measured(panoptic: Panoptic) -> None:
    truth, _ = panoptic.read()
    for i in range(4):
        for segment in panoptic.segments(i):
            del segment["bbox"]
            if i % 2:
                del segment["area"]
    found, rejects = panoptic.read()
    assert rejects == []
    assert found == truth


def test_pngs_may_lie_beside_the_json(panoptic: Panoptic) -> None:
    for path in panoptic.pngs.iterdir():
        path.rename(panoptic.json.parent / path.name)
    panoptic.pngs.rmdir()
    found, rejects = panoptic.read()
    assert rejects == []
    assert found["139"].labels == str(panoptic.json.parent / "000000000139.png")
    read = partial(read_labels, found["139"].labels)
    number = int(found["139"].instances[0].id)
    assert np.array_equal(
        mask_of(found["139"].instances[0].segmentation, HEIGHT, WIDTH, read), panoptic.values["139"] == number
    )


def spoil_id(segment: dict[str, Any]) -> None:
    segment["id"] = 2**24


def spoil_category(segment: dict[str, Any]) -> None:
    segment["category_id"] = 999


def spoil_box(segment: dict[str, Any]) -> None:
    segment["bbox"] = [1, 2, float("nan"), 4]


def spoil_area(segment: dict[str, Any]) -> None:
    segment["area"] = "much"


def without_id(segment: dict[str, Any]) -> None:
    del segment["id"]


@pytest.mark.parametrize("spoil", [spoil_id, spoil_category, spoil_box, spoil_area, without_id])
def test_a_segment_that_cannot_be_read_costs_only_itself(
    panoptic: Panoptic, spoil: Callable[[dict[str, Any]], None]
) -> None:
    truth, _ = panoptic.read()
    spoil(panoptic.segments(1)[3])
    found, rejects = panoptic.read()
    assert [(reject.stage, reject.reason) for reject in rejects] == [("plan", "malformed annotation")]
    assert rejects[0].key.startswith("coco_panoptic-1139-")
    assert "panoptic_val2017.json" in rejects[0].detail
    assert found.pop("1139").instances == (truth["1139"].instances[0], truth["1139"].instances[2])
    assert found == {key: photo for key, photo in truth.items() if key != "1139"}


def lose_photo(data: Panoptic) -> None:
    (data.images / "000000000139.jpg").unlink()


def lose_labels(data: Panoptic) -> None:
    (data.pngs / "000000000139.png").unlink()


def lose_annotation(data: Panoptic) -> None:
    del data.document["annotations"][0]


def lead_out(data: Panoptic) -> None:
    data.document["annotations"][0]["file_name"] = "../panoptic_val2017/000000000139.png"


def two_annotations(data: Panoptic) -> None:
    data.document["annotations"].append(data.document["annotations"][0])


def no_segments(data: Panoptic) -> None:
    del data.document["annotations"][0]["segments_info"]


def cut_off_and_unmeasured(data: Panoptic) -> None:
    path = data.pngs / "000000000139.png"
    path.write_bytes(path.read_bytes()[:200])
    del data.segments(0)[2]["bbox"]


def other_size_and_unmeasured(data: Panoptic) -> None:
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(data.pngs / "000000000139.png")
    del data.segments(0)[2]["bbox"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lose_photo, "missing photo"),
        (lose_labels, "missing labels"),
        (lose_annotation, "missing labels"),
        (lead_out, "missing labels"),
        (two_annotations, "malformed annotation"),
        (no_segments, "malformed annotation"),
        (cut_off_and_unmeasured, "broken labels"),
        (other_size_and_unmeasured, "label size mismatch"),
    ],
)
def test_a_photo_that_cannot_be_read_is_a_reject_and_its_neighbours_stay(
    panoptic: Panoptic, spoil: Callable[[Panoptic], None], reason: str
) -> None:
    truth, _ = panoptic.read()
    spoil(panoptic)
    found, rejects = panoptic.read()
    assert [(reject.key, reject.stage, reject.reason) for reject in rejects] == [("coco_panoptic-139", "plan", reason)]
    assert rejects[0].detail
    assert found == {key: photo for key, photo in truth.items() if key != "139"}


def test_without_a_check_nothing_is_looked_for(panoptic: Panoptic) -> None:
    truth, _ = panoptic.read()
    lose_photo(panoptic)
    lose_labels(panoptic)
    found, rejects = panoptic.read(check_photos=False)
    assert rejects == []
    assert found == truth


def errors(panoptic: Panoptic) -> Iterator[tuple[str, list[str], list[str]]]:
    images, file = str(panoptic.images), str(panoptic.json)
    yield "--images", [], [file]
    yield "--annotations", [images], []
    yield "nothing.json", [images], [f"{panoptic.root}/nothing.json"]
    yield "is a folder", [images], [str(panoptic.pngs)]
    yield "nowhere", [f"{panoptic.root}/nowhere"], [file]


def test_mistakes_of_the_user_name_what_is_wrong(panoptic: Panoptic) -> None:
    panoptic.read()
    for says, images, annotations in errors(panoptic):
        with pytest.raises(UserError, match=says):
            list(photos(images, annotations))
    for category in panoptic.document["categories"]:
        del category["isthing"]
    with pytest.raises(UserError, match="isthing"):
        panoptic.read()


def test_the_toy_files_in_cocos_layout_are_read(shared_data: Path) -> None:
    # All of their categories are stuff: what is tested are folders and names.
    root = shared_data / "formats" / "synthetic_layouts" / "coco_dataset" / "coco_panoptic"
    files = [root / "annotations" / f"panoptic_{split}.json" for split in ("train", "val")]
    found = list(photos([str(root / "images" / s) for s in ("train", "val")], [str(file) for file in files]))
    assert [(p.id, Path(p.path).name, Path(p.labels).name) for p in found if isinstance(p, Photo)] == [
        ("5", "a.jpg", "a.png"),
        ("40", "b.jpg", "b.png"),
    ]
    assert all(isinstance(p, Photo) and p.instances == () for p in found)


def test_bdd100ks_real_panoptic_labels_in_cocos_form_are_read(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "formats" / "bdd100k" / "label" / "testcases" / "panseg_coco"
    annotation = json.loads((folder / "panseg_coco.json").read_text())
    things = {31: "person", 35: "car", 40: "truck"}
    document = {
        "images": [{"id": 255, "file_name": "a.jpg", "width": 1280, "height": 720}],
        "annotations": [annotation],
        "categories": [{"id": i, "name": things.get(i, "stuff"), "isthing": int(i in things)} for i in range(41)],
    }
    (tmp_path / "pan_seg_val.json").write_text(json.dumps(document))
    (tmp_path / "panseg_mask.png").write_bytes((folder / "panseg_mask.png").read_bytes())
    (tmp_path / "a.jpg").write_bytes(b"not read here")
    (photo,) = photos([str(tmp_path)], [str(tmp_path / "pan_seg_val.json")])
    assert isinstance(photo, Photo)
    assert [(item.category, item.area) for item in photo.instances] == [("car", 1510.0), ("car", 33235.0)]
    red = np.asarray(Image.open(folder / "panseg_mask.png"))[..., 0]
    read = partial(read_labels, photo.labels)
    for item, value in zip(photo.instances, (31, 32), strict=True):
        assert np.array_equal(mask_of(item.segmentation, 720, 1280, read), red == value)
