"""The interaction block: a transformer block whose cross-attention sends each token to the expert of its region.

Legend: B pictures, K objects, N tokens of C channels, M code tokens of D channels an object, T overlap tokens.
Background tokens stay as they are; exclusive tokens attend to their object's code; overlap tokens first ask each
covering object's code (query q, answer a_k), score it, s_k = <q, a_k> / sqrt(D), and blend the answers by
alpha = softmax over the covering objects of s_k / tau. So alpha says who is in front (PICS, section 3.2).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from pics_model.placement import PlacementBias, Places, token_places
from pics_model.regions import Routing, Rows, route, to_grid

OverlapForm = Literal["blend", "blend_attend"]


@dataclass(slots=True)
class Reading:
    """What one block decided on overlap tokens: `tokens` [T] int64 in the flat [B * N] grid, `alpha` and `scores`
    [T, K] float (alpha 0 and score -inf for objects that do not cover the token)."""

    num_tokens: int
    tokens: Tensor
    alpha: Tensor
    scores: Tensor


@dataclass(slots=True)
class Interactions:
    """The objects of a batch, as every block sees them; made once a picture, used by all blocks and steps.

    `codes` [B, K, M, D] float; `regions` [B, K, R, R] bool, all False for an object that a picture does not have;
    `boxes` [B, K, 4] float, the square of the picture that each object picture shows, (x0, y0, x1, y1) in 0..1, or
    None where the model does not use placement. `keep` turns on the cache of the codes' keys and values (inference:
    the codes do not change between steps). `readings`, if a list, collects a `Reading` of every block.
    """

    codes: Tensor
    regions: Tensor
    boxes: Tensor | None = None
    keep: bool = False
    readings: list[Reading] | None = None
    _routes: dict[int, Routing] = field(default_factory=dict)
    _places: dict[int, Places] = field(default_factory=dict)
    _cache: dict[tuple[int, str], Any] = field(default_factory=dict)

    def routing(self, num_tokens: int) -> Routing:
        """The routing on the square grid of `num_tokens` tokens."""
        if num_tokens not in self._routes:
            self._routes[num_tokens] = route(to_grid(self.regions, math.isqrt(num_tokens)))
        return self._routes[num_tokens]

    def places(self, num_tokens: int) -> Places:
        """Where every token lies in every object picture; a row an object of a picture, B * K in all."""
        if num_tokens not in self._places:
            assert self.boxes is not None, "a model with placement needs the objects' boxes"
            self._places[num_tokens] = token_places(self.boxes.flatten(0, 1), math.isqrt(num_tokens))
        return self._places[num_tokens]

    def once(self, owner: nn.Module, name: str, make: Callable[[], Any]) -> Any:
        """`make()`, remembered for `owner` and `name` if `keep` is set."""
        if not self.keep:
            return make()
        key = (id(owner), name)
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]


class InteractionBlock(nn.Module):
    """Takes the place of a `BasicTransformerBlock`: same signature, same weights under the same names, and the
    interaction's own: `norm2g`, `gate_q`, `norm_c`, `k_proj`, `v_proj`, and for the overlap expert either `blend_out`
    (form `blend`: the blended answer, projected) or `norm2b` and `attn_bg` (form `blend_attend`, the published
    weights'). Reads `cross_attention_kwargs["interactions"]`.
    """

    def __init__(
        self, stock: BasicTransformerBlock, code_channels: int, overlap: OverlapForm, tau: float, placement: bool
    ) -> None:
        super().__init__()
        channels, heads, head_channels = stock.dim, stock.num_attention_heads, stock.attention_head_dim
        self.norm1, self.attn1 = stock.norm1, stock.attn1
        self.norm2, self.attn2 = stock.norm2, stock.attn2
        self.norm3, self.ff = stock.norm3, stock.ff
        self.norm2g = nn.LayerNorm(channels)
        self.gate_q = nn.Linear(channels, code_channels)
        self.norm_c = nn.LayerNorm(code_channels)
        self.k_proj = nn.Linear(code_channels, code_channels, bias=False)
        self.v_proj = nn.Linear(code_channels, code_channels, bias=False)
        if overlap == "blend":
            self.blend_out = nn.Linear(code_channels, channels)
        else:
            self.norm2b = nn.LayerNorm(channels)
            self.attn_bg = Attention(channels, heads=heads, dim_head=head_channels)
        self.place2 = PlacementBias(heads) if placement else None
        self.placeg = PlacementBias(1) if placement else None
        self.overlap = overlap
        self.tau = tau
        self.heads = heads

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        class_labels: Tensor | None = None,
    ) -> Tensor:
        """[B, N, C] -> [B, N, C]. Only `hidden_states` and `cross_attention_kwargs` are used; the others are here
        because gradient checkpointing passes all seven by position."""
        assert cross_attention_kwargs is not None, "an interaction block needs cross_attention_kwargs"
        objects: Interactions = cross_attention_kwargs["interactions"]
        x = hidden_states
        x = x + self.attn1(self.norm1(x))
        x = x + self.interact(x, objects)
        return x + self.ff(self.norm3(x))

    def interact(self, x: Tensor, objects: Interactions) -> Tensor:
        """What the experts add to x [B, N, C]: zero on background tokens, exactly."""
        routing = objects.routing(x.shape[1])
        added = torch.zeros_like(x).flatten(0, 1)
        added = added.index_copy(0, routing.exclusive.tokens, self._exclusive(x, objects, routing).to(x.dtype))
        if self.overlap == "blend":
            overlap = self.blend_out(self._blend(x, objects, routing))
        else:
            overlap = self._blend_attend(x, objects, routing)
        return added.index_copy(0, routing.overlap.tokens, overlap.to(x.dtype)).view_as(x)

    def _exclusive(self, x: Tensor, objects: Interactions, routing: Routing) -> Tensor:
        """Cross-attention of the tokens that one object alone covers to that object's code, [T, C]."""
        rows = routing.exclusive

        def keys_values() -> tuple[Tensor, Tensor]:
            codes = objects.codes.flatten(0, 1)
            return self.attn2.to_k(codes), self.attn2.to_v(codes)

        key, value = objects.once(self, "exclusive", keys_values)
        query = self.attn2.to_q(self.norm2(rows.gather(x)))
        place = _pick(objects.places(x.shape[1]), rows, x.shape) if self.place2 else None
        answer = attend(query, key, value, self.heads, self.place2, place)
        return rows.real(self.attn2.to_out[0](answer))

    def _gate_keys_values(self, objects: Interactions) -> tuple[Tensor, Tensor]:
        def keys_values() -> tuple[Tensor, Tensor]:
            codes = objects.codes.flatten(0, 1)
            return self.k_proj(self.norm_c(codes)), self.v_proj(codes)

        pair: tuple[Tensor, Tensor] = objects.once(self, "gate", keys_values)
        return pair

    def _blend(self, x: Tensor, objects: Interactions, routing: Routing) -> Tensor:
        """Blended codes of the overlap tokens, [T, D]: each asks the objects that cover it, and no other."""
        rows, owner = routing.members, routing.owner
        key, value = self._gate_keys_values(objects)
        query = self.gate_q(self.norm2g(rows.gather(x)))
        place = _pick(objects.places(x.shape[1]), rows, x.shape) if self.placeg else None
        answer = attend(query, key, value, 1, self.placeg, place)
        scores = rows.real((query * answer).sum(-1, keepdim=True)).squeeze(-1).float() / math.sqrt(query.shape[-1])
        num = len(routing.overlap.tokens)
        alpha = _softmax_by_owner(scores / self.tau, owner, num)
        blended = torch.zeros(num, query.shape[-1], dtype=torch.float32, device=x.device)
        blended = blended.index_add(0, owner, alpha[:, None] * rows.real(answer).float())
        if objects.readings is not None:
            self._read(x, objects, routing, scores, alpha)
        return blended.to(x.dtype)

    def _read(self, x: Tensor, objects: Interactions, routing: Routing, scores: Tensor, alpha: Tensor) -> None:
        num_objects = routing.covered.shape[1]
        which = (routing.members.slots // routing.members.index.shape[1]) % num_objects
        shape = (len(routing.overlap.tokens), num_objects)
        table = torch.zeros(shape, device=x.device), torch.full(shape, -math.inf, device=x.device)
        table[0][routing.owner, which] = alpha.detach()
        table[1][routing.owner, which] = scores.detach()
        assert objects.readings is not None
        objects.readings.append(Reading(x.shape[1], routing.overlap.tokens, *table))

    def _blend_attend(self, x: Tensor, objects: Interactions, routing: Routing) -> Tensor:
        """The published overlap expert, [T, C]: overlap tokens attend to the blended codes of ALL tokens, then to x.

        Tokens that fewer than two objects cover blend the codes of all objects of their picture.
        """
        num_pictures, num_objects = objects.codes.shape[:2]
        key, value = self._gate_keys_values(objects)
        query = self.gate_q(self.norm2g(x))
        rows_query = query.repeat_interleave(num_objects, 0)
        place = objects.places(x.shape[1]) if self.placeg else None
        answer = attend(rows_query, key, value, 1, self.placeg, place).unflatten(0, (num_pictures, num_objects))
        scores = (query[:, None] * answer).sum(-1).float() / math.sqrt(query.shape[-1])  # [B, K, N]
        count = routing.covered.sum(1, keepdim=True)
        present = objects.regions.flatten(2).any(-1)[:, :, None].expand_as(routing.covered)
        asked = torch.where(count >= 2, routing.covered, present)
        # A picture without any object asks all: it has no overlap tokens, so that only NaN is avoided.
        asked = asked | ~asked.any(1, keepdim=True)
        alpha = (scores / self.tau).masked_fill(~asked, -math.inf).softmax(1)
        blended = (alpha[..., None].to(answer.dtype) * answer).sum(1)  # [B, N, D]
        if objects.readings is not None:
            table = [v.transpose(1, 2).flatten(0, 1)[routing.overlap.tokens] for v in (alpha, scores)]
            objects.readings.append(Reading(x.shape[1], routing.overlap.tokens, *table))
        rows = routing.overlap
        attn2, attn_bg = self.attn2, self.attn_bg
        tokens = attn2.to_q(self.norm2(rows.gather(x)))
        tokens = attn2.to_out[0](attend(tokens, attn2.to_k(blended), attn2.to_v(blended), self.heads))
        tokens = attn_bg.to_q(self.norm2b(tokens))
        tokens = attn_bg.to_out[0](attend(tokens, attn_bg.to_k(x), attn_bg.to_v(x), self.heads))
        return rows.real(tokens)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    bias: PlacementBias | None = None,
    place: Places | None = None,
) -> Tensor:
    """Multi-head attention of query [R, Q, C] to key and value [R, M, C]; with `bias`, code tokens near the query's
    place in the object picture get larger logits. The bias rides as extra channels of query and key, so that no
    [R, heads, Q, M] tensor is made."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value))
    width = v.shape[-1]
    scale = 1 / math.sqrt(width)
    if bias is not None:
        assert place is not None
        place_q, place_k = bias(place, k.shape[2], 1 / scale)
        q = torch.cat([q, place_q.to(q.dtype)], -1)
        k = torch.cat([k, place_k.to(k.dtype).expand(*k.shape[:2], -1, -1)], -1)
        v = F.pad(v, (0, q.shape[-1] - width))
    out = F.scaled_dot_product_attention(q, k, v, scale=scale)[..., :width]
    return out.transpose(1, 2).flatten(2)


def _pick(places: Places, rows: Rows, shape: torch.Size) -> Places:
    """The places of each row's own tokens: features [B * K, N, G] -> [B * K, Q, G]."""
    local = (rows.index % shape[1])[..., None].expand(-1, -1, places.features.shape[-1])
    return Places(places.features.gather(1, local), places.step)


def _softmax_by_owner(logits: Tensor, owner: Tensor, num_owners: int) -> Tensor:
    """Softmax over the entries of the same owner. logits, owner [T] -> [T]."""
    top = torch.full((num_owners,), -math.inf, device=logits.device)
    top = top.scatter_reduce(0, owner, logits.detach(), "amax")
    weight = (logits - top[owner]).exp()
    total = torch.zeros(num_owners, device=logits.device).index_add(0, owner, weight)
    return weight / total[owner]
