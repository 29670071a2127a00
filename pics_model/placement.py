"""Placement: where in an object's picture does a token of the scene lie?

An object picture shows a known square around the object, and the region says where that square is to stand. So each
token of a region has a place (u, v) in the object picture, and each code token has one too. `PlacementBias` adds to
the attention logits a learned kernel of the two places' difference: sum over frequencies f of
w_f * (cos 2 pi f du + cos 2 pi f dv), largest where they agree. It is a prior only: w is learned per head, content can
outvote it, and the class token has no place. The published model lacks it and must learn the correspondence.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FREQUENCIES = (0.5, 1.0, 2.0, 4.0)  # 16 extra channels: attention kernels are slow at odd widths


def fourier(places: Tensor) -> Tensor:
    """Places [..., 2] in 0..1 -> features [..., 4 * len(FREQUENCIES)]; their dot products know differences only."""
    angles = places[..., None] * (2 * math.pi * torch.tensor(FREQUENCIES, device=places.device))
    return torch.cat([angles.cos(), angles.sin()], -1).flatten(-2)


def grid_centres(size: int, device: torch.device | None = None) -> Tensor:
    """Centres (u, v) of a size x size grid over the unit square, [size * size, 2], row by row."""
    line = (torch.arange(size, device=device) + 0.5) / size
    v, u = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([u, v], -1).flatten(0, 1)


@dataclass(slots=True)
class Places:
    """Where tokens lie in object pictures: `features` [R, T, G], and `step` [R, 2], a token's size in them."""

    features: Tensor
    step: Tensor


def token_places(boxes: Tensor, grid: int) -> Places:
    """Places of all grid * grid scene tokens relative to boxes [R, 4] (x0, y0, x1, y1; the scene is 0..1)."""
    low, size = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2]).clamp_min(1e-6)
    # Tokens far outside an object's square are never asked about it; clamping keeps the kernel from wrapping round.
    places = ((grid_centres(grid, boxes.device) - low) / size[:, None]).clamp(-0.25, 1.25)
    return Places(fourier(places), 1 / (grid * size))


class PlacementBias(nn.Module):
    """The placement kernel of each head: learned `weight` [heads, frequencies] in logit units, and learned `offset`
    [heads, 2] in tokens, by which the head looks beside its token's centre.

    A token stands for several pixels and for several code tokens: heads that start by looking at its four quarters
    bring it more detail than heads that all look at its centre.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((heads, len(FREQUENCIES)), 2.0))
        quarters = torch.tensor([[-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25], [0.25, 0.25]])
        offset = quarters.repeat(heads // 4 + 1, 1)[:heads] if heads > 1 else torch.zeros(1, 2)
        self.offset = nn.Parameter(offset)

    def forward(self, places: Places, num_code_tokens: int, root_width: float) -> tuple[Tensor, Tensor]:
        """Extra channels for queries [R, heads, T, G] and keys [1, 1, M, G], for logits scaled by 1 / root_width.

        `num_code_tokens` M is 1 class token, which has no place, and a square grid of patches.
        """
        grid = math.isqrt(num_code_tokens - 1)
        assert grid * grid == num_code_tokens - 1, "placement expects codes of one class token and a square of patches"
        patches = fourier(grid_centres(grid, places.features.device))
        keys = torch.cat([patches.new_zeros(1, patches.shape[-1]), patches])
        # cos(a + b) and sin(a + b) from the features of the token's centre and those of the head's offset.
        turn = fourier(self.offset * places.step[:, None]).unflatten(-1, (2, 2, -1))[:, :, None]
        centre = places.features.unflatten(-1, (2, 2, -1))[:, None]
        cos = centre[..., 0, :] * turn[..., 0, :] - centre[..., 1, :] * turn[..., 1, :]
        sin = centre[..., 1, :] * turn[..., 0, :] + centre[..., 0, :] * turn[..., 1, :]
        weight = (self.weight * root_width)[:, None, None, None]
        queries = (torch.stack([cos, sin], -2) * weight).flatten(-3)
        return queries, keys[None, None]
