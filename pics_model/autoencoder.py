"""Pixels to the latents that the model works on, and back.

Large models use diffusers' `AutoencoderKL`. Where a pipeline has none, a latent is a patch of pixels, rearranged:
exact, weightless, and small enough for tiny models.

Legend: B pictures of R x R pixels in [-1, 1], L channels of a latent, n = R / `latent_stride` latents a side.
"""

import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor


def latent_stride(autoencoder: AutoencoderKL | None, patch: int) -> int:
    """Pixels a side of one latent."""
    return patch if autoencoder is None else 2 ** (len(autoencoder.config.block_out_channels) - 1)


def encode_pixels(autoencoder: AutoencoderKL | None, patch: int, pixels: Tensor) -> Tensor:
    """[B, 3, R, R] -> [B, L, n, n], scaled to about unit variance.

    An autoencoder's posterior is narrow: its mode stands for it, so that the same photo always gives the same latent.
    """
    if autoencoder is None:
        return F.pixel_unshuffle(pixels, patch)
    latent: Tensor = autoencoder.encode(pixels.to(autoencoder.dtype)).latent_dist.mode()
    return (latent - (autoencoder.config.shift_factor or 0.0)) * autoencoder.config.scaling_factor


def decode_latent(autoencoder: AutoencoderKL | None, patch: int, latent: Tensor) -> Tensor:
    """[B, L, n, n] -> [B, 3, R, R], not clamped."""
    if autoencoder is None:
        return F.pixel_shuffle(latent, patch)
    unscaled = latent / autoencoder.config.scaling_factor + (autoencoder.config.shift_factor or 0.0)
    pixels: Tensor = autoencoder.decode(unscaled.to(autoencoder.dtype)).sample
    return pixels


def latent_weight(autoencoder: AutoencoderKL | None, patch: int, weight: Tensor) -> Tensor:
    """What pixels weigh, [B, 1, R, R], as what latents weigh: [B, L, n, n], or [B, 1, n, n] where a latent is no
    rearrangement of its pixels and takes their mean."""
    if autoencoder is None:
        return F.pixel_unshuffle(weight.expand(-1, 3, -1, -1), patch)
    return F.avg_pool2d(weight, latent_stride(autoencoder, patch))
