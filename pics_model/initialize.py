"""Where the weights of a new model start: old ones by name, new ones from their nearest relatives, or neutral.

Every function returns for each weight that it set a word on its origin. Legend: C channels of a block, D of the codes,
H heads of h channels.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from pics_common.errors import UserError
from pics_model.backbone import Backbone, interaction_layers
from pics_model.interaction import InteractionBlock

Kind = Literal["by name", "relative", "neutral", "random"]


class Origins(dict[str, tuple[Kind, str]]):
    """Weight name -> where it came from: its kind, and in words."""

    def note(self, names: Iterable[str], kind: Kind, words: str) -> None:
        """Writes the same origin for several weights."""
        self.update(dict.fromkeys(names, (kind, words)))


@torch.no_grad()
def fill_backbone(backbone: Backbone, unet: Mapping[str, Tensor]) -> Origins:
    """Starts a backbone from the weights of a Stable Diffusion 2.x U-Net in diffusers' names.

    The ControlNet starts as the U-Net's encoder with silent outputs. Raises `UserError` if the U-Net lacks a weight,
    or has one of another shape or name.
    """
    origins = Origins()
    state = backbone.state_dict()
    used = set()
    for name, weight in state.items():
        part, _, inner = name.partition(".")
        silent = name.startswith("controlnet.conv_in.")
        if inner in unet and not silent:
            if unet[inner].shape != weight.shape:
                found, wanted = list(unet[inner].shape), list(weight.shape)
                raise UserError(f"base: U-Net weight `{inner}` is {found}, expected {wanted}")
            weight.copy_(unet[inner])
            used.add(inner)
            origins[name] = "by name", f"unet.{inner}"
        elif part == "unet" and not _is_interaction(name, backbone):
            raise UserError(f"base: the U-Net has no weight `{inner}`; expected Stable Diffusion 2.x")
    strange = sorted(set(unet) - used)
    if strange:
        raise UserError(f"base: the U-Net's weight `{strange[0]}` has no place; expected Stable Diffusion 2.x")
    control = [name for name in state if name.startswith("controlnet.") and name not in origins]
    for name in control:
        if name.startswith("controlnet.conv_in."):
            origins[name] = "neutral", "zero, for good: the noisy latent does not enter the ControlNet"
        elif name.startswith(("controlnet.controlnet_down_blocks.", "controlnet.controlnet_mid_block.")):
            origins[name] = "neutral", "zero: the ControlNet is silent at first"
        elif name.startswith("controlnet.controlnet_cond_embedding."):
            last = ".conv_out." in name
            origins[name] = ("neutral", "zero: the hint is silent at first") if last else ("random", "convolution")
    for layer in interaction_layers(backbone):
        block = backbone.get_submodule(layer)
        assert isinstance(block, InteractionBlock)
        for name, origin in start_interaction(block).items():
            origins[f"{layer}.{name}"] = origin
    lacking = sorted(set(state) - set(origins))
    assert not lacking, f"no start is known for {lacking[:3]}"
    return origins


@torch.no_grad()
def start_interaction(block: InteractionBlock) -> Origins:
    """Starts what the interaction adds to a block from the block's own, trained, attention.

    The gate asks as the mean of the cross-attention's heads does: q . c with q = to_k^T to_q norm2(x), scaled to the
    gate's single head. The overlap expert of `blend` answers as the cross-attention would to a code of one token, the
    blended one; that of `blend_attend` looks as the self-attention does, and says nothing at first.
    """
    origins = Origins()
    attn1, attn2 = block.attn1, block.attn2
    channels, width = block.gate_q.weight.shape[1], block.gate_q.weight.shape[0]
    block.norm2g.load_state_dict(block.norm2.state_dict())
    origins.note(["norm2g.weight", "norm2g.bias"], "relative", "norm2")
    head = channels // block.heads
    scale = math.sqrt(width) / (block.heads * math.sqrt(head))
    block.gate_q.weight.copy_(scale * attn2.to_k.weight.T @ attn2.to_q.weight)
    nn.init.zeros_(block.gate_q.bias)
    origins.note(["gate_q.weight"], "relative", "attn2.to_k^T attn2.to_q: the mean of its heads' logits")
    origins.note(["gate_q.bias"], "neutral", "zero")
    origins.note(["norm_c.weight", "norm_c.bias"], "neutral", "one and zero")
    for projection in (block.k_proj, block.v_proj):
        nn.init.eye_(projection.weight)
    origins.note(["k_proj.weight", "v_proj.weight"], "neutral", "identity")
    if block.overlap == "blend":
        out = attn2.to_out[0]
        block.blend_out.weight.copy_(out.weight @ attn2.to_v.weight)
        block.blend_out.bias.copy_(out.bias)
        origins.note(["blend_out.weight", "blend_out.bias"], "relative", "attn2.to_out attn2.to_v")
    else:
        origins.note(["norm2b.weight", "norm2b.bias"], "neutral", "one and zero")
        for name in ("to_q", "to_k", "to_v"):
            getattr(block.attn_bg, name).load_state_dict(getattr(attn1, name).state_dict())
            origins.note([f"attn_bg.{name}.weight"], "relative", f"attn1.{name}")
        for weight in block.attn_bg.to_out[0].parameters():
            nn.init.zeros_(weight)
        origins.note(["attn_bg.to_out.0.weight", "attn_bg.to_out.0.bias"], "neutral", "zero: silent at first")
    for name, _ in block.named_parameters():
        if name.startswith(("place2.", "placeg.")):
            origins[name] = "neutral", "looks where the object picture's place is"
        elif name == "log_tau":
            origins[name] = "neutral", "tau of the preset"
    return origins


def _is_interaction(name: str, backbone: Backbone) -> bool:
    """Whether a weight belongs to what the interaction adds to a block."""
    parent, _, leaf = name.rpartition(".")
    while parent:
        if isinstance(backbone.get_submodule(parent), InteractionBlock):
            return leaf.split(".")[0] not in STOCK
        parent, _, last = parent.rpartition(".")
        leaf = f"{last}.{leaf}"
    return False


STOCK = ("norm1", "attn1", "norm2", "attn2", "norm3", "ff")
