"""Geometry of predicted masks, against brute force; and the way of a mask through COCO's RLE."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from pics_data.masks import mask_of
from pics_data.predict.regions import (
    clean,
    clip_box,
    clipped,
    distinct,
    enlarged,
    grid_points,
    stability,
    tight_box,
)
from pics_data.predict.rle import mask_to_rle

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))
SIDES = ((0, 1), (1, 0), (0, -1), (-1, 0))
CORNERS = ((1, 1), (1, -1), (-1, 1), (-1, -1))


@given(masks)
def test_rle_gives_back_the_mask(mask: np.ndarray) -> None:
    rle = json.loads(json.dumps(mask_to_rle(mask)))
    assert np.array_equal(coco_mask.decode(rle).astype(bool), mask)
    if mask.any():
        assert np.array_equal(mask_of(rle, *mask.shape), mask)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((10.5, 5.0, 20.0, 10.0), (10.5, 5.0, 20.0, 10.0)),
        ((-5.0, -5.0, 20.0, 10.0), (0.0, 0.0, 15.0, 5.0)),
        ((90.0, 40.0, 50.0, 50.0), (90.0, 40.0, 10.0, 10.0)),
        ((-10.0, -10.0, 500.0, 500.0), (0.0, 0.0, 100.0, 50.0)),
        ((100.0, 0.0, 10.0, 10.0), None),
        ((-10.0, 0.0, 10.0, 10.0), None),
        ((10.0, 10.0, 0.0, 10.0), None),
        ((10.0, 10.0, 5.0, -3.0), None),
        ((float("nan"), 10.0, 5.0, 5.0), None),
        ((10.0, float("nan"), 5.0, 5.0), None),
        ((10.0, 10.0, float("nan"), 5.0), None),
        ((10.0, 10.0, 5.0, float("nan")), None),
        ((float("inf"), 10.0, 5.0, 5.0), None),
    ],
)
def test_a_box_is_clipped_to_the_photo(
    box: tuple[float, float, float, float], expected: tuple[float, float, float, float] | None
) -> None:
    assert clip_box(box, 100, 50) == expected


def test_an_enlarged_box_holds_whole_pixels_of_the_photo_only() -> None:
    assert enlarged((10.5, 20.2, 10.0, 20.0), 0.0, 100, 50) == (slice(20, 41), slice(10, 21))
    assert enlarged((10.5, 20.2, 10.0, 20.0), 0.1, 100, 50) == (slice(18, 43), slice(9, 22))
    assert enlarged((1.0, 1.0, 98.0, 48.0), 0.5, 100, 50) == (slice(0, 50), slice(0, 100))


def test_a_clipped_mask_is_the_mask_inside_and_nothing_outside() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((40, 60)) > 0.5
    result = clipped(mask, (10.0, 5.0, 20.0, 10.0), 0.1)
    inside = np.zeros_like(mask)
    inside[4:16, 8:32] = True
    assert np.array_equal(result, mask & inside)


def test_grid_points_cover_the_photo_evenly() -> None:
    points = grid_points(2, 100, 40)
    assert points.tolist() == [[25, 10], [75, 10], [25, 30], [75, 30]]


def test_stability_is_the_iou_of_the_two_thresholds() -> None:
    logits = np.array([[[5.0, 5.0], [0.5, -5.0]], [[-3.0, -3.0], [-3.0, -3.0]], [[9.0, 9.0], [9.0, 9.0]]], np.float32)
    assert stability(logits, 1.0).tolist() == [2 / 3, 0.0, 1.0]


@given(
    arrays(np.bool_, st.tuples(st.integers(0, 12), st.just(3), st.just(4))),
    st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
    st.data(),
)
def test_distinct_masks_are_those_of_greedy_suppression(
    candidates: np.ndarray, max_iou: float, data: st.DataObject
) -> None:
    scores = np.array(data.draw(st.lists(st.integers(0, 5), min_size=len(candidates), max_size=len(candidates))), float)
    kept: list[int] = []
    for i in sorted(range(len(candidates)), key=lambda i: (-scores[i], i)):
        a = set(np.flatnonzero(candidates[i]))
        others = [set(np.flatnonzero(candidates[k])) for k in kept]
        if all(len(a & b) <= max_iou * len(a | b) for b in others):
            kept.append(i)
    assert distinct(candidates, scores, max_iou) == kept


def parts_of(mask: np.ndarray, steps: tuple[tuple[int, int], ...]) -> Iterator[set[tuple[int, int]]]:
    """Connected parts, by flood fill."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    while left:
        part, edge = set(), {left.pop()}
        while edge:
            part |= edge
            edge = {(y + dy, x + dx) for y, x in edge for dy, dx in steps} & left
            left -= edge
        yield part


@given(masks, st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]))
def test_cleaning_removes_small_islands_and_holes_alone(mask: np.ndarray, speck: float) -> None:
    least = speck * np.count_nonzero(mask)
    expected = np.zeros_like(mask)
    islands = list(parts_of(mask, SIDES + CORNERS))
    large = [part for part in islands if len(part) >= least]
    result = clean(mask, speck)
    if not large:  # the largest stays; which one of several equals is not promised
        largest = max((len(part) for part in islands), default=0)
        large = [part for part in islands if len(part) == largest and all(result[at] for at in part)][:1]
    for part in large:
        for at in part:
            expected[at] = True
    padded = np.pad(expected, 1)
    for part in parts_of(~padded, SIDES):
        if len(part) < least and (0, 0) not in part:
            for y, x in part:
                expected[y - 1, x - 1] = True
    assert np.array_equal(result, expected)


def test_a_tight_box_holds_the_mask() -> None:
    mask = np.zeros((30, 40), bool)
    mask[4:10, 7] = mask[9, 7:20] = True
    assert tight_box(mask) == (7.0, 4.0, 13.0, 6.0)
