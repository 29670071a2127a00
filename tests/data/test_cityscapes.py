"""Cityscapes: what its own tools would paint is what comes out, in every layout in which it may lie on a disk."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from pics_common.errors import UserError
from pics_data.labels import read_labels
from pics_data.masks import mask_of
from pics_data.records import Photo, Reject
from pics_data.sources import cityscapes

WIDTH, HEIGHT = 160, 80
CAR = [[20, 20], [80, 20], [80, 60], [20, 60]]
POLE = [[60, 0], [70, 0], [70, 79], [60, 79]]


def element(label: str, polygon: Any, **more: Any) -> dict[str, Any]:
    return {"label": label, "polygon": polygon, **more}


def write(root: Path, split: str, name: str, objects: Sequence[Any] | bytes = (), photo: bool = True) -> Path:
    """Writes a photo and its polygons where Cityscapes has them; returns the annotation file."""
    city = name.split("_")[0]
    for kind in ("leftImg8bit", "gtFine"):
        (root / kind / split / city).mkdir(parents=True, exist_ok=True)
    if photo:
        grey = Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90))
        grey.save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
    path = root / "gtFine" / split / city / f"{name}_gtFine_polygons.json"
    document = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}
    path.write_bytes(objects if isinstance(objects, bytes) else json.dumps(document).encode())
    return path


def read(root: Path, images: str = "leftImg8bit", annotations: str = "gtFine", **more: Any) -> list[Photo | Reject]:
    return list(cityscapes.photos([str(root / images)], [str(root / annotations)], **more))


def only_photo(made: list[Photo | Reject]) -> Photo:
    (photo,) = (item for item in made if isinstance(item, Photo))
    return photo


def painted(objects: Sequence[dict[str, Any]]) -> np.ndarray:
    """[H, W]: the index of the element that the data set's own tools paint last at each pixel; -1 for none."""
    image = Image.new("I", (WIDTH, HEIGHT), -1)
    draw = ImageDraw.Draw(image)
    for index, thing in enumerate(objects):
        if not thing.get("deleted") and thing["label"] != "license plate":
            draw.polygon([tuple(point) for point in thing["polygon"]], fill=index)
    return np.asarray(image)


LABELS = ("car", "person", "persongroup", "bus", "building", "pole", "license plate", "out of roi")


@st.composite
def scenes(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Some overlapping polygons of any shape, among them crossing ones, in and over the edges of the photo."""
    objects = []
    for _ in range(draw(st.integers(1, 7))):
        x, y = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
        size = draw(st.integers(4, 60))
        point = st.tuples(st.integers(-size, size), st.integers(-size, size))
        corners = draw(st.lists(point, min_size=3, max_size=8))
        polygon = [[min(max(x + dx, -3), WIDTH + 2), min(max(y + dy, -3), HEIGHT + 2)] for dx, dy in corners]
        objects.append(element(draw(st.sampled_from(LABELS)), polygon, deleted=draw(st.integers(0, 5)) // 5))
    return objects


@settings(max_examples=100, deadline=None)
@given(scenes())
@example([{"label": "car", "polygon": [[14, 16], [15, 17], [1, -3]], "deleted": 0}])  # a tie of rounding
def test_silhouettes_are_what_the_data_sets_own_tools_paint(
    tmp_path_factory: pytest.TempPathFactory, objects: list[dict[str, Any]]
) -> None:
    root = tmp_path_factory.mktemp("cityscapes")
    write(root, "train", "aachen_000000_000019", objects)
    photo = only_photo(read(root))
    truth, clear = painted(objects), far_from_outlines(objects)
    found = {int(instance.id): instance for instance in photo.instances}
    together = np.zeros((HEIGHT, WIDTH), dtype=int)
    for index, thing in enumerate(objects):
        expected = truth == index
        category = thing["label"].removesuffix("group")
        if index not in found:
            assert category not in cityscapes.THINGS or not (expected & clear).any()
            continue
        instance = found[index]
        mask = mask_of(instance.segmentation, HEIGHT, WIDTH)
        # The tools paint the pixels on an outline whole, COCO's rasteriser splits them in the middle.
        assert (mask[clear] == expected[clear]).all()
        together += mask
        rows, columns = np.nonzero(mask)
        assert instance.box == (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert instance.area == mask.sum()
        assert (instance.category, instance.crowd) == (category, thing["label"] != category)
    assert together.max() <= 1


def far_from_outlines(objects: Sequence[dict[str, Any]]) -> np.ndarray:
    """[H, W] bool: pixels that no outline passes within one pixel."""
    near = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for thing in objects:
        cv2.polylines(near, [np.array(thing["polygon"], dtype=np.int32)], isClosed=True, color=1, thickness=3)
    return near == 0


def test_what_hides_an_object_is_kept_and_nothing_else(tmp_path: Path) -> None:
    far = [[100, 20], [120, 20], [120, 40]]
    plate = element("license plate", [[40, 50], [50, 50], [50, 55], [40, 55]])
    write(
        tmp_path, "train", "ulm_000000_000019", [element("car", CAR), element("pole", POLE), element("sky", far), plate]
    )
    (car,) = only_photo(read(tmp_path)).instances
    assert len(car.segmentation["minus"]) == 1
    mask = mask_of(car.segmentation, HEIGHT, WIDTH)
    assert mask[52, 45]  # below the plate
    assert mask[40, [22, 58, 72, 79]].all()
    assert not mask[40, [18, 62, 68, 82]].any()
    write(tmp_path, "train", "ulm_000000_000019", [element("pole", POLE), element("car", CAR)])
    (car,) = only_photo(read(tmp_path)).instances
    assert isinstance(car.segmentation, list)
    assert mask_of(car.segmentation, HEIGHT, WIDTH)[40, 65]


def test_silhouettes_are_not_shifted(tmp_path: Path) -> None:
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    disc = np.stack([70 + 30 * np.cos(angles), 40 + 30 * np.sin(angles)], axis=1).round().astype(int).tolist()
    write(tmp_path, "train", "ulm_000000_000019", [element("car", disc)])
    (car,) = only_photo(read(tmp_path)).instances
    middle = np.argwhere(mask_of(car.segmentation, HEIGHT, WIDTH)).mean(axis=0)
    truth = np.argwhere(painted([element("car", disc)]) == 0).mean(axis=0)
    assert np.abs(middle - truth).max() < 0.35  # pixels; half a pixel more without the shift


def test_objects_at_the_edge_reach_it(tmp_path: Path) -> None:
    right, bottom = WIDTH - 1, HEIGHT - 1
    whole = [[0, 0], [right, 0], [right, bottom], [0, bottom]]
    write(tmp_path, "val", "ulm_000000_000019", [element("bus", whole)])
    (bus,) = only_photo(read(tmp_path)).instances
    assert bus.box == (0, 0, WIDTH, HEIGHT)
    assert mask_of(bus.segmentation, HEIGHT, WIDTH).all()


NAMES = {
    "train": ["ulm_000001_000019", "aachen_000000_000019", "aachen_000003_000019"],
    "val": ["munster_000000_000019"],
    "test": ["berlin_000000_000019"],
}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three splits as they are unpacked; the annotations of `test` hold what nobody has to find."""
    for split, names in NAMES.items():
        for i, name in enumerate(names):
            own = element("ego vehicle", [[0, 70], [159, 70], [159, 79]])
            car = [[x + i, y] for x, y in CAR]
            write(
                tmp_path, split, name, [own] if split == "test" else [element("car", car), element("pole", POLE), own]
            )
    return tmp_path


def test_all_splits_from_the_roots_in_order(dataset: Path) -> None:
    found = read(dataset)
    assert [item.id for item in found if isinstance(item, Photo)] == [
        "berlin_000000_000019",
        "aachen_000000_000019",
        "aachen_000003_000019",
        "ulm_000001_000019",
        "munster_000000_000019",
    ]
    for item in found:
        assert isinstance(item, Photo)
        assert Path(item.path) == next((dataset / "leftImg8bit").glob(f"*/*/{item.id}_leftImg8bit.png"))
        assert (item.width, item.height, len(item.instances)) == (WIDTH, HEIGHT, 0 if "berlin" in item.id else 1)
        assert Image.open(item.path).size == (item.width, item.height)


@pytest.mark.parametrize(
    ("images", "annotations"),
    [
        ("leftImg8bit/train", "gtFine/train"),
        ("leftImg8bit", "gtFine/train"),
        ("leftImg8bit/train/aachen", "gtFine/train/aachen"),
        ("leftImg8bit", "gtFine/train/aachen"),
    ],
)
def test_one_split_or_city(dataset: Path, images: str, annotations: str) -> None:
    found = read(dataset, images, annotations)
    expected = sorted(name for name in NAMES["train"] if name.startswith("aachen") or "aachen" not in annotations)
    assert [item.id for item in found if isinstance(item, Photo)] == expected
    assert len(found) == len(expected)


def test_without_checking_photos_nothing_is_listed(dataset: Path) -> None:
    for path in (dataset / "leftImg8bit").rglob("*.png"):
        path.unlink()
    found = read(dataset, check_photos=False)
    assert len(found) == 5
    assert all(isinstance(item, Photo) and item.path.endswith("_leftImg8bit.png") for item in found)


def test_a_store(dataset: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in dataset.rglob("*.*"):
        memory.pipe_file(f"/bucket/cityscapes/{path.relative_to(dataset)}", path.read_bytes())
    root = "memory://bucket/cityscapes"
    found = list(cityscapes.photos([f"{root}/leftImg8bit"], [f"{root}/gtFine/"]))
    here = [item for item in read(dataset) if isinstance(item, Photo)]
    assert [item for item in found if isinstance(item, Photo)] == [
        replace(item, path=item.path.replace(str(dataset), root)) for item in here
    ]


def write_instance_ids(root: Path, name: str, ids: np.ndarray) -> Path:
    path = root / "gtFine" / "train" / name.split("_")[0] / f"{name}_gtFine_instanceIds.png"
    Image.fromarray(ids.astype(np.uint16)).save(path)
    return path


def test_label_pictures_where_polygons_are_not(tmp_path: Path) -> None:
    name = "ulm_000000_000019"
    write(tmp_path, "train", name).unlink()
    ids = np.full((HEIGHT, WIDTH), 7)  # road
    ids[10:30, 10:40], ids[20:40, 30:60], ids[50:60, 50:90] = 26000, 26001, 24
    path = write_instance_ids(tmp_path, name, ids)
    photo = only_photo(read(tmp_path))
    assert photo.labels == str(path)
    assert [(i.id, i.category, i.crowd, i.box, i.area) for i in photo.instances] == [
        ("24", "person", True, (50, 50, 40, 10), 400),
        ("26000", "car", False, (10, 10, 30, 20), 500),
        ("26001", "car", False, (30, 20, 30, 20), 600),
    ]
    for instance in photo.instances:
        mask = mask_of(instance.segmentation, HEIGHT, WIDTH, partial(read_labels, photo.labels))
        assert (mask == (ids == int(instance.id))).all()


def test_polygons_win_over_label_pictures(tmp_path: Path) -> None:
    name = "ulm_000000_000019"
    write(tmp_path, "train", name, [element("car", CAR)])
    write_instance_ids(tmp_path, name, np.full((HEIGHT, WIDTH), 24000))
    (photo,) = read(tmp_path)
    assert isinstance(photo, Photo)
    assert photo.labels == ""
    assert [instance.category for instance in photo.instances] == ["car"]


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"", "not JSON"),
        (b'{"imgHeight": 80, "imgWidth": 160, "objects": [{"lab', "not JSON"),
        (b"[]", "objects"),
        (b'{"imgHeight": 80, "imgWidth": 160}', "objects"),
        (b'{"imgHeight": 80, "imgWidth": "160", "objects": []}', "imgWidth"),
        (b'{"imgHeight": 80, "imgWidth": true, "objects": []}', "imgWidth"),
        (b'{"imgHeight": 1000000, "imgWidth": 1000000, "objects": []}', "imgWidth"),
    ],
)
def test_a_broken_file_is_a_reject_and_its_neighbours_are_there(dataset: Path, data: bytes, detail: str) -> None:
    write(dataset, "train", "aachen_000001_000019", data)
    found = read(dataset)
    (reject,) = (item for item in found if isinstance(item, Reject))
    assert (reject.key, reject.stage) == ("cityscapes-aachen_000001_000019", "plan")
    assert reject.reason == "malformed annotation"
    assert "aachen_000001_000019_gtFine_polygons.json" in reject.detail
    assert detail in reject.detail
    assert len(found) == 6


@pytest.mark.parametrize(
    "bad",
    [
        element("car", [[1, 1], [9, 9]]),
        element("car", [[1, 1], [9, float("nan")], [3, 4]]),
        element("car", [[1, 1], [9, 1e300], [3, 4]]),
        element("car", [[1, 1], [9, 10**400], [3, 4]]),
        element("car", [[1, 1], [9], [3, 4]]),
        element("car", [[1, 1], [9, "8"], [3, 4]]),
        element("car", None),
        {"polygon": CAR},
        "car",
        None,
    ],
)
def test_a_broken_polygon_is_a_reject_and_its_neighbours_are_there(tmp_path: Path, bad: Any) -> None:
    write(
        tmp_path, "train", "ulm_000000_000019", [element("car", CAR), bad, element("pole", POLE), element("bus", POLE)]
    )
    found = read(tmp_path)
    (reject,) = (item for item in found if isinstance(item, Reject) and item.reason == "malformed annotation")
    assert reject.key == "cityscapes-ulm_000000_000019-1"
    assert "element 1 of `objects`" in reject.detail
    assert [instance.id for instance in only_photo(found).instances] == ["0", "3"]


@pytest.mark.parametrize("polygon", [POLE, [[300, 10], [310, 10], [310, 20]]], ids=["hidden", "outside"])
def test_an_object_of_which_nothing_shows_is_a_reject(tmp_path: Path, polygon: Any) -> None:
    write(tmp_path, "train", "ulm_000000_000019", [element("person", polygon), element("pole", POLE)])
    found = read(tmp_path)
    assert only_photo(found).instances == ()
    (reject,) = (item for item in found if isinstance(item, Reject))
    assert (reject.key, reject.reason) == ("cityscapes-ulm_000000_000019-0", "empty mask")


def test_a_photo_or_an_annotation_without_the_other_is_a_reject(dataset: Path) -> None:
    write(dataset, "train", "aachen_000001_000019", [element("car", CAR)], photo=False)
    write(dataset, "val", "munster_000007_000019", [element("car", CAR)]).unlink()
    write(dataset, "train_extra", "bayreuth_000000_000019").unlink()  # coarse annotations only: not meant
    (dataset / "gtFine" / "train_extra" / "bayreuth").rmdir()
    found = read(dataset)
    assert {item.key: item.reason for item in found if isinstance(item, Reject)} == {
        "cityscapes-aachen_000001_000019": "missing photo",
        "cityscapes-munster_000007_000019": "missing annotation",
    }
    assert len(found) == 7


def test_a_damaged_label_picture_is_a_reject(tmp_path: Path) -> None:
    name = "ulm_000000_000019"
    write(tmp_path, "train", name).unlink()
    path = write_instance_ids(tmp_path, name, np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH))
    path.write_bytes(path.read_bytes()[:200])
    (reject,) = read(tmp_path)
    assert isinstance(reject, Reject)
    assert (reject.key, reject.reason) == ("cityscapes-ulm_000000_000019", "broken labels")


def test_another_layout_is_named(dataset: Path) -> None:
    with pytest.raises(UserError, match=r"gtFine/tarin does not exist.*expected Cityscapes' gtFine"):
        read(dataset, annotations="gtFine/tarin")
    with pytest.raises(UserError, match=r"--images: .*leftImg does not exist.*expected Cityscapes' leftImg8bit"):
        read(dataset, images="leftImg")
    with pytest.raises(UserError, match=r"holds no files \*_gtFine_polygons.json"):
        read(dataset, annotations="leftImg8bit")
    with pytest.raises(UserError, match=r"second annotation of photo .*give each photo once"):
        list(cityscapes.photos([str(dataset / "leftImg8bit")], [str(dataset / "gtFine"), str(dataset / "gtFine/val")]))
    with pytest.raises(UserError, match="--annotations: expected"):
        list(cityscapes.photos([str(dataset / "leftImg8bit")], []))


@pytest.mark.shared
@pytest.mark.parametrize(("folder", "crowds"), [("dataset", True), ("train_dataset", False)])
def test_the_layout_that_another_tool_wrote(shared_data: Path, folder: str, crowds: bool) -> None:
    found = read(shared_data / "formats" / "synthetic_layouts" / "cityscapes_dataset" / folder)
    photos = {item.id: item for item in found if isinstance(item, Photo)}
    assert len(photos) == len(found) == 4
    trucks = photos["defaultcity_000001_000031"].instances
    assert [(t.category, t.crowd) for t in trucks] == [("truck", crowds)] * (1 if crowds else 2)
    assert sum(t.area for t in trucks) == 3
    assert photos["defaultcity_000001_000019"].instances == ()
