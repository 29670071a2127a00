"""What a block makes of the codes alone: once a step in training, once a picture in inference.

The gate has one head and is linear on both of its sides, so that its parts can be multiplied beforehand. With q = W y
+ b the query of a token y, K and V the keys and values of a code:

    q K^T      = y (W^T K^T) + b K^T                   the logits
    <q, a>     = sum_m p_m <q, V_m>,  a = sum_m p_m V_m      the score, p = softmax(q K^T / sqrt(D))
    to_k(c_ab) = sum_k alpha_k sum_m p_km (V_km to_k^T)      what blended codes are for; `blend_out` likewise

So in inference nothing of D channels is made for any token: 4 C M K products a token in place of D (C + 2 C + 2 M K).
A training step would have to multiply them anew for one use.

Legend: B pictures, K objects, M code tokens of D channels, N tokens of C channels, heads of h, R rows of Q tokens.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pics_model.attention import split_heads
from pics_model.lora import weight_of

if TYPE_CHECKING:
    from pics_model.interaction import InteractionBlock


@dataclass(slots=True)
class Derived:
    """`key`, `value` [B * K, heads, M, h] of the cross-attention. `key_g`, `value_g` [B * K, 1, M, D] of the gate, or,
    where `keeps_gate`, its parts multiplied beforehand: `ask` turns a token into logits and, behind them, scores of
    every code token, each over sqrt(D); `answer` [..., C] is what each adds.

    For `blend`: `ask` [B * K, C, 2 * M], `ask_bias` [B * K, 1, 2 * M], `answer` [B * K, M, C]. For `blend_attend` the
    objects of a picture stand beside each other: `ask` [B, C, K * 2 * M], `answer` [B, K * M, 2 * C], keys and values.
    """

    key: Tensor
    value: Tensor
    num_codes: int
    keeps_gate: bool
    key_g: Tensor
    value_g: Tensor
    ask: Tensor
    ask_bias: Tensor
    answer: Tensor


def derive(block: "InteractionBlock", codes: Tensor, keep: bool) -> Derived:
    """What `block` makes of codes [B, K, M, D]; `keep` multiplies the gate's parts."""
    num_pictures, num_objects, num_codes = codes.shape[:3]
    rows = codes.flatten(0, 1)
    key, value = (split_heads(part(rows), block.heads) for part in (block.attn2.to_k, block.attn2.to_v))
    if not keep and block.overlap == "blend_attend":
        none = rows.new_zeros(0)
        return Derived(key, value, num_codes, False, none, none, none, none, none)
    key_g, value_g = block.k_proj(block.norm_c(rows)), block.v_proj(rows)
    if not keep:
        none = rows.new_zeros(0)
        return Derived(key, value, num_codes, False, key_g[:, None], value_g[:, None], none, none, none)
    # In float32: products of products in half precision would lose what the gate's long sums need.
    both = torch.cat([key_g, value_g], 1).float() / math.sqrt(codes.shape[-1])  # [B * K, 2 * M, D]
    ask = (both @ block.gate_q.weight.float()).transpose(1, 2)
    ask_bias = (both @ block.gate_q.bias.float())[:, None]
    if block.overlap == "blend":
        answer = value_g.float() @ block.blend_out.weight.float().T
    else:
        into = torch.cat([weight_of(block.attn2.to_k), weight_of(block.attn2.to_v)]).float()
        answer = (value_g.float() @ into.T).unflatten(0, (num_pictures, num_objects)).flatten(1, 2)
        ask = ask.unflatten(0, (num_pictures, num_objects)).transpose(1, 2).flatten(2)
        ask_bias = ask_bias.unflatten(0, (num_pictures, num_objects)).transpose(1, 2).flatten(2)
    none = rows.new_zeros(0)
    kept = (values.to(codes.dtype).contiguous() for values in (ask, ask_bias, answer))
    return Derived(key, value, num_codes, True, none, none, *kept)


def weigh(
    tokens: Tensor, ask: Tensor, ask_bias: Tensor, bias: Tensor | None, num_objects: int = 0
) -> tuple[Tensor, Tensor]:
    """The gate's attention weights [R, Q, M] and scores [R, Q] of tokens [R, Q, C], by `ask` and `ask_bias` of
    `Derived`; with `num_objects` K beside each other [R, Q, K, M] and [R, Q, K]. `bias` is added to the logits."""
    made = torch.baddbmm(ask_bias, tokens, ask)
    shape = (num_objects, 2, -1) if num_objects else (2, -1)
    logits, worth = made.unflatten(-1, shape).unbind(-2)
    weights = (logits if bias is None else logits + bias).softmax(-1)
    return weights, (weights * worth).sum(-1).float()
