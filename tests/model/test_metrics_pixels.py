"""PSNR and SSIM, whole and of a region, beside scikit-image, torchmetrics, closed forms and loops over pixels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from pics_model.metrics.pixels import (
    as_pictures,
    intersection,
    masked_psnr,
    masked_ssim,
    psnr,
    ssim,
    ssim_map,
)


def pictures(num: int = 2, height: int = 24, width: int = 31, seed: int = 0) -> Tensor:
    return torch.rand(num, 3, height, width, generator=torch.Generator().manual_seed(seed))


def near(truths: Tensor, seed: int = 1) -> Tensor:
    noise = torch.randn(truths.shape, generator=torch.Generator().manual_seed(seed))
    return (truths + 0.1 * noise).clamp(0, 1)


def channels_last(picture: Tensor) -> np.ndarray:
    return picture.permute(1, 2, 0).double().numpy()


@pytest.mark.parametrize("difference", [1.0, 0.5, 0.1])
def test_psnr_of_a_constant_difference_is_its_closed_form(difference) -> None:
    truths = torch.zeros(1, 3, 8, 8)
    expected = -20 * math.log10(difference)
    assert psnr(truths + difference, truths).item() == pytest.approx(expected, abs=1e-5)
    region = torch.zeros(1, 8, 8, dtype=torch.bool)
    region[0, 2:4, 3:7] = True
    assert masked_psnr(truths + difference, truths, region).item() == pytest.approx(expected, abs=1e-5)


def test_psnr_is_scikit_images() -> None:
    truths = pictures()
    results = near(truths)
    expected = [
        peak_signal_noise_ratio(channels_last(a), channels_last(b), data_range=1)
        for a, b in zip(truths, results, strict=True)
    ]
    np.testing.assert_allclose(psnr(results, truths), expected, rtol=1e-9)


def test_identical_pictures_have_infinite_psnr_and_ssim_1() -> None:
    truths = pictures()
    assert psnr(truths, truths).isinf().all()
    np.testing.assert_allclose(ssim(truths, truths), 1, atol=1e-12)


def test_ssim_is_scikit_images_with_the_settings_of_wang() -> None:
    truths = pictures()
    results = near(truths)
    for k, (a, b) in enumerate(zip(truths, results, strict=True)):
        expected, full = structural_similarity(
            channels_last(a), channels_last(b), channel_axis=2, data_range=1, full=True,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        assert ssim(results, truths)[k].item() == pytest.approx(expected, abs=1e-9)
        np.testing.assert_allclose(ssim_map(results, truths)[k], full.mean(2)[5:-5, 5:-5], atol=1e-9)


def test_the_map_of_ssim_is_torchmetrics_but_for_the_padded_rim() -> None:
    truths = pictures().double()
    results = near(truths)
    _, full = structural_similarity_index_measure(results, truths, data_range=1.0, return_full_image=True)
    np.testing.assert_allclose(ssim_map(results, truths), full.mean(1)[..., 5:-5, 5:-5], atol=1e-9)


def test_ssim_of_flat_pictures_is_the_luminance_term() -> None:
    a, b, c1 = 0.2, 0.7, 0.01**2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    flat = torch.ones(1, 3, 16, 16)
    assert ssim(a * flat, b * flat).item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), share=st.floats(0.02, 1))
def test_masked_metrics_are_loops_over_the_pixels(seed, share) -> None:
    truths = pictures(1, 17, 19, seed)
    results = near(truths, seed + 1)
    region = torch.rand(1, 17, 19, generator=torch.Generator().manual_seed(seed)) < share
    region[0, 8, 9] = True
    inside = [(y, x) for y in range(17) for x in range(19) if region[0, y, x]]
    error = np.mean([(results[0, :, y, x].double() - truths[0, :, y, x].double()).square().mean() for y, x in inside])
    assert masked_psnr(results, truths, region).item() == pytest.approx(-10 * math.log10(error), abs=1e-9)
    similarity = ssim_map(results, truths)[0]
    windows = [similarity[y - 5, x - 5] for y, x in inside if 5 <= y < 12 and 5 <= x < 14]
    assert masked_ssim(results, truths, region).item() == pytest.approx(np.mean(windows), abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), height=st.integers(11, 30), width=st.integers(11, 30))
def test_a_full_region_gives_the_metrics_of_the_picture(seed, height, width) -> None:
    truths = pictures(2, height, width, seed)
    results = near(truths, seed + 1)
    full = torch.ones(2, height, width, dtype=torch.bool)
    np.testing.assert_allclose(masked_psnr(results, truths, full), psnr(results, truths), rtol=1e-12)
    np.testing.assert_allclose(masked_ssim(results, truths, full), ssim(results, truths), rtol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_metrics_are_symmetric_and_bounded(seed) -> None:
    a, b = pictures(1, 15, 15, seed), pictures(1, 15, 15, seed + 1)
    assert psnr(a, b).item() == psnr(b, a).item() >= 0
    assert ssim(a, b).item() == pytest.approx(ssim(b, a).item(), abs=1e-12)
    assert -1 <= ssim(a, b).item() < 1


def test_what_lies_outside_of_the_region_does_not_count() -> None:
    truths = pictures(1, 40, 40)
    results = near(truths)
    region = torch.zeros(1, 40, 40, dtype=torch.bool)
    region[0, 15:25, 15:25] = True
    changed = results.clone()
    changed[..., :9, :] = 0  # beyond the reach of every window of the region
    assert masked_psnr(changed, truths, region).equal(masked_psnr(results, truths, region))
    assert masked_ssim(changed, truths, region).equal(masked_ssim(results, truths, region))


def test_an_empty_region_is_nan() -> None:
    truths = pictures()
    empty = torch.zeros(2, 24, 31, dtype=torch.bool)
    assert masked_psnr(near(truths), truths, empty).isnan().all()
    assert masked_ssim(near(truths), truths, empty).isnan().all()


def test_the_intersection_is_where_two_or_more_regions_meet() -> None:
    regions = torch.zeros(3, 1, 6, dtype=torch.bool)
    regions[0, 0, 0:3] = regions[1, 0, 2:5] = regions[2, 0, 2:6] = True
    assert intersection(regions)[0].tolist() == [False, False, True, True, True, False]


@pytest.mark.filterwarnings("error")
def test_pictures_of_bytes_and_of_floats_are_the_same() -> None:
    array = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    as_bytes = torch.from_numpy(array).permute(2, 0, 1)
    expected = as_bytes[None].float() / 255
    locked = array.copy()
    locked.flags.writeable = False  # as Pillow's are
    for given_as in (array, array[None], locked, array[::-1].copy()[::-1], as_bytes, as_bytes[None], expected):
        assert as_pictures(given_as).equal(expected)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.full((1, 3, 4, 4), -1.0),
        torch.full((1, 3, 4, 4), float("nan")),
        torch.zeros(1, 4, 4, 4),
        torch.zeros(1, 3, 4, 4, dtype=torch.int64),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
    ids=["of -1 to 1", "not a number", "four channels", "int64", "grey", "array of floats"],
)
def test_what_is_no_picture_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="expected"):
        as_pictures(wrong)
