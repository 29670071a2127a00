"""The options of `pics-data encode`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pics_data.options import check_ranges


@dataclass(frozen=True, slots=True)
class EncodeConfig:
    """Keeps what a model's frozen parts make of samples, for training; run again, it finishes what is not finished."""

    folder: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PATH-OR-URL")]]
    """Folder of shards, or one tar."""
    model: Path
    """Folder of a saved model or of a run: its autoencoder, the frozen trunk of its object encoder, its framing."""
    out: Path | None = None
    """Folder of the encodings, in place of the shards' own; one for each set of shards, as their names are alike."""
    cutouts: Literal["visible", "full"] = "visible"
    """Object pictures as training will take them: as far as the photo shows them, or whole where shards know it."""
    variants: int = 1
    """Pictures of each object. 1: as inference sees it, the same in each epoch. More: each drawn as training draws it
    (margin, and what is said below), of which training then takes one at a time."""
    rotation: float = 0.0
    """Each variant is turned by an angle from U(-a, a) degrees; this and what follows as `pics_model.train` has it."""
    rotation_chance: float = 1.0
    flip: float = 0.0
    colour: float = 0.0
    colour_chance: float = 1.0
    stored_rotations: bool = False
    seed: int = 0
    """Seed of the variants."""
    gpus: int = 0
    """GPUs; each encodes shards of its own. 0 encodes on CPUs."""
    workers: int = 1
    """Shards encoded at the same time where there are no GPUs; each worker holds the model, and has one CPU."""
    batch_size: int = 16
    """Photos, and object pictures, that go through a network together."""
    readers: int = 4
    """Threads of each worker that read and decode samples ahead of the model."""
    bf16: bool = False
    """Computes the trunk in bfloat16: on a GPU several times as fast, and as training with --bf16 would."""
    address: str | None = None
    """Ray cluster to run on: `auto` or host:port. All places named must then be shared by all nodes."""

    def __post_init__(self) -> None:
        ranges = (("variants", 1, 1000), ("seed", 0, 2**63 - 1), ("gpus", 0, 100_000), ("workers", 1, 100_000),
                  ("batch_size", 1, 65_536), ("readers", 1, 1000))  # fmt: skip
        check_ranges(self, ranges)
