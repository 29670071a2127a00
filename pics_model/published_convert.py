"""A published checkpoint -> a folder that `PICSPipeline.from_pretrained` opens, written weight by weight.

The parts are made on torch's "meta" device, which knows sizes and no values: they say which weights there must be. All
weights, by name, are in the file, in no part left out, and of the right shape, or nothing is written.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor

from pics_common.errors import UserError
from pics_common.files import flush
from pics_model.autoencoder import latent_stride
from pics_model.backbone import Backbone
from pics_model.dino_encoder import DinoObjectEncoder
from pics_model.inputs import FramingSettings
from pics_model.pipeline import PICSPipeline
from pics_model.presets import load_preset
from pics_model.published_facts import OBJECT_RESOLUTION, Facts, dino_heads_of, head_channels_of
from pics_model.published_file import Checkpoint
from pics_model.published_names import BESIDE, UNUSED, Piece, pieces_of
from pics_model.published_sizes import Sizes, read_sizes
from pics_model.published_write import Progress, Weight, total_bytes, write_part, write_safetensors

KEPT_FILE = "published.safetensors"
PRESET = "sd21"
PARTS: dict[str, Any] = {"backbone": Backbone, "object_encoder": DinoObjectEncoder, "autoencoder": AutoencoderKL}
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Heads:
    """What was taken for the heads of attention, and where it is from."""

    channels: int
    channels_origin: str
    dino: int
    dino_origin: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be written: `pipeline` on "meta", its `pieces`, and the published names that are `kept` beside them or
    `unused`."""

    pipeline: PICSPipeline
    sizes: Sizes
    heads: Heads
    pieces: list[Piece]
    kept: list[str]
    unused: list[str]


def plan(
    checkpoint: Checkpoint,
    facts: Facts,
    head_channels: int | None = None,
    dino_heads: int | None = None,
    goldens: Mapping[str, Tensor] | None = None,
) -> Plan:
    """Raises `UserError` for weights that are missing, left over or of a wrong shape, naming the first few."""
    weights = checkpoint.weights
    try:
        sizes = read_sizes(weights)
        # Names and shapes do not depend on how wide a head is.
        pieces = pieces_of(make_parts(sizes, facts, min(sizes.attention_widths), 1))
        account(pieces, weights)
        channels, channels_origin = head_channels_of(sizes, head_channels, facts, weights, goldens)
        heads, heads_origin = dino_heads_of(sizes, dino_heads, facts, weights, pieces, goldens)
    except UserError as error:
        raise UserError(f"checkpoint {checkpoint.path}: {error}") from None
    parts = make_parts(sizes, facts, channels, heads)
    known = {piece.theirs for piece in pieces if not piece.kept}
    unused = [name for name in weights if UNUSED in name]
    kept = [name for name in weights if name not in known and UNUSED not in name]
    return Plan(_pipeline(parts, weights, facts), sizes, Heads(channels, channels_origin, heads, heads_origin),
                pieces, kept, unused)  # fmt: skip


def make_parts(sizes: Sizes, facts: Facts, head_channels: int, dino_heads: int) -> dict[str, Any]:
    """The model's parts without values."""
    with torch.device("meta"):
        trunk = sizes.trunk | {"num_attention_heads": dino_heads}
        return {
            "backbone": Backbone(**sizes.backbone, head_channels=head_channels, tau=facts.tau),
            "object_encoder": DinoObjectEncoder(trunk, OBJECT_RESOLUTION, sizes.backbone["code_channels"]),
            "autoencoder": AutoencoderKL(**sizes.autoencoder, scaling_factor=facts.scale_factor),
        }


def account(pieces: Iterable[Piece], weights: Mapping[str, Tensor]) -> None:
    """Raises `UserError` unless these pieces and what is known to lie beside the model are all that there is."""
    pieces = list(pieces)
    known = {piece.theirs for piece in pieces}
    missing = list(dict.fromkeys(piece.theirs for piece in pieces if piece.theirs not in weights))
    left_over = [name for name in weights if name not in known and UNUSED not in name and not BESIDE.fullmatch(name)]
    wrong = {piece.theirs: piece for piece in pieces
             if piece.theirs in weights and not piece.fits(weights[piece.theirs].shape)}  # fmt: skip
    said = []
    if missing:
        said.append(f"{len(missing)} weights are missing: {first_few(missing)}")
    if left_over:
        said.append(f"{len(left_over)} weights are left over: {first_few(left_over)}")
    if wrong:
        shapes = [f"{name} {list(weights[name].shape)} for our {list(piece.shape)}" for name, piece in wrong.items()]
        said.append(f"{len(wrong)} weights have a wrong shape: {first_few(shapes)}")
    if said:
        raise UserError("; ".join(said))


def _pipeline(parts: Mapping[str, Any], weights: Mapping[str, Tensor], facts: Facts) -> PICSPipeline:
    preset = load_preset(PRESET)
    schedule = {key: value for key, value in preset.schedule.items() if key != "kind"}
    betas = weights.get("betas")
    if betas is not None and not _same_schedule(betas, DDIMScheduler(**schedule)):
        schedule |= {"trained_betas": betas.double().tolist(), "num_train_timesteps": len(betas)}
    # The published model is given tight boxes.
    framing = replace(FramingSettings(**preset.framing), enlarge_min=1.0, enlarge_max=1.0)
    halvings = len(parts["backbone"].config.hint_channels) - 1
    if latent_stride(parts["autoencoder"], 0) != 2**halvings:
        raise UserError(
            f"the autoencoder has {latent_stride(parts['autoencoder'], 0)} pixels a latent, but the ControlNet's hint "
            f"is halved {halvings} times; expected the same"
        )
    return PICSPipeline(
        **parts,
        scheduler=DDIMScheduler(**schedule),
        preset=preset.name,
        patch=0,
        guidance=facts.guidance,
        steps=preset.steps,
        framing=asdict(framing),
    )


def _same_schedule(betas: Tensor, scheduler: DDIMScheduler) -> bool:
    expected = scheduler.betas
    return betas.shape == expected.shape and torch.allclose(betas.to(expected), expected, rtol=1e-4, atol=0)


def write_model(out: Path, checkpoint: Checkpoint, planned: Plan, shard_bytes: int) -> None:
    """Writes the folder beside `out` and renames it, so that it is whole or not there. Raises `UserError` for damaged
    weights, and where there is no room."""
    unused, beside_it = set(planned.unused), set(planned.kept)
    names = [name for name in checkpoint.weights if name not in unused]
    groups = {part: _our_weights(checkpoint, planned.pieces, part) for part in PARTS}
    kept = {
        name: _weight(checkpoint, name, tuple(weight.shape), partial(checkpoint.weights.__getitem__, name))
        for name, weight in checkpoint.weights.items()
        if name in beside_it
    }
    total = total_bytes(kept.values(), *(group.values() for group in groups.values()))
    beside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        require_room(out, total)
        records = {checkpoint.records[name] for name in names}
        checkpoint.check_sums(names, Progress("checked", sum(record.size for record in records)))
        progress = Progress("written", total)
        planned.pipeline.save_config(beside)
        planned.pipeline.scheduler.save_pretrained(beside / "scheduler")
        for part, weights in groups.items():
            getattr(planned.pipeline, part).save_config(beside / part)
            write_part(beside / part, weights, shard_bytes, progress)
        listed = [[name, list(checkpoint.weights[name].shape)] for name in names]
        write_safetensors(beside / KEPT_FILE, kept, progress, {"published": json.dumps(listed)})
        for file in beside.rglob("*"):
            flush(file)
        beside.rename(out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _our_weights(checkpoint: Checkpoint, pieces: Iterable[Piece], part: str) -> dict[str, Weight]:
    weights = checkpoint.weights
    return {
        piece.ours: _weight(checkpoint, piece.theirs, piece.shape, partial(piece.value, weights))
        for piece in pieces
        if piece.part == part
    }


def _weight(checkpoint: Checkpoint, theirs: str, shape: tuple[int, ...], make: Callable[[], Tensor]) -> Weight:
    return Weight(checkpoint.weights[theirs].dtype, shape, make, partial(checkpoint.let_go, theirs))


def require_room(out: Path, num_bytes: int) -> None:
    """Raises `UserError` if there is no room for so many bytes at `out`, whose folder is there."""
    free = shutil.disk_usage(out.parent).free
    if free < num_bytes:
        raise UserError(f"--out {out}: {free / 1e9:.1f} GB free, {num_bytes / 1e9:.1f} GB needed; choose another place")


def first_few(items: list[str]) -> str:
    """The first few."""
    return ", ".join(items[:SHOWN]) + (", ..." if len(items) > SHOWN else "")
