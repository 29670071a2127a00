"""Object picture -> object code: one class token and a grid of patch tokens, [M, D] with M = 1 + grid * grid.

Every encoder gives this form, DINOv2's too, so that the interaction block need not know which one made it.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from pics_model.side_tokens import Sides, add_sides, make_side_tokens


class ConvObjectEncoder(ModelMixin, ConfigMixin):
    """The small encoder of `tiny`; trains along with the model. `patch` is a power of two.

    `views` makes it take other views of an object, `tokens_per_view` tokens of each; `text_channels`, if not 0, text
    tokens of that width: see `side_tokens`.
    """

    @register_to_config
    def __init__(
        self,
        resolution: int = 48,
        patch: int = 4,
        code_channels: int = 64,
        width: int = 32,
        views: bool = False,
        tokens_per_view: int = 8,
        text_channels: int = 0,
    ) -> None:
        super().__init__()
        self.grid = resolution // patch
        layers: list[nn.Module] = [nn.Conv2d(4, width, 3, padding=1, stride=2)]
        size = 2
        while size < patch:
            layers += [nn.SiLU(), nn.Conv2d(width, 2 * width, 3, padding=1, stride=2)]
            width, size = 2 * width, 2 * size
        layers += [nn.SiLU(), nn.Conv2d(width, code_channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers)
        self.position = nn.Parameter(0.02 * torch.randn(self.grid**2, code_channels))
        self.class_token = nn.Linear(code_channels, code_channels)
        self.norm = nn.LayerNorm(code_channels)
        self.sides = make_side_tokens(code_channels, views, tokens_per_view, text_channels)

    def forward(self, images: Tensor, sides: Sides | None = None) -> Tensor:
        """images [N, 4, S, S]: RGB in [-1, 1] on white, alpha in [0, 1] -> codes [N, M, D]."""
        return add_sides(self.sides, self.encode(images), sides, self.encode)

    def encode(self, images: Tensor) -> Tensor:
        """The code of a picture alone: [N, 4, S, S] -> [N, M, D]."""
        patches = self.layers(images).flatten(2).transpose(1, 2) + self.position
        codes: Tensor = self.norm(torch.cat([self.class_token(patches.mean(1, keepdim=True)), patches], 1))
        return codes


def nothing(resolution: int, like: Tensor) -> Tensor:
    """The picture of no object, [1, 4, S, S]: black and transparent. Its code is the unconditional branch's."""
    images = like.new_zeros(1, 4, resolution, resolution)
    images[:, :3] = -1
    return images
