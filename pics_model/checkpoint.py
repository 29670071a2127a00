"""Checkpoints (for resuming) and snapshots (for users).

`checkpoints/<samples>/` holds `weights.safetensors`, `optimizer.safetensors` and `state.json`, which is written last
into a folder that is renamed into place: a checkpoint is whole or is not there. `model/` is the snapshot, a folder
that `PICSPipeline.from_pretrained` opens. Nothing is pickled.
"""

import json
import shutil
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

FORMAT = 2


@dataclass(frozen=True, slots=True)
class TrainState:
    """What a run must know to go on, besides tensors: the clock is `samples`, all else is a function of it.

    `preset` are all values of the preset, `settings` those of the command, both as JSON.
    """

    samples: int
    preset: dict[str, Any]
    settings: dict[str, Any]
    format: int = FORMAT


def save_checkpoint(run: Path, model: nn.Module, optimizer: Optimizer, state: TrainState, keep: int) -> Path:
    """Writes `checkpoints/<samples>` of a run atomically and removes all but the newest `keep`, at least 1."""
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    final, partial = folder / f"{state.samples:012d}", folder / f".{state.samples:012d}.partial"
    for left in folder.glob(".*"):  # of a run that was killed
        shutil.rmtree(left)
    partial.mkdir()
    save_file(
        {name: t.detach().contiguous() for name, t in model.state_dict().items()}, partial / "weights.safetensors"
    )
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
    expected = model.state_dict()
    for name in sorted(expected.keys() | found.keys()):
        shapes = [list(tensors[name].shape) if name in tensors else "absent" for tensors in (found, expected)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"checkpoint {path}: weight `{name}` is {shapes[0]}, expected {shapes[1]}; "
                f"was it made with another preset?"
            )
    model.load_state_dict(found)
    path = checkpoint / "optimizer.safetensors"
    optimizer.load(_load(path), str(path))


def save_snapshot(run: Path, pipeline: PICSPipeline) -> Path:
    """Writes the model for users, `model/`, whole or not at all."""
    final, partial, old = run / "model", run / ".model.partial", run / ".model.old"
    for left in (partial, old):
        shutil.rmtree(left, ignore_errors=True)
    pipeline.save_pretrained(partial, safe_serialization=True)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    return final


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"checkpoint {path}: unreadable ({error}); remove its folder to resume from before") from None
