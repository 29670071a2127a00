"""Names of the published checkpoint and of our parts, each from the other.

`theirs` are names in the published `state_dict`: those of latent diffusion (U-Net, ControlNet, autoencoder) and of
facebookresearch's DINOv2. `ours` are a part of the pipeline and a name in it: diffusers' and transformers'. The tests
hold these rules against diffusers' own single-file conversion.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pics_model.dino_encoder import resample_positions

UNET, CONTROL, VAE = "model.diffusion_model.", "control_model.", "first_stage_model."
DINO, PROJECTOR = "cond_stage_model.model.", "cond_stage_model.projector."
POSITIONS = f"{DINO}pos_embed"
CONTROL_IN = f"{CONTROL}input_blocks.0.0."
UNUSED = ".blend_mlp."
"""In the file, used by nobody: left out."""

# What state dicts of latent diffusion may hold beside the model: its schedule, averages of its weights, its loss.
BESIDE = re.compile(
    r"(betas|(sqrt_|sqrt_one_minus_|log_one_minus_|sqrt_recip_|sqrt_recipm1_)?alphas_cumprod|alphas_cumprod_prev|"
    r"posterior_(variance|log_variance_clipped|mean_coef[12])|lvlb_weights|logvar|cond_ids|scale_factor|"
    r"model_ema\..*|first_stage_model\.(loss|model_ema)\..*)"
)

Rules = tuple[tuple[str, str], ...]
RESNET: Rules = (
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
)
STEM: Rules = (
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^controlnet_down_blocks\.(\d+)\.", r"zero_convs.\1.0."),
    (r"^controlnet_mid_block\.", "middle_block_out.0."),
)
AUTOENCODER: Rules = (
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.up\.(\d+)\.resnets\.", r".up.\1.block."),
    (r"\.up\.(\d+)\.upsamplers\.0\.", r".up.\1.upsample."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
)
TRUNK: Rules = (
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.mlp\.down_proj\.", ".mlp.w3."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
)
# Weights that are several of ours, one below the other.
STACKED = {
    ".attention.q_proj.": (".attn.qkv.", 0, 3),
    ".attention.k_proj.": (".attn.qkv.", 1, 3),
    ".attention.v_proj.": (".attn.qkv.", 2, 3),
    ".mlp.gate_proj.": (".mlp.w12.", 0, 2),
    ".mlp.up_proj.": (".mlp.w12.", 1, 2),
}


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """The weight `ours` of `part` is one of `count` equal parts, number `index`, of the rows of `theirs`."""

    theirs: str
    index: int
    count: int
    part: str
    ours: str
    shape: tuple[int, ...]

    @property
    def kept(self) -> bool:
        """Whether ours is not theirs: the ControlNet's first convolution is zero here (theirs is never used), and the
        position table is read at the object pictures' size. Theirs is kept for the way back."""
        return self.theirs == POSITIONS or self.theirs.startswith(CONTROL_IN)

    def take(self, value: Tensor) -> Tensor:
        """Its rows of their weight, in our shape; a view. 1 x 1 convolutions are linear layers here."""
        rows = len(value) // self.count if self.count > 1 else 0
        return (value[self.index * rows : (self.index + 1) * rows] if rows else value).reshape(self.shape)

    def value(self, published: Mapping[str, Tensor]) -> Tensor:
        """Our weight, of theirs; where nothing is computed, a view of it."""
        theirs = published[self.theirs]
        if self.theirs == POSITIONS:
            return resample_positions(theirs, math.isqrt(self.shape[1] - 1))
        return torch.zeros_like(theirs) if self.kept else self.take(theirs)

    def fits(self, shape: Iterable[int]) -> bool:
        """Whether a weight of that shape can be theirs."""
        shape = tuple(shape)
        if self.count > 1:
            return shape == (self.shape[0] * self.count, *self.shape[1:])
        return self.theirs == POSITIONS or shape == self.shape or shape == _convolution(self.theirs, self.shape)


def pieces_of(parts: Mapping[str, Any]) -> list[Piece]:
    """A piece for every weight of these parts (`backbone`, `object_encoder`, `autoencoder`); they may be on "meta"."""
    config = parts["backbone"].config
    return [
        *_pieces(parts["backbone"].unet, "backbone", "unet.", lambda name: UNET + _unet(name, config)),
        *_pieces(parts["backbone"].controlnet, "backbone", "controlnet.", lambda name: CONTROL + _unet(name, config)),
        *_pieces(parts["autoencoder"], "autoencoder", "", lambda name: VAE + _autoencoder(name, parts["autoencoder"])),
        *_pieces(parts["object_encoder"], "object_encoder", "", _encoder),
    ]


def _pieces(module: nn.Module, part: str, prefix: str, rename: Any) -> list[Piece]:
    pieces = []
    for name, value in module.state_dict().items():
        stacked = next((mark for mark in STACKED if part == "object_encoder" and mark in name), None)
        theirs, index, count = (name, 0, 1) if stacked is None else (name, *STACKED[stacked][1:])
        if stacked is not None:
            theirs = name.replace(stacked, STACKED[stacked][0])
        pieces.append(Piece(rename(theirs), index, count, part, prefix + name, tuple(value.shape)))
    return pieces


def _unet(name: str, config: Any) -> str:
    """A name in diffusers' U-Net or ControlNet -> in latent diffusion's, where blocks are numbered throughout."""
    layers, attention = config.layers_per_block, config.attention_levels
    found = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(conv\.)?", name)
    if found:
        level, kind, layer, rest = int(found[2]), found[3], int(found[4]), name[found.end() :]
        if found[1] == "down":
            number = level * (layers + 1) + 1 + (layers if kind == "downsamplers" else layer)
            place = f"input_blocks.{number}"
        else:
            place = f"output_blocks.{level * (layers + 1) + (layers if kind == 'upsamplers' else layer)}"
        if kind == "upsamplers":
            return f"{place}.{2 if attention[len(attention) - 1 - level] else 1}.conv.{rest}"
        if kind == "downsamplers":
            return f"{place}.0.op.{rest}"
        return f"{place}.1.{rest}" if kind == "attentions" else _renamed(f"{place}.0.{rest}", RESNET)
    found = re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.", name)
    if found:
        number, rest = 2 * int(found[2]) + (found[1] == "attentions"), name[found.end() :]
        place = f"middle_block.{number}"
        return f"{place}.{rest}" if found[1] == "attentions" else _renamed(f"{place}.{rest}", RESNET)
    found = re.match(r"controlnet_cond_embedding\.(conv_in|conv_out|blocks\.(\d+))\.", name)
    if found:
        last = 4 * len(config.hint_channels) - 2
        number = {"conv_in": 0, "conv_out": last}.get(found[1], 2 * int(found[2] or 0) + 2)
        return f"input_hint_block.{number}.{name[found.end() :]}"
    return _renamed(name, STEM)


def _autoencoder(name: str, autoencoder: Any) -> str:
    """Latent diffusion counts the decoder's levels from the finest."""
    last = len(autoencoder.config.block_out_channels) - 1
    name = re.sub(r"\.up_blocks\.(\d+)\.", lambda found: f".up.{last - int(found[1])}.", name)
    return _renamed(name, AUTOENCODER)


def _encoder(name: str) -> str:
    if name.startswith("projector."):
        return PROJECTOR + name.removeprefix("projector.")
    return DINO + _renamed(name.removeprefix("trunk."), TRUNK) if name.startswith("trunk.") else name


def _renamed(name: str, rules: Rules) -> str:
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name


def _convolution(theirs: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Attention of the autoencoder is made of 1 x 1 convolutions there."""
    return (*shape, 1, 1) if ".attn_1." in theirs and theirs.startswith(VAE) and len(shape) == 2 else shape


def our_name(pieces: Iterable[Piece], theirs: str) -> str | None:
    """Our name, in its part, of a transformer block that is named as in the published model; None if there is none."""
    for piece in pieces:
        inner = piece.theirs.removeprefix(theirs)
        if inner.startswith(".") and piece.ours.endswith(inner):
            return piece.ours.removesuffix(inner)
    return None
