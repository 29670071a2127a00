"""Inception v3 as FID reads it: pictures -> 2048 features. Names of weights are torchvision's and pytorch-fid's.

Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception Architecture for Computer Vision", CVPR 2016,
with the three differences of the network of 2015 that FID is defined by: averages leave the padding out, the last block
takes a maximum in place of an average, and the classifier has 1008 classes. Legend: N pictures; a path's convolutions
follow each other, those of a fork read the same input; an input's channels are those that came before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pics_common.errors import UserError
from pics_model.metrics.weights import INCEPTION, find_weights, load_state, read_state

FEATURES = 2048
SIDE = 299  # pixels a side that the network was trained on
CLASSES = 1008


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution of a block: name, output channels, kernel (height, width); stride 2 goes without padding."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


@dataclass(frozen=True, slots=True)
class Fork:
    """The end of a path: two convolutions of one input, side by side."""

    left: Conv
    right: Conv


Step = Conv | Fork | Callable[[Tensor], Tensor]


def average(x: Tensor) -> Tensor:
    """3 x 3, of real values only."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def maximum(x: Tensor) -> Tensor:
    """3 x 3."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


def halve(x: Tensor) -> Tensor:
    """3 x 3 maxima at every second place."""
    return F.max_pool2d(x, 3, stride=2)


class ConvNormRelu(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, channels: int, spec: Conv, padding: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, spec.channels, spec.kernel, spec.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(spec.channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', H', W']."""
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """A block: paths side by side, joined along the channels in the order of the list."""

    def __init__(self, channels: int, *paths: list[Step]) -> None:
        super().__init__()
        self.paths = paths
        self.channels = sum(self._add_path(channels, path) for path in paths)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', H', W']."""
        return torch.cat([self._follow(path, x) for path in self.paths], 1)

    def _add_path(self, channels: int, path: list[Step]) -> int:
        """Makes a path's convolutions; returns its output channels."""
        for step in path:
            if isinstance(step, Fork):
                for conv in (step.left, step.right):
                    self.add_module(conv.name, ConvNormRelu(channels, conv, _padding(conv)))
                channels = step.left.channels + step.right.channels
            elif isinstance(step, Conv):
                self.add_module(step.name, ConvNormRelu(channels, step, _padding(step)))
                channels = step.channels
        return channels

    def _follow(self, path: list[Step], x: Tensor) -> Tensor:
        for step in path:
            if isinstance(step, Fork):
                x = torch.cat([self.get_submodule(conv.name)(x) for conv in (step.left, step.right)], 1)
            elif isinstance(step, Conv):
                x = self.get_submodule(step.name)(x)
            else:
                x = step(x)
        return x


def _padding(conv: Conv) -> tuple[int, int]:
    return (0, 0) if conv.stride == 2 else (conv.kernel[0] // 2, conv.kernel[1] // 2)


def _a(channels: int, pooled: int) -> Mixed:
    """35 x 35: the paper's figures 4 and 5 in one."""
    return Mixed(
        channels,
        [Conv("branch1x1", 64)],
        [Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))],
        [Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3))],
        [average, Conv("branch_pool", pooled)],
    )


def _b(channels: int) -> Mixed:
    """35 x 35 -> 17 x 17: figure 10."""
    return Mixed(
        channels,
        [Conv("branch3x3", 384, (3, 3), 2)],
        [Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3), 2)],
        [halve],
    )


def _c(channels: int, inner: int) -> Mixed:
    """17 x 17: figure 6 with n = 7."""
    return Mixed(
        channels,
        [Conv("branch1x1", 192)],
        [Conv("branch7x7_1", inner), Conv("branch7x7_2", inner, (1, 7)), Conv("branch7x7_3", 192, (7, 1))],
        [
            Conv("branch7x7dbl_1", inner),
            Conv("branch7x7dbl_2", inner, (7, 1)),
            Conv("branch7x7dbl_3", inner, (1, 7)),
            Conv("branch7x7dbl_4", inner, (7, 1)),
            Conv("branch7x7dbl_5", 192, (1, 7)),
        ],
        [average, Conv("branch_pool", 192)],
    )


def _d(channels: int) -> Mixed:
    """17 x 17 -> 8 x 8."""
    return Mixed(
        channels,
        [Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2)],
        [
            Conv("branch7x7x3_1", 192),
            Conv("branch7x7x3_2", 192, (1, 7)),
            Conv("branch7x7x3_3", 192, (7, 1)),
            Conv("branch7x7x3_4", 192, (3, 3), 2),
        ],
        [halve],
    )


def _e(channels: int, pool: Callable[[Tensor], Tensor]) -> Mixed:
    """8 x 8: figure 7."""
    return Mixed(
        channels,
        [Conv("branch1x1", 320)],
        [Conv("branch3x3_1", 384), Fork(Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1)))],
        [
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, (3, 3)),
            Fork(Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1))),
        ],
        [pool, Conv("branch_pool", 192)],
    )


class Inception(nn.Module):
    """The network up to its last average."""

    def __init__(self) -> None:
        super().__init__()
        stem = (
            (3, Conv("Conv2d_1a_3x3", 32, (3, 3), 2), (0, 0)),
            (32, Conv("Conv2d_2a_3x3", 32, (3, 3)), (0, 0)),
            (32, Conv("Conv2d_2b_3x3", 64, (3, 3)), (1, 1)),
            (64, Conv("Conv2d_3b_1x1", 80), (0, 0)),
            (80, Conv("Conv2d_4a_3x3", 192, (3, 3)), (0, 0)),
        )
        for channels, conv, padding in stem:
            self.add_module(conv.name, ConvNormRelu(channels, conv, padding))
        self.Mixed_5b = _a(192, 32)
        self.Mixed_5c = _a(256, 64)
        self.Mixed_5d = _a(288, 64)
        self.Mixed_6a = _b(288)
        self.Mixed_6b = _c(768, 128)
        self.Mixed_6c = _c(768, 160)
        self.Mixed_6d = _c(768, 160)
        self.Mixed_6e = _c(768, 192)
        self.Mixed_7a = _d(768)
        self.Mixed_7b = _e(1280, average)
        self.Mixed_7c = _e(2048, maximum)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures [N, 3, 299, 299] in [0, 1] -> features [N, 2048]."""
        x = 2 * pictures - 1
        for name, layer in self.named_children():
            x = layer(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = halve(x)
        return x.mean((2, 3))


def fit_side(pictures: Tensor) -> Tensor:
    """Pictures [N, 3, H, W] at the network's size, as pytorch-fid resizes them: bilinear, without antialiasing."""
    return F.interpolate(pictures, size=(SIDE, SIDE), mode="bilinear", align_corners=False)


def load_inception(folder: Path | None) -> Inception:
    """The network with the weights of FID.

    Raises `MissingWeightsError` if the file is not there; `UserError` for one that is damaged or is torchvision's own
    classifier: the names are the same, but its distances are not those that are published.
    """
    path = find_weights(folder, INCEPTION)
    state = read_state(path)
    classifier = state.get("fc.weight")
    if classifier is not None and len(classifier) != CLASSES:
        raise UserError(
            f"weights {path}: an Inception of {len(classifier)} classes; expected FID's own, of {CLASSES}: get it from "
            f"{INCEPTION.url}"
        )
    network = Inception()
    load_state(network, state, path)
    return network
