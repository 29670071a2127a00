"""Checkpoints: all that a run needs to go on, for resuming; `snapshot` makes what users get.

`checkpoints/<samples>/` holds `weights.safetensors`, `optimizer.safetensors`, `mean.safetensors` where a mean of the
weights is kept, and `state.json`, which is written last, with the SHA-256 of the others, into a folder that is renamed
into place: a checkpoint is whole or is not there, and one that was damaged later is found out. It holds what is
trained, and of what is frozen (a DINOv2 trunk has a billion weights) only a fingerprint. Nothing is pickled. No random
state is in it: what is drawn is a function of seed and samples seen.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pics_common.errors import UserError
from pics_common.files import flush
from pics_model.learner import Learner
from pics_model.parallel import parted, whole_tensors
from pics_model.pipeline import PICSPipeline
from pics_model.snapshot import parts_of

FORMAT = 4
FINGERPRINT_VALUES = 16  # read of each frozen weight: who has another file has other numbers everywhere


@dataclass(frozen=True, slots=True)
class TrainState:
    """What a run must know to go on, besides tensors: the clock is `samples`, all else is a function of it.

    `model` is what the model is made of (`describe`), `frozen` the fingerprint of the weights that are not trained,
    `settings` are the command's, `stream` says what the data are and where in them the run stands, all as JSON.
    `val_loss` is there where the run was validated at this place. `sha256` are those of the files of tensors, by name.
    """

    samples: int
    model: dict[str, Any]
    frozen: str
    settings: dict[str, Any]
    stream: dict[str, Any]
    val_loss: float | None = None
    sha256: dict[str, str] = field(default_factory=dict)
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


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds: the state without the weights that are frozen."""
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def checkpoint_tensors(learner: Learner) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint, whole, by file. Every rank must call it."""
    files = {
        "weights.safetensors": whole_tensors(trained_tensors(learner.module)),
        "optimizer.safetensors": learner.optimizer.tensors(),
    }
    if learner.ema is not None:
        files["mean.safetensors"] = whole_tensors(learner.ema.means)
    return files


def save_checkpoint(run: Path, files: Mapping[str, Mapping[str, Tensor]], state: TrainState, keep: int) -> Path:
    """Writes `checkpoints/<samples>` of a run atomically; removes all but the newest `keep`, at least 1, and the best:
    that of the least validation loss."""
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    final, partial = folder / f"{state.samples:012d}", folder / f".{state.samples:012d}.partial"
    for left in folder.glob(".*"):  # of a run that was killed
        shutil.rmtree(left)
    partial.mkdir()
    for name, tensors in files.items():
        save_file(dict(tensors), partial / name)
    state = replace(state, sha256={name: _sha256(partial / name) for name in files})
    (partial / "state.json").write_text(json.dumps(asdict(state), indent=1))
    for file in partial.iterdir():
        flush(file)
    flush(partial)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    flush(folder)
    best = best_checkpoint(run)
    for old in list_checkpoints(run)[:-keep]:
        if old != best:
            # Hidden first: one that is half removed would look whole.
            shutil.rmtree(old.rename(folder / f".{old.name}.old"))
    return final


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def best_checkpoint(run: Path) -> Path | None:
    """The checkpoint of the least validation loss, the newest of equals; None where no run was validated."""
    judged = [(state.val_loss, -state.samples, path) for path in list_checkpoints(run)
              if (state := read_state(path)).val_loss is not None]  # fmt: skip
    return min(judged)[2] if judged else None


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


def load_checkpoint(checkpoint: Path, learner: Learner, state: TrainState) -> None:
    """Puts a checkpoint's tensors into what learns. Raises `UserError` naming file and key if one differs or is
    damaged."""
    path = checkpoint / "weights.safetensors"
    found = _load(path, state)
    expected = trained_tensors(learner.module)
    for name in sorted(expected.keys() | found.keys()):
        shapes = [list(tensors[name].shape) if name in tensors else "absent" for tensors in (found, expected)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"checkpoint {path}: weight `{name}` is {shapes[0]}, expected {shapes[1]}; "
                f"remove its folder to resume from before"
            )
    learner.module.load_state_dict({name: parted(found[name], expected[name]) for name in found}, strict=False)
    path = checkpoint / "optimizer.safetensors"
    learner.optimizer.load(_load(path, state), str(path))
    if learner.ema is not None:
        path = checkpoint / "mean.safetensors"
        learner.ema.load(_load(path, state), str(path))


def _load(path: Path, state: TrainState) -> dict[str, Tensor]:
    try:
        if _sha256(path) != state.sha256.get(path.name):
            raise UserError(f"checkpoint {path}: damaged since it was written; remove its folder to resume from before")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"checkpoint {path}: unreadable ({error}); remove its folder to resume from before") from None
