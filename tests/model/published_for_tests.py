"""Checkpoints in the layout of the published one, of any size, written from the layout's own words; and what they
compute, term by term: the block, DINOv2, the sampler. No name or size is taken from the product.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import (
    convert_controlnet_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from safetensors.torch import save_file
from torch import Tensor

from pics_model.backbone import Backbone
from pics_model.objects import Interactions

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


# What the published model computes


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """[N, H], [M, H], [M, H] -> [N, H]."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(0, 1) for t in (q, k, v))
    weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights @ v).transpose(0, 1).flatten(1)


class Block:
    """The published interaction block for one picture, as its README has it."""

    def __init__(self, weights: Mapping[str, Tensor], name: str, head_channels: int, tau: float = 0.5) -> None:
        self.w = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        self.heads, self.tau = self.w["norm1.weight"].shape[0] // head_channels, tau

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def attention(self, name: str, x: Tensor, context: Tensor) -> Tensor:
        q = self.linear(f"{name}.to_q", x)
        k, v = self.linear(f"{name}.to_k", context), self.linear(f"{name}.to_v", context)
        return self.linear(f"{name}.to_out.0", attend(q, k, v, self.heads))

    def __call__(self, x: Tensor, codes: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [N, C], codes [2, M, D], masks [2, N] -> out [N, C], scores [N, 2], alpha of object 0 [N]."""
        x1 = self.norm("norm1", x)
        x = x + self.attention("attn1", x1, x1)
        exclusive = [self.attention("attn2", self.norm("norm2", x), code) for code in codes]
        q = self.linear("gate_q", self.norm("norm2g", x))
        keys = [self.linear("k_proj", self.norm("norm_c", code)) for code in codes]
        answers = [attend(q, key, self.linear("v_proj", code), 1) for key, code in zip(keys, codes, strict=True)]
        scores = torch.stack([(q * a).sum(-1) / math.sqrt(q.shape[-1]) for a in answers], -1)
        alpha = (scores / self.tau).softmax(-1)
        blended = sum(alpha[:, k, None] * answers[k] for k in range(2))
        overlap = self.attention("attn2", self.norm("norm2", x), blended)
        overlap = self.attention("attn_bg", self.norm("norm2b", overlap), x)
        first, second = (mask[:, None].float() for mask in masks)
        x = x + first * (1 - second) * exclusive[0] + second * (1 - first) * exclusive[1] + first * second * overlap
        gated, gate = self.linear("ff.net.0.proj", self.norm("norm3", x)).chunk(2, -1)
        return x + self.linear("ff.net.2", gated * F.gelu(gate)), scores, alpha[:, 0]


def object_codes(weights: Mapping[str, Tensor], images: Tensor, heads: int) -> Tensor:
    """DINOv2 and projector: images [N, 3, 224, 224] in [0, 1] -> [N, 257, D]."""
    w = {key.removeprefix("cond_stage_model.model."): value for key, value in weights.items()}
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (images - mean[:, None, None]) / std[:, None, None]
    patch = w["patch_embed.proj.weight"].shape[-1]
    x = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch)
    grid = x.shape[-1]
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
    table = w["pos_embed"]
    side = math.isqrt(table.shape[1] - 1)
    square = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if side != grid:
        scale = (grid + 0.1) / side
        square = F.interpolate(square, scale_factor=(scale, scale), mode="bicubic", antialias=False)
    x = x + torch.cat([table[:, :1], square.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)], 1)

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    depth = len({key.split(".")[1] for key in w if key.startswith("blocks.")})
    for i in range(depth):
        block = f"blocks.{i}"
        q, k, v = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).chunk(3, -1)
        seen = torch.stack([attend(*one, heads) for one in zip(q, k, v, strict=True)])
        x = x + w[f"{block}.ls1.gamma"] * linear(f"{block}.attn.proj", seen)
        inner = norm(f"{block}.norm2", x)
        if f"{block}.mlp.w12.weight" in w:
            gate, up = linear(f"{block}.mlp.w12", inner).chunk(2, -1)
            inner = linear(f"{block}.mlp.w3", F.silu(gate) * up)
        else:
            inner = linear(f"{block}.mlp.fc2", F.gelu(linear(f"{block}.mlp.fc1", inner)))
        x = x + w[f"{block}.ls2.gamma"] * inner
    return F.linear(norm("norm", x), weights["cond_stage_model.projector.weight"],
                    weights["cond_stage_model.projector.bias"])  # fmt: skip


def diffusers_weights(weights: Mapping[str, Tensor], layout: Layout) -> dict[str, dict[str, Tensor]]:
    """U-Net, ControlNet and autoencoder as diffusers' own single-file conversion names them."""
    used = {name: value for name, value in weights.items() if "blend_mlp" not in name}
    config = {"layers_per_block": layout.num_res_blocks}
    levels = [""] * len(layout.vae_mult)
    controlnet = convert_controlnet_checkpoint(dict(used), config)
    if len(layout.hint) == 3:  # it takes the hint to have four resolutions, and its last convolution to be the 14th
        for key in ("weight", "bias"):
            last = controlnet.pop(f"controlnet_cond_embedding.blocks.4.{key}")
            controlnet[f"controlnet_cond_embedding.conv_out.{key}"] = last
    return {
        "unet": convert_ldm_unet_checkpoint(dict(used), config),
        "controlnet": controlnet,
        "autoencoder": convert_ldm_vae_checkpoint(dict(used), {"down_block_types": levels, "up_block_types": levels}),
    }


def goldens_of(weights: Mapping[str, Tensor], layout: Layout, steps: int = 4) -> dict[str, Tensor]:
    """Golden tensors of all groups, at 64 px. Blocks and DINOv2 by the formulas above; the rest by diffusers' classes
    with weights that diffusers named."""
    generator = torch.Generator().manual_seed(1)

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    named = diffusers_weights(weights, layout)
    out = {"object_images": rand(2, 3, 224, 224)}
    out["object_codes"] = object_codes(weights, out["object_images"], layout.vit_heads)
    out["uncond_codes"] = object_codes(weights, torch.zeros(1, 3, 224, 224), layout.vit_heads)
    name = next(key for key in weights if key.endswith(".gate_q.weight")).removesuffix(".gate_q.weight")
    block = Block(weights, name, layout.head_channels)
    width = weights[f"{name}.norm1.weight"].shape[0]
    out |= {"block_x": randn(2, 16, width), "block_codes": randn(2, 2, 5, layout.context)}
    out["block_masks"] = (rand(2, 2, 16) > 0.4).float()
    made = [block(*one) for one in zip(out["block_x"], out["block_codes"], out["block_masks"], strict=True)]
    for key, values in zip(("block_out", "block_scores", "block_alpha"), zip(*made, strict=True), strict=True):
        out[key] = torch.stack(values)
    autoencoder = AutoencoderKL(
        block_out_channels=[layout.vae_ch * mult for mult in layout.vae_mult], layers_per_block=layout.vae_blocks,
        down_block_types=["DownEncoderBlock2D"] * len(layout.vae_mult),
        up_block_types=["UpDecoderBlock2D"] * len(layout.vae_mult),
    )  # fmt: skip
    autoencoder.load_state_dict(named["autoencoder"])
    out["vae_pixels"] = 2 * rand(1, 3, 64, 64) - 1
    backbone = Backbone(
        latent_channels=layout.latent, block_out_channels=layout.levels, attention_levels=layout.attention,
        layers_per_block=layout.num_res_blocks, head_channels=layout.head_channels, norm_num_groups=32,
        code_channels=layout.context, hint_channels=layout.hint, overlap="blend_attend", placement=False,
        transformer_depth=layout.transformer_depth,
    ).eval()  # fmt: skip
    backbone.unet.load_state_dict(named["unet"])
    conv_in = {key: torch.zeros_like(value) for key, value in named["controlnet"].items() if key.startswith("conv_in.")}
    backbone.controlnet.load_state_dict(named["controlnet"] | conv_in)
    side = 64 // 2 ** (len(layout.vae_mult) - 1)
    out |= {"x": randn(1, layout.latent, side, side), "timestep": torch.tensor([481])}
    out |= {"hint": 2 * rand(1, 4, 64, 64) - 1, "masks": torch.zeros(1, 2, 64, 64)}
    out["masks"][0, 0, 8:40, 8:40] = out["masks"][0, 1, 24:60, 16:56] = 1
    nothing = out["uncond_codes"].expand(2, -1, -1)

    def eps(x: Tensor, t: Tensor, codes: Tensor, masks: Tensor) -> Tensor:
        return backbone(x, t, out["hint"], Interactions(codes[None], masks.bool()))

    with torch.inference_mode():
        out["vae_latent_mode"] = autoencoder.encode(out["vae_pixels"]).latent_dist.mode() * 0.18215
        objects = Interactions(out["object_codes"][None], out["masks"].bool())
        down, mid = backbone.controlnet(
            out["x"], out["timestep"], controlnet_cond=out["hint"], encoder_hidden_states=objects.codes.flatten(1, 2),
            cross_attention_kwargs={"interactions": objects}, return_dict=False,
        )  # fmt: skip
        out |= {f"control_{i}": value for i, value in enumerate([*down, mid])}
        out["eps"] = eps(out["x"], out["timestep"], out["object_codes"], out["masks"])
        out["eps_uncond"] = eps(out["x"], out["timestep"], nothing, out["masks"])
        out["eps_swapped"] = eps(out["x"], out["timestep"], out["object_codes"].flip(0), out["masks"].flip(1))
        latent = out["x"]
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        alphas = (1 - betas).cumprod(0)
        for t in reversed(range(1, 1000, 1000 // steps)):
            towards = eps(latent, torch.tensor([t]), out["object_codes"], out["masks"])
            away = eps(latent, torch.tensor([t]), nothing, out["masks"])
            noise = away + 5 * (towards - away)
            now, then = alphas[t].sqrt().float(), alphas[max(t - 1000 // steps, 0)].float()
            clean = (latent - (1 - now**2).sqrt() * noise) / now
            latent = then.sqrt() * clean + (1 - then).sqrt() * noise
        out[f"ddim{steps}_cfg5_latent"] = latent
        out[f"ddim{steps}_cfg5_image"] = autoencoder.decode(latent / 0.18215).sample
    return {key: value.clone().contiguous() for key, value in out.items()}


def write_goldens(path: Path, goldens: Mapping[str, Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(goldens), path)
    return path
