"""Whether a converted model computes what the published one does: every group of its golden tensors.

Legend: L latent channels, n latents a side, S pixels a side, M code tokens of D channels, N tokens of a block.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pics_common.errors import UserError, require_file
from pics_model.autoencoder import decode_latent, encode_pixels, latent_stride
from pics_model.backbone import interaction_layers
from pics_model.object_encoder import nothing
from pics_model.objects import Interactions
from pics_model.pipeline import PICSPipeline
from pics_model.published_facts import TOLERANCE, as_pictures, block_objects, largest_error

SAMPLER_TOLERANCE = 5e-4
SAMPLED = re.compile(r"ddim(\d+)_cfg(\d+(?:\.\d+)?)_(latent|image)")
CALL = {"x", "timestep", "hint", "masks", "object_codes"}
INPUTS = {*CALL, "object_images", "vae_pixels", "block_x", "block_codes", "block_masks"} - {"object_codes"}


@dataclass(frozen=True, slots=True)
class Line:
    """A golden tensor and how far ours is from it; `error` is infinite where it has another shape or is no number."""

    name: str
    shape: tuple[int, ...]
    error: float
    tolerance: float

    @property
    def good(self) -> bool:
        return self.error <= self.tolerance


def read_goldens(path: Path) -> dict[str, Tensor]:
    """The golden tensors by name. Raises `UserError` if the file is no whole safetensors file, or holds none."""
    require_file(path, "--check")
    try:
        # As they were made: on a CPU, in float32.
        goldens = {name: v.float() if v.is_floating_point() else v for name, v in load_file(path).items()}
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(
            f"--check {path}: cannot be read ({error}); expected whole safetensors, fetch it again"
        ) from None
    if not any(set(needs) <= set(goldens) for needs, _ in GROUPS):
        raise UserError(f"--check {path}: holds no golden tensors; expected names such as eps, x, timestep, hint")
    return goldens


@torch.inference_mode()
def check(pipeline: PICSPipeline, goldens: Mapping[str, Tensor], block: str | None) -> Iterator[Line]:
    """Computes every golden tensor, group by group. `block` is our name of the golden block in `backbone`; if None it
    is the first that fits and gives the golden output, or the first. What nothing can be compared with, because its
    inputs are not there or its name means nothing, has an infinite error: it does not pass."""
    _require_fitting(pipeline, goldens)
    left = [name for name in goldens if name not in INPUTS]
    for needs, group in GROUPS:
        if needs <= set(goldens):
            for name, found in group(pipeline, goldens, block):
                tolerance = SAMPLER_TOLERANCE if SAMPLED.fullmatch(name) else TOLERANCE
                yield Line(name, tuple(goldens[name].shape), largest_error(found, goldens[name]), tolerance)
                left.remove(name)
    for name in left:
        yield Line(name, tuple(goldens[name].shape), math.inf, TOLERANCE)


def _require_fitting(pipeline: PICSPipeline, goldens: Mapping[str, Tensor]) -> None:
    """Raises `UserError` for inputs that another model was given, naming the tensor."""
    width, latent = pipeline.backbone.config.code_channels, pipeline.backbone.config.latent_channels
    pixels = goldens["hint"].shape[-1] if "hint" in goldens else 0
    side = pixels // latent_stride(pipeline.autoencoder, 0)
    size = pipeline.framing.object_resolution
    for name, expected in (
        ("object_images", (2, 3, size, size)),
        ("object_codes", (2, "tokens", width)),
        ("uncond_codes", (1, "tokens", width)),
        ("vae_pixels", (1, 3, "R", "R")),
        ("hint", (1, 4, pixels, pixels)),
        ("masks", (1, 2, pixels, pixels)),
        ("x", (1, latent, side, side)),
        ("timestep", (1,)),
        ("block_x", ("pictures", "tokens", "C")),
        ("block_codes", ("pictures", 2, "tokens", width)),
        ("block_masks", ("pictures", 2, "tokens")),
    ):
        found = tuple(goldens[name].shape) if name in goldens else expected
        wanted = [a if isinstance(b, str) else b for a, b in zip(found, expected, strict=False)]
        if len(found) != len(expected) or wanted != list(found):
            words = ", ".join(map(str, expected))
            raise UserError(f"goldens: {name} is {list(found)}; this model takes [{words}]: are they of another model?")


Found = Iterator[tuple[str, Tensor]]
Group = Callable[[PICSPipeline, Mapping[str, Tensor], str | None], Found]


def _codes(pipeline: PICSPipeline, goldens: Mapping[str, Tensor], _: str | None) -> Found:
    yield "object_codes", pipeline.object_encoder(as_pictures(goldens["object_images"]))


def _uncond(pipeline: PICSPipeline, goldens: Mapping[str, Tensor], _: str | None) -> Found:
    size = pipeline.framing.object_resolution
    yield "uncond_codes", pipeline.object_encoder(nothing(size, goldens["uncond_codes"]))


def _latent(pipeline: PICSPipeline, goldens: Mapping[str, Tensor], _: str | None) -> Found:
    yield "vae_latent_mode", encode_pixels(pipeline.autoencoder, 0, goldens["vae_pixels"])


def _block(pipeline: PICSPipeline, goldens: Mapping[str, Tensor], block: str | None) -> Found:
    x = goldens["block_x"]
    # If nothing says which block it is, those of the U-Net come first.
    by_model = sorted(interaction_layers(pipeline.backbone), key=lambda name: name.startswith("controlnet."))
    layers = [pipeline.backbone.get_submodule(name) for name in ([block] if block else by_model)]
    fitting = [layer for layer in layers if layer.norm1.weight.shape[0] == x.shape[-1]]
    if not fitting:
        raise UserError(f"goldens: block_x has {x.shape[-1]} channels, as no block of the model has; another model's?")

    def run(layer: Any) -> Tensor:
        out: Tensor = layer(x, cross_attention_kwargs={"interactions": block_objects(goldens)})
        return out

    errors = [(largest_error(run(layer), goldens["block_out"]) > TOLERANCE, i) for i, layer in enumerate(fitting)]
    layer = fitting[min(errors)[1]]
    yield "block_out", run(layer)
    # Scores and alpha are those of all tokens, whatever covers them: seen where all masks cover everything.
    objects = block_objects(goldens)
    objects.regions = torch.ones_like(objects.regions)
    objects.readings = []
    layer(x, cross_attention_kwargs={"interactions": objects})
    (reading,) = objects.readings
    shape = (*x.shape[:2], objects.codes.shape[1])
    if "block_scores" in goldens:
        yield "block_scores", reading.scores.view(shape)
    if "block_alpha" in goldens:
        yield "block_alpha", reading.alpha.view(shape)[..., 0]


def _objects(goldens: Mapping[str, Tensor], codes: Tensor, masks: Tensor) -> Interactions:
    """codes [K, M, D], masks [1, K, S, S] -> the objects of one picture."""
    return Interactions(codes[None], masks > 0.5)


def _uncond_objects(goldens: Mapping[str, Tensor]) -> Interactions:
    masks = goldens["masks"]
    return _objects(goldens, goldens["uncond_codes"].expand(masks.shape[1], -1, -1), masks)


def _control(pipeline: PICSPipeline, goldens: Mapping[str, Tensor], _: str | None) -> Found:
    objects = _objects(goldens, goldens["object_codes"], goldens["masks"])
    down, mid = pipeline.backbone.controlnet(
        goldens["x"],
        goldens["timestep"],
        controlnet_cond=goldens["hint"],
        encoder_hidden_states=objects.codes.flatten(1, 2),
        cross_attention_kwargs={"interactions": objects},
        return_dict=False,
    )
    names = [name for name in goldens if re.fullmatch(r"control_\d+", name)]
    found = dict(enumerate([*down, mid]))
    for name in sorted(names, key=lambda name: int(name.removeprefix("control_"))):
        yield name, found.get(int(name.removeprefix("control_")), torch.empty(0))


def _eps(pipeline: PICSPipeline, goldens: Mapping[str, Tensor], _: str | None) -> Found:
    codes, masks = goldens["object_codes"], goldens["masks"]
    kinds = {"eps": _objects(goldens, codes, masks)}
    if "uncond_codes" in goldens:
        kinds["eps_uncond"] = _uncond_objects(goldens)
    kinds["eps_swapped"] = _objects(goldens, codes.flip(0), masks.flip(1))
    for name, objects in kinds.items():
        if name in goldens:
            yield name, pipeline.backbone(goldens["x"], goldens["timestep"], goldens["hint"], objects)


def _sampled(pipeline: PICSPipeline, goldens: Mapping[str, Tensor], _: str | None) -> Found:
    """The model's own scheduler, from `x`, as many steps and as much guidance as the tensor's name says."""
    wanted = {(found[1], found[2]) for name in goldens if (found := SAMPLED.fullmatch(name))}
    for steps, guidance in sorted(wanted):
        latent = _sample(pipeline, goldens, int(steps), float(guidance))
        start = f"ddim{steps}_cfg{guidance}_"
        if f"{start}latent" in goldens:
            yield f"{start}latent", latent
        if f"{start}image" in goldens:
            yield f"{start}image", decode_latent(pipeline.autoencoder, 0, latent)


def _sample(pipeline: PICSPipeline, goldens: Mapping[str, Tensor], steps: int, guidance: float) -> Tensor:
    scheduler = pipeline.fresh_scheduler(steps, goldens["x"].device)
    objects = _objects(goldens, goldens["object_codes"], goldens["masks"])
    latents, _ = pipeline.denoise(scheduler, goldens["x"], goldens["hint"], objects, goldens["uncond_codes"], guidance)
    return latents


# What a group needs of the goldens, beside its own outputs.
GROUPS: tuple[tuple[set[str], Group], ...] = (
    ({"object_images", "object_codes"}, _codes),
    ({"uncond_codes"}, _uncond),
    ({"vae_pixels", "vae_latent_mode"}, _latent),
    ({"block_x", "block_codes", "block_masks", "block_out"}, _block),
    (CALL, _control),
    (CALL, _eps),
    (CALL | {"uncond_codes"}, _sampled),
)


def print_check(lines: Iterator[Line]) -> bool:
    """Prints a table of the goldens, each line as soon as it is known; returns whether all are good."""
    table = Table(title="Golden tensors")
    for column in ("tensor", "shape", "largest error", "tolerance", ""):
        table.add_column(column, justify="left" if column in ("tensor", "shape", "") else "right", no_wrap=True)
    all_good = True
    for line in lines:
        all_good &= line.good
        shape = " x ".join(map(str, line.shape))
        verdict = "ok" if line.good else "FAILED"
        table.add_row(line.name, shape, f"{line.error:.1e}", f"{line.tolerance:.0e}", verdict)
    Console().print(table)
    return all_good
