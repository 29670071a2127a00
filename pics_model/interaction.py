"""The interaction block: a transformer block whose cross-attention sends each token to the expert of its region.

Legend: B pictures, K objects, N tokens of C channels, M code tokens of D channels an object.
Background tokens stay as they are; exclusive tokens attend to their object's code; overlap tokens first ask each
covering object's code (query q, answer a_k), score it, s_k = <q, a_k> / sqrt(D), and blend the answers by
alpha = softmax over the covering objects of s_k / tau. So alpha says who is in front (PICS, section 3.2).

In inference the codes stay the same over all steps, and all that is made of them alone is made once, see `derived`.
"""

import math
from typing import Any, Literal

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from pics_model.attention import attend, split_heads
from pics_model.derived import Derived, derive, weigh
from pics_model.objects import Interactions, Reading
from pics_model.placement import PlacementBias, Places
from pics_model.regions import Routing, Rows

OverlapForm = Literal["blend", "blend_attend"]


class InteractionBlock(nn.Module):
    """Takes the place of a `BasicTransformerBlock`: same signature, same weights under the same names, and the
    interaction's own: `norm2g`, `gate_q`, `norm_c`, `k_proj`, `v_proj`, and for the overlap expert either `blend_out`
    (form `blend`: the blended answer, projected) or `norm2b` and `attn_bg` (form `blend_attend`, the published
    weights'). Reads `cross_attention_kwargs["interactions"]`.

    Stock blocks may be those of Stable Diffusion (`layer_norm`) or of PixArt (`ada_norm_single`). With `learn_tau` the
    temperature is a weight, `log_tau`.
    """

    def __init__(
        self,
        stock: BasicTransformerBlock,
        code_channels: int,
        overlap: OverlapForm,
        tau: float,
        placement: bool,
        learn_tau: bool = False,
    ) -> None:
        super().__init__()
        assert stock.norm_type in ("layer_norm", "ada_norm_single"), stock.norm_type
        channels, heads, head_channels = stock.dim, stock.num_attention_heads, stock.attention_head_dim
        self.norm1, self.attn1 = stock.norm1, stock.attn1
        self.norm2, self.attn2 = stock.norm2, stock.attn2
        self.modulated = stock.norm_type == "ada_norm_single"
        if self.modulated:
            self.scale_shift_table = stock.scale_shift_table
        else:
            self.norm3 = stock.norm3
        self.ff = stock.ff
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
        self.log_tau = nn.Parameter(torch.tensor(math.log(tau))) if learn_tau else None
        self.fixed_tau = tau
        self.overlap = overlap
        self.heads = heads
        self.kept: tuple[Interactions, Derived] | None = None

    @property
    def tau(self) -> float | Tensor:
        """The temperature of alpha."""
        return self.fixed_tau if self.log_tau is None else self.log_tau.exp()

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
        """[B, N, C] -> [B, N, C]. Only `hidden_states`, `cross_attention_kwargs` and, in blocks of PixArt, `timestep`
        [B, 6 * C] are used; the others are here because gradient checkpointing passes all seven by position."""
        assert cross_attention_kwargs is not None, "an interaction block needs cross_attention_kwargs"
        objects: Interactions = cross_attention_kwargs["interactions"]
        x = hidden_states
        if not self.modulated:
            x = x + self.attn1(self.norm1(x))
            x = x + self.interact(x, objects)
            return x + self.ff(self.norm3(x))
        # PixArt (Chen et al. 2023, section 2.3): one timestep embedding shifts, scales and gates all blocks.
        assert timestep is not None
        changes = self.scale_shift_table[None] + timestep.unflatten(-1, (6, -1))
        shift1, scale1, gate1, shift3, scale3, gate3 = changes.chunk(6, 1)
        x = x + gate1 * self.attn1(self.norm1(x) * (1 + scale1) + shift1)
        x = x + self.interact(x, objects)
        return x + gate3 * self.ff(self.norm2(x) * (1 + scale3) + shift3)

    def interact(self, x: Tensor, objects: Interactions) -> Tensor:
        """What the experts add to x [B, N, C]: zero on background tokens, exactly."""
        routing = objects.routing(x.shape[1])
        derived = self._derived(objects)
        num_tokens = x.shape[0] * x.shape[1]
        rows = routing.exclusive
        added = rows.scatter(self._exclusive(x, objects, rows, derived), num_tokens)
        if self.overlap == "blend":
            blended = self._blend(x, objects, routing, derived)
        elif derived.keeps_gate:
            blended = self._blend_attend(x, routing, *self._blended_keys(x, objects, routing, derived))
        else:
            codes = self._blended_codes(x, objects, routing)
            blended = self._blend_attend(x, routing, self.attn2.to_k(codes), self.attn2.to_v(codes))
        added = added + routing.overlap.scatter(blended.to(added.dtype), num_tokens)
        return added.view_as(x).to(x.dtype)

    def prepare(self, objects: Interactions) -> None:
        """Keeps what inference needs of `objects` in all steps, in the place of what was kept of others."""
        if objects.keep and (self.kept is None or self.kept[0] is not objects):
            self.kept = objects, derive(self, objects.codes, keep=True)

    def _derived(self, objects: Interactions) -> Derived:
        if not objects.keep:
            return derive(self, objects.codes, keep=False)
        # Compiled code shall not know whose objects they are, or it would be compiled anew for each picture: the
        # backbone has prepared them.
        if not torch.compiler.is_compiling():
            self.prepare(objects)
        assert self.kept is not None
        return self.kept[1]

    def _query2(self, tokens: Tensor) -> Tensor:
        """Queries of the cross-attention; PixArt's has no norm."""
        query: Tensor = self.attn2.to_q(tokens if self.modulated else self.norm2(tokens))
        return split_heads(query, self.heads)

    def _exclusive(self, x: Tensor, objects: Interactions, rows: Rows, derived: Derived) -> Tensor:
        """Cross-attention of the tokens that one object alone covers to that object's code, [tiles, Q, C]."""
        place = _pick(objects.places(x.shape[1]), rows, x.shape) if self.place2 else None
        key, value = rows.of_row(derived.key), rows.of_row(derived.value)
        answer = attend(self._query2(rows.gather(x)), key, value, self.place2, place)
        out: Tensor = self.attn2.to_out[0](answer)
        return out

    def _blend(self, x: Tensor, objects: Interactions, routing: Routing, derived: Derived) -> Tensor:
        """Blended answers of the overlap tokens, [B, Q, C]: each asks the objects that cover it, and no other."""
        rows = routing.members
        place = _pick(objects.places(x.shape[1]), rows, x.shape) if self.placeg else None
        tokens = self.norm2g(rows.gather(x))
        if derived.keeps_gate:
            weights, scores = weigh(tokens, rows.of_row(derived.ask), rows.of_row(derived.ask_bias),
                                    _bias(self.placeg, place, derived.num_codes))  # fmt: skip
            answer = weights @ rows.of_row(derived.answer)
        else:
            query = self.gate_q(tokens)
            key, value = rows.of_row(derived.key_g), rows.of_row(derived.value_g)
            answer = attend(query[:, None], key, value, self.placeg, place)
            scores = (query * answer).sum(-1).float() / math.sqrt(query.shape[-1])
        alpha = _softmax_by_owner(scores.flatten() / self.tau, routing.owner, routing.num_slots)
        shares = alpha[:, None] * answer.flatten(0, 1)
        blended = shares.new_zeros(routing.num_slots + 1, shares.shape[-1]).index_add(0, routing.owner, shares)
        if objects.readings is not None:
            self._read_members(x, objects, routing, scores.flatten(), alpha)
        blended = blended[:-1].unflatten(0, routing.overlap.index.shape).to(answer.dtype)
        return blended + self.blend_out.bias if derived.keeps_gate else self.blend_out(blended)

    def _blended_keys(
        self, x: Tensor, objects: Interactions, routing: Routing, derived: Derived
    ) -> tuple[Tensor, Tensor]:
        """Keys and values that the cross-attention would make of the blended codes of all tokens, [B, N, C] each."""
        place = objects.places(x.shape[1]) if self.placeg else None
        bias = _bias(self.placeg, place, derived.num_codes)
        bias = None if bias is None else bias.unflatten(0, objects.codes.shape[:2]).transpose(1, 2)
        weights, scores = weigh(self.norm2g(x), derived.ask, derived.ask_bias, bias, objects.codes.shape[1])
        alpha = self._alpha(x, objects, routing, scores.transpose(1, 2)).transpose(1, 2)  # [B, N, K]
        shares = (alpha[..., None].to(weights.dtype) * weights).flatten(2)
        key, value = (shares @ derived.answer).chunk(2, -1)
        return key, value

    def _blended_codes(self, x: Tensor, objects: Interactions, routing: Routing) -> Tensor:
        """Blended codes of all tokens, [B, N, D]."""
        num_pictures, num_objects = objects.codes.shape[:2]
        codes = objects.codes.flatten(0, 1)
        key, value = self.k_proj(self.norm_c(codes)), self.v_proj(codes)
        query = self.gate_q(self.norm2g(x))
        place = objects.places(x.shape[1]) if self.placeg else None
        asked = query.repeat_interleave(num_objects, 0)
        answer = attend(asked[:, None], key[:, None], value[:, None], self.placeg, place)
        answer = answer.unflatten(0, (num_pictures, num_objects))
        scores = (query[:, None] * answer).sum(-1).float() / math.sqrt(query.shape[-1])
        alpha = self._alpha(x, objects, routing, scores)
        return (alpha[..., None].to(answer.dtype) * answer).sum(1)

    def _alpha(self, x: Tensor, objects: Interactions, routing: Routing, scores: Tensor) -> Tensor:
        """Alpha [B, K, N] of scores [B, K, N]. Tokens that fewer than two objects cover blend all of their picture."""
        asked = routing.covered
        several = asked.sum(1, keepdim=True) >= 2
        present = objects.regions.flatten(2).any(-1)[:, :, None]
        asked = torch.where(several, asked, present)
        # A picture without any object asks all: it has no overlap tokens, so that only NaN is avoided.
        asked = asked | ~asked.any(1, keepdim=True)
        alpha = (scores / self.tau).masked_fill(~asked, -math.inf).softmax(1)
        if objects.readings is not None:
            seen = scores.masked_fill(~asked, -math.inf)
            tokens = several.flatten().nonzero().squeeze(1)
            table = [v.detach().transpose(1, 2).flatten(0, 1)[tokens].float() for v in (alpha, seen)]
            objects.readings.append(Reading(x.shape[1], tokens, *table))
        return alpha

    def _read_members(self, x: Tensor, objects: Interactions, routing: Routing, scores: Tensor, alpha: Tensor) -> None:
        rows = routing.members
        num_tokens, num_objects = x.shape[0] * x.shape[1], objects.codes.shape[1]
        which = (rows.row % num_objects).repeat_interleave(rows.index.shape[1])
        tables = (
            torch.zeros(num_tokens + 1, num_objects, device=x.device),
            scores.new_full((num_tokens + 1, num_objects), -math.inf, dtype=torch.float32),
        )
        tables[0][rows.target, which] = alpha.detach().float()
        tables[1][rows.target, which] = scores.detach().float()
        tokens = (routing.covered.sum(1) >= 2).flatten().nonzero().squeeze(1)
        assert objects.readings is not None
        objects.readings.append(Reading(x.shape[1], tokens, tables[0][tokens], tables[1][tokens]))

    def _blend_attend(self, x: Tensor, routing: Routing, key: Tensor, value: Tensor) -> Tensor:
        """The published overlap expert, [B, Q, C]: overlap tokens attend to the blended codes of ALL tokens, then to x,
        which is not normalised."""
        attn2, attn_bg, heads = self.attn2, self.attn_bg, self.heads
        query = self._query2(routing.overlap.gather(x))
        tokens = attn2.to_out[0](attend(query, split_heads(key, heads), split_heads(value, heads)))
        query = split_heads(attn_bg.to_q(self.norm2b(tokens)), heads)
        seen = attend(query, split_heads(attn_bg.to_k(x), heads), split_heads(attn_bg.to_v(x), heads))
        out: Tensor = attn_bg.to_out[0](seen)
        return out


def _pick(places: Places, rows: Rows, shape: torch.Size) -> Places:
    """The places of each tile's own tokens: features [B * K, N, G] -> [tiles, Q, G]."""
    local = (rows.index % shape[1])[..., None].expand(-1, -1, places.features.shape[-1])
    return Places(rows.of_row(places.features).gather(1, local), rows.of_row(places.step))


def _bias(kernel: PlacementBias | None, place: Places | None, num_codes: int) -> Tensor | None:
    """The placement kernel of a gate as logits, [R, Q, M]."""
    if kernel is None:
        return None
    assert place is not None
    query, key = kernel(place, num_codes, 1.0)
    return (query @ key.transpose(-1, -2)).squeeze(1)


def _softmax_by_owner(logits: Tensor, owner: Tensor, num_owners: int) -> Tensor:
    """Softmax over the entries of the same owner; entries of owner `num_owners` are padding. logits, owner [T] -> [T],
    float32."""
    logits = logits.float()
    top = logits.new_full((num_owners + 1,), -math.inf)
    top = top.scatter_reduce(0, owner, logits.detach(), "amax")
    weight = (logits - top[owner]).exp()
    total = torch.zeros_like(top).index_add(0, owner, weight)
    return weight / total[owner]
