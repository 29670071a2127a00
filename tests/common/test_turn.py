"""Turning in the plane: against a dense oracle, nothing cut off, centred, edges of the object's own colour."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pics_common.turn import on_white, premultiplied, turn_on_white, turn_picture, turn_premultiplied

SIDE = 96
ANGLES = st.floats(-180, 180, allow_subnormal=False)


def ellipse(side: int, across: float, down: float, lean: float, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A plain ellipse in the middle, half axes in shares of the side, with soft edges and straight alpha."""
    large = np.zeros((8 * side, 8 * side), np.uint8)
    axes = round(8 * side * across), round(8 * side * down)
    cv2.ellipse(large, (4 * side, 4 * side), axes, lean, 0, 360, 255, -1)
    alpha = cv2.resize(large, (side, side), interpolation=cv2.INTER_AREA)
    picture = np.full((side, side, 4), (*colour, 0), np.uint8)
    picture[..., 3] = alpha
    return picture


def composed(picture: NDArray[np.uint8], ground: int) -> NDArray[np.float64]:
    """Straight colour over a grey ground, [h, w, 3]."""
    alpha = picture[..., 3:] / 255
    return picture[..., :3] * alpha + ground * (1 - alpha)


def orientation(alpha: NDArray[np.uint8]) -> float:
    """Degrees, counterclockwise, of the long axis; from second moments, so -90 to 90."""
    moments = cv2.moments(alpha)
    return -0.5 * math.degrees(math.atan2(2 * moments["mu11"], moments["mu20"] - moments["mu02"]))


shapes = st.builds(
    ellipse,
    st.integers(24, SIDE),
    st.floats(0.15, 0.49),
    st.floats(0.1, 0.49),
    st.floats(0, 180),
    st.tuples(*[st.integers(0, 255)] * 3),
)


@settings(max_examples=150, deadline=None)
@given(shapes, ANGLES, st.booleans())
def test_nothing_is_cut_off_and_the_object_stays_in_the_middle(picture, degrees, grow) -> None:
    turned = turn_picture(picture, degrees, grow)
    side = len(turned)
    assert turned.shape == (side, side, 4)
    assert side >= len(picture) if grow else side == len(picture)
    area, before = turned[..., 3].sum() / 255, picture[..., 3].sum() / 255
    scale = math.sqrt(area / before)
    assert scale == pytest.approx(1, abs=0.01) if grow else scale < 1.01
    # No bigger shrinking than a square that fills its picture would need.
    assert scale > (side - 4) / side / math.sqrt(2)
    x, y, width, height = cv2.boundingRect((turned[..., 3] >= 128).view(np.uint8))
    assert abs(x + width / 2 - side / 2) <= 1
    assert abs(y + height / 2 - side / 2) <= 1
    assert turned[[0, -1], :, 3].max() < 128 or not degrees % 90
    assert turned[:, [0, -1], 3].max() < 128 or not degrees % 90


@settings(max_examples=150, deadline=None)
@given(shapes, ANGLES, st.booleans(), st.sampled_from([0, 255]))
def test_no_fringe_of_any_other_colour(picture, degrees, grow, ground) -> None:
    """An object of one colour keeps it wherever anything of it shows, over black and over white."""
    turned = turn_picture(picture, degrees, grow)
    shown = turned[..., 3] > 0
    assert (turned[~shown] == (255, 255, 255, 0)).all()
    assert np.abs(turned[shown][:, :3].astype(int) - picture[0, 0, :3]).max() <= 1
    alpha = turned[..., 3:] / 255
    expected = picture[0, 0, :3] * alpha + ground * (1 - alpha)
    assert np.abs(composed(turned, ground) - expected).max() <= 1


@settings(max_examples=100, deadline=None)
@example(699, 58.0, True)  # a colour beyond its alpha where that overshoots
@given(st.integers(0, 2**32 - 1), ANGLES, st.booleans())
def test_colour_never_exceeds_its_alpha_and_the_forms_agree(seed, degrees, grow) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (20, 20, 4), np.uint8)
    ink = picture.copy()
    ink[..., :3] = np.rint(ink[..., :3] * (ink[..., 3:] / 255))
    assert np.array_equal(premultiplied(on_white(ink)), ink)
    turned = turn_premultiplied(ink, degrees, grow)
    assert (turned[..., :3] <= turned[..., 3:]).all()
    assert np.array_equal(turn_on_white(on_white(ink), degrees, grow), on_white(turned))
    exact = turn_premultiplied(ink.astype(np.float32), degrees, grow)
    assert np.abs(exact - turned).max() <= 0.501


@pytest.mark.parametrize("degrees", [-30, -7.5, 13, 30, 75, 210])
def test_the_angle_is_counterclockwise_and_exact(degrees) -> None:
    turned = turn_picture(ellipse(SIDE, 0.4, 0.1, 0, (9, 9, 9)), degrees)
    wrapped = (degrees + 90) % 180 - 90
    assert orientation(turned[..., 3]) == pytest.approx(wrapped, abs=0.1)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3, 4, -1])
@pytest.mark.parametrize("turn", [turn_on_white, turn_premultiplied])
def test_quarter_turns_move_pixels_and_change_none(quarters, turn) -> None:
    """One that fills its picture to all four borders, at an odd and an even side."""
    rng = np.random.default_rng(0)
    for side in (31, 32):
        opaque = np.dstack([rng.integers(0, 256, (side, side, 3), np.uint8), np.full((side, side), 255, np.uint8)])
        assert np.array_equal(turn(opaque, 90 * quarters), np.rot90(opaque, quarters))


def smooth(side: int, seed: int = 0) -> NDArray[np.uint8]:
    """A picture full of soft colour, opaque."""
    small = np.random.default_rng(seed).integers(0, 256, (side // 6, side // 6, 3), np.uint8)
    rgb = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.dstack([rgb, np.full((side, side), 255, np.uint8)])


def oracle(picture: NDArray[np.uint8], degrees: float, side: int, scale: float) -> NDArray[np.float64]:
    """Premultiplied, by counting: the mean of 12 x 12 samples in each pixel, each bilinear in the old picture."""
    ink = picture.astype(np.float64)
    ink[..., :3] *= ink[..., 3:] / 255
    ink = np.pad(ink, ((1, 1), (1, 1), (0, 0)))
    line = (np.arange(12 * side) + 0.5) / 12 - side / 2
    y, x = np.meshgrid(line / scale, line / scale, indexing="ij")
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    height, width = picture.shape[:2]
    u, v = cos * x - sin * y + width / 2 + 0.5, sin * x + cos * y + height / 2 + 0.5
    u, v = u.clip(0, width + 0.999), v.clip(0, height + 0.999)
    left, top = u.astype(int), v.astype(int)
    across, down = (u - left)[..., None], (v - top)[..., None]
    upper = ink[top, left] * (1 - across) + ink[top, left + 1] * across
    lower = ink[top + 1, left] * (1 - across) + ink[top + 1, left + 1] * across
    return (upper * (1 - down) + lower * down).reshape(side, 12, side, 12, 4).mean((1, 3))


@pytest.mark.parametrize("degrees", [-30, 11, 45, 160])
@pytest.mark.parametrize("grow", [False, True])
def test_it_agrees_with_counting(degrees, grow) -> None:
    """Bicubic is sharper than the oracle, so that on soft pictures a few levels remain, and at edges more."""
    picture = smooth(60)
    turned = turn_premultiplied(picture.astype(np.float32), degrees, grow)
    angle = math.radians(degrees % 90)
    room = math.ceil(60 * (math.cos(angle) + math.sin(angle)) - 1e-6) + 2
    side, scale = (room, 1.0) if grow else (60, 60 / room)
    assert len(turned) == side
    difference = np.abs(turned - oracle(picture, degrees, side, scale))
    inner = cv2.erode((turned[..., 3] >= 254.5).view(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert difference[inner].mean() < 2
    assert difference[inner].max() < 14
    assert difference[..., 3].max() < 90


def test_there_and_back_leaves_a_real_cut_out_as_it_was(shared_data: Path) -> None:
    file = sorted((shared_data / "dreambooth" / "dog").glob("*.jpg"))[0]
    photo = cv2.resize(cv2.imread(str(file), cv2.IMREAD_COLOR_RGB), (224, 224), interpolation=cv2.INTER_AREA)
    shape = ellipse(224, 0.42, 0.3, 20, (0, 0, 0))
    picture = np.dstack([photo, shape[..., 3]])
    ink = picture.astype(np.float32)
    ink[..., :3] *= ink[..., 3:] / 255
    back = turn_premultiplied(turn_premultiplied(ink, 27, grow=True), -27, grow=True)
    margin = (len(back) - 224) // 2
    back = back[margin : margin + 224, margin : margin + 224]
    psnr = 10 * math.log10(255**2 / np.mean((back - ink) ** 2))
    assert psnr > 36


def test_what_is_off_centre_is_brought_to_the_middle_without_blur() -> None:
    rng = np.random.default_rng(0)
    picture = np.full((40, 40, 4), (255, 255, 255, 0), np.uint8)
    thing = np.dstack([rng.integers(0, 256, (10, 8, 3), np.uint8), np.full((10, 8), 255, np.uint8)])
    picture[2:12, 30:38] = thing
    assert np.array_equal(turn_on_white(picture, 0)[15:25, 16:24], thing)


@pytest.mark.parametrize("grow", [False, True])
def test_pictures_of_any_shape_and_of_nothing(grow) -> None:
    wide = np.full((10, 40, 4), (10, 20, 30, 255), np.uint8)
    turned = turn_picture(wide, 90, grow)
    assert turned.shape == (40, 40, 4)
    assert (turned[:, 15:25] == (10, 20, 30, 255)).all()
    assert not turned[:, :15, 3].any()
    nothing = np.zeros((16, 16, 4), np.uint8)
    assert not turn_picture(nothing, 30, grow)[..., 3].any()
