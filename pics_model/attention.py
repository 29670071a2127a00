"""Fused attention of tokens to code tokens, with or without the placement kernel.

Legend: R rows of Q queries, M keys; C channels in heads of h.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pics_model.placement import PlacementBias, Places


def split_heads(values: Tensor, heads: int) -> Tensor:
    """[R, T, C] -> [R, heads, T, h]."""
    return values.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(
    query: Tensor, key: Tensor, value: Tensor, bias: PlacementBias | None = None, place: Places | None = None
) -> Tensor:
    """Multi-head attention of query [R, heads, Q, h] to key and value [R, heads, M, h] -> [R, Q, C].

    With `bias`, code tokens near the query's place in the object picture get larger logits. The bias rides as extra
    channels of query and key, so that no [R, heads, Q, M] tensor is made.
    """
    width = value.shape[-1]
    scale = 1 / math.sqrt(width)
    if bias is not None:
        assert place is not None
        place_q, place_k = bias(place, key.shape[2], 1 / scale)
        query = torch.cat([query, place_q.to(query.dtype)], -1)
        key = torch.cat([key, place_k.to(key.dtype).expand(*key.shape[:2], -1, -1)], -1)
        value = F.pad(value, (0, query.shape[-1] - width))
    out = F.scaled_dot_product_attention(query, key, value, scale=scale)[..., :width]
    return out.transpose(1, 2).flatten(2)
