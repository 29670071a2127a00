"""The `state_dict` of a published checkpoint, for tests."""

from pathlib import Path

from torch import Tensor

from pics_model.published_file import read_checkpoint


def read_published(path: Path) -> dict[str, Tensor]:
    """The weights of a published checkpoint by name; never to be written to."""
    return read_checkpoint(path).weights
