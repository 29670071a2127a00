"""Object regions -> which tokens each expert serves, at any token grid (the routing of the interaction block).

Legend: B pictures, K objects (padded to the batch's most), R pixels a side of the region masks, N = n * n tokens.
A token that no region covers is background, one that one region covers is exclusive to that object, one that two or
more cover is overlap. Each (picture, object) pair is a row; rows list only the tokens they serve and are padded to the
longest, so that attention runs on [B * K, Q] tokens in place of [B * K, N].
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(slots=True)
class Rows:
    """Ragged lists of tokens, one a row, padded with token 0.

    `index` [rows, Q] int64 points into the flat [B * N] tokens. `slots` [T] int64 are the places of the real entries
    in the flat [rows * Q] list, `tokens` [T] what they point to.
    """

    index: Tensor
    slots: Tensor
    tokens: Tensor

    def gather(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [rows, Q, C]."""
        return x.flatten(0, 1)[self.index]

    def real(self, values: Tensor) -> Tensor:
        """[rows, Q, C] -> [T, C], without the padding."""
        return values.flatten(0, 1)[self.slots]


@dataclass(slots=True)
class Routing:
    """Which tokens go where on one grid, for one batch; made once a picture and used by every block of that grid.

    `covered` [B, K, N] bool is each object's region. `exclusive` has a row a (picture, object): tokens that only it
    covers. `members` likewise: overlap tokens that it covers. `overlap` has a row a picture: its overlap tokens.
    `owner` [T] maps each real entry of `members` to the place of its token in `overlap.tokens`.
    """

    covered: Tensor
    exclusive: Rows
    members: Rows
    overlap: Rows
    owner: Tensor


def to_grid(regions: Tensor, size: int) -> Tensor:
    """Resizes regions [B, K, R, R] bool to [B, K, size * size] with nearest neighbour, as the published model does."""
    if regions.shape[-1] == size:
        return regions.flatten(2)
    return F.interpolate(regions.float(), size=(size, size), mode="nearest").flatten(2) > 0.5


def route(covered: Tensor) -> Routing:
    """Sorts the tokens of `covered` [B, K, N] bool into experts."""
    num_pictures, _, num_tokens = covered.shape
    count = covered.sum(1, keepdim=True)
    exclusive = _rows(covered & (count == 1))
    members = _rows(covered & (count >= 2))
    overlap = _rows(count >= 2)
    place = torch.full((num_pictures * num_tokens,), -1, dtype=torch.int64, device=covered.device)
    place[overlap.tokens] = torch.arange(len(overlap.tokens), device=covered.device)
    return Routing(covered, exclusive, members, overlap, place[members.tokens])


def _rows(mask: Tensor) -> Rows:
    """mask [B, K, N] bool -> a row for each (b, k). At least one token wide, so that no batch has an empty graph."""
    num_pictures, num_objects, num_tokens = mask.shape
    flat = mask.flatten(0, 1)
    row, token = flat.nonzero(as_tuple=True)
    length = flat.sum(1)
    width = max(int(length.max()), 1)
    start = length.cumsum(0) - length
    slots = row * width + torch.arange(len(row), device=mask.device) - start[row]
    picture = torch.arange(num_pictures, device=mask.device).repeat_interleave(num_objects)
    tokens = picture[row] * num_tokens + token
    index = (picture * num_tokens).repeat_interleave(width)
    index[slots] = tokens
    return Rows(index.view(-1, width), slots, tokens)
