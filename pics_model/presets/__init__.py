"""Presets: what a model is made of, one YAML file each, read into a `Preset`."""

import dataclasses
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

    Raises `UserError` if there is none, or if it holds an unknown key or lacks one.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise UserError(f"preset {name}: there is none of that name; expected one of {known}, or a YAML file's path")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"preset {path}: not YAML ({error})") from None
    names = {field.name for field in dataclasses.fields(Preset)}
    found = set(values) if isinstance(values, dict) else set()
    if found != names:
        wrong = [f"unknown key `{k}`" for k in sorted(found - names)] + [f"no key `{k}`" for k in sorted(names - found)]
        raise UserError(f"preset {path}: {', '.join(wrong)}")
    return Preset(**values)


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
