"""Encoders: what goes in comes out of other people's decoders, in few bytes, and always in the same."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pics_data import codecs
from pics_data.cutout import on_white, premultiply

sides = st.integers(1, 40)


def noise(seed: int, *shape: int, levels: int = 256) -> NDArray[np.uint8]:
    """Pixels of few or many neighbouring values, so that ties and wrap-arounds of predictions all come up."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 256) + rng.integers(0, levels, shape)).astype(np.uint8)


def a_cutout(size: int = 224) -> NDArray[np.uint8]:
    """A cut-out with a photograph's statistics: smooth shades, fine grain, soft edges, white around."""
    rng = np.random.default_rng(0)
    shades = cv2.resize(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), (400, 400), interpolation=cv2.INTER_CUBIC)
    photo = np.clip(shades + rng.normal(0, 4, shades.shape), 0, 255).astype(np.uint8)
    rows, columns = np.mgrid[:400, :400]
    mask = (rows - 200) ** 2 / 1.5 + (columns - 190) ** 2 < 140**2
    return on_white(premultiply(photo, mask, (0, 0, 400)), size)


def paeth_rows_slowly(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The filter as the PNG specification words it, byte by byte."""
    rows = pixels.reshape(len(pixels), -1).astype(int)
    step = 1 if pixels.ndim == 2 else pixels.shape[2]
    out = np.full((len(rows), rows.shape[1] + 1), codecs.PAETH, np.uint8)
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            a = row[x - step] if x >= step else 0
            b = rows[y - 1][x] if y else 0
            c = rows[y - 1][x - step] if y and x >= step else 0
            p = a + b - c
            nearest = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            out[y, x + 1] = (value - nearest) % 256
    return out


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 12), st.sampled_from([2, 5, 256]), st.booleans())
def test_rows_are_predicted_by_paeth(seed: int, height: int, width: int, levels: int, grey: bool) -> None:
    pixels = noise(seed, height, width, *([] if grey else [4]), levels=levels)
    assert np.array_equal(codecs._paeth_rows(pixels), paeth_rows_slowly(pixels))


@settings(deadline=None)
@given(st.integers(0, 2**31), sides, sides, st.sampled_from([1, 5, 256]), st.booleans())
def test_a_png_gives_its_pixels_back(seed: int, height: int, width: int, levels: int, grey: bool) -> None:
    pixels = noise(seed, height, width, *([] if grey else [4]), levels=levels)
    data = codecs.png(pixels)
    image = Image.open(io.BytesIO(data))
    assert image.mode == ("L" if grey else "RGBA")
    assert np.array_equal(np.asarray(image), pixels)
    there = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(there if grey else cv2.cvtColor(there, cv2.COLOR_BGRA2RGBA), pixels)


@given(st.integers(0, 2**31), sides, sides, st.sampled_from([0, 0.1, 0.5, 1]))
def test_a_mask_gives_its_pixels_back_from_one_bit_each(seed: int, height: int, width: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    data = codecs.mask_png(mask)
    image = Image.open(io.BytesIO(data))
    assert image.mode == "1"
    assert np.array_equal(np.asarray(image), mask)
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) > 127, mask)


def test_pixels_in_any_layout_of_memory_give_the_same_bytes() -> None:
    pixels = noise(3, 60, 80, 4)
    part = pixels[10:50, 20:70]
    turned = np.asfortranarray(part)
    assert codecs.png(part) == codecs.png(part.copy()) == codecs.png(turned)
    mask = pixels[..., 0] > 100
    assert codecs.mask_png(mask[::2, ::3]) == codecs.mask_png(mask[::2, ::3].copy())
    assert codecs.jpeg(part[..., :3]) == codecs.jpeg(part[..., :3].copy())


def test_a_cutout_takes_hardly_more_than_the_best_filters_and_the_long_search() -> None:
    cut = a_cutout()
    thorough = io.BytesIO()
    Image.fromarray(cut).save(thorough, "PNG", compress_level=6)
    assert len(codecs.png(cut)) <= 1.03 * len(thorough.getvalue())


def test_the_white_around_an_object_is_all_but_free() -> None:
    white = np.full((224, 224, 4), (255, 255, 255, 0), np.uint8)
    assert len(codecs.png(white)) < 1200


@pytest.mark.parametrize(("quality", "least"), [(codecs.JPEG_QUALITY, 41), (codecs.RESIZED_JPEG_QUALITY, 36)])
def test_a_jpeg_keeps_colour_at_full_resolution(quality: int, least: float) -> None:
    # Saturated stripes one pixel wide: halved colour would wash them out to below 20 dB.
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = (230, 40, 40)
    stripes[:, 1::2] = (40, 60, 220)
    shown = np.asarray(Image.open(io.BytesIO(codecs.jpeg(stripes, quality)))).astype(float)
    assert 10 * np.log10(255**2 / ((shown - stripes) ** 2).mean()) > 30
    photo = cv2.GaussianBlur(noise(5, 96, 128, 3), (0, 0), 3)
    shown = np.asarray(Image.open(io.BytesIO(codecs.jpeg(photo, quality)))).astype(float)
    assert 10 * np.log10(255**2 / ((shown - photo) ** 2).mean()) > least
