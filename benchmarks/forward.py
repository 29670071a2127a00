"""What does a denoising call of a whole model cost, beside the published form of its blocks and the least possible?

    python benchmarks/forward.py --preset sd21

U-Net and ControlNet with random weights, two boxes that cover half of the picture, with guidance (two branches in one
batch). The published form computes every expert on every token in each block; ours routes, and keeps in all later steps
what it derives of the codes in the first. Same weights, one process, in turn. On CUDA in bfloat16.
"""

import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from block import Published, alternate, flops, product_speed, two_boxes
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from pics_common.errors import run_command
from pics_common.recipe import parse_recipe
from pics_model.autoencoder import latent_stride
from pics_model.backbone import interaction_layers, num_parameters
from pics_model.interaction import InteractionBlock
from pics_model.objects import Interactions
from pics_model.presets import Preset, build, load_preset
from pics_model.presets.check import make
from pics_model.ranks import one_process_group

# Millions of parameters of the published model, as its authors' checkpoint has them.
PUBLISHED_SIZES = {"U-Net": 1010.27, "interaction in it": 144.36, "ControlNet": 431.79, "interaction in that": 67.56}


@dataclass(frozen=True, slots=True)
class ForwardConfig:
    """Times denoising calls."""

    preset: str = "sd21"
    rounds: int = 2
    threads: int = 0
    sizes: bool = False
    """Only prints the table of parameters."""


class InPlace(nn.Module):
    """The published form in the place of a block."""

    def __init__(self, block: InteractionBlock) -> None:
        super().__init__()
        self.published = Published(block)

    def forward(self, hidden_states: Tensor, cross_attention_kwargs: dict[str, Any], **_: Any) -> Tensor:
        objects: Interactions = cross_attention_kwargs["interactions"]
        out: Tensor = self.published(hidden_states, objects.codes, objects.routing(hidden_states.shape[1]).covered)
        return out


def sizes_table(name: str) -> Table:
    """Parameters by group, without memory for them, beside the published ones."""
    with torch.device("meta"):
        pipeline = build(load_preset(name))
    table = Table(title=f"millions of parameters of {name}")
    for column in ("part", "ours", "published", "of them unused there"):
        table.add_column(column, justify="right")
    for part, module in (("U-Net", pipeline.backbone.unet), ("ControlNet", pipeline.backbone.controlnet)):
        blocks = [m for m in module.modules() if isinstance(m, InteractionBlock)]
        stock = ("norm1", "attn1", "norm2", "attn2", "norm3", "ff")
        added = sum(p.numel() for b in blocks for n, p in b.named_parameters() if n.split(".")[0] not in stock)
        inner = "interaction in it" if part == "U-Net" else "interaction in that"
        unused = {"U-Net": "48.35", "ControlNet": "23.18"}[part]
        table.add_row(part, f"{num_parameters(module) / 1e6:,.2f}", f"{PUBLISHED_SIZES[part]:,.2f}", unused)
        table.add_row(inner, f"{added / 1e6:,.2f}", f"{PUBLISHED_SIZES[inner]:,.2f}", unused)
    encoder, autoencoder = pipeline.object_encoder, pipeline.autoencoder
    table.add_row("object encoder", f"{num_parameters(encoder) / 1e6:,.2f}", "", "")
    if autoencoder is not None:
        table.add_row("autoencoder", f"{num_parameters(autoencoder) / 1e6:,.2f}", "", "")
    return table


def put(backbone: nn.Module, blocks: dict[str, nn.Module]) -> None:
    """Puts blocks into their places."""
    for name, block in blocks.items():
        parent, _, leaf = name.rpartition(".")
        backbone.get_submodule(parent)[int(leaf)] = block  # type: ignore[operator]


def measure(preset: Preset, form: str, rounds: int, device: torch.device, dtype: torch.dtype) -> list[str]:
    """A row of the table: one overlap form."""
    values = preset.backbone | {"overlap": form, "placement": False}
    backbone = make("backbone", values).to(device, dtype).eval()
    side, conv = preset.framing["resolution"], preset.encoder.get("kind") == "conv"
    small = preset.encoder["resolution"] // preset.encoder["patch"] if conv else 16
    autoencoder = make("autoencoder", preset.autoencoder)
    stride = autoencoder if isinstance(autoencoder, int) else latent_stride(autoencoder, 0)
    latent = torch.randn(2, backbone.config.latent_channels, side // stride, side // stride)
    latent, where = latent.to(device, dtype), torch.rand(2, 4, side, side, device=device, dtype=dtype)
    regions = two_boxes().repeat_interleave(side // 64, 2).repeat_interleave(side // 64, 3)
    codes = torch.randn(2, 2, small**2 + 1, backbone.config.code_channels, device=device, dtype=dtype)
    objects = Interactions(codes, regions.expand(2, -1, -1, -1).to(device), keep=True)
    timestep = torch.tensor(500, device=device)
    ours = {name: backbone.get_submodule(name) for name in interaction_layers(backbone)}
    published = {name: InPlace(block) for name, block in ours.items()}  # type: ignore[arg-type]

    def call(blocks: dict[str, nn.Module]) -> None:
        put(backbone, blocks)
        backbone(latent, timestep, where, objects)

    start = time.perf_counter()
    call(ours)
    first = time.perf_counter() - start
    works = {"published": lambda: call(published), "ours": lambda: call(ours)}
    times = alternate(works, rounds, device)
    count = {name: flops(work) for name, work in works.items()}
    floor = count["ours"] / product_speed(device, dtype)
    seconds = [f"{value:.2f}" for value in (times["published"], first, times["ours"])]
    ratios = [f"{times['published'] / times['ours']:.2f}", f"{count['published'] / count['ours']:.2f}"]
    return [form, *seconds, *ratios, f"{count['ours'] / 1e12:.2f}", f"{floor:.2f}"]


def main() -> int:
    config = parse_recipe(ForwardConfig, sys.argv[1:], prog="forward")
    if config.preset == "sd21":
        Console().print(sizes_table(config.preset))
    if config.sizes:
        return 0
    with one_process_group(config.threads) as ranks, torch.inference_mode():
        device = torch.device(ranks.device)
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        table = Table(title=f"a denoising call of {config.preset} with guidance, {device.type}, {dtype}, seconds")
        for column in ("overlap", "published", "ours, first", "ours", "ratio", "of FLOPs", "TFLOP", "floor"):
            table.add_column(column, justify="right")
        for form in ("blend_attend", "blend"):
            table.add_row(*measure(load_preset(config.preset), form, config.rounds, device, dtype))
        Console(width=120).print(table)
        if device.type == "cuda":
            print(f"most GPU memory at once: {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
        else:
            print(f"most memory at once: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    return 0


if __name__ == "__main__":
    run_command(main)
