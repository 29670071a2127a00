"""`python -m pics_model.start`: a model to be trained, from a Stable Diffusion 2.x and a DINOv2.

Old weights load by name, new ones start from their nearest relatives or neutral; `origins.json` in the model's folder
says for every weight where it came from. Sizes are those of the folders, all else is the preset's.
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.utils import logging
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTokenizer

from pics_common.errors import UserError, run_command
from pics_common.quiet import quiet
from pics_common.recipe import parse_recipe
from pics_model.autoencoder import latent_stride
from pics_model.backbone import Backbone
from pics_model.dino_encoder import DinoObjectEncoder
from pics_model.initialize import Origins, fill_backbone
from pics_model.inputs import FramingSettings
from pics_model.pipeline import PICSPipeline
from pics_model.presets import Preset, load_preset
from pics_model.snapshot import save_model


@dataclass(frozen=True, slots=True)
class StartConfig:
    """Makes a model to be trained out of trained parts."""

    base: str
    """Folder of a Stable Diffusion 2.x in diffusers' layout, or its hub id."""
    dino: str
    """Folder of a DINOv2 in transformers' layout, or its hub id."""
    out: Path
    """Folder of the model."""
    preset: str = "sd21"
    views: int = 0
    """Most other views of an object that the model shall take; 0 for none."""
    texts: bool = False
    """Whether it shall take words for objects, by the base's text encoder."""
    seed: int = 0
    """Of the few weights that start at random."""


def main(argv: list[str] | None = None) -> int:
    """The command. Raises `UserError` for what the user can mend."""
    config = parse_recipe(StartConfig, sys.argv[1:] if argv is None else argv, prog="pics_model.start")
    if config.out.exists():
        raise UserError(f"--out {config.out}: exists already; choose another folder")
    torch.manual_seed(config.seed)
    pipeline, origins = start(config.base, config.dino, load_preset(config.preset), config.views, config.texts)
    save_model(config.out, pipeline, {"origins.json": json.dumps(origins, indent=1)})
    Console().print(origins_table(pipeline, origins))
    print(f"model: {config.out}; origin of every weight: {config.out / 'origins.json'}")
    return 0


def start(base: str, dino: str, preset: Preset, views: int = 0, texts: bool = False) -> tuple[PICSPipeline, Origins]:
    """The model, and the origin of each weight by its name, `<part>.<name>`.

    Raises `UserError` if a folder lacks a part, or holds another kind of model.
    """
    unet = _load(UNet2DConditionModel, base, "unet")
    autoencoder = _load(AutoencoderKL, base, "vae")
    scheduler = _load(DDIMScheduler, base, "scheduler")
    framing = FramingSettings(**preset.framing)
    stride = latent_stride(autoencoder, 0)
    resolution = unet.config.sample_size * stride
    framing = FramingSettings(**(asdict(framing) | {"resolution": resolution, "views": views}))
    sizes = unet_sizes(unet.config, base)
    kept = {key: value for key, value in preset.backbone.items() if key not in sizes and key != "kind"}
    backbone = Backbone(**sizes, **kept)
    if len(backbone.config.hint_channels) != stride.bit_length():
        raise UserError(
            f"preset {preset.name}: key `backbone.hint_channels` has {len(backbone.config.hint_channels)} entries, but "
            f"{base} has {stride} pixels a latent; expected {stride.bit_length()}"
        )
    origins = Origins()
    for name, origin in fill_backbone(backbone, unet.state_dict()).items():
        origins[f"backbone.{name}"] = origin
    tokenizer = _load(CLIPTokenizer, base, "tokenizer") if texts else None
    text_encoder = _load(CLIPTextModel, base, "text_encoder") if texts else None
    encoder = DinoObjectEncoder.from_dino(
        dino,
        sizes["code_channels"],
        framing.object_resolution,
        views=views > 0,
        text_channels=text_encoder.config.hidden_size if text_encoder else 0,
    )
    for name, origin in _encoder_origins(encoder).items():
        origins[f"object_encoder.{name}"] = origin
    for name in autoencoder.state_dict():
        origins[f"autoencoder.{name}"] = "by name", f"vae.{name}"
    changes = {"clip_sample": False, "set_alpha_to_one": False}
    pipeline = PICSPipeline(
        backbone=backbone,
        object_encoder=encoder,
        scheduler=DDIMScheduler.from_config(scheduler.config, **changes),
        autoencoder=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        preset=preset.name,
        patch=0,
        guidance=preset.guidance,
        steps=preset.steps,
        framing=asdict(framing),
    )
    return pipeline, origins


def _encoder_origins(encoder: DinoObjectEncoder) -> Origins:
    origins = Origins()
    for name in encoder.state_dict():
        if name.startswith("trunk."):
            origins[name] = "by name", name.removeprefix("trunk.")
        elif name.startswith("sides.join.to_out."):
            origins[name] = "neutral", "zero: views and words say nothing at first"
        else:
            origins[name] = "random", "linear"
    origins["trunk.embeddings.position_embeddings"] = "by name", "resampled to the object pictures' size"
    return origins


def unet_sizes(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The sizes of a `Backbone` like a U-Net of diffusers. Raises `UserError` for one that is no Stable Diffusion 2.x,
    naming the key of its configuration."""
    down = config["down_block_types"]
    heads, widths = config["attention_head_dim"], config["block_out_channels"]
    heads = [heads] * len(widths) if isinstance(heads, int) else list(heads)
    head_channels = {width // count for width, count in zip(widths, heads, strict=True)}
    for key, good, words in (
        ("use_linear_projection", config["use_linear_projection"], "true, as in Stable Diffusion 2.x"),
        ("down_block_types", set(down) <= {"CrossAttnDownBlock2D", "DownBlock2D"}, "CrossAttnDownBlock2D, DownBlock2D"),
        ("mid_block_type", config["mid_block_type"] == "UNetMidBlock2DCrossAttn", "UNetMidBlock2DCrossAttn"),
        ("attention_head_dim", len(head_channels) == 1, "heads of one width in all levels"),
        ("layers_per_block", isinstance(config["layers_per_block"], int), "one number"),
        ("transformer_layers_per_block", isinstance(config["transformer_layers_per_block"], int), "one number"),
        ("cross_attention_dim", isinstance(config["cross_attention_dim"], int), "one number"),
        ("in_channels", config["in_channels"] == config["out_channels"], "as many as out_channels"),
        ("class_embed_type", config["class_embed_type"] is None, "none"),
        ("addition_embed_type", config["addition_embed_type"] is None, "none"),
    ):
        if not good:
            raise UserError(f"base {source}: unet/config.json: key `{key}` is {config[key]!r}; expected {words}")
    return {
        "latent_channels": config["in_channels"],
        "block_out_channels": tuple(widths),
        "attention_levels": tuple(kind.startswith("CrossAttn") for kind in down),
        "layers_per_block": config["layers_per_block"],
        "transformer_depth": config["transformer_layers_per_block"],
        "head_channels": head_channels.pop(),
        "norm_num_groups": config["norm_num_groups"],
        "code_channels": config["cross_attention_dim"],
    }


def origins_table(pipeline: PICSPipeline, origins: Origins) -> Table:
    """Parameters by part and origin."""
    counts: Counter[tuple[str, str]] = Counter()
    for part in ("backbone.unet", "backbone.controlnet", "object_encoder", "autoencoder"):
        module = pipeline
        for name in part.split("."):
            module = getattr(module, name)
        for name, weight in module.state_dict().items():
            counts[part, origins[f"{part}.{name}"][0]] += weight.numel()
    table = Table(title="Millions of parameters, by origin")
    table.add_column("part")
    kinds = ("by name", "relative", "neutral", "random")
    for kind in kinds:
        table.add_column(kind, justify="right")
    for part in dict.fromkeys(part for part, _ in counts):
        table.add_row(part, *(f"{counts[part, kind] / 1e6:,.2f}" for kind in kinds))
    return table


def _load(kind: Any, source: str, subfolder: str) -> Any:
    """A part of a diffusers folder. Raises `UserError` if it is not there, or not whole."""
    try:
        with quiet(logging):
            more = {} if kind in (DDIMScheduler, CLIPTokenizer) else {"use_safetensors": True}
            return kind.from_pretrained(source, subfolder=subfolder, **more)
    except (OSError, ValueError, RuntimeError, SafetensorError, KeyError, TypeError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"base {source}: part {subfolder}/ cannot be loaded ({first}); expected safetensors") from None


if __name__ == "__main__":
    run_command(main)
