"""PSNR and SSIM, of whole pictures and of a region of them.

Legend: N pictures of H x W, RGB; float in [0, 1] wherever pictures are tensors of [N, 3, H, W].
"""

import math

import numpy as np
import torch
from torch import Tensor

# Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE
# Transactions on Image Processing 13(4), 2004, section III: Gaussian window of 11 x 11, K1 and K2.
WINDOW = 11
SIGMA = 1.5
K1 = 0.01
K2 = 0.03


def as_pictures(pictures: Tensor | np.ndarray) -> Tensor:
    """Tensors [(N,) 3, H, W], or uint8 arrays [(N,) H, W, 3] -> float tensor [N, 3, H, W] in [0, 1].

    Tensors are float in [0, 1] or uint8. Raises `ValueError` for anything else, values of [-1, 1] among it.
    """
    if isinstance(pictures, np.ndarray):
        if pictures.dtype != np.uint8 or pictures.ndim not in (3, 4) or pictures.shape[-1] != 3:
            raise ValueError(f"array {pictures.dtype} {pictures.shape}; expected uint8 [N, H, W, 3] or [H, W, 3]")
        batch = pictures if pictures.ndim == 4 else pictures[None]
        return torch.from_numpy(batch.astype(np.float32)).permute(0, 3, 1, 2).contiguous() / 255
    if pictures.ndim == 3:
        pictures = pictures[None]
    if pictures.ndim != 4 or pictures.shape[1] != 3:
        raise ValueError(f"pictures {tuple(pictures.shape)}; expected [N, 3, H, W] or [3, H, W]")
    if pictures.dtype == torch.uint8:
        return pictures.float() / 255
    if not pictures.is_floating_point():
        raise ValueError(f"pictures {pictures.dtype}; expected floats or uint8")
    if pictures.numel() and not (pictures.min() >= 0 and pictures.max() <= 1):  # so that NaN is refused too
        raise ValueError(f"pictures from {pictures.min():.3g} to {pictures.max():.3g}; expected values in [0, 1]")
    return pictures.float()


def intersection(regions: Tensor) -> Tensor:
    """Regions [K, H, W] bool of a picture's objects -> where two or more of them meet, [H, W] bool.

    For two objects that is the intersection of the paper; for more it is the union of all pairs' intersections (ours).
    """
    return regions.sum(0) >= 2


def psnr(results: Tensor, truths: Tensor) -> Tensor:
    """10 log10(1 / MSE) in dB over all pixels and channels, [N] float64; infinite where pictures are identical."""
    return _decibels(_squared_errors(results, truths).mean((1, 2)))


def masked_psnr(results: Tensor, truths: Tensor, regions: Tensor) -> Tensor:
    """PSNR over the pixels of regions [N, H, W] bool alone, [N] float64; NaN where a region is empty."""
    return _decibels(region_mean(_squared_errors(results, truths), regions))


def ssim_map(results: Tensor, truths: Tensor) -> Tensor:
    """SSIM of every window that lies within the picture, mean of the channels, [N, H - 10, W - 10] float64.

    Place (y, x) is of the window around pixel (y + 5, x + 5). Nothing is padded: each value is of real pixels only.
    Raises `ValueError` for pictures smaller than a window.
    """
    _require_same_shape(results, truths)
    if min(results.shape[-2:]) < WINDOW:
        raise ValueError(f"pictures of {tuple(results.shape[-2:])} pixels; SSIM needs {WINDOW} a side")
    # In double: variances are differences of means of squares, whose last digits float would lose on flat ground.
    x, y = results.double(), truths.double()
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x**2
    var_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return similarity.mean(1)


def ssim(results: Tensor, truths: Tensor) -> Tensor:
    """Mean of the map, [N] float64, in [-1, 1]."""
    return ssim_map(results, truths).mean((1, 2))


def masked_ssim(results: Tensor, truths: Tensor, regions: Tensor) -> Tensor:
    """Mean of the map over the pixels of regions [N, H, W] bool whose window lies within the picture, [N] float64.

    NaN where there is no such pixel. With full regions it is `ssim`.
    """
    return region_mean(ssim_map(results, truths), within_windows(regions))


def within_windows(regions: Tensor) -> Tensor:
    """Regions [..., H, W] at the places of `ssim_map`: [..., H - 10, W - 10]."""
    rim = WINDOW // 2
    return regions[..., rim:-rim, rim:-rim]


def region_mean(maps: Tensor, regions: Tensor) -> Tensor:
    """Means [N] of maps [N, H, W] over regions [N, H, W] bool; NaN where a region is empty."""
    if maps.shape != regions.shape:
        raise ValueError(f"regions {tuple(regions.shape)}; expected {tuple(maps.shape)}")
    return (maps * regions).sum((1, 2)) / regions.sum((1, 2))


def _squared_errors(results: Tensor, truths: Tensor) -> Tensor:
    """[N, H, W] float64, mean of the channels."""
    _require_same_shape(results, truths)
    return (results.double() - truths.double()).square().mean(1)


def _require_same_shape(results: Tensor, truths: Tensor) -> None:
    if results.shape != truths.shape:
        raise ValueError(f"pictures {tuple(results.shape)} and {tuple(truths.shape)}; expected the same shape")


def _decibels(errors: Tensor) -> Tensor:
    return -10 * torch.log10(errors)


def _blur(pictures: Tensor) -> Tensor:
    """Means under the Gaussian window, [N, C, H, W] -> [N, C, H - 10, W - 10]."""
    return _blur_along(_blur_along(pictures, 2), 3)


def _blur_along(pictures: Tensor, axis: int) -> Tensor:
    """A sum of shifted pictures: on a CPU a tenth of the time of a convolution in double."""
    weights = [math.exp(-((i - WINDOW // 2) ** 2) / (2 * SIGMA**2)) for i in range(WINDOW)]
    kept = pictures.shape[axis] - WINDOW + 1
    blurred = pictures.narrow(axis, 0, kept) * (weights[0] / sum(weights))
    for shift in range(1, WINDOW):
        blurred.add_(pictures.narrow(axis, shift, kept), alpha=weights[shift] / sum(weights))
    return blurred
