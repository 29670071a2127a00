"""Placement: where in an object's picture does a token of the scene lie?

An object picture shows a known square around the object, and the region says where that square is to stand. So each
token of a region has a place (u, v) in the object picture, and each code token has one too. `PlacementBias` adds to
the attention logits a learned kernel of the two places' difference: sum over frequencies f of
w_f * (cos 2 pi f du + cos 2 pi f dv), largest where they agree. It is a prior only: w is learned per head, content can
outvote it, and the class token has no place. The published model lacks it and must learn the correspondence.
"""

import math

import torch
from torch import Tensor, nn

FREQUENCIES = (0.25, 0.5, 1.0, 2.0, 4.0)


def fourier(places: Tensor) -> Tensor:
    """Places [..., 2] in 0..1 -> features [..., 4 * len(FREQUENCIES)]; their dot products know differences only."""
    angles = places[..., None] * (2 * math.pi * torch.tensor(FREQUENCIES, device=places.device))
    return torch.cat([angles.cos(), angles.sin()], -1).flatten(-2)


def grid_centres(size: int, device: torch.device | None = None) -> Tensor:
    """Centres (u, v) of a size x size grid over the unit square, [size * size, 2], row by row."""
    line = (torch.arange(size, device=device) + 0.5) / size
    v, u = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([u, v], -1).flatten(0, 1)


def placement_features(boxes: Tensor, grid: int) -> Tensor:
    """Features [R, grid * grid, G] of every scene token relative to boxes [R, 4] (x0, y0, x1, y1; scene in 0..1)."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    # Tokens far outside an object's square are never asked about it; clamping keeps the kernel from wrapping round.
    places = (grid_centres(grid, boxes.device) - low) / (high - low).clamp_min(1e-6)
    return fourier(places.clamp(-0.25, 1.25))


class PlacementBias(nn.Module):
    """Learned weights [heads, frequencies] of the placement kernel, in logit units."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        # Heads start from sharp to broad: the first copies by place alone, the last hardly cares.
        sharpness = torch.logspace(math.log10(4.0), math.log10(0.25), heads)
        self.weight = nn.Parameter(sharpness[:, None].repeat(1, len(FREQUENCIES)))

    def forward(self, place: Tensor, num_code_tokens: int, root_width: float) -> tuple[Tensor, Tensor]:
        """Extra channels for queries [R, heads, Q, G] and keys [1, 1, M, G], for logits scaled by 1 / root_width.

        `num_code_tokens` M is 1 class token and a square grid of patches.
        """
        grid = math.isqrt(num_code_tokens - 1)
        assert grid * grid == num_code_tokens - 1, "placement expects codes of one class token and a square of patches"
        patches = fourier(grid_centres(grid, place.device)).to(place.dtype)
        keys = torch.cat([patches.new_zeros(1, patches.shape[-1]), patches])
        weight = self.weight.repeat(1, 4).to(place.dtype) * root_width
        return place[:, None] * weight[:, None], keys[None, None]
