"""Cut-outs: square, on white, and nothing of the background in them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pics_data.cutout import on_white, premultiply, premultiply_rgba, square_crop


def disc(height: int, width: int, x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


@given(
    st.integers(0, 2**32 - 1),
    st.integers(3, 60),
    st.integers(-10, 90),
    st.integers(-10, 70),
    st.sampled_from([16, 33, 224]),
)
def test_what_is_outside_the_silhouette_changes_no_byte(seed: int, radius: int, x: int, y: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    mask = disc(60, 80, x, y, radius)
    if not mask.any():
        return
    photo = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
    elsewhere = np.where(mask[..., None], photo, rng.integers(0, 255, photo.shape, dtype=np.uint8))
    rows, columns = np.nonzero(mask)
    box = (int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
    crop = square_crop(box, rng)
    cut = on_white(premultiply(photo, mask, crop), size)
    assert cut.shape == (size, size, 4)
    assert np.array_equal(cut, on_white(premultiply(elsewhere, mask, crop), size))


@pytest.mark.parametrize("size", [40, 64, 224])
@pytest.mark.parametrize("colour", [(200, 30, 10), (0, 0, 0), (255, 255, 255), (3, 250, 128)])
def test_a_flat_object_keeps_its_colour_in_soft_edges(size: int, colour: tuple[int, int, int]) -> None:
    mask = disc(120, 120, 60, 60, 40)
    photo = np.where(mask[..., None], np.uint8(colour), np.uint8((0, 255, 0)))
    cut = on_white(premultiply(photo, mask, (10, 5, 110)), size).astype(float)
    alpha = cut[..., 3:] / 255
    soft = (alpha > 0) & (alpha < 1)
    assert soft.sum() > size
    # The stored RGB is the object's colour over white, to the rounding of 8 bits.
    expected = alpha * np.array(colour) + (1 - alpha) * 255
    assert np.abs(cut[..., :3] - expected).max() <= 1.5
    assert (cut[..., :3][alpha[..., 0] == 0] == 255).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 300))
def test_the_crop_is_a_square_around_the_box_enlarged_by_1_1_to_1_4(seed: int, width: int, height: int) -> None:
    box = (17, 23, width, height)
    x, y, side = square_crop(box, np.random.default_rng(seed))
    longer = max(width, height)
    assert 1.1 * longer - 0.5 <= side <= 1.4 * longer + 0.5
    assert abs((x + side / 2) - (17 + width / 2)) <= 0.5
    assert abs((y + side / 2) - (23 + height / 2)) <= 0.5
    assert square_crop(box, np.random.default_rng(seed)) == (x, y, side)


def test_straight_alpha_and_a_mask_give_the_same_where_alpha_is_hard() -> None:
    rng = np.random.default_rng(1)
    mask = disc(50, 70, 65, 10, 15)  # cut by two borders
    photo = rng.integers(0, 255, (50, 70, 3), dtype=np.uint8)
    rgba = np.dstack([photo, mask.astype(np.uint8) * 255])
    crop = (45, -8, 41)
    assert np.array_equal(premultiply(photo, mask, crop), premultiply_rgba(rgba, crop))
