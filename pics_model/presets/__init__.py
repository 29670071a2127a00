"""Presets: what a model is made of, one YAML file each, read into a `Preset`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pics_common.errors import UserError
from pics_model.backbone import Backbone, init_from_scratch
from pics_model.inputs import FramingSettings
from pics_model.pipeline import PICSPipeline
from pics_model.presets.check import check_preset, make

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Preset:
    """Sizes and settings of a model.

    `backbone`, `encoder`, `autoencoder` and `schedule` each name a `kind` and hold the arguments of its class (see
    `presets.check.KINDS`); `framing` holds those of `FramingSettings`; `guidance` and `steps` are what sampling uses
    if nothing else is said.
    """

    name: str
    guidance: float
    steps: int
    autoencoder: dict[str, Any]
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
    try:
        check_preset(values)
    except UserError as error:
        raise UserError(f"preset {path}: {error}") from None
    return Preset(**values)


def build(preset: Preset) -> PICSPipeline:
    """An untrained model of that preset. Weights come from torch's global generator: seed it first."""
    backbone = make("backbone", preset.backbone)
    if isinstance(backbone, Backbone):
        init_from_scratch(backbone)
    autoencoder = make("autoencoder", preset.autoencoder)
    patches = isinstance(autoencoder, int)
    return PICSPipeline(
        backbone=backbone,
        object_encoder=make("encoder", preset.encoder),
        scheduler=make("schedule", preset.schedule),
        autoencoder=None if patches else autoencoder,
        patch=autoencoder if patches else 0,
        preset=preset.name,
        guidance=preset.guidance,
        steps=preset.steps,
        framing=dataclasses.asdict(FramingSettings(**preset.framing)),
    )
