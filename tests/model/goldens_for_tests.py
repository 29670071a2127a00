"""What a published model computes, term by term: the block, DINOv2, the sampler; and goldens of any size made of it.

No name or size is taken from the product: those of diffusers' classes are by diffusers' own conversion.
"""

import math
from collections.abc import Mapping
from pathlib import Path

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
from tests.model.published_for_tests import Layout


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
