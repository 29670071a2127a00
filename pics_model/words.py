"""Words for objects -> text tokens, by a frozen text encoder (of Stable Diffusion's folder, say).

Legend: N objects, L tokens of the longest text, W the text encoder's width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def encode_texts(tokenizer: Any, text_encoder: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor] | None:
    """Hidden states [N, L, W] of the words for N objects and a mask [N, L] bool of what is a token; None if nothing is
    said of any. Of an object whose text is "" no token is real. Texts are cut at the encoder's own length."""
    if not any(texts):
        return None
    most = text_encoder.config.max_position_embeddings
    tokens = tokenizer(list(texts), padding="longest", truncation=True, max_length=most, return_tensors="pt")
    device = text_encoder.device
    states: Tensor = text_encoder(tokens.input_ids.to(device), tokens.attention_mask.to(device)).last_hidden_state
    said = torch.tensor([bool(text) for text in texts])
    return states, (tokens.attention_mask.bool() & said[:, None]).to(states.device)
