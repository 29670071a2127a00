"""Where a run's scalars and pictures go: TensorBoard's files, or Weights & Biases. Their clock is samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from pics_common.errors import require_packages

Logger = Literal["tensorboard", "wandb", "none"]


class Board(Protocol):
    """What a logger can do."""

    def scalars(self, values: Mapping[str, float], samples: int) -> None:
        """Notes numbers by name."""

    def picture(self, name: str, picture: NDArray[np.uint8], samples: int) -> None:
        """Shows a picture [H, W, 3]."""

    def close(self) -> None:
        """Writes what has not been written."""


def require_logger(logger: Logger) -> None:
    """Raises `UserError` if its package is missing."""
    if logger == "wandb":
        require_packages("--logger wandb", "wandb", extra="wandb")


def open_board(logger: Logger, out: Path, settings: Mapping[str, Any], samples: int) -> Board:
    """The logger of a run that has seen so many `samples`: it forgets what a run that was killed told of later ones.

    Raises `OSError` where the folder `out` cannot be written.
    """
    if logger == "tensorboard":
        return _TensorBoard(SummaryWriter(str(out / "tensorboard"), purge_step=samples + 1 if samples else None))
    return _WeightsAndBiases(out, settings) if logger == "wandb" else _Nowhere()


class _TensorBoard:
    def __init__(self, writer: SummaryWriter) -> None:
        self.writer = writer

    def scalars(self, values: Mapping[str, float], samples: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, samples)

    def picture(self, name: str, picture: NDArray[np.uint8], samples: int) -> None:
        self.writer.add_image(name, picture, samples, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class _WeightsAndBiases:
    """A run of wandb with the folder's name; continued under the same id."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        import wandb  # type: ignore[import-not-found,unused-ignore]

        self.wandb = wandb
        name = out.resolve().name
        self.run = wandb.init(dir=str(out), name=name, id=_wandb_id(out), resume="allow", config=dict(settings))
        # Its own step counter refuses numbers that it has passed, as a resumed run brings.
        self.run.define_metric("*", step_metric="samples")

    def scalars(self, values: Mapping[str, float], samples: int) -> None:
        self.run.log({"samples": samples, **values})

    def picture(self, name: str, picture: NDArray[np.uint8], samples: int) -> None:
        self.run.log({"samples": samples, name: self.wandb.Image(picture)})

    def close(self) -> None:
        self.run.finish()


def _wandb_id(out: Path) -> str:
    """The id of a run's folder: made once, and kept in it."""
    path = out / "wandb_id.txt"
    if not path.is_file():
        path.write_text(np.random.default_rng().bytes(8).hex())
    return path.read_text().strip()


class _Nowhere:
    def scalars(self, values: Mapping[str, float], samples: int) -> None:
        pass

    def picture(self, name: str, picture: NDArray[np.uint8], samples: int) -> None:
        pass

    def close(self) -> None:
        pass
