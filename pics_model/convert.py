"""`python -m pics_model.convert`: the authors' published checkpoint into a model of ours, back, and checked.

Nothing of the checkpoint is run, every weight is accounted for by name, and what a shape cannot say is told.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.utils import logging

from pics_common.errors import UserError, run_command
from pics_common.quiet import quiet
from pics_common.recipe import parse_recipe
from pics_model.backbone import num_parameters
from pics_model.infer import load_model, model_folder
from pics_model.published_back import write_back
from pics_model.published_check import check, print_check, read_goldens
from pics_model.published_convert import KEPT_FILE, PARTS, Plan, first_few, plan, write_model
from pics_model.published_facts import Facts, read_facts
from pics_model.published_file import Checkpoint, read_checkpoint
from pics_model.published_names import our_name, pieces_of
from pics_model.settings import require_ranges


@dataclass(frozen=True, slots=True)
class ConvertConfig:
    """Converts the authors' checkpoint (--checkpoint, --out), checks a model against golden tensors (--model, --check),
    or writes a model as the authors would (--back, --model, --out)."""

    checkpoint: Path | None = None
    """The published checkpoint, a file of PyTorch."""
    out: Path | None = None
    """Folder of the model; with --back, the checkpoint to be written."""
    model: Path | None = None
    """Folder of a converted model, or of a run that trained it on."""
    back: bool = False
    """From the model to a checkpoint."""
    check: Path | None = None
    """Golden tensors; exit code 1 if one of them does not come out."""
    head_channels: int | None = None
    """Width of a head of attention in the U-Net."""
    dino_heads: int | None = None
    """Number of heads of attention in DINOv2."""
    published: Path | None = None
    """With --back, the folder whose published.safetensors to use; the model's own if not given."""
    shard_gb: float = 5.0
    """Weights of a part of the model that are larger are written in several files."""

    def __post_init__(self) -> None:
        require_ranges(self, {"head_channels": (1, 2**16), "dino_heads": (1, 2**16), "shard_gb": (0.001, 1000)})
        given = {name for name in ("checkpoint", "out", "model", "check", "head_channels", "dino_heads", "published")
                 if getattr(self, name) is not None}  # fmt: skip
        if self.back:
            needed, allowed = {"model", "out"}, {"published"}
        elif self.checkpoint is not None:
            needed, allowed = {"checkpoint", "out"}, {"check", "head_channels", "dino_heads"}
        else:
            needed, allowed = {"model", "check"}, set()
        for name in sorted(needed - given):
            raise UserError(f"no --{name}; expected --checkpoint and --out, --model and --check, or --back, --model "
                            f"and --out")  # fmt: skip
        for name in sorted(given - needed - allowed):
            options = ["--back"] if self.back else [f"--{word}" for word in sorted(needed)]
            raise UserError(f"--{name.replace('_', '-')} has no effect with {' and '.join(options)}; leave it out")


def main(argv: list[str] | None = None) -> int:
    """The command; 1 if a golden tensor does not come out. Raises `UserError` for what the user can mend."""
    config = parse_recipe(ConvertConfig, sys.argv[1:] if argv is None else argv, prog="pics_model.convert")
    if config.out is not None and config.out.exists():
        raise UserError(f"--out {config.out}: exists already; choose another")
    folder = config.model
    if config.back:
        _back(config)
    elif config.checkpoint is not None:
        folder = _convert(config, config.checkpoint)
    if config.check is None:
        return 0
    assert folder is not None
    return 0 if _check(folder, config) else 1


def _back(config: ConvertConfig) -> None:
    assert config.model is not None
    assert config.out is not None
    model = model_folder(config.model)
    count = write_back(config.out, model, config.published or model)
    print(f"checkpoint: {config.out}, {count} weights")


def _convert(config: ConvertConfig, path: Path) -> Path:
    assert config.out is not None
    goldens = None if config.check is None else read_goldens(config.check)
    checkpoint = read_checkpoint(path)
    planned = plan(checkpoint, _facts(config), config.head_channels, config.dino_heads, goldens)
    _describe(checkpoint, planned)
    write_model(config.out, checkpoint, planned, int(config.shard_gb * 1e9))
    print(f"model: {config.out}")
    return config.out


def _check(folder: Path, config: ConvertConfig) -> bool:
    assert config.check is not None
    goldens = read_goldens(config.check)
    with quiet(logging):  # what it would warn of is what we do: everything in float32
        pipeline = load_model(folder).to(torch.float32)
    # Full size on a CPU takes its time: bars, where somebody is looking.
    pipeline.set_progress_bar_config(disable=None)
    parts = {name: getattr(pipeline, name) for name in PARTS}
    for name, kind in PARTS.items():
        if not isinstance(parts[name], kind):
            raise UserError(
                f"--model {folder}: part {name} is a {type(parts[name]).__name__}; expected a {kind.__name__}"
            )
    named = _facts(config).block
    block = our_name(pieces_of(parts), named) if named else None
    if named and block is None:
        raise UserError(f"config.json: key `block` is {named}; the model in {folder} has none of that name")
    return print_check(check(pipeline, goldens, block))


def _facts(config: ConvertConfig) -> Facts:
    """From the folders of the checkpoint and of the goldens."""
    return read_facts([path.parent for path in (config.checkpoint, config.check) if path is not None])


def _describe(checkpoint: Checkpoint, planned: Plan) -> None:
    """Prints what was found in the checkpoint, what was taken for granted, and what becomes of each weight."""
    backbone, trunk, heads = planned.sizes.backbone, planned.sizes.trunk, planned.heads
    parts = {part: getattr(planned.pipeline, part) for part in PARTS}
    count = {part: f"{num_parameters(module) / 1e6:,.2f} M" for part, module in parts.items()}
    levels = [width for width, here in zip(backbone["block_out_channels"], backbone["attention_levels"], strict=True)
              if here]  # fmt: skip
    print(
        f"U-Net and ControlNet, {count['backbone']}: levels of {backbone['block_out_channels']} channels, "
        f"{backbone['layers_per_block']} residual blocks each, attention at {levels}, {backbone['transformer_depth']} "
        f"interaction blocks a place, codes of {backbone['code_channels']}"
    )
    print(
        f"DINOv2 and projector, {count['object_encoder']}: {trunk['num_hidden_layers']} layers of "
        f"{trunk['hidden_size']}, patches of {trunk['patch_size']} px, "
        f"{'SwiGLU' if trunk['use_swiglu_ffn'] else 'plain'} feed-forward"
    )
    print(f"autoencoder, {count['autoencoder']}: levels of {planned.sizes.autoencoder['block_out_channels']} channels")
    print(f"heads of {heads.channels} channels in the U-Net: {heads.channels_origin}")
    print(f"{heads.dino} heads in DINOv2: {heads.dino_origin}")
    sizes = sum(checkpoint.weights[name].numel() for name in planned.unused)
    print(f"left out, as nothing uses it: blend_mlp, {len(planned.unused)} weights, {sizes / 1e6:.2f} M")
    print(f"kept for the way back in {KEPT_FILE}: {first_few(planned.kept)}")
    if checkpoint.skipped:
        print(f"named by the pickle, neither imported nor run: {first_few(checkpoint.skipped)}")


if __name__ == "__main__":
    run_command(main)
