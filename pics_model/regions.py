"""Object regions -> which tokens each expert serves, at any token grid (the routing of the interaction block).

Legend: B pictures, K objects (padded to the batch's most), R pixels a side of the region masks, N = n * n tokens.
A token that no region covers is background, one that one region covers is exclusive to that object, one that two or
more cover is overlap. Each (picture, object) pair is a row of tokens; rows are cut into tiles of one width Q, so that
attention runs on [tiles, Q] tokens in place of [B * K, N], whatever the regions' sizes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STEP = 8  # tiles are multiples of so many tokens wide
# What a tile costs beside its tokens, in tokens: where rows are cut, their keys are copied for each tile.
TILE_COST = 16


@dataclass(slots=True)
class Rows:
    """Ragged lists of tokens, cut into tiles and padded.

    `index` [tiles, Q] int64 points into the flat [B * N] tokens, padding at a token of the same picture. `target`
    [tiles * Q] int64 is the same with padding at B * N, a place that is thrown away. `row` [tiles] int64 says whose
    tile it is; `whole` that they are all the rows, in order.
    """

    index: Tensor
    target: Tensor
    row: Tensor
    whole: bool

    def gather(self, x: Tensor) -> Tensor:
        """Values of tokens [B, N, C] -> [tiles, Q, C]."""
        return x.flatten(0, 1)[self.index]

    def of_row(self, values: Tensor) -> Tensor:
        """Values of rows [rows, ...] -> [tiles, ...]."""
        # Compiled code takes the general way: else it would be compiled for each case.
        return values if not torch.compiler.is_compiling() and self.whole else values[self.row]

    def scatter(self, values: Tensor, num_tokens: int) -> Tensor:
        """[tiles, Q, C] -> [num_tokens, C] with num_tokens = B * N: zero at tokens that are not listed."""
        out = values.new_zeros(num_tokens + 1, values.shape[-1])
        return out.index_copy(0, self.target, values.flatten(0, 1))[:-1]


@dataclass(slots=True)
class Routing:
    """Which tokens go where on one grid, for one batch; made once a picture and used by every block of that grid.

    `covered` [B, K, N] bool is each object's region. `exclusive` has a row a (picture, object): tokens that only it
    covers. `members` likewise: overlap tokens that it covers. `overlap` has a row a picture: its overlap tokens, never
    cut. `owner` [entries of members] int64 is the place of an entry's token among the entries of `overlap`; that of
    padding is one past them.
    """

    covered: Tensor
    exclusive: Rows
    members: Rows
    overlap: Rows
    owner: Tensor

    @property
    def num_slots(self) -> int:
        """Entries of `overlap`, padding included."""
        return self.overlap.target.shape[0]


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
    overlap = _rows(count >= 2, cut=False)
    num_slots = overlap.target.shape[0]
    place = torch.full((num_pictures * num_tokens + 1,), num_slots, device=covered.device)
    place[overlap.target] = torch.arange(num_slots, device=covered.device)
    place[-1] = num_slots
    return Routing(covered, exclusive, members, overlap, place[members.target])


def _rows(mask: Tensor, cut: bool = True) -> Rows:
    """mask [B, K, N] bool -> a row for each (b, k). There is always a tile, so that no batch has an empty graph."""
    num_pictures, num_objects, num_tokens = mask.shape
    flat = mask.flatten(0, 1)
    lengths = flat.sum(1)
    listed: list[int] = lengths.tolist()
    width = _rounded(max(listed))
    tiles = [1] * len(listed)
    if cut:
        cuts = {_rounded(-(-width // parts)) for parts in range(1, 9)}
        cost, best = min((sum(-(-length // w) for length in listed) * (w + TILE_COST), w) for w in cuts)
        if cost < len(listed) * width:
            width, tiles = best, [-(-length // best) for length in listed]
    if not any(tiles):
        tiles[0] = 1
    device = mask.device
    num_tiles = torch.tensor(tiles, device=device)
    first = (num_tiles.cumsum(0) - num_tiles) * width
    row, token = flat.nonzero(as_tuple=True)
    within = torch.arange(len(row), device=device) - (lengths.cumsum(0) - lengths)[row]
    slots = first[row] + within
    row_of_tile = torch.arange(len(listed), device=device).repeat_interleave(num_tiles)
    picture = torch.arange(num_pictures, device=device).repeat_interleave(num_objects)
    tokens = picture[row] * num_tokens + token
    index = (picture[row_of_tile] * num_tokens).repeat_interleave(width)
    index[slots] = tokens
    target = torch.full_like(index, num_pictures * num_tokens)
    target[slots] = tokens
    return Rows(index.view(-1, width), target, row_of_tile, whole=all(number == 1 for number in tiles))


def _rounded(width: int) -> int:
    return max(-(-width // STEP) * STEP, STEP)
