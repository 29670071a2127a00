"""Presets: what a model is made of, one YAML file each, read into a `Preset`."""

import dataclasses
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from diffusers import DDIMScheduler

from pics_common.errors import UserError
from pics_model.backbone import Backbone, init_from_scratch
from pics_model.inputs import FramingSettings
from pics_model.object_encoder import ConvObjectEncoder
from pics_model.pipeline import PICSPipeline

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Preset:
    """Sizes and settings of a model. `backbone`, `encoder` and `schedule` are the arguments of `Backbone`,
    `ConvObjectEncoder` and diffusers' `DDIMScheduler`; `framing` those of `FramingSettings`; `guidance` and `steps`
    are what sampling uses if nothing else is said."""

    name: str
    patch: int
    guidance: float
    steps: int
    backbone: dict[str, Any]
    encoder: dict[str, Any]
    framing: dict[str, Any]
    schedule: dict[str, Any]


def load_preset(name: str) -> Preset:
    """The preset of that name, or of a YAML file of the user's own.

    Raises `UserError` if there is none, if it holds an unknown key or lacks one, or if a value cannot work.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise UserError(f"preset {name}: there is none of that name; expected one of {known}, or a YAML file's path")
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"preset {path}: not YAML ({error})") from None
    names = {field.name for field in dataclasses.fields(Preset)}
    found = set(values) if isinstance(values, dict) else set()
    if found != names:
        wrong = [f"unknown key `{k}`" for k in sorted(found - names)] + [f"no key `{k}`" for k in sorted(names - found)]
        raise UserError(f"preset {path}: {', '.join(wrong)}")
    preset = Preset(**values)
    try:
        _check(preset)
    except UserError as error:
        raise UserError(f"preset {path}: {error}") from None
    return preset


SECTIONS: dict[str, Any] = {
    "backbone": Backbone,
    "encoder": ConvObjectEncoder,
    "framing": FramingSettings,
    "schedule": DDIMScheduler,
}


def _check(preset: Preset) -> None:
    """Raises `UserError` for the first key whose value cannot work: layers would fail in words of their own, or not."""
    for key, kind in (("name", str), ("patch", int), ("steps", int), ("guidance", float)):
        _check_value(key, getattr(preset, key), kind)
    values = {section: _with_defaults(section, getattr(preset, section)) for section in SECTIONS}
    backbone, encoder, framing = values["backbone"], values["encoder"], FramingSettings(**values["framing"])
    try:
        schedule = DDIMScheduler(**preset.schedule)
    except (ValueError, NotImplementedError, TypeError) as error:
        raise UserError(f"key `schedule`: {error}") from None
    patch, levels = preset.patch, len(backbone["block_out_channels"])
    _expect("patch", patch, patch > 0 and patch.bit_count() == 1, "a power of two")
    most = schedule.config.num_train_timesteps
    _expect("steps", preset.steps, 1 <= preset.steps <= most, f"1 to {most}")
    said, known = schedule.config.prediction_type, ("epsilon", "v_prediction", "sample")
    _expect("schedule.prediction_type", said, said in known, " or ".join(known))
    forms = ("blend", "blend_attend")
    expected = [
        ("latent_channels", backbone["latent_channels"] == 3 * patch**2, f"{3 * patch**2}, as 3 * patch * patch"),
        ("attention_levels", len(backbone["attention_levels"]) == levels, "as many as block_out_channels"),
        ("hint_channels", 2 ** (len(backbone["hint_channels"]) - 1) == patch, "one for each halving to a patch, and 1"),
        ("overlap", backbone["overlap"] in forms, " or ".join(forms)),
        ("tau", backbone["tau"] > 0, "a number above 0"),
    ]
    expected += [
        ("block_out_channels", all(width % backbone[key] == 0 for width in backbone["block_out_channels"]),
         f"multiples of {key}, {backbone[key]}")
        for key in ("head_channels", "norm_num_groups")
    ]  # fmt: skip
    for key, good, words in expected:
        _expect(f"backbone.{key}", backbone[key], good, words)
    grid = patch * 2 ** (levels - 1)
    _expect("framing.resolution", framing.resolution, framing.resolution % grid == 0, f"a multiple of {grid}")
    size, cell, width = encoder["resolution"], encoder["patch"], encoder["code_channels"]
    _expect("encoder.patch", cell, cell > 1 and cell.bit_count() == 1 and size % cell == 0,
            "a power of two that divides encoder.resolution")  # fmt: skip
    _expect("encoder.resolution", size, size == framing.object_resolution,
            f"framing.object_resolution, {framing.object_resolution}")  # fmt: skip
    _expect("encoder.code_channels", width, width == backbone["code_channels"],
            f"backbone.code_channels, {backbone['code_channels']}")  # fmt: skip


def _with_defaults(section: str, given: Any) -> dict[str, Any]:
    """The arguments of a section's class, those that `given` lacks by default."""
    if not isinstance(given, dict):
        raise UserError(f"key `{section}` holds {given!r}; expected keys and values")
    known = {name: argument.default for name, argument in inspect.signature(SECTIONS[section]).parameters.items()}
    for key, value in given.items():
        if key not in known:
            raise UserError(f"unknown key `{section}.{key}`; expected {', '.join(known)}")
        default = known[key]
        if isinstance(default, tuple):
            _expect(f"{section}.{key}", value, isinstance(value, list) and bool(value), "a list")
            for item in value:
                _check_value(f"{section}.{key}", item, type(default[0]))
        elif default is not None:
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


def build(preset: Preset) -> PICSPipeline:
    """An untrained model of that preset. Weights come from torch's global generator: seed it first."""
    backbone = Backbone(**preset.backbone)
    init_from_scratch(backbone)
    return PICSPipeline(
        backbone=backbone,
        object_encoder=ConvObjectEncoder(**preset.encoder),
        scheduler=DDIMScheduler(**preset.schedule),
        preset=preset.name,
        patch=preset.patch,
        guidance=preset.guidance,
        steps=preset.steps,
        framing=dataclasses.asdict(FramingSettings(**preset.framing)),
    )
