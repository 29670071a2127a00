"""Mapillary Vistas: what was drawn is what comes out, for both versions, in the layout of the download."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from pics_common.errors import UserError
from pics_data.labels import read_labels
from pics_data.masks import mask_of
from pics_data.records import Photo, Reject
from pics_data.sources import mapillary

HEIGHT, WIDTH = 48, 64
CONFIGS = {
    "v1.2": [("Bird", True), ("Curb", False), ("Car", True)],
    "v2.0": [("Bird", True), ("Person", True), ("Curb", False), ("Road", False), ("Bus", True), ("Car", True)],
}


def numbers(version: str) -> dict[str, int]:
    return {name: index for index, (name, _) in enumerate(CONFIGS[version])}


def drawn(version: str, cars: int) -> np.ndarray:
    """[H, W] uint16: a curb, then cars each of which hides a part of the one before, and the last bird of 256."""
    label = numbers(version)
    values = np.full((HEIGHT, WIDTH), 256 * label["Curb"], dtype=np.uint16)
    for number in range(cars):
        values[10 + number : 30 + number, 4 + 9 * number : 18 + 9 * number] = 256 * label["Car"] + number
    values[2:5, 50:60] = 256 * label["Bird"] + 255
    return values


def write_config(root: Path, version: str, name: str = "") -> None:
    labels = [
        {"name": f"object--{readable.lower()}", "readable": readable, "instances": told_apart, "color": [1, 2, 3]}
        for readable, told_apart in CONFIGS[version]
    ]
    (root / (name or f"config_{version}.json")).write_text(json.dumps({"labels": labels, "version": "1.1"}))


def write_photo(root: Path, split: str, photo_id: str, values: dict[str, np.ndarray]) -> None:
    """A photo and its pictures of instances, by the version's folder: none in the first edition."""
    (root / split / "images").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (80, 90, 100)).save(root / split / "images" / f"{photo_id}.jpg")
    for folder, pixels in values.items():
        path = root / split / folder / "instances"
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path / f"{photo_id}.png")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for version in CONFIGS:
        write_config(tmp_path, version)
    for split, ids in {"training": ["zC_-1", "Ab-7", "_M"], "validation": ["bq2"]}.items():
        for cars, photo_id in enumerate(ids, 2):
            write_photo(tmp_path, split, photo_id, {version: drawn(version, cars) for version in CONFIGS})
    return tmp_path


def read(root: Path, images: Sequence[str], annotations: Sequence[str], **more: Any) -> list[Photo | Reject]:
    return list(
        mapillary.photos([str(root / name) for name in images], [str(root / name) for name in annotations], **more)
    )


@pytest.mark.parametrize("version", CONFIGS)
@pytest.mark.parametrize("below", ["", "/instances"])
def test_what_was_drawn_comes_out(dataset: Path, version: str, below: str) -> None:
    found = read(dataset, ["training/images"], [f"training/{version}{below}"])
    assert [item.id for item in found if isinstance(item, Photo)] == ["Ab-7", "_M", "zC_-1"]
    assert len(found) == 3
    label = numbers(version)
    for photo, cars in zip(found, (3, 4, 2), strict=True):
        assert isinstance(photo, Photo)
        assert photo.path == str(dataset / "training" / "images" / f"{photo.id}.jpg")
        assert (photo.width, photo.height) == (WIDTH, HEIGHT)
        values = drawn(version, cars)
        reader = partial(read_labels, photo.labels)
        left = {256 * label["Car"] + number: "Car" for number in range(cars)} | {256 * label["Bird"] + 255: "Bird"}
        for instance in photo.instances:
            value = int(instance.id)
            assert instance.category == left.pop(value)
            expected = values == value
            assert (mask_of(instance.segmentation, HEIGHT, WIDTH, reader) == expected).all()
            rows, columns = np.nonzero(expected)
            assert instance.area == len(rows)
            assert instance.box == (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert not left


def test_splits_follow_one_another(dataset: Path) -> None:
    found = read(dataset, ["training/images", "validation/images"], ["training/v2.0", "validation/v2.0"])
    assert [item.id for item in found if isinstance(item, Photo)] == ["Ab-7", "_M", "zC_-1", "bq2"]
    assert len(found) == 4


def test_the_first_edition(tmp_path: Path) -> None:
    write_config(tmp_path, "v1.2", "config.json")
    write_photo(tmp_path, "training", "a", {"": drawn("v1.2", 2)})
    (photo,) = read(tmp_path, ["training/images"], ["training"])
    assert isinstance(photo, Photo)
    assert [instance.category for instance in photo.instances] == ["Bird", "Car", "Car"]


def test_the_config_may_lie_beside_the_instances(tmp_path: Path) -> None:
    write_photo(tmp_path, "training", "a", {"v2.0": drawn("v2.0", 2)})
    write_config(tmp_path / "training" / "v2.0", "v2.0")
    (photo,) = read(tmp_path, ["training/images"], ["training/v2.0"])
    assert isinstance(photo, Photo)
    assert len(photo.instances) == 3


def test_without_checking_photos_nothing_is_listed(dataset: Path) -> None:
    for path in (dataset / "training" / "images").iterdir():
        path.unlink()
    found = read(dataset, ["training/images"], ["training/v2.0"], check_photos=False)
    assert [item.path for item in found if isinstance(item, Photo)] == [
        str(dataset / "training" / "images" / name) for name in ("Ab-7.jpg", "_M.jpg", "zC_-1.jpg")
    ]


def test_a_store(dataset: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in dataset.rglob("*.*"):
        if path.is_file():
            memory.pipe_file(f"/bucket/mvd/{path.relative_to(dataset)}", path.read_bytes())
    root = "memory://bucket/mvd/training"
    found = list(mapillary.photos([f"{root}/images"], [f"{root}/v2.0/"]))
    local = read(dataset, ["training/images"], ["training/v2.0"])
    assert [item.instances for item in found if isinstance(item, Photo)] == [
        item.instances for item in local if isinstance(item, Photo)
    ]
    for photo in found:
        assert isinstance(photo, Photo)
        assert photo.path == f"{root}/images/{photo.id}.jpg"
        assert photo.labels == f"{root}/v2.0/instances/{photo.id}.png"


def test_bad_files_are_rejects_and_their_neighbours_are_there(dataset: Path) -> None:
    instances = dataset / "training" / "v2.0" / "instances"
    whole = (instances / "Ab-7.png").read_bytes()
    (instances / "cut.png").write_bytes(whole[: len(whole) // 2])
    (instances / "empty.png").write_bytes(b"")
    (instances / "lone.png").write_bytes(whole)
    Image.fromarray(np.full((HEIGHT, WIDTH), 256 * 6, dtype=np.uint16)).save(instances / "newer.png")
    for name in ("cut", "empty", "newer", "unlabelled"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(dataset / "training" / "images" / f"{name}.jpg")
    found = read(dataset, ["training/images"], ["training/v2.0"])
    assert {item.key: item.reason for item in found if isinstance(item, Reject)} == {
        "mapillary-cut": "broken labels",
        "mapillary-empty": "broken labels",
        "mapillary-lone": "missing photo",
        "mapillary-newer": "unknown label",
        "mapillary-unlabelled": "missing annotation",
    }
    newer = next(item.detail for item in found if isinstance(item, Reject) and item.reason == "unknown label")
    assert newer == f"{instances / 'newer.png'} has label 6; config_v2.0.json knows 6 labels"
    assert [item.id for item in found if isinstance(item, Photo)] == ["Ab-7", "_M", "zC_-1"]
    assert len(found) == 8


def test_another_layout_is_named(dataset: Path) -> None:
    images = ["training/images"]
    with pytest.raises(UserError, match=r"training holds no folder `instances`.*it holds v2.0 and v1.2: name one"):
        read(dataset, images, ["training"])
    with pytest.raises(UserError, match=r"testing/v2.0 does not exist.*such as training/v2.0"):
        read(dataset, images, ["testing/v2.0"])
    with pytest.raises(UserError, match=r"--images: .*training/photos does not exist"):
        read(dataset, ["training/photos"], ["training/v2.0"])
    with pytest.raises(UserError, match="second annotation of photo Ab-7"):
        read(dataset, images, ["training/v2.0", "training/v1.2"])
    (dataset / "validation" / "v1.2" / "instances" / "bq2.png").unlink()
    with pytest.raises(UserError, match=r"validation/v1.2/instances holds no \.png"):
        read(dataset, images, ["validation/v1.2"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "found no config_v2.0.json in .*expected it in the root of Mapillary Vistas"),
        ("{", "config_v2.0.json is not JSON"),
        ('{"labels": [{"name": "x"}]}', "expected `labels`, each with `readable` and `instances`"),
        ("[]", "expected `labels`"),
    ],
)
def test_a_config_that_is_none_is_named(dataset: Path, text: str | None, message: str) -> None:
    config = dataset / "config_v2.0.json"
    config.unlink() if text is None else config.write_text(text)
    with pytest.raises(UserError, match=message):
        read(dataset, ["training/images"], ["training/v2.0"])


@pytest.mark.shared
@pytest.mark.parametrize("version", ["v1.2", "v2.0"])
def test_the_layout_that_another_tool_wrote(shared_data: Path, version: str) -> None:
    root = shared_data / "formats" / "synthetic_layouts" / "mapillary_vistas_dataset"
    found = read(root, ["train/images", "val/images"], [f"train/{version}", f"val/{version}"])
    assert [item.id for item in found if isinstance(item, Photo)] == ["2", "0", "1"]
    for photo in found:
        assert isinstance(photo, Photo)
        truth = np.asarray(Image.open(photo.labels))
        assert {int(instance.id): instance.area for instance in photo.instances} == {
            value: (truth == value).sum() for value in np.unique(truth)
        }
        assert {instance.category for instance in photo.instances} <= {"Bird", "Separator", "Bicycle"}
