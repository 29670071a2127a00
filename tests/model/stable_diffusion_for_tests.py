"""Folders in the layouts of Stable Diffusion 2.x (diffusers) and DINOv2 (transformers), with tiny random weights."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, Dinov2Config, Dinov2Model

UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "attention_head_dim": (2, 4),
    "norm_num_groups": 8,
    "use_linear_projection": True,
}
SCHEDULE: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


def write_base(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A Stable Diffusion folder of 64 px with latents of 8 px; as published, its scheduler is a PNDM."""
    torch.manual_seed(seed)
    UNet2DConditionModel(**(UNET | changes)).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        sample_size=64,
    ).save_pretrained(folder / "vae")
    PNDMScheduler(**SCHEDULE).save_pretrained(folder / "scheduler")
    write_words(folder)
    return folder


def write_words(folder: Path) -> None:
    """A CLIP text encoder, and a tokenizer that knows single letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    config = CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=12, bos_token_id=52, eos_token_id=53, pad_token_id=53,
    )  # fmt: skip
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")


def write_dino(folder: Path, seed: int = 0) -> Path:
    """A DINOv2 of two layers, trained at 56 px."""
    torch.manual_seed(seed)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, mlp_ratio=2)
    Dinov2Model(config).save_pretrained(folder)
    return folder
