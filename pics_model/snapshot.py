"""A model for users: a folder of safetensors and JSON, written whole or not at all."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError

from pics_common.errors import UserError
from pics_model.pipeline import PICSPipeline


def save_model(final: Path, pipeline: PICSPipeline, texts: Mapping[str, str] | None = None) -> Path:
    """Writes a model that `PICSPipeline.from_pretrained` opens, in the place of what stood there; `texts` are further
    files by name. Raises `UserError` if the place cannot be written."""
    partial, old = final.parent / f".{final.name}.partial", final.parent / f".{final.name}.old"
    try:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True)
        pipeline.save_pretrained(partial, safe_serialization=True)
        for name, text in (texts or {}).items():
            (partial / name).write_text(text)
        if final.exists():
            final.rename(old)
        partial.rename(final)
    except (OSError, SafetensorError) as error:
        raise UserError(f"model {final}: cannot be written ({error}); make room for it, or choose another") from None
    shutil.rmtree(old, ignore_errors=True)
    return final
