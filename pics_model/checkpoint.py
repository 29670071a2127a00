"""Checkpoints (for resuming) and snapshots (for users).

`checkpoints/<samples>/` holds `weights.safetensors`, `optimizer.safetensors` and `state.json`, which is written last
into a folder that is renamed into place: a checkpoint is whole or is not there. It holds what is trained, and of what
is frozen (a DINOv2 trunk has a billion weights) only a fingerprint. `model/` is the snapshot, a folder that
`PICSPipeline.from_pretrained` opens. Nothing is pickled.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pics_common.errors import UserError
from pics_common.files import flush
from pics_model.optimizer import Optimizer
from pics_model.pipeline import PICSPipeline
from pics_model.snapshot import save_model

FORMAT = 3
FINGERPRINT_VALUES = 16  # read of each frozen weight: who has another file has other numbers everywhere


@dataclass(frozen=True, slots=True)
class TrainState:
    """What a run must know to go on, besides tensors: the clock is `samples`, all else is a function of it.

    `model` is what the model is made of (`describe`), `frozen` the fingerprint of the weights that are not trained,
    `settings` are the command's, all as JSON.
    """

    samples: int
    model: dict[str, Any]
    frozen: str
    settings: dict[str, Any]
    format: int = FORMAT


def describe(pipeline: PICSPipeline) -> dict[str, Any]:
    """What a model is made of, as JSON: its framing and objective, and the class and configuration of each part."""
    made: dict[str, Any] = {key: pipeline.config[key] for key in ("framing", "objective", "patch")}
    for name, part in (*parts_of(pipeline), ("scheduler", pipeline.scheduler)):
        config = part.config if isinstance(part.config, Mapping) else part.config.to_dict()
        # Names that begin with _ say where a part was loaded from, and by which version.
        values = {key: value for key, value in config.items() if not key.startswith("_")}
        made[name] = {"class": type(part).__name__} | values
    result: dict[str, Any] = json.loads(json.dumps(made, default=str))
    return result


def first_difference(found: Any, expected: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The first key, dotted and in alphabetical order, at which two descriptions differ, and both values; None where
    a side lacks it."""
    if not isinstance(found, dict) or not isinstance(expected, dict):
        return None if found == expected else (key, found, expected)
    for name in sorted(found.keys() | expected.keys()):
        inner = f"{key}.{name}" if key else name
        different = first_difference(found.get(name), expected.get(name), inner)
        if different:
            return different
    return None


def fingerprint(pipeline: PICSPipeline) -> str:
    """Of the weights that are not trained: their names, shapes, and some values of each."""
    digest = hashlib.sha256()
    for part, module in parts_of(pipeline):
        for name, weight in module.named_parameters():
            if not weight.requires_grad:
                values = weight.detach().flatten()
                some = values[:: max(1, len(values) // FINGERPRINT_VALUES)].float().cpu().numpy()
                digest.update(f"{part}.{name} {list(weight.shape)} ".encode() + some.tobytes())
    return digest.hexdigest()[:16]


def parts_of(pipeline: PICSPipeline) -> Iterator[tuple[str, Any]]:
    """The parts of a pipeline that hold weights, by name."""
    for name in ("backbone", "object_encoder", "autoencoder", "text_encoder"):
        part = getattr(pipeline, name)
        if part is not None:
            yield name, part


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds: the state without the weights that are frozen."""
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def save_checkpoint(run: Path, model: nn.Module, optimizer: Optimizer, state: TrainState, keep: int) -> Path:
    """Writes `checkpoints/<samples>` of a run atomically and removes all but the newest `keep`, at least 1."""
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    final, partial = folder / f"{state.samples:012d}", folder / f".{state.samples:012d}.partial"
    for left in folder.glob(".*"):  # of a run that was killed
        shutil.rmtree(left)
    partial.mkdir()
    weights = {name: tensor.detach().contiguous() for name, tensor in trained_tensors(model).items()}
    save_file(weights, partial / "weights.safetensors")
    save_file(optimizer.tensors(), partial / "optimizer.safetensors")
    (partial / "state.json").write_text(json.dumps(asdict(state), indent=1))
    for file in partial.iterdir():
        flush(file)
    flush(partial)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    flush(folder)
    for old in list_checkpoints(run)[:-keep]:
        # Hidden first: one that is half removed would look whole.
        shutil.rmtree(old.rename(folder / f".{old.name}.old"))
    return final


def list_checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(p for p in (run / "checkpoints").glob("[0-9]*") if (p / "state.json").is_file())


def read_state(checkpoint: Path) -> TrainState:
    """Raises `UserError` if `state.json` is not one of ours."""
    path = checkpoint / "state.json"
    try:
        values = json.loads(path.read_text())
        if values["format"] != FORMAT:
            raise UserError(
                f"checkpoint {path}: format {values['format']}, expected {FORMAT}; use the version that wrote it"
            )
        return TrainState(**values)
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(f"checkpoint {path}: not a training state; remove its folder to resume from before") from None


def load_checkpoint(checkpoint: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Puts a checkpoint's tensors into model and optimizer. Raises `UserError` naming file and key if one differs."""
    path = checkpoint / "weights.safetensors"
    found = _load(path)
    expected = trained_tensors(model)
    for name in sorted(expected.keys() | found.keys()):
        shapes = [list(tensors[name].shape) if name in tensors else "absent" for tensors in (found, expected)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"checkpoint {path}: weight `{name}` is {shapes[0]}, expected {shapes[1]}; "
                f"remove its folder to resume from before"
            )
    model.load_state_dict(found, strict=False)
    path = checkpoint / "optimizer.safetensors"
    optimizer.load(_load(path), str(path))


def save_snapshot(run: Path, pipeline: PICSPipeline) -> Path:
    """Writes the model for users, `model/`, whole or not at all."""
    return save_model(run / "model", pipeline)


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"checkpoint {path}: unreadable ({error}); remove its folder to resume from before") from None
