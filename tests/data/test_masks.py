"""Silhouettes: equal to pycocotools where the annotation is sound, a reject where it is not."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from pics_data.masks import mask_of, measure, rle_runs
from pics_data.predict import rle
from pics_data.records import RejectError
from tests.data.photos_for_tests import uncompressed

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)).filter(lambda m: m.any())


@given(masks)
def test_rle_of_both_kinds_gives_back_the_mask(mask: np.ndarray) -> None:
    height, width = mask.shape
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    compressed = {"size": list(mask.shape), "counts": rle["counts"].decode()}
    assert np.array_equal(mask_of(compressed, height, width), mask)
    assert np.array_equal(mask_of(uncompressed(mask), height, width), mask)


@given(st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=30))
def test_compressed_runs_are_read_as_pycocotools_writes_them(runs: list[int]) -> None:
    # One column: any runs are a picture. pycocotools reserves six characters a run and writes a zero behind the last:
    # beyond its memory, where all runs take six.
    total = sum(runs)
    text = coco_mask.frPyObjects({"size": [total, 1], "counts": runs}, total, 1)["counts"].decode()
    assert rle_runs(text).tolist() == runs


def test_polygons_in_photos_that_pycocotools_cannot_write_are_a_reject() -> None:
    with pytest.raises(RejectError, match="photo too large"):
        mask_of([[0, 0, 10, 0, 10, 10]], 9000, 9400)


@pytest.mark.parametrize("first", [False, True])
def test_masks_that_pycocotools_cannot_write_are_lists_of_runs(first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.arange(60).reshape(6, 10) % 7 < 3
    mask[0, 0] = first
    monkeypatch.setattr(rle, "MOST_PIXELS_IN_RUNS", 60)
    found = rle.mask_to_rle(mask)
    assert isinstance(found["counts"], list)
    assert np.array_equal(mask_of(found, 6, 10), mask)


@given(st.lists(st.tuples(st.floats(-5, 65), st.floats(-5, 45)), min_size=3, max_size=12), st.integers(1, 3))
def test_polygons_equal_pycocotools(points: list[tuple[float, float]], copies: int) -> None:
    polygons = [[value + 3 * k for point in points for value in point] for k in range(copies)]
    truth = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 40, 60))).astype(bool)
    if truth.any():
        assert np.array_equal(mask_of(polygons, 40, 60), truth)
    else:
        with pytest.raises(RejectError, match="empty mask"):
            mask_of(polygons, 40, 60)


polygon_lists = st.lists(
    st.lists(st.tuples(st.floats(-5, 65), st.floats(-5, 45)), min_size=3, max_size=8).map(
        lambda points: [value for point in points for value in point]
    ),
    min_size=1,
    max_size=3,
)


def drawn(polygons: list[list[float]]) -> np.ndarray:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 40, 60))).astype(bool)


@given(polygon_lists, polygon_lists)
def test_polygons_less_others_equal_the_difference_of_both(back: list[list[float]], front: list[list[float]]) -> None:
    truth = drawn(back) & ~drawn(front)
    for minus, expected in ((front, truth), ([], drawn(back))):
        segmentation = {"polygons": back, "minus": minus}
        if expected.any():
            assert np.array_equal(mask_of(segmentation, 40, 60), expected)
        else:
            with pytest.raises(RejectError, match="empty mask"):
                mask_of(segmentation, 40, 60)


@given(polygon_lists, polygon_lists)
def test_measure_equals_the_mask(back: list[list[float]], front: list[list[float]]) -> None:
    mask = drawn(back) & ~drawn(front)
    if mask.any():
        ys, xs = np.nonzero(mask)
        box = (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)
        assert measure({"polygons": back, "minus": front}, 40, 60) == (tuple(map(float, box)), float(len(ys)))


@given(
    arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.integers(-3, 9)),
    st.lists(st.integers(-3, 9), min_size=1, max_size=6),
)
def test_a_mask_of_labels_is_the_pixels_of_its_values(labels: np.ndarray, values: list[int]) -> None:
    asked: list[str] = []

    def read(form: str) -> np.ndarray:
        asked.append(form)
        return labels

    truth = np.array([[int(value) in values for value in row] for row in labels])
    segmentation = {"labels": "rgba", "values": values}
    if truth.any():
        mask = mask_of(segmentation, labels.shape[0], labels.shape[1], read)
        assert mask.dtype == np.bool_
        assert np.array_equal(mask, truth)
    else:
        with pytest.raises(RejectError, match="empty mask"):
            mask_of(segmentation, labels.shape[0], labels.shape[1], read)
    assert asked == ["rgba"]


TRIANGLE = [1.0, 1.0, 8.0, 1.0, 4.0, 8.0]


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([], "empty mask"),
        ([[0.0, 0.0, 0.0, 0.0, 0.0, 0.0]], "empty mask"),
        ([[1.0, 1.0, 5.0, 5.0]], "malformed polygon"),
        ([[*TRIANGLE, 3.0]], "malformed polygon"),
        ([TRIANGLE, [1.0, None, 2.0, 2.0, 3.0, 3.0]], "malformed polygon"),
        ([[float("nan"), 1.0, 2.0, 2.0, 3.0, 3.0]], "malformed polygon"),
        ([[10**400, 1, 2, 2, 3, 3]], "malformed polygon"),
        ([["1", 1, 2, 2, 3, 3]], "malformed polygon"),
        ([[1e12, 1.0, 2.0, 2.0, 3.0, 3.0]], "malformed polygon"),
        ([TRIANGLE, "text"], "malformed polygon"),
        (None, "malformed polygon"),
        ({"size": [10, 11], "counts": [110]}, "mask size mismatch"),
        ({"size": [10, 10]}, "malformed RLE"),
        ({"size": [10, 10], "counts": [100]}, "empty mask"),
        ({"size": [10, 10], "counts": [50, 51]}, "malformed RLE"),
        ({"size": [10, 10], "counts": [10**12]}, "malformed RLE"),
        ({"size": [10, 10], "counts": [10**40]}, "malformed RLE"),
        ({"size": [10, 10], "counts": []}, "malformed RLE"),
        ({"size": [10, 10], "counts": ""}, "malformed RLE"),
        ({"size": [10, 10], "counts": [200, -100]}, "malformed RLE"),
        ({"size": [10, 10], "counts": [110, -10]}, "malformed RLE"),
        ({"size": [10, 10], "counts": [50, 49.5, 0.5]}, "malformed RLE"),
        ({"size": [10, 10], "counts": "oooooooooooooooooooo"}, "malformed RLE"),
        ({"size": [10, 10], "counts": "\u20ac"}, "malformed RLE"),
        ({"size": [10, 10], "counts": "o"}, "malformed RLE"),
        ({"polygons": [], "minus": [TRIANGLE]}, "empty mask"),
        ({"polygons": [TRIANGLE], "minus": [TRIANGLE]}, "empty mask"),
        ({"polygons": TRIANGLE}, "malformed polygon"),
        ({"polygons": None}, "malformed polygon"),
        ({"polygons": [TRIANGLE], "minus": TRIANGLE}, "malformed polygon"),
        ({"polygons": [TRIANGLE], "minus": {}}, "malformed polygon"),
        ({"polygons": [TRIANGLE], "minus": [[1.0, 1.0]]}, "malformed polygon"),
        ({"polygons": [TRIANGLE], "minus": [[1e12, 1.0, 2.0, 2.0, 3.0, 3.0]]}, "malformed polygon"),
        ({"labels": "cmyk", "values": [1]}, "malformed labels"),
        ({"labels": ["rgb"], "values": [1]}, "malformed labels"),
        ({"labels": "rgb"}, "malformed labels"),
        ({"labels": "rgb", "values": []}, "malformed labels"),
        ({"labels": "rgb", "values": [1.5]}, "malformed labels"),
        ({"labels": "rgb", "values": [True]}, "malformed labels"),
        ({"labels": "rgb", "values": [2**31]}, "malformed labels"),
        ({"labels": "rgb", "values": [1]}, "missing labels"),
    ],
)
def test_a_malformed_silhouette_is_a_reject_with_a_reason(segmentation: Any, reason: str) -> None:
    with pytest.raises(RejectError) as error:
        mask_of(segmentation, 10, 10)
    assert error.value.reason == reason


def test_labels_of_another_size_than_the_photo_are_a_reject() -> None:
    with pytest.raises(RejectError) as error:
        mask_of({"labels": "rgb", "values": [1]}, 10, 10, lambda _: np.ones((10, 11), dtype=np.int32))
    assert error.value.reason == "label size mismatch"
