"""What the shapes of a published model's weights cannot say: how wide a head of attention is, tau, which block the
golden one is. From options, from a `config.json` beside the file, from the goldens, or by the rule of full size.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor

from pics_common.errors import UserError
from pics_model.dino_encoder import DinoObjectEncoder
from pics_model.interaction import InteractionBlock
from pics_model.objects import Interactions
from pics_model.published_names import CONTROL, UNET, UNUSED, Piece
from pics_model.published_sizes import Sizes

FULL_HEAD, SMALL_HEAD = 64, 16
OBJECT_RESOLUTION = 224
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Facts:
    """`tau`, `scale_factor` (of the autoencoder's latents), `guidance`, and the golden block's published name, or None.
    `head_channels` and `dino_heads` are None where nothing said them; `origins` tells where each was found."""

    head_channels: int | None = None
    dino_heads: int | None = None
    tau: float = 0.5
    scale_factor: float = 0.18215
    guidance: float = 5.0
    block: str | None = None
    origins: dict[str, str] = field(default_factory=dict)


def read_facts(folders: list[Path]) -> Facts:
    """From the `config.json` in the first of these folders that has one; what it lacks is as at full size. Raises
    `UserError` for a file that is no JSON, or a value that cannot be."""
    path = next((folder / "config.json" for folder in folders if (folder / "config.json").is_file()), None)
    if path is None:
        return Facts()
    try:
        values = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON ({error}); mend it, or put it elsewhere") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values; mend it, or put it elsewhere")
    found: dict[str, Any] = {}
    for name, key, kind in (
        ("head_channels", "config.num_head_channels", int),
        ("dino_heads", "dino.num_heads", int),
        ("tau", "tau", float),
        ("scale_factor", "scale_factor", float),
        ("guidance", "guidance", float),
        ("block", "block", str),
    ):
        value: Any = values
        for word in key.split("."):
            value = value.get(word) if isinstance(value, dict) else None
        if value is None:
            continue
        good = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not good or (kind is not str and not 0 < value < math.inf):
            expected = {int: "a whole number above 0", float: "a number above 0", str: "a name"}[kind]
            raise UserError(f"{path}: key `{key}` is {value!r}; expected {expected}")
        found[name] = value
    return Facts(**found, origins=dict.fromkeys(found, str(path)))


def head_channels_of(
    sizes: Sizes, given: int | None, facts: Facts, weights: Mapping[str, Tensor], goldens: Mapping[str, Tensor] | None
) -> tuple[int, str]:
    """Width of a head of the U-Net and the ControlNet, and where it is from. Raises `UserError` if nothing says it."""
    widths = sizes.attention_widths
    common = math.gcd(*widths)
    origin = "--head-channels" if given else facts.origins.get("head_channels", "")
    said = given or facts.head_channels
    if said:
        if common % said:
            raise UserError(f"{origin}: heads of {said} channels; expected one that divides {widths}")
        return said, f"from {origin}"
    for candidate in _candidates(common) if goldens else ():
        if golden_block(sizes, candidate, facts, weights, goldens or {}) is not None:
            return candidate, "with it the golden block comes out"
    return _by_rule(common, f"levels of {widths} channels", "--head-channels")


def dino_heads_of(
    sizes: Sizes, given: int | None, facts: Facts, weights: Mapping[str, Tensor], pieces: list[Piece],
    goldens: Mapping[str, Tensor] | None,
) -> tuple[int, str]:  # fmt: skip
    """Number of heads of the DINOv2, and where it is from. Raises `UserError` if nothing says it."""
    width = sizes.trunk["hidden_size"]
    origin = "--dino-heads" if given else facts.origins.get("dino_heads", "")
    said = given or facts.dino_heads
    if said:
        if width % said:
            raise UserError(f"{origin}: {said} heads; expected a number that divides {width}, DINOv2's width")
        return said, f"from {origin}"
    for candidate in _candidates(width) if goldens and {"object_images", "object_codes"} <= set(goldens) else ():
        if _codes_error(sizes, width // candidate, weights, pieces, goldens or {}) <= TOLERANCE:
            return width // candidate, "with it the golden object codes come out"
    head, origin = _by_rule(width, f"a DINOv2 of width {width}", "--dino-heads")
    return width // head, origin


def _candidates(common: int) -> Iterator[int]:
    """Widths that a head can have, the likely ones first."""
    likely = [FULL_HEAD, SMALL_HEAD, 32, 128, 8]
    rest = [width for width in range(common, 0, -1) if width not in likely]
    return (width for width in [*likely, *rest] if common % width == 0)


def _by_rule(common: int, what: str, option: str) -> tuple[int, str]:
    for width in (FULL_HEAD, SMALL_HEAD):
        if common % width == 0:
            return width, f"by rule, {width} channels each; nothing says it, {option} would"
    raise UserError(f"{what} cannot have heads of {FULL_HEAD} or {SMALL_HEAD} channels; say it with {option}")


def golden_block(
    sizes: Sizes, head_channels: int, facts: Facts, weights: Mapping[str, Tensor], goldens: Mapping[str, Tensor]
) -> str | None:
    """The published name of the first block that gives `block_out`, with heads of that width; None if none does."""
    if not {"block_x", "block_codes", "block_masks", "block_out"} <= set(goldens):
        return None
    width = goldens["block_x"].shape[-1]
    for name in [facts.block] if facts.block else blocks_of(weights):
        state = {key.removeprefix(f"{name}."): value for key, value in weights.items()
                 if key.startswith(f"{name}.") and UNUSED not in key}  # fmt: skip
        fits = state and state["norm1.weight"].shape[0] == width and width % head_channels == 0
        if fits and _block_error(state, sizes, head_channels, facts.tau, goldens) <= TOLERANCE:
            return name
    return None


def blocks_of(weights: Mapping[str, Tensor]) -> list[str]:
    """Published names of the interaction blocks, in the file's order."""
    end = ".gate_q.weight"
    return [key.removesuffix(end) for key in weights if key.endswith(end) and key.startswith((UNET, CONTROL))]


def block_objects(goldens: Mapping[str, Tensor]) -> Interactions:
    """The objects of the golden block, on the square grid of its tokens. Raises `UserError` if that is none."""
    masks = goldens["block_masks"]
    side = math.isqrt(masks.shape[-1])
    if masks.ndim != 3 or side**2 != masks.shape[-1]:
        raise UserError(f"goldens: block_masks is {list(masks.shape)}; expected [pictures, objects, n * n tokens]")
    return Interactions(goldens["block_codes"], (masks > 0.5).unflatten(2, (side, side)))


def _block_error(
    state: Mapping[str, Tensor], sizes: Sizes, head_channels: int, tau: float, goldens: Mapping[str, Tensor]
) -> float:
    width, code_channels = goldens["block_x"].shape[-1], sizes.backbone["code_channels"]
    if goldens["block_codes"].shape[-1] != code_channels:
        return math.inf
    with torch.device("meta"):
        stock = BasicTransformerBlock(width, width // head_channels, head_channels, cross_attention_dim=code_channels)
        block = InteractionBlock(stock, code_channels, "blend_attend", tau, placement=False)
    block.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    with torch.inference_mode():
        out = block(goldens["block_x"], cross_attention_kwargs={"interactions": block_objects(goldens)})
    return largest_error(out, goldens["block_out"])


def _codes_error(
    sizes: Sizes, heads: int, weights: Mapping[str, Tensor], pieces: list[Piece], goldens: Mapping[str, Tensor]
) -> float:
    images = goldens["object_images"]
    if images.shape[-1] != OBJECT_RESOLUTION:
        return math.inf
    with torch.device("meta"):
        trunk = sizes.trunk | {"num_attention_heads": heads}
        encoder = DinoObjectEncoder(trunk, OBJECT_RESOLUTION, sizes.backbone["code_channels"])
    state = {piece.ours: piece.value(weights).float() for piece in pieces if piece.part == "object_encoder"}
    encoder.load_state_dict(state, assign=True)
    with torch.inference_mode():
        codes = encoder(as_pictures(images))
    return largest_error(codes, goldens["object_codes"])


def as_pictures(images: Tensor) -> Tensor:
    """[N, 3, S, S] in [0, 1] -> what an object encoder takes, [N, 4, S, S]."""
    return torch.cat([2 * images - 1, torch.ones_like(images[:, :1])], 1)


def largest_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference; infinite for tensors of other shapes, or where one has no number."""
    if found.shape != expected.shape:
        return math.inf
    error = (found.double() - expected.double()).abs().max().item() if found.numel() else 0.0
    return math.inf if math.isnan(error) else error
