"""LPIPS, version 0.1, of AlexNet: distances of a trunk's features, weighted by heads that learned what people see.

Zhang, Isola, Efros, Shechtman and Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR
2018, equation 1. Legend: N pairs of pictures, H x W; layer l has C_l channels at H_l x W_l.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pics_model.metrics.pixels import region_mean
from pics_model.metrics.weights import ALEXNET, MissingWeightsError, find_weights, load_state, read_state

CHANNELS = (64, 192, 384, 256, 256)
LEAST_SIDE = 31  # a pixel less, and nothing is left after AlexNet's second pooling
# The authors' normalisation of pictures in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """AlexNet's five layers after their ReLU, and a head for each."""

    def __init__(self) -> None:
        super().__init__()
        self.features = alexnet_features()
        self.heads = nn.ParameterList([nn.Parameter(torch.zeros(channels)) for channels in CHANNELS])

    def forward(self, results: Tensor, truths: Tensor) -> list[Tensor]:
        """Pictures [N, 3, H, W] in [0, 1] -> the maps of distances of the layers, [N, H_l, W_l] each."""
        layers = zip(self._layers(results), self._layers(truths), self.heads, strict=True)
        return [torch.einsum("nchw,c->nhw", (_unit(x) - _unit(y)).square(), head) for x, y, head in layers]

    def _layers(self, pictures: Tensor) -> list[Tensor]:
        shift, scale = (pictures.new_tensor(values)[:, None, None] for values in (SHIFT, SCALE))
        x = (2 * pictures - 1 - shift) / scale
        found = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x)
        return found


def alexnet_features() -> nn.Sequential:
    """AlexNet before its classifier; names and shapes are torchvision's `features`."""
    c1, c2, c3, c4, c5 = CHANNELS
    return nn.Sequential(
        nn.Conv2d(3, c1, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(c1, c2, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(c2, c3, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(c3, c4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(c4, c5, 3, padding=1),
        nn.ReLU(),
    )


def load_lpips(folder: Path | None) -> Lpips:
    """LPIPS with the trunk from the folder of weights, and the authors' heads, which torchmetrics carries.

    Raises `MissingWeightsError` if one of the two is not here, and `UserError` for a file that is damaged.
    """
    trunk, heads = find_weights(folder, ALEXNET), _heads_file()
    lpips = Lpips()
    load_state(lpips, read_state(trunk) | _heads(read_state(heads)), trunk)
    return lpips


def lpips_distance(maps: list[Tensor]) -> Tensor:
    """LPIPS [N]: the sum over layers of each map's mean."""
    return torch.stack([layer.mean((1, 2)) for layer in maps]).sum(0)


def lpips_map(maps: list[Tensor], height: int, width: int) -> Tensor:
    """The authors' spatial form, [N, H, W]: the sum of the layers' maps, each enlarged bilinearly to the picture."""
    enlarged = [
        F.interpolate(layer[:, None], size=(height, width), mode="bilinear", align_corners=False)[:, 0]
        for layer in maps
    ]
    return torch.stack(enlarged).sum(0)


def masked_lpips(maps: list[Tensor], regions: Tensor) -> Tensor:
    """Mean [N] of the spatial form over regions [N, H, W] bool; NaN where a region is empty."""
    return region_mean(lpips_map(maps, *regions.shape[-2:]), regions)


def _unit(x: Tensor) -> Tensor:
    """Features of length 1 at every place; those that are all zero stay so."""
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


def _heads_file() -> Path:
    """torchmetrics is looked up, not imported: that would take seconds."""
    package = find_spec("torchmetrics")
    if package is None or package.origin is None:
        raise MissingWeightsError("LPIPS's heads come with torchmetrics; install the extra `evaluate`")
    path = Path(package.origin).parent / "functional" / "image" / "lpips_models" / "alex.pth"
    if not path.is_file():
        raise MissingWeightsError(f"LPIPS's heads are not at {path}; install torchmetrics 1.9.0")
    return path


def _heads(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`lin0.model.1.weight` [1, C, 1, 1] -> `heads.0` [C]."""
    return {
        f"heads.{name.removeprefix('lin').partition('.')[0]}": weight.flatten()
        for name, weight in state.items()
        if name.startswith("lin")
    }
