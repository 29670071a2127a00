"""A converted model, trained on or not -> a checkpoint with the published names.

What our model does not use of the published one lies in `published.safetensors` beside it, and with it the list of all
names: so the way back gives the same bits (the unused `blend_mlp` aside).
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pics_common.errors import UserError
from pics_common.files import flush
from pics_model.published_convert import KEPT_FILE, PARTS, first_few, require_room
from pics_model.published_names import Piece, pieces_of
from pics_model.published_write import SAFETENSORS_TYPES, STEM, Progress, Weight, total_bytes, write_torch


@dataclass(frozen=True, slots=True)
class Value:
    """Where a weight lies in a safetensors file."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    size: int

    def read(self) -> Tensor:
        """Read, not mapped: pages of a mapped file would count as memory until the end."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            data = bytearray(self.size)
            file.readinto(data)
        if not data:
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.frombuffer(data, dtype=self.dtype).view(self.shape)


Stored = dict[str, Value]


def write_back(out: Path, model: Path, published: Path) -> int:
    """Writes the checkpoint beside `out` and renames it; returns how many weights there are. `published` is the folder
    with `published.safetensors`. Raises `UserError` for a model that is not of the published kind, or was changed in
    what the published one does not have."""
    pieces = pieces_of({part: _part(model, part, kind) for part, kind in PARTS.items()})
    stored = {part: _stored(model / part) for part in PARTS}
    kept, shapes = _kept(published)
    _account(model, pieces, stored, kept, shapes)
    _require_unchanged(model, pieces, stored, kept)
    weights = _their_weights(pieces, stored, kept, shapes)
    out.parent.mkdir(parents=True, exist_ok=True)
    total = total_bytes(weights.values())
    require_room(out, total)
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


def _stored(folder: Path) -> Stored:
    """The weights of a part of a model."""
    index = folder / f"{STEM}.safetensors.index.json"
    paths = [folder / f"{STEM}.safetensors"]
    if index.is_file():
        try:
            paths = sorted({folder / Path(name).name for name in json.loads(index.read_text())["weight_map"].values()})
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{index}: cannot be read ({error}); convert the model again") from None
    return {name: value for path in paths for name, value in _values(path)[0].items()}


def _values(path: Path) -> tuple[Stored, dict[str, str]]:
    """The weights and the metadata of a safetensors file."""
    try:
        with safe_open(path, "pt"):  # refuses a header that is wrong, and a file that is cut short
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be opened ({error}); expected whole safetensors") from None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", {})
    kinds = {kind: dtype for dtype, kind in SAFETENSORS_TYPES.items()}
    values: Stored = {}
    for name, entry in header.items():
        if entry["dtype"] not in kinds:
            raise UserError(f"{path}: weight {name} is {entry['dtype']}; expected {', '.join(kinds)}")
        start, end = entry["data_offsets"]
        values[name] = Value(path, kinds[entry["dtype"]], tuple(entry["shape"]), 8 + length + start, end - start)
    return values, metadata


def _kept(folder: Path) -> tuple[Stored, dict[str, tuple[int, ...]]]:
    """What was kept of the published checkpoint; and its names and shapes, in its order."""
    path = folder / KEPT_FILE
    if not path.is_file():
        raise UserError(
            f"{folder}: no {KEPT_FILE}; expected a model that was converted from the published checkpoint: "
            f"give its folder with --published"
        )
    values, metadata = _values(path)
    try:
        shapes = {str(name): tuple(int(size) for size in shape)
                  for name, shape in json.loads(metadata["published"])}  # fmt: skip
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: does not list the published names ({error}); convert the checkpoint again") from None
    return values, shapes


def _account(
    model: Path, pieces: list[Piece], stored: Mapping[str, Stored], kept: Stored, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    ours = {(piece.part, piece.ours) for piece in pieces}
    known = {piece.theirs for piece in pieces}
    missing = [f"{part}.{name}" for part, name in sorted(ours) if name not in stored[part]]
    left_over = [f"{part}.{name}" for part in stored for name in stored[part] if (part, name) not in ours]
    left_over += [f"{piece.part}.{piece.ours}" for piece in pieces if piece.theirs not in shapes]
    unsaid = [name for name in shapes if name not in known and name not in kept]
    wrong = [f"{piece.part}.{piece.ours}" for piece in pieces
             if (piece.ours in stored[piece.part] and stored[piece.part][piece.ours].shape != piece.shape)
             or (piece.theirs in shapes and not piece.fits(shapes[piece.theirs]))]  # fmt: skip
    for what, names in (
        ("the model lacks weights", missing),
        ("the model has weights that the published one has not", left_over),
        (f"{KEPT_FILE} lacks weights", unsaid),
        ("weights have another shape than the published ones", wrong),
    ):
        if names:
            raise UserError(f"--model {model}: {what} ({len(names)}): {first_few(names)}")


def _require_unchanged(model: Path, pieces: list[Piece], stored: Mapping[str, Stored], kept: Stored) -> None:
    """What is computed of a kept weight must still be so, or the way back would lose what it has become."""
    for piece in pieces:
        if piece.kept:
            expected = piece.value({piece.theirs: kept[piece.theirs].read()})
            if not torch.equal(stored[piece.part][piece.ours].read().to(expected.dtype), expected):
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
        values = [kept[name]] if name in kept else [stored[piece.part][piece.ours] for piece in made_of[name]]
        weights[name] = Weight(values[0].dtype, shape, partial(_joined, values, shape))
    return weights


def _joined(values: list[Value], shape: tuple[int, ...]) -> Tensor:
    whole = values[0].read() if len(values) == 1 else torch.cat([value.read() for value in values])
    return whole.view(shape)
