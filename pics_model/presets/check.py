"""Which values a preset may hold: layers would fail in words of their own, or not at all."""

import inspect
from collections.abc import Mapping
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, FlowMatchEulerDiscreteScheduler

from pics_common.errors import UserError
from pics_model.backbone import Backbone
from pics_model.dino_encoder import DinoObjectEncoder
from pics_model.flow_transformer import NUM_TIMESTEPS, FlowTransformer
from pics_model.inputs import FramingSettings
from pics_model.object_encoder import ConvObjectEncoder


def patches(patch: int = 4) -> int:
    """Squares of `patch` x `patch` pixels as latents, in place of an autoencoder."""
    return patch


# The first kind of a section is the one that is meant where it names none.
KINDS: dict[str, dict[str, Any]] = {
    "backbone": {"unet": Backbone, "transformer": FlowTransformer},
    "encoder": {"conv": ConvObjectEncoder, "dino": DinoObjectEncoder},
    "autoencoder": {"patches": patches, "kl": AutoencoderKL},
    "framing": {"framing": FramingSettings},
    "schedule": {"ddim": DDIMScheduler, "flow": FlowMatchEulerDiscreteScheduler},
}


def kind_of(section: str, values: Mapping[str, Any]) -> str:
    """The kind that a section names, or its first. Raises `UserError` if there is no such kind."""
    kinds = KINDS[section]
    kind = values.get("kind", next(iter(kinds)))
    _expect(f"{section}.kind", kind, kind in kinds, " or ".join(kinds))
    return str(kind)


def make(section: str, values: Mapping[str, Any]) -> Any:
    """What a section describes."""
    arguments = {key: value for key, value in values.items() if key != "kind"}
    return KINDS[section][kind_of(section, values)](**arguments)


def check_preset(values: Mapping[str, Any]) -> None:
    """Raises `UserError` for the first key of a preset whose value cannot work."""
    for key, kind in (("name", str), ("steps", int), ("guidance", float)):
        _check_value(key, values[key], kind)
    given = {section: _with_defaults(section, values[section]) for section in KINDS}
    framing = FramingSettings(**values["framing"])
    try:
        schedule = make("schedule", values["schedule"])
    except (ValueError, NotImplementedError, TypeError) as error:
        raise UserError(f"key `schedule`: {error}") from None
    most = schedule.config.num_train_timesteps
    _expect("steps", values["steps"], 1 <= values["steps"] <= most, f"1 to {most}")
    kinds = {section: kind_of(section, values[section]) for section in KINDS}
    if kinds["schedule"] == "ddim":
        said, known = schedule.config.prediction_type, ("epsilon", "v_prediction", "sample")
        _expect("schedule.prediction_type", said, said in known, " or ".join(known))
    else:
        _check_flow(given["schedule"])
    stride, channels = _check_autoencoder(given["autoencoder"], kinds["autoencoder"])
    _check_blocks(given["backbone"], channels)
    if kinds["backbone"] == "unet":
        _check_unet(given["backbone"], stride, framing)
    else:
        _expect("schedule.kind", kinds["schedule"], kinds["schedule"] == "flow", "flow, for a transformer")
        _check_transformer(given["backbone"], stride, framing)
    _check_encoder(given["encoder"], kinds["encoder"], given["backbone"], framing)


def _check_autoencoder(autoencoder: Mapping[str, Any], kind: str) -> tuple[int, int]:
    """Pixels a side of a latent, and channels of a latent."""
    if kind == "patches":
        patch = autoencoder["patch"]
        _expect("autoencoder.patch", patch, patch > 0 and patch.bit_count() == 1, "a power of two")
        return patch, 3 * patch**2
    return 2 ** (len(autoencoder["block_out_channels"]) - 1), autoencoder["latent_channels"]


def _check_flow(schedule: Mapping[str, Any]) -> None:
    """Pictures of a model have one size, so that `shift` says all; other ways of spacing steps are not trained for."""
    _expect("schedule.shift", schedule["shift"], schedule["shift"] > 0, "a number above 0")
    steps = schedule["num_train_timesteps"]
    _expect("schedule.num_train_timesteps", steps, steps == NUM_TIMESTEPS, str(NUM_TIMESTEPS))
    for key in ("use_dynamic_shifting", "invert_sigmas", "shift_terminal"):
        _expect(f"schedule.{key}", schedule[key], not schedule[key], "nothing; `shift` says all")


def _check_blocks(backbone: Mapping[str, Any], channels: int) -> None:
    """What interaction blocks need, in whatever backbone."""
    forms = ("blend", "blend_attend")
    for key, good, words in (
        ("latent_channels", backbone["latent_channels"] == channels, f"{channels}, as the autoencoder has"),
        ("overlap", backbone["overlap"] in forms, " or ".join(forms)),
        ("tau", backbone["tau"] > 0, "a number above 0"),
    ):
        _expect(f"backbone.{key}", backbone[key], good, words)


def _check_transformer(backbone: Mapping[str, Any], stride: int, framing: FramingSettings) -> None:
    side, patch, width = backbone["sample_size"], backbone["patch_size"], backbone["head_channels"]
    for key, good, words in (
        ("hint_stride", backbone["hint_stride"] == stride, f"{stride}, the pixels a side of a latent"),
        ("sample_size", side * stride == framing.resolution, f"framing.resolution in latents of {stride} pixels"),
        ("patch_size", patch > 0 and side % patch == 0, f"1 or more, dividing sample_size, {side}"),
        ("picture_std", backbone["picture_std"] > 0, "a number above 0"),
        ("num_layers", backbone["num_layers"] > 0, "1 or more"),
        ("num_heads", backbone["num_heads"] > 0, "1 or more"),
        # Positions are sines and cosines of two axes.
        ("head_channels", width > 0 and width * backbone["num_heads"] % 4 == 0, "a multiple of 4 over all heads"),
    ):
        _expect(f"backbone.{key}", backbone[key], good, words)


def _check_unet(backbone: Mapping[str, Any], stride: int, framing: FramingSettings) -> None:
    levels = len(backbone["block_out_channels"])
    expected = [
        ("attention_levels", len(backbone["attention_levels"]) == levels, "as many as block_out_channels"),
        ("hint_channels", 2 ** (len(backbone["hint_channels"]) - 1) == stride, "one a halving to a latent, and 1"),
        ("transformer_depth", backbone["transformer_depth"] > 0, "1 or more"),
    ]  # fmt: skip
    expected += [
        ("block_out_channels", all(width % backbone[key] == 0 for width in backbone["block_out_channels"]),
         f"multiples of {key}, {backbone[key]}")
        for key in ("head_channels", "norm_num_groups")
    ]  # fmt: skip
    for key, good, words in expected:
        _expect(f"backbone.{key}", backbone[key], good, words)
    grid = stride * 2 ** (levels - 1)
    _expect("framing.resolution", framing.resolution, framing.resolution % grid == 0, f"a multiple of {grid}")


def _check_encoder(
    encoder: Mapping[str, Any], kind: str, backbone: Mapping[str, Any], framing: FramingSettings
) -> None:
    size, width = encoder["resolution"], encoder["code_channels"]
    if kind == "conv":
        cell = encoder["patch"]
        _expect("encoder.patch", cell, cell > 1 and cell.bit_count() == 1 and size % cell == 0,
                "a power of two that divides encoder.resolution")  # fmt: skip
    wanted = "true where framing.views is above 0, else false"
    _expect("encoder.views", encoder["views"], encoder["views"] == (framing.views > 0), wanted)
    words = encoder["text_channels"]
    _expect("encoder.text_channels", words, words == 0, "0; `start --texts` makes models that take words")
    _expect("encoder.resolution", size, size == framing.object_resolution,
            f"framing.object_resolution, {framing.object_resolution}")  # fmt: skip
    _expect("encoder.code_channels", width, width == backbone["code_channels"],
            f"backbone.code_channels, {backbone['code_channels']}")  # fmt: skip


def _with_defaults(section: str, given: Any) -> dict[str, Any]:
    """The arguments of a section's class, those that `given` lacks by default."""
    if not isinstance(given, dict):
        raise UserError(f"key `{section}` holds {given!r}; expected keys and values")
    accepted = inspect.signature(KINDS[section][kind_of(section, given)]).parameters
    known = {name: argument.default for name, argument in accepted.items()}
    for key, value in given.items():
        if key == "kind":
            continue
        if key not in known:
            raise UserError(f"unknown key `{section}.{key}`; expected {', '.join(known)}")
        default = known[key]
        if isinstance(default, tuple):
            _expect(f"{section}.{key}", value, isinstance(value, list) and bool(value), "a list")
            for item in value:
                _check_value(f"{section}.{key}", item, type(default[0]))
        elif isinstance(default, bool | int | float | str):
            _check_value(f"{section}.{key}", value, type(default))
    return known | given


def _check_value(key: str, value: Any, kind: type) -> None:
    """Numbers that a preset holds are sizes, counts and weights: none is below zero."""
    kinds: tuple[type, ...] = (int, float) if kind is float else (kind,)
    good = isinstance(value, kinds) and (kind is bool or not isinstance(value, bool))
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[kind]
    _expect(key, value, good, words)
    if kind in (int, float):
        _expect(key, value, value >= 0, f"{words}, 0 or more")


def _expect(key: str, value: Any, good: bool, words: str) -> None:
    if not good:
        raise UserError(f"key `{key}` is {value!r}; expected {words}")
