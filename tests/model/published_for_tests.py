"""Checkpoints in the layout of the published one, of any size, written from the layout's own words: no name or size is
taken from the product.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Layout:
    """The words of the authors' configuration."""

    model_channels: int = 32
    channel_mult: tuple[int, ...] = (1, 2, 2)
    attention: tuple[bool, ...] = (False, True, True)
    num_res_blocks: int = 2
    transformer_depth: int = 2
    context: int = 40
    head_channels: int = 16
    latent: int = 4
    vae_ch: int = 32
    vae_mult: tuple[int, ...] = (1, 1, 2, 2)
    vae_blocks: int = 1
    vit_width: int = 48
    vit_depth: int = 2
    vit_heads: int = 3
    vit_patch: int = 14
    vit_side: int = 20
    vit_mlp: int = 128
    swiglu: bool = True
    hint: tuple[int, ...] = (16, 32, 96, 256)

    @property
    def levels(self) -> list[int]:
        return [self.model_channels * mult for mult in self.channel_mult]


FULL = Layout(
    model_channels=320, channel_mult=(1, 2, 4, 4), attention=(True, True, True, False), transformer_depth=1,
    context=1024, head_channels=64, vae_ch=128, vae_mult=(1, 2, 4, 4), vae_blocks=2, vit_width=1536, vit_depth=40,
    vit_heads=24, vit_side=37, vit_mlp=4096,
)  # fmt: skip


def both(name: str, *shape: int) -> Shapes:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def conv(name: str, out: int, inner: int, kernel: int = 3) -> Shapes:
    yield from both(name, out, inner, kernel, kernel)


def resnet(name: str, inner: int, out: int, time: int) -> Shapes:
    yield from both(f"{name}.in_layers.0", inner)
    yield from conv(f"{name}.in_layers.2", out, inner)
    yield from both(f"{name}.emb_layers.1", out, time)
    yield from both(f"{name}.out_layers.0", out)
    yield from conv(f"{name}.out_layers.3", out, out)
    if inner != out:
        yield from conv(f"{name}.skip_connection", out, inner, 1)


def attention(name: str, width: int, context: int) -> Shapes:
    for which, inner in (("to_q", width), ("to_k", context), ("to_v", context)):
        yield f"{name}.{which}.weight", (width, inner)
    yield from both(f"{name}.to_out.0", width, width)


def transformer(name: str, width: int, layout: Layout) -> Shapes:
    code = layout.context
    yield from both(f"{name}.norm", width)
    yield from both(f"{name}.proj_in", width, width)
    for i in range(layout.transformer_depth):
        block = f"{name}.transformer_blocks.{i}"
        yield from attention(f"{block}.attn1", width, width)
        yield from both(f"{block}.ff.net.0.proj", 8 * width, width)
        yield from both(f"{block}.ff.net.2", width, 4 * width)
        yield from attention(f"{block}.attn2", width, code)
        for norm in ("norm1", "norm2", "norm3", "norm2g", "norm2b"):
            yield from both(f"{block}.{norm}", width)
        yield from both(f"{block}.blend_mlp.0", int(1.3 * width), 2 * width)
        yield from both(f"{block}.blend_mlp.2", width, int(1.3 * width))
        yield from both(f"{block}.gate_q", code, width)
        yield from both(f"{block}.norm_c", code)
        yield f"{block}.k_proj.weight", (code, code)
        yield f"{block}.v_proj.weight", (code, code)
        yield from attention(f"{block}.attn_bg", width, width)
    yield from both(f"{name}.proj_out", width, width)


def unet(prefix: str, layout: Layout, control: bool) -> Shapes:
    time, levels = 4 * layout.model_channels, layout.levels
    yield from both(f"{prefix}time_embed.0", time, layout.model_channels)
    yield from both(f"{prefix}time_embed.2", time, time)
    yield from conv(f"{prefix}input_blocks.0.0", levels[0], layout.latent)
    widths, here, number = [levels[0]], levels[0], 1
    for level, width in enumerate(levels):
        for _ in range(layout.num_res_blocks):
            yield from resnet(f"{prefix}input_blocks.{number}.0", here, width, time)
            if layout.attention[level]:
                yield from transformer(f"{prefix}input_blocks.{number}.1", width, layout)
            here, number = width, number + 1
            widths.append(width)
        if level < len(levels) - 1:
            yield from conv(f"{prefix}input_blocks.{number}.0.op", width, width)
            number += 1
            widths.append(width)
    yield from resnet(f"{prefix}middle_block.0", here, here, time)
    yield from transformer(f"{prefix}middle_block.1", here, layout)
    yield from resnet(f"{prefix}middle_block.2", here, here, time)
    if control:
        for i, width in enumerate(widths):
            yield from conv(f"{prefix}zero_convs.{i}.0", width, width, 1)
        yield from conv(f"{prefix}middle_block_out.0", here, here, 1)
        inner = 4
        pairs = [out for old, new in itertools.pairwise(layout.hint) for out in (old, new)]
        for i, out in enumerate([layout.hint[0], *pairs, levels[0]]):
            yield from conv(f"{prefix}input_hint_block.{2 * i}", out, inner)
            inner = out
        return
    number = 0
    for level in reversed(range(len(levels))):
        for i in range(layout.num_res_blocks + 1):
            yield from resnet(f"{prefix}output_blocks.{number}.0", here + widths.pop(), levels[level], time)
            here = levels[level]
            if layout.attention[level]:
                yield from transformer(f"{prefix}output_blocks.{number}.1", here, layout)
            if level and i == layout.num_res_blocks:
                place = 2 if layout.attention[level] else 1
                yield from conv(f"{prefix}output_blocks.{number}.{place}.conv", here, here)
            number += 1
    yield from both(f"{prefix}out.0", here)
    yield from conv(f"{prefix}out.2", layout.latent, here)


def vae(layout: Layout) -> Shapes:
    prefix, levels, latent = "first_stage_model.", [layout.vae_ch * m for m in layout.vae_mult], layout.latent

    def block(name: str, inner: int, out: int) -> Shapes:
        yield from both(f"{name}.norm1", inner)
        yield from conv(f"{name}.conv1", out, inner)
        yield from both(f"{name}.norm2", out)
        yield from conv(f"{name}.conv2", out, out)
        if inner != out:
            yield from conv(f"{name}.nin_shortcut", out, inner, 1)

    def middle(name: str, width: int) -> Shapes:
        yield from block(f"{name}.block_1", width, width)
        yield from both(f"{name}.attn_1.norm", width)
        for which in ("q", "k", "v", "proj_out"):
            yield from conv(f"{name}.attn_1.{which}", width, width, 1)
        yield from block(f"{name}.block_2", width, width)

    here = levels[0]
    yield from conv(f"{prefix}encoder.conv_in", here, 3)
    for level, width in enumerate(levels):
        for i in range(layout.vae_blocks):
            yield from block(f"{prefix}encoder.down.{level}.block.{i}", here, width)
            here = width
        if level < len(levels) - 1:
            yield from conv(f"{prefix}encoder.down.{level}.downsample.conv", width, width)
    yield from middle(f"{prefix}encoder.mid", here)
    yield from both(f"{prefix}encoder.norm_out", here)
    yield from conv(f"{prefix}encoder.conv_out", 2 * latent, here)
    yield from conv(f"{prefix}decoder.conv_in", here, latent)
    yield from middle(f"{prefix}decoder.mid", here)
    for level in reversed(range(len(levels))):
        for i in range(layout.vae_blocks + 1):
            yield from block(f"{prefix}decoder.up.{level}.block.{i}", here, levels[level])
            here = levels[level]
        if level:
            yield from conv(f"{prefix}decoder.up.{level}.upsample.conv", here, here)
    yield from both(f"{prefix}decoder.norm_out", here)
    yield from conv(f"{prefix}decoder.conv_out", 3, here)
    yield from conv(f"{prefix}quant_conv", 2 * latent, 2 * latent, 1)
    yield from conv(f"{prefix}post_quant_conv", latent, latent, 1)


def vit(layout: Layout) -> Shapes:
    prefix, width = "cond_stage_model.model.", layout.vit_width
    yield f"{prefix}cls_token", (1, 1, width)
    yield f"{prefix}pos_embed", (1, 1 + layout.vit_side**2, width)
    yield f"{prefix}mask_token", (1, width)
    yield from conv(f"{prefix}patch_embed.proj", width, 3, layout.vit_patch)
    for i in range(layout.vit_depth):
        block = f"{prefix}blocks.{i}"
        yield from both(f"{block}.norm1", width)
        yield from both(f"{block}.attn.qkv", 3 * width, width)
        yield from both(f"{block}.attn.proj", width, width)
        yield f"{block}.ls1.gamma", (width,)
        yield from both(f"{block}.norm2", width)
        if layout.swiglu:
            yield from both(f"{block}.mlp.w12", 2 * layout.vit_mlp, width)
            yield from both(f"{block}.mlp.w3", width, layout.vit_mlp)
        else:
            yield from both(f"{block}.mlp.fc1", layout.vit_mlp, width)
            yield from both(f"{block}.mlp.fc2", width, layout.vit_mlp)
        yield f"{block}.ls2.gamma", (width,)
    yield from both(f"{prefix}norm", width)
    yield from both("cond_stage_model.projector", layout.context, width)


def shapes_of(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Every weight of a published checkpoint of that layout."""
    return {
        **dict(unet("model.diffusion_model.", layout, control=False)),
        **dict(unet("control_model.", layout, control=True)),
        **dict(vae(layout)),
        **dict(vit(layout)),
    }


def weights_of(layout: Layout, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Random weights that keep what passes through them at about its size."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes_of(layout).items():
        value = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            value *= 0.7 / math.sqrt(math.prod(shape[1:]))
        elif name.endswith(".weight"):
            value = 1 + 0.1 * value
        else:
            value *= 0.1
        made[name] = value.to(dtype)
    return made


def write_checkpoint(path: Path, weights: Mapping[str, Tensor], **more: Any) -> Path:
    """As Lightning does: more than weights, among it what a plain weights-only load refuses."""
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.randn(7, 5)}}, "param_groups": [{"lr": 1e-5}]}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 3, "state_dict": dict(weights), "callbacks": {Layout: {"best": 1.0}},
                "optimizer_states": [optimizer], **more}, path)  # fmt: skip
    return path
