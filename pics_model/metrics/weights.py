"""Files of a metric's weights: found, read without running anything in them, and checked name by name."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from pics_common.errors import UserError


class MissingWeightsError(Exception):
    """Weights that are not here; says where they were looked for and how to get them. The other metrics still run."""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A published file of weights: its name in the folder of weights, and where it is from."""

    name: str
    url: str

    @property
    def digest(self) -> str:
        """The first eight digits of its SHA-256, with which its name ends."""
        return Path(self.name).stem.rpartition("-")[2]


ALEXNET = WeightsFile("alexnet-owt-7be5be79.pth", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth")
INCEPTION = WeightsFile(
    "pt_inception-2015-12-05-6726825d.pth",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
)


def find_weights(folder: Path | None, file: WeightsFile) -> Path:
    """The file's path. Raises `MissingWeightsError` if it is not in the folder, or no folder is given."""
    if folder is None:
        raise MissingWeightsError(f"no folder of weights; give --weights DIR with {file.name} from {file.url}")
    path = folder / file.name
    if not path.is_file():
        raise MissingWeightsError(f"{path} is not there; get it from {file.url}")
    return path


def origin(path: Path, file: WeightsFile) -> str:
    """What a report says of where weights came from: the path, and whether they are not those that are published."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:8]
    if digest == file.digest:
        return str(path)
    return f"{path}, not the published file (its SHA-256 begins with {digest}): numbers cannot be compared"


def read_state(path: Path) -> dict[str, Tensor]:
    """A state_dict as torch.save writes it, on the CPU. Raises `UserError` for anything else."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        why = " ".join(str(error).split())[:120]
        raise UserError(f"weights {path}: cannot be read ({why}); expected a state_dict, fetch it again") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"weights {path}: holds no state_dict; expected names and tensors, fetch it again")
    return state


def load_state(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Fills the module from the tensors of its names; others are left. Raises `UserError` for one that does not fit."""
    wanted = module.state_dict()
    for name, weight in wanted.items():
        if name.endswith("num_batches_tracked"):  # counted in training only; older files have none
            continue
        if name not in state:
            raise UserError(f"weights {path}: no weight {name}; expected the published file, fetch it again")
        if state[name].shape != weight.shape:
            raise UserError(
                f"weights {path}: {name} is {list(state[name].shape)}; expected {list(weight.shape)}: fetch it again"
            )
    module.load_state_dict({name: state.get(name, weight) for name, weight in wanted.items()})
    module.requires_grad_(False).eval()
