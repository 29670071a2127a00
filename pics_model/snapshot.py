"""A model for users: a folder of safetensors and JSON, written whole or not at all."""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from pics_common.errors import UserError
from pics_model.pipeline import PICSPipeline

TRAINED = ("backbone", "object_encoder")


def parts_of(pipeline: PICSPipeline) -> Iterator[tuple[str, Any]]:
    """The parts of a pipeline that hold weights, by name."""
    for name in (*TRAINED, "autoencoder", "text_encoder"):
        part = getattr(pipeline, name)
        if part is not None:
            yield name, part


def with_weights(pipeline: PICSPipeline, tensors: Mapping[str, Tensor]) -> PICSPipeline:
    """A pipeline to be saved, with other weights in its backbone and object encoder: `tensors`, `backbone.` or
    `object_encoder.` before each name. All else is shared."""
    parts = dict(pipeline.components)
    for name in TRAINED:
        with torch.device("meta"):
            part = type(parts[name]).from_config(parts[name].config)
        start = f"{name}."
        mine = {key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)}
        part.load_state_dict(mine, assign=True)
        parts[name] = part
    settings = {key: pipeline.config[key] for key in ("preset", "patch", "guidance", "steps", "framing", "objective")}
    return PICSPipeline(**parts, **settings)


def save_model(final: Path, pipeline: PICSPipeline, texts: Mapping[str, str] | None = None) -> Path:
    """Writes a model that `PICSPipeline.from_pretrained` opens, in the place of what stood there; `texts` are further
    files by name. Raises `UserError` if the place cannot be written."""

    def fill(partial: Path) -> None:
        pipeline.save_pretrained(partial, safe_serialization=True)
        for name, text in (texts or {}).items():
            (partial / name).write_text(text)

    return _replace(final, fill)


def keep_as(model: Path, final: Path) -> Path:
    """A second name for a saved model, in the place of what stood there: links to the same files where the disk knows
    them, as no file of a saved model is ever changed."""
    return _replace(final, lambda partial: shutil.copytree(model, partial, copy_function=_link, dirs_exist_ok=True))


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
    return target


def _replace(final: Path, fill: Any) -> Path:
    partial, old = final.parent / f".{final.name}.partial", final.parent / f".{final.name}.old"
    try:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True)
        fill(partial)
        if final.exists():
            final.rename(old)
        partial.rename(final)
    except (OSError, SafetensorError) as error:
        raise UserError(f"model {final}: cannot be written ({error}); make room for it, or choose another") from None
    shutil.rmtree(old, ignore_errors=True)
    return final
