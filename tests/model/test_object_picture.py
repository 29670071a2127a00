"""Object pictures on the frame's own grid: where they lie, what they hold, at any scale of the cut-out."""

import math
import tracemalloc
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pics_model.framing import Frame, frame_pair, tight_box
from pics_model.object_picture import EMPTY, PlacedCutout

RESOLUTION, SIZE, GRID = 64, 48, 4


@dataclass(frozen=True)
class Case:
    """A filled rectangle in a photo, its cut-out of any number of pixels, the frame around it."""

    box: tuple[int, int, int, int]
    picture: np.ndarray
    square: tuple[float, float, float]
    frame: Frame

    @property
    def pixel(self) -> float:
        """Photo pixels a model pixel."""
        return self.frame.side / RESOLUTION


@st.composite
def cases(draw: st.DrawFn) -> Case:
    height, width = draw(st.integers(60, 400)), draw(st.integers(60, 400))
    longer = draw(st.integers(8, min(height, width)))
    shorter = draw(st.integers(-(-longer // 3), longer))
    across, down = draw(st.permutations([longer, shorter]))
    x0, y0 = draw(st.integers(0, width - across)), draw(st.integers(0, height - down))
    box = x0, y0, x0 + across, y0 + down
    side = draw(st.floats(1.1, 1.4)) * max(box[2] - box[0], box[3] - box[1])
    square = ((box[0] + box[2] - side) / 2, (box[1] + box[3] - side) / 2, side)
    num = draw(st.sampled_from([24, 64, 224]))

    def covered(low: float, high: float, start: float) -> np.ndarray:
        edges = start + np.arange(num + 1) * side / num
        return (np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)).clip(0) * num / side

    alpha = np.outer(covered(box[1], box[3], square[1]), covered(box[0], box[2], square[0]))
    rgb = 255 - alpha[..., None] * (255 - np.array([200, 30, 10]))
    picture = np.rint(np.dstack([rgb, alpha * 255])).astype(np.uint8)
    return Case(box, picture, square, frame_pair([box], height, width, 1.5))


@settings(max_examples=150, deadline=None)
@given(cases(), st.sampled_from([GRID, 8]), st.sampled_from([16, 32, SIZE]))
def test_it_lies_on_the_grid_at_a_whole_fraction_of_the_scale(case, grid, size) -> None:
    _, (left, top, side) = PlacedCutout(case.picture, case.box, case.square).snapped(case.frame, RESOLUTION, size, grid)
    for start, zero in ((left, case.frame.x), (top, case.frame.y)):
        steps = (start - zero) / case.pixel / grid
        assert steps == pytest.approx(round(steps), abs=1e-6)
    fraction = side / case.pixel / size
    assert fraction == pytest.approx(round(fraction), abs=1e-6)
    # The least that fits: one less would not hold the object, wherever the grid puts the corner.
    longer = max(case.box[2] - case.box[0], case.box[3] - case.box[1]) / case.pixel
    assert round(fraction) <= math.ceil(longer / (size - grid) + 0.3)


@settings(max_examples=150, deadline=None)
@given(cases())
def test_all_of_the_object_is_inside_and_stands_where_the_photo_has_it(case) -> None:
    made, square = PlacedCutout(case.picture, case.box, case.square).snapped(case.frame, RESOLUTION, SIZE, GRID)
    assert made.shape == (SIZE, SIZE, 4)
    left, top, side = square
    slack = 0.5 * case.square[2] / len(case.picture)  # half a pixel of the cut-out: its outline is known no better
    x0, y0, x1, y1 = case.box
    assert left <= x0 + slack
    assert top <= y0 + slack
    assert left + side >= x1 - slack
    assert top + side >= y1 - slack
    u0, v0, u1, v1 = tight_box(made[..., 3] >= 128)
    scale = side / SIZE
    shown = [left + u0 * scale, top + v0 * scale, left + u1 * scale, top + v1 * scale]
    np.testing.assert_allclose(shown, case.box, atol=scale + slack + 1e-6)
    # Finer than a pixel: the centre of mass.
    weight = made[..., 3].astype(float)
    line = (np.arange(SIZE) + 0.5) * scale
    centre = [left + (weight.sum(0) * line).sum() / weight.sum(), top + (weight.sum(1) * line).sum() / weight.sum()]
    np.testing.assert_allclose(centre, [(x0 + x1) / 2, (y0 + y1) / 2], atol=scale / 2)


@pytest.mark.parametrize("grid", [1, GRID])
def test_at_the_frames_own_scale_the_pixels_are_the_photos(grid) -> None:
    """64 photo pixels on 64 model pixels, a cut-out of the photo's own pixels: nothing is resampled at all."""
    rng = np.random.default_rng(0)
    picture = np.full((40, 40, 4), EMPTY, np.uint8)
    picture[5:35, 5:35] = np.dstack([rng.integers(0, 255, (30, 30, 3)), np.full((30, 30), 255)])
    cutout = PlacedCutout(picture, (17, 22, 47, 52), (12.0, 17.0, 40.0))
    made, (left, top, side) = cutout.snapped(Frame(0, 0, 64), RESOLUTION, SIZE, grid)
    assert side == SIZE
    canvas = np.full((192, 192, 4), EMPTY, np.uint8)
    canvas[64 + int(top) :, 64 + int(left) :][:SIZE, :SIZE] = made
    assert np.array_equal(canvas[64 + 22 : 64 + 52, 64 + 17 : 64 + 47], picture[5:35, 5:35])


def test_a_large_picture_of_a_small_object_stays_small_in_memory() -> None:
    """A cut-out of 4,000 pixels for a place of 6: padded as it is, it would be a square of 32,000."""
    picture = np.full((4000, 4000, 4), EMPTY, np.uint8)
    cv2.circle(picture, (2000, 2000), 1800, (10, 200, 30, 255), -1)
    cutout = PlacedCutout(picture, (30, 40, 36, 46), None)
    tracemalloc.start()
    try:
        made, (left, top, side) = cutout.snapped(Frame(0, 0, 64), RESOLUTION, SIZE, GRID)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 300e6
    u0, v0, u1, v1 = tight_box(made[..., 3] >= 128)
    assert (u1 - u0, v1 - v0) == (6, 6)
    assert side == SIZE
    assert (left + u0, top + v0) == (30, 40)


def test_a_coarse_picture_of_a_large_object_stands_at_its_place() -> None:
    picture = np.full((6, 6, 4), (10, 20, 30, 255), np.uint8)
    cutout = PlacedCutout(picture, (13, 9, 49, 45), None)
    made, (left, top, _) = cutout.snapped(Frame(0, 0, 64), RESOLUTION, SIZE, GRID)
    u0, v0, u1, v1 = tight_box(made[..., 3] >= 128)
    np.testing.assert_allclose([left + u0, top + v0, left + u1, top + v1], [13, 9, 49, 45], atol=1)
