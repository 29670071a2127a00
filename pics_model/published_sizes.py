"""Sizes of a published model, read from the shapes of its weights.

What shapes cannot say is how wide an attention head is: see `published_facts`.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pics_common.errors import UserError
from pics_model.published_names import CONTROL, DINO, POSITIONS, UNET, VAE

GROUPS = 32
"""Groups of every group norm of latent diffusion, whatever the width."""
MOST_SWIGLU_RATIO = 64


class Shaped(Protocol):
    """A tensor, or what stands for it."""

    @property
    def shape(self) -> Any: ...


Shapes = Mapping[str, Shaped]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Arguments of `Backbone` (without `head_channels`), of `AutoencoderKL`, and of a DINOv2 trunk (without
    `num_attention_heads`), as far as shapes say them."""

    backbone: dict[str, Any]
    autoencoder: dict[str, Any]
    trunk: dict[str, Any]

    @property
    def attention_widths(self) -> list[int]:
        """Widths that must be multiples of a head's: of the levels with attention, and of the middle."""
        widths, levels = self.backbone["block_out_channels"], self.backbone["attention_levels"]
        return sorted({width for width, here in zip(widths, levels, strict=True) if here} | {widths[-1]})


def read_sizes(weights: Shapes) -> Sizes:
    """Raises `UserError` for what is not this kind of model, naming the weight."""
    return Sizes(_backbone(weights), _autoencoder(weights), _trunk(weights))


def _shape(weights: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    if name not in weights:
        raise UserError(f"no weight {name}; expected a published PICS model, whole")
    shape = tuple(weights[name].shape)
    if len(shape) != dimensions or not all(shape):
        raise UserError(f"weight {name} is {list(shape)}; expected {dimensions} sizes above 0")
    return shape


def _backbone(weights: Shapes) -> dict[str, Any]:
    widths: list[int] = []
    layers: list[int] = []
    attention: list[set[bool]] = []
    depths: dict[int, str] = {}
    last = 0
    new_level = True
    for place in _count(weights, f"{UNET}input_blocks.", start=1):
        if f"{place}.0.op.weight" in weights:
            new_level = True
            continue
        width = _shape(weights, f"{place}.0.out_layers.3.weight", 4)[0]
        if new_level:
            widths, layers, attention, new_level = [*widths, width], [*layers, 0], [*attention, set()], False
        if width != widths[-1]:
            raise UserError(f"weight {place}.0.out_layers.3.weight has {width} channels; expected {widths[-1]}")
        layers[-1] += 1
        depth = _depth(weights, f"{place}.1.")
        attention[-1].add(depth > 0)
        if depth:
            depths.setdefault(depth, place)
            last = _shape(weights, f"{place}.1.transformer_blocks.0.attn2.to_k.weight", 2)[1]
    middle = _depth(weights, f"{UNET}middle_block.1.")
    depths.setdefault(middle, f"{UNET}middle_block")
    _require_one("transformer blocks a place", depths)
    _require_one("residual blocks a level", {count: f"level {level}" for level, count in enumerate(layers)})
    for level, here in enumerate(attention):
        if len(here) > 1:
            raise UserError(
                f"U-Net level {level} has attention after some of its residual blocks; expected all or none"
            )
    if not last:
        raise UserError("the U-Net has no interaction blocks in its encoder; expected a published PICS model")
    for level, width in enumerate(widths):
        if width % GROUPS:
            raise UserError(f"U-Net level {level} has {width} channels; expected a multiple of {GROUPS}, its groups")
    return {
        "latent_channels": _shape(weights, f"{UNET}input_blocks.0.0.weight", 4)[1],
        "block_out_channels": widths,
        "attention_levels": [True in here for here in attention],
        "layers_per_block": layers[0],
        "norm_num_groups": GROUPS,
        "code_channels": last,
        "hint_channels": _hint_channels(weights),
        "overlap": "blend_attend",
        "placement": False,
        "transformer_depth": middle,
    }


def _hint_channels(weights: Shapes) -> list[int]:
    """A width for each resolution, from convolutions of which every second changes it: 0, 4, 8, ..., then the last."""
    numbers = sorted(_numbers(weights, f"{CONTROL}input_hint_block."))
    if len(numbers) < 4 or numbers != list(range(0, 4 * (len(numbers) // 2), 2)):
        raise UserError(f"{CONTROL}input_hint_block has convolutions {numbers}; expected 0, 2, 4, ..., an even number")
    return [_shape(weights, f"{CONTROL}input_hint_block.{number}.weight", 4)[0] for number in numbers[:-1:2]]


def _autoencoder(weights: Shapes) -> dict[str, Any]:
    levels = len(list(_count(weights, f"{VAE}encoder.down.")))
    if not levels:
        raise UserError(f"no weight {VAE}encoder.down.0; expected a published PICS model, whole")
    blocks = [len(list(_count(weights, f"{VAE}encoder.down.{level}.block."))) for level in range(levels)]
    _require_one("residual blocks a level of the autoencoder", {count: f"level {i}" for i, count in enumerate(blocks)})
    widths = [
        _shape(weights, f"{VAE}encoder.down.{level}.block.0.conv1.weight", 4)[0] if blocks[level] else 0
        for level in range(levels)
    ]
    for level, width in enumerate(widths):
        if not width or width % GROUPS:
            raise UserError(f"autoencoder level {level} has {width} channels; expected a multiple of {GROUPS}")
    return {
        "in_channels": _shape(weights, f"{VAE}encoder.conv_in.weight", 4)[1],
        "out_channels": _shape(weights, f"{VAE}decoder.conv_out.weight", 4)[0],
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": blocks[0],
        "latent_channels": _shape(weights, f"{VAE}post_quant_conv.weight", 4)[0],
        "norm_num_groups": GROUPS,
    }


def _trunk(weights: Shapes) -> dict[str, Any]:
    width, _, patch, other = _shape(weights, f"{DINO}patch_embed.proj.weight", 4)
    table = _shape(weights, POSITIONS, 3)
    patches = table[1] - 1
    if patch != other or patches < 1 or math.isqrt(patches) ** 2 != patches or table != (1, table[1], width):
        raise UserError(
            f"{POSITIONS} is {list(table)} for patches of {patch} x {other} pixels; expected [1, 1 + n * n, {width}]"
        )
    swiglu = f"{DINO}blocks.0.mlp.w12.weight" in weights
    inner = (
        _shape(weights, f"{DINO}blocks.0.mlp.w12.weight", 2)[0] // 2
        if swiglu
        else _shape(weights, f"{DINO}blocks.0.mlp.fc1.weight", 2)[0]
    )
    return {
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": len(list(_count(weights, f"{DINO}blocks."))),
        "mlp_ratio": _mlp_ratio(width, inner, swiglu),
        "patch_size": patch,
        "qkv_bias": f"{DINO}blocks.0.attn.qkv.bias" in weights,
        "use_swiglu_ffn": swiglu,
        "use_mask_token": f"{DINO}mask_token" in weights,
    }


def _mlp_ratio(width: int, inner: int, swiglu: bool) -> int:
    """DINOv2 gives its gated layers two thirds of a plain layer's width, rounded up to a multiple of 8."""
    for ratio in (4, *range(1, MOST_SWIGLU_RATIO + 1)):
        if inner == ((width * ratio * 2 // 3 + 7) // 8 * 8 if swiglu else width * ratio):
            return ratio
    raise UserError(f"{DINO}blocks.0.mlp is {inner} wide at a model width of {width}; expected a whole multiple of it")


def _depth(weights: Shapes, place: str) -> int:
    return len(list(_count(weights, f"{place}transformer_blocks.")))


def _count(weights: Shapes, prefix: str, start: int = 0) -> Iterator[str]:
    """`prefix` with the numbers from `start` on, as far as there are weights of that name."""
    found = _numbers(weights, prefix)
    number = start
    while number in found:
        yield f"{prefix}{number}"
        number += 1


def _numbers(weights: Shapes, prefix: str) -> set[int]:
    pattern = re.compile(re.escape(prefix) + r"(\d{1,4})\.")
    return {int(found[1]) for name in weights if (found := pattern.match(name))}


def _require_one(what: str, found: Mapping[int, str]) -> None:
    if len(found) > 1:
        said = ", ".join(f"{count} ({place})" for count, place in found.items())
        raise UserError(f"different numbers of {what}: {said}; expected one number")
