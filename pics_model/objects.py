"""The objects of a batch, as every interaction block sees them; made once a picture, used by all blocks and steps.

Legend: B pictures, K objects, N tokens, M code tokens of D channels an object.
"""

import math
from dataclasses import dataclass, field

from torch import Tensor

from pics_model.placement import Places, token_places
from pics_model.regions import Routing, route, to_grid


@dataclass(slots=True)
class Reading:
    """What one block decided on its T overlap tokens: `tokens` [T] int64 in the flat [B * N] grid, `alpha` and `scores`
    [T, K] float32 (alpha 0 and score -inf for objects that do not cover the token)."""

    num_tokens: int
    tokens: Tensor
    alpha: Tensor
    scores: Tensor


@dataclass(slots=True)
class Interactions:
    """`codes` [B, K, M, D] float; `regions` [B, K, R, R] bool, all False for an object that a picture does not have;
    `boxes` [B, K, 4] float, the square of the picture that each object picture shows, (x0, y0, x1, y1) in 0..1, or
    None where the model does not use placement. `keep` is for inference, where the codes do not change between steps:
    blocks keep what they derive of them. `readings`, if a list, collects a `Reading` of every block.
    """

    codes: Tensor
    regions: Tensor
    boxes: Tensor | None = None
    keep: bool = False
    readings: list[Reading] | None = None
    routes: dict[int, Routing] = field(default_factory=dict)
    _places: dict[int, Places] = field(default_factory=dict)

    def routing(self, num_tokens: int) -> Routing:
        """The routing on the square grid of `num_tokens` tokens."""
        if num_tokens not in self.routes:
            self.routes[num_tokens] = route(to_grid(self.regions, math.isqrt(num_tokens)))
        return self.routes[num_tokens]

    def places(self, num_tokens: int) -> Places:
        """Where every token lies in every object picture; a row an object of a picture, B * K in all."""
        if num_tokens not in self._places:
            assert self.boxes is not None, "a model with placement needs the objects' boxes"
            self._places[num_tokens] = token_places(self.boxes.flatten(0, 1), math.isqrt(num_tokens))
        return self._places[num_tokens]
