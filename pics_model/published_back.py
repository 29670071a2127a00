"""A converted model, trained on or not -> a checkpoint with the published names.

What our model does not use of the published one lies in `published.safetensors` beside it, and with it the list of all
names: so the way back gives the same bits (the unused `blend_mlp` aside).
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pics_common.errors import UserError
from pics_common.files import flush
from pics_model.published_convert import KEPT_FILE, PARTS, first, require_room
from pics_model.published_names import Piece, pieces_of
from pics_model.published_write import SAFETENSORS_TYPES, STEM, Progress, Weight, total_bytes, write_torch


@dataclass(frozen=True, slots=True)
class Stored:
    """Weights in safetensors files, by name; each is read when it is asked for."""

    path: Path
    files: dict[str, Any]

    def read(self, name: str) -> Tensor:
        value: Tensor = self.files[name].get_tensor(name)
        return value

    def dtype(self, name: str) -> torch.dtype:
        kinds = {kind: dtype for dtype, kind in SAFETENSORS_TYPES.items()}
        kind = self.files[name].get_slice(name).get_dtype()
        if kind not in kinds:
            raise UserError(f"{self.path}: weight {name} is {kind}; expected {', '.join(kinds)}")
        return kinds[kind]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.files[name].get_slice(name).get_shape())


def write_back(out: Path, model: Path, published: Path) -> int:
    """Writes the checkpoint beside `out` and renames it; returns how many weights there are. `published` is the folder
    with `published.safetensors`. Raises `UserError` for a model that is not of the published kind, or was changed in
    what the published one does not have."""
    with ExitStack() as stack:
        pieces = pieces_of({part: _part(model, part, kind) for part, kind in PARTS.items()})
        stored = {part: _open_part(stack, model / part) for part in PARTS}
        kept, shapes = _open_kept(stack, published)
        _account(model, pieces, stored, kept, shapes)
        weights = _their_weights(pieces, stored, kept, shapes)
        _require_unchanged(model, pieces, stored, kept)
        out.parent.mkdir(parents=True, exist_ok=True)
        total = total_bytes(weights.values())
        require_room(out.parent, total)
        beside = out.with_name(f".{out.name}.partial")
        try:
            write_torch(beside, weights, Progress("written", total))
            flush(beside)
            beside.rename(out)
        finally:
            beside.unlink(missing_ok=True)
        return len(weights)


def _part(model: Path, part: str, kind: Any) -> Any:
    """A part of the model without values."""
    try:
        config = json.loads((model / part / "config.json").read_text())
        if config["_class_name"] != kind.__name__:
            raise UserError(
                f"--model {model}: part {part} is a {config['_class_name']}; expected the published model's, "
                f"{kind.__name__}"
            )
        with torch.device("meta"):
            return kind.from_config(config)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"--model {model}: part {part} has no readable config.json ({error}); convert it again"
        ) from None


def _open_part(stack: ExitStack, folder: Path) -> Stored:
    index = folder / f"{STEM}.safetensors.index.json"
    paths = [folder / f"{STEM}.safetensors"]
    if index.is_file():
        try:
            paths = sorted({folder / Path(name).name for name in json.loads(index.read_text())["weight_map"].values()})
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{index}: cannot be read ({error}); convert the model again") from None
    files: dict[str, Any] = {}
    for path in paths:
        file = _open(stack, path)
        files |= dict.fromkeys(file.keys(), file)
    return Stored(folder, files)


def _open(stack: ExitStack, path: Path) -> Any:
    try:
        return stack.enter_context(safe_open(path, "pt"))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be opened ({error}); expected whole safetensors") from None


def _open_kept(stack: ExitStack, folder: Path) -> tuple[Stored, dict[str, tuple[int, ...]]]:
    """What was kept of the published checkpoint; and its names and shapes, in its order."""
    path = folder / KEPT_FILE
    if not path.is_file():
        raise UserError(
            f"{folder}: no {KEPT_FILE}; expected a model that was converted from the published checkpoint: "
            f"give its folder with --published"
        )
    file = _open(stack, path)
    try:
        shapes = {str(name): tuple(int(size) for size in shape)
                  for name, shape in json.loads((file.metadata() or {})["published"])}  # fmt: skip
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: does not list the published names ({error}); convert the checkpoint again") from None
    return Stored(path, dict.fromkeys(file.keys(), file)), shapes


def _account(
    model: Path, pieces: list[Piece], stored: Mapping[str, Stored], kept: Stored, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    ours = {(piece.part, piece.ours) for piece in pieces}
    known = {piece.theirs for piece in pieces}
    missing = [f"{part}.{name}" for part, name in sorted(ours) if name not in stored[part].files]
    left_over = [f"{part}.{name}" for part in stored for name in stored[part].files if (part, name) not in ours]
    left_over += [f"{piece.part}.{piece.ours}" for piece in pieces if piece.theirs not in shapes]
    unsaid = [name for name in shapes if name not in known and name not in kept.files]
    wrong = [f"{piece.part}.{piece.ours}" for piece in pieces
             if (piece.ours in stored[piece.part].files and stored[piece.part].shape(piece.ours) != piece.shape)
             or (piece.theirs in shapes and not piece.fits(shapes[piece.theirs]))]  # fmt: skip
    for what, names in (
        ("the model lacks weights", missing),
        ("the model has weights that the published one has not", left_over),
        (f"{kept.path} lacks weights", unsaid),
        ("weights have another shape than the published ones", wrong),
    ):
        if names:
            raise UserError(f"--model {model}: {what} ({len(names)}): {first(names)}")


def _require_unchanged(model: Path, pieces: list[Piece], stored: Mapping[str, Stored], kept: Stored) -> None:
    """What is computed of a kept weight must still be so, or the way back would lose what it has become."""
    for piece in pieces:
        if piece.kept:
            expected = piece.value({piece.theirs: kept.read(piece.theirs)})
            if not torch.equal(stored[piece.part].read(piece.ours).to(expected.dtype), expected):
                raise UserError(
                    f"--model {model}: {piece.part}.{piece.ours} has been changed, and the published model has no "
                    f"place for it; expected it as converted"
                )


def _their_weights(
    pieces: list[Piece], stored: Mapping[str, Stored], kept: Stored, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Weight]:
    made_of: dict[str, list[Piece]] = defaultdict(list)
    for piece in sorted(pieces):
        made_of[piece.theirs].append(piece)
    weights: dict[str, Weight] = {}
    for name, shape in shapes.items():
        if name in kept.files:
            weights[name] = Weight(kept.dtype(name), shape, partial(kept.read, name))
        else:
            found = made_of[name]
            dtype = stored[found[0].part].dtype(found[0].ours)
            weights[name] = Weight(dtype, shape, partial(_joined, found, stored, shape))
    return weights


def _joined(pieces: list[Piece], stored: Mapping[str, Stored], shape: tuple[int, ...]) -> Tensor:
    return torch.cat([stored[piece.part].read(piece.ours) for piece in pieces]).reshape(shape)
