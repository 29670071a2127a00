"""Quality of a silhouette and relation of two, on shapes whose measures are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pics_data.measure import contact_and_gap, measure_quality


def shape(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (60, 80)) -> np.ndarray:
    """A mask of filled boxes (x, y, width, height)."""
    mask = np.zeros(size, bool)
    for x, y, width, height in boxes:
        mask[y : y + height, x : x + width] = True
    return mask


GREY = np.full((60, 80, 3), 128, np.uint8)


def test_parts_holes_box_and_area() -> None:
    mask = shape((10, 10, 20, 20), (50, 30, 5, 5))
    mask[15:18, 15:18] = mask[22:25, 20:23] = False
    quality = measure_quality(GREY, mask)
    assert (quality.parts, quality.holes) == (2, 2)
    assert quality.box == (10, 10, 45, 25)
    assert quality.area == pytest.approx(mask.sum() / mask.size, abs=1e-6)


def test_border_is_the_share_of_the_outline_on_the_photos_border() -> None:
    assert measure_quality(GREY, shape((10, 10, 20, 20))).border == 0
    assert measure_quality(GREY, shape((0, 10, 20, 20))).border == 0.25
    assert measure_quality(GREY, shape((1, 10, 20, 20))).border == 0.25  # one pixel is what rasterising loses
    assert measure_quality(GREY, shape((2, 10, 20, 20))).border == 0
    assert measure_quality(GREY, shape((0, 0, 80, 60))).border == 1
    assert measure_quality(GREY, shape((60, 40, 20, 20))).border == 0.5


def test_edge_tells_a_sharp_outline_from_a_lost_one() -> None:
    mask = shape((20, 15, 30, 30))
    sharp = np.repeat(np.where(mask, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    assert measure_quality(sharp, mask).edge > 0.9
    assert measure_quality(sharp // 4, mask).edge == pytest.approx(0.25, abs=0.03)
    assert measure_quality(GREY, mask).edge == 0
    assert measure_quality(sharp, shape((0, 0, 80, 60))).edge == 0  # only the photo's border


@pytest.mark.parametrize(
    ("second", "contact", "gap"),
    [
        ((30, 10, 10, 20), 20, 0),  # beside, along 20 pixels
        ((30, 30, 10, 10), 1, 0),  # corner to corner
        ((31, 10, 10, 20), 0, 1),
        ((40, 10, 10, 20), 0, 10),
        ((33, 34, 5, 5), 0, 4.66),  # 4 and 5 pixels away: hypot(4, 5) - 1 less rounding of centres
        ((25, 10, 10, 20), 120, 0),  # overlapping annotations: 5 x 20 and the column beside
    ],
)
def test_contact_and_gap(second: tuple[int, int, int, int], contact: int, gap: float) -> None:
    measured = contact_and_gap(shape((10, 10, 20, 20)), shape(second))
    assert measured[0] == contact
    assert measured[1] == pytest.approx(gap, abs=0.75)


@given(arrays(np.bool_, (9, 11)), arrays(np.bool_, (9, 11)))
def test_the_gap_is_the_least_distance_between_any_two_pixels(first: np.ndarray, second: np.ndarray) -> None:
    if not first.any() or not second.any():
        return
    a, b = np.argwhere(first), np.argwhere(second)
    nearest = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1)).min(axis=1)
    contact, gap = contact_and_gap(first, second)
    assert contact == (nearest < 1.5).sum()
    assert gap == pytest.approx(0 if contact else nearest.min() - 1, abs=0.02)


@given(st.data())
def test_any_mask_is_measured(data: st.DataObject) -> None:
    mask = data.draw(arrays(np.bool_, (7, 9)).filter(lambda m: m.any()))
    photo = data.draw(arrays(np.uint8, (7, 9, 3)))
    quality = measure_quality(photo, mask)
    assert quality.parts >= 1
    assert 0 <= quality.border <= 1
    assert 0 <= quality.edge <= 1
