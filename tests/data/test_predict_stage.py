"""The mask stage on one photo: who gets a silhouette, what is measured of it, and what is rejected."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pics_data.masks import mask_of
from pics_data.predict import load_predictor
from pics_data.predict.sam import PhotoSettings, load
from pics_data.predict.stage import PredictMasks, find_objects, predict_masks
from pics_data.records import Instance, Photo
from tests.data.checkpoints_for_tests import bright_onnx, bright_sam

WIDTH, HEIGHT = 160, 120
ELLIPSES = ((50, 40, 30, 18), (110, 80, 20, 24), (25, 100, 12, 10))  # centre x, y, half axes


@pytest.fixture(autouse=True, scope="module")
def same_threads_for_later_tests() -> Iterator[None]:
    """A predictor sets torch's number of threads, for the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def u2net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_onnx(tmp_path_factory.mktemp("onnx") / "u2net.onnx")


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_sam(tmp_path_factory.mktemp("sam") / "sam")


def drawn() -> tuple[np.ndarray, list[np.ndarray]]:
    rgb = np.full((HEIGHT, WIDTH, 3), 25, np.uint8)
    silhouettes = []
    for x, y, a, b in ELLIPSES:
        mask = cv2.ellipse(np.zeros((HEIGHT, WIDTH), np.uint8), (x, y), (a, b), 0, 0, 360, 1, -1)
        rgb[mask > 0] = 240
        silhouettes.append(mask > 0)
    return rgb, silhouettes


def box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    return float(x), float(y), float(w), float(h)


def boxed(*boxes: tuple[float, float, float, float]) -> Photo:
    """A photo whose instances have boxes alone, as Objects365 has them."""
    instances = tuple(Instance(str(7 + i), f"kind {i}", box, box[2] * box[3]) for i, box in enumerate(boxes))
    return Photo("photo", "objects365", "photo.png", WIDTH, HEIGHT, instances)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("kind", ["sam", "rembg"])
def test_boxes_become_silhouettes_measured_anew(kind: str, sam: Path, u2net: Path) -> None:
    predictor = load_predictor(kind, str(sam if kind == "sam" else u2net))  # type: ignore[arg-type]
    rgb, silhouettes = drawn()
    # Loose boxes, and one that reaches out of the photo.
    loose = [(x - 3.5, y - 2.5, w + 7.25, h + 6.0) for x, y, w, h in map(box_of, silhouettes)]
    photo, rejects = predict_masks(predictor, boxed(*loose[:2], (-20.0, 85.0, 60.0, 60.0)), rgb)
    assert rejects == []
    assert [(i.id, i.category) for i in photo.instances] == [("7", "kind 0"), ("8", "kind 1"), ("9", "kind 2")]
    for instance, silhouette in zip(photo.instances, silhouettes, strict=True):
        mask = mask_of(instance.segmentation, HEIGHT, WIDTH)
        assert iou(mask, silhouette) > 0.85
        assert instance.area == mask.sum()
        assert instance.box == box_of(mask)
        assert np.abs(np.subtract(instance.box, box_of(silhouette))).max() <= 3


def test_what_has_a_silhouette_or_is_a_crowd_stays_as_it_is(u2net: Path) -> None:
    rgb, silhouettes = drawn()
    photo = boxed(*map(box_of, silhouettes))
    given = replace(photo.instances[0], segmentation=[[1, 1, 9, 1, 5, 9]])
    crowd = replace(photo.instances[2], crowd=True)
    photo = replace(photo, instances=(given, photo.instances[1], crowd))
    result, rejects = predict_masks(load_predictor("rembg", str(u2net)), photo, rgb)
    assert rejects == []
    assert result.instances[0] is given
    assert result.instances[2] is crowd
    assert iou(mask_of(result.instances[1].segmentation, HEIGHT, WIDTH), silhouettes[1]) > 0.9


def test_what_gets_no_silhouette_is_rejected_and_its_neighbours_are_not(u2net: Path) -> None:
    rgb, silhouettes = drawn()
    nan = float("nan")
    boxes = [
        (82.0, 30.0, 20.0, 20.0),  # dark, beside the first ellipse
        box_of(silhouettes[0]),
        (500.0, 500.0, 10.0, 10.0),
        (10.0, nan, 10.0, 10.0),
        (10.0, 10.0, 0.0, 10.0),
        box_of(silhouettes[1]),
    ]
    photo, rejects = predict_masks(load_predictor("rembg", str(u2net)), boxed(*boxes), rgb)
    assert [instance.id for instance in photo.instances] == ["8", "12"]
    for instance, silhouette in zip(photo.instances, silhouettes[:2], strict=True):
        assert iou(mask_of(instance.segmentation, HEIGHT, WIDTH), silhouette) > 0.9
    assert {(r.key, r.stage, r.reason) for r in rejects} == {
        ("photo/7", "masks", "empty mask"),
        ("photo/9", "masks", "box outside of the photo"),
        ("photo/10", "masks", "box outside of the photo"),
        ("photo/11", "masks", "box outside of the photo"),
    }
    assert all("photo.png" in reject.detail for reject in rejects)


def test_equal_instances_each_get_their_own_silhouette(u2net: Path) -> None:
    rgb, silhouettes = drawn()
    photo = boxed(box_of(silhouettes[0]))
    twice = replace(photo, instances=photo.instances * 2)
    result, rejects = predict_masks(load_predictor("rembg", str(u2net)), twice, rgb)
    assert rejects == []
    assert len(result.instances) == 2
    assert result.instances[0] == result.instances[1]


def test_objects_that_nobody_annotated_are_found_largest_first(u2net: Path) -> None:
    rgb, silhouettes = drawn()
    photo, rejects = predict_masks(load_predictor("rembg", str(u2net)), boxed(), rgb)
    assert rejects == []
    assert [(i.id, i.category, i.crowd) for i in photo.instances] == [(str(k), "object", False) for k in range(3)]
    by_area = sorted(silhouettes, key=np.count_nonzero, reverse=True)
    for instance, silhouette in zip(photo.instances, by_area, strict=True):
        mask = mask_of(instance.segmentation, HEIGHT, WIDTH)
        assert iou(mask, silhouette) > 0.9
        assert (instance.area, instance.box) == (mask.sum(), box_of(mask))


def test_sam_finds_objects_too(sam: Path) -> None:
    rgb = np.full((HEIGHT, WIDTH, 3), 25, np.uint8)
    cv2.circle(rgb, (60, 60), 30, (240, 240, 240), -1)
    (found,) = find_objects(load(str(sam), "cpu", 1, PhotoSettings(points_per_side=2)), rgb)
    assert iou(mask_of(found.segmentation, HEIGHT, WIDTH), rgb[..., 0] > 128) > 0.9


def test_a_photo_in_which_nothing_is_found_has_no_instances(u2net: Path) -> None:
    rgb = np.full((HEIGHT, WIDTH, 3), 25, np.uint8)
    photo, rejects = predict_masks(load_predictor("rembg", str(u2net)), boxed(), rgb)
    assert photo.instances == ()
    assert rejects == []


def test_an_actor_reads_the_photo_or_rejects_it(u2net: Path, tmp_path: Path) -> None:
    rgb, silhouettes = drawn()
    good, broken = tmp_path / "good.png", tmp_path / "broken.png"
    cv2.imwrite(str(good), rgb)
    broken.write_bytes(good.read_bytes()[:200])
    stage = PredictMasks("rembg", str(u2net), max_pixels=100_000)
    photo, rejects = stage(replace(boxed(box_of(silhouettes[0])), path=str(good)))
    assert photo is not None
    assert rejects == []
    assert iou(mask_of(photo.instances[0].segmentation, HEIGHT, WIDTH), silhouettes[0]) > 0.9

    for path, reason in ((broken, "broken photo"), (tmp_path / "absent.png", "missing photo")):
        photo, (reject,) = stage(replace(boxed(), path=str(path)))
        assert photo is None
        assert (reject.key, reject.stage, reject.reason) == ("photo", "masks", reason)
        assert path.name in reject.detail
    photo, (reject,) = PredictMasks("rembg", str(u2net), max_pixels=100)(replace(boxed(), path=str(good)))
    assert photo is None
    assert reject.reason == "photo too large"
