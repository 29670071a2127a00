"""Cut-outs: square, on white, and nothing of the background in them."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pics_data.cutout import on_white, premultiply, premultiply_rgba, shrink, square_crop


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
    shown = min(size, crop[2])
    assert cut.shape == (shown, shown, 4)
    assert np.array_equal(cut, on_white(premultiply(elsewhere, mask, crop), size))


@pytest.mark.parametrize("size", [40, 64, 100])
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


def test_an_object_that_the_photo_shows_small_keeps_the_photo_s_pixels() -> None:
    rng = np.random.default_rng(2)
    mask = disc(50, 70, 30, 25, 12)
    photo = rng.integers(0, 255, (50, 70, 3), dtype=np.uint8)
    cut = on_white(premultiply(photo, mask, (15, 10, 31)), 224)
    part = np.s_[10:41, 15:46]
    assert np.array_equal(cut[..., 3] == 255, mask[part])
    assert np.array_equal(cut[..., :3], np.where(mask[part][..., None], photo[part], 255))


def block_mean(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The exact mean of what each new pixel covers: both axes enlarged to a common multiple, then averaged."""
    rows = np.repeat(np.arange(len(pixels)), height).reshape(height, -1)
    columns = np.repeat(np.arange(pixels.shape[1]), width).reshape(width, -1)
    return pixels.astype(float)[rows].mean(axis=1)[:, columns].mean(axis=2)


sizes = st.tuples(st.integers(8, 60), st.integers(8, 60))


@given(st.integers(0, 2**32 - 1), sizes, st.floats(0.1, 1), st.floats(0.1, 1), st.sampled_from([1, 3, 4]))
def test_shrinking_is_near_to_the_mean_of_what_a_pixel_covers(
    seed: int, old: tuple[int, int], down: float, across: float, channels: int
) -> None:
    height, width = max(1, round(old[0] * down)), max(1, round(old[1] * across))
    rough = np.random.default_rng(seed).integers(0, 255, (*old, channels), dtype=np.uint8)
    smooth = cv2.GaussianBlur(rough, (0, 0), 2.5 * max(old[0] / height, old[1] / width)).reshape(rough.shape)
    shrunk = shrink(smooth, height, width).reshape(height, width, channels)
    assert np.abs(shrunk - block_mean(smooth, height, width)).max() < 4


def coarse_response(picture: np.ndarray) -> float:
    """Contrast of what is left of a picture when its fine detail is blurred away."""
    return float(cv2.GaussianBlur(picture, (0, 0), 2)[20:-20, 20:-20].astype(float).std())


@pytest.mark.parametrize("ratio", [1.2, 1.33, 1.4, 1.7, 2, 2.5, 3, 4.3, 7.7])
def test_shrinking_lets_no_fine_pattern_turn_into_a_coarse_one(ratio: float) -> None:
    """Stripes too fine for the new size go grey; linear interpolation alone makes broad bands of them.

    Their contrast was 90. A tenth of it may stay: INTER_AREA leaves 7 of it where it halves.
    """
    old, new = 360, round(360 / ratio)
    ours, linear = [], []
    for frequency in np.linspace(0.55 / ratio, 0.5, 30):
        wave = 127.5 + 127.5 * np.cos(2 * np.pi * frequency * np.arange(old))
        stripes = wave.astype(np.uint8)[None].repeat(old, axis=0)
        ours.append(coarse_response(shrink(stripes, new, new)))
        linear.append(coarse_response(cv2.resize(stripes, (new, new), interpolation=cv2.INTER_LINEAR)))
    assert max(ours) < 9
    assert ratio in (1.2, 1.33, 1.4, 2) or max(linear) > 20


def test_what_has_the_size_already_is_left_alone() -> None:
    pixels = np.random.default_rng(4).integers(0, 255, (20, 30, 4), dtype=np.uint8)
    assert shrink(pixels, 20, 30) is pixels
