"""DINOv2 as object encoder: frozen, any size, with or without registers; a trained projector gives the code's width.

Legend: N object pictures, S their side, P the trunk's patch, grid = S / P, W the trunk's width, D the code's width;
a code has M = 1 + grid * grid tokens. The published model is ViT-g/14 at 224 px: W 1536, M 257, D 1024.
"""

import math
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedConfig,
)
from transformers.utils import logging

from pics_common.errors import UserError
from pics_common.quiet import quiet
from pics_model.side_tokens import Sides, add_sides, make_side_tokens

TRUNKS: dict[str, tuple[Any, Any]] = {
    "dinov2": (Dinov2Config, Dinov2Model),
    "dinov2_with_registers": (Dinov2WithRegistersConfig, Dinov2WithRegistersModel),
}
# What of a trunk's configuration decides its weights and what it computes; the rest is other models' business.
TRUNK_KEYS = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "mlp_ratio",
    "hidden_act",
    "layer_norm_eps",
    "patch_size",
    "qkv_bias",
    "use_swiglu_ffn",
    "use_mask_token",
    "num_register_tokens",
)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class DinoObjectEncoder(ModelMixin, ConfigMixin):
    """Object picture -> code: class token and patch tokens of DINOv2's last layer, projected.

    `trunk` holds values of transformers' `Dinov2Config` or `Dinov2WithRegistersConfig`; its `model_type` says which.
    Its position table is of `resolution`, whatever size it was trained at: see `resample_positions`. The trunk stays
    as it is in training: no gradient, no dropout. `code_channels` is D. `views`, `tokens_per_view` and `text_channels`
    are about what may be given beside the picture: see `side_tokens`.
    """

    @register_to_config
    def __init__(
        self,
        trunk: dict[str, Any],
        resolution: int = 224,
        code_channels: int = 1024,
        views: bool = False,
        tokens_per_view: int = 8,
        text_channels: int = 0,
    ) -> None:
        super().__init__()
        config = trunk_config(trunk, resolution)
        self.grid = resolution // config.patch_size
        self.registers = getattr(config, "num_register_tokens", 0)
        self._modules["trunk"] = _frozen(TRUNKS[trunk["model_type"]][1](config))
        self.projector = nn.Linear(config.hidden_size, code_channels)
        self.sides = make_side_tokens(code_channels, views, tokens_per_view, text_channels)

    @property
    def trunk(self) -> Any:
        """The DINOv2 model. (Diffusers would answer with the configuration's value of that name.)"""
        return self._modules["trunk"]

    @classmethod
    def from_dino(
        cls,
        source: str | Path,
        code_channels: int = 1024,
        resolution: int = 224,
        views: bool = False,
        tokens_per_view: int = 8,
        text_channels: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """An encoder on a trained DINOv2 in transformers' layout: a local folder, or an id of the hub.

        Safetensors only, no remote code. What is not DINOv2's starts at random, from torch's global generator. Raises
        `UserError` if there is nothing of the kind, or not all of it.
        """
        values = read_trunk(source)
        trunk_config(values, resolution)
        trunk = load_trunk(source, values["model_type"], dtype)
        with torch.no_grad():
            table = resample_positions(
                trunk.embeddings.position_embeddings,
                resolution // values["patch_size"],
                published=values["model_type"] == "dinov2",
            )
        with torch.device("meta"):  # sizes only: a second set of a giant's weights would be made to be thrown away
            encoder = cls(values, resolution, code_channels, views, tokens_per_view, text_channels)
        trunk.embeddings.position_embeddings = nn.Parameter(table)
        trunk.config = encoder.trunk.config
        encoder._modules["trunk"] = _frozen(trunk)
        encoder.projector = nn.Linear(values["hidden_size"], code_channels, dtype=dtype)
        encoder.sides = make_side_tokens(code_channels, views, tokens_per_view, text_channels)
        if encoder.sides is not None:
            encoder.sides.to(dtype)
        return encoder

    def train(self, mode: bool = True) -> Self:
        """The trunk never trains."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, images: Tensor, sides: Sides | None = None) -> Tensor:
        """images [N, 4, S, S]: RGB in [-1, 1] on white, alpha not used -> codes [N, M, D]. In the place of pictures, of
        views too, their `features` [N, M, W] may be given."""
        return add_sides(self.sides, self.encode(images), sides, self.encode)

    def encode(self, images: Tensor) -> Tensor:
        """The code of a picture alone: [N, 4, S, S] -> [N, M, D]."""
        codes: Tensor = self.projector(images if images.ndim == 3 else self.features(images))
        return codes

    def features(self, images: Tensor) -> Tensor:
        """The trunk's tokens before the projector, [N, M, W]."""
        mean = images.new_tensor(IMAGENET_MEAN)[:, None, None]
        std = images.new_tensor(IMAGENET_STD)[:, None, None]
        pixels = (images[:, :3] - (2 * mean - 1)) / (2 * std)
        tokens: Tensor = self.trunk(pixels.to(self.trunk.dtype)).last_hidden_state
        return torch.cat([tokens[:, :1], tokens[:, 1 + self.registers :]], 1)


def trunk_config(trunk: dict[str, Any], resolution: int) -> PreTrainedConfig:
    """The configuration of a trunk for pictures of `resolution`. Raises `UserError` for values that cannot be."""
    kind = trunk.get("model_type")
    if kind not in TRUNKS:
        raise UserError(f"encoder: trunk.model_type is {kind!r}; expected {' or '.join(TRUNKS)}")
    unknown = sorted(set(trunk) - set(TRUNK_KEYS))
    if unknown:
        raise UserError(f"encoder: unknown key `trunk.{unknown[0]}`; expected {', '.join(TRUNK_KEYS)}")
    try:
        values = {key: value for key, value in trunk.items() if key != "model_type"}
        config: PreTrainedConfig = TRUNKS[kind][0](**values, image_size=resolution)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise UserError(f"encoder: trunk cannot be ({_one_line(error)})") from None
    patch = config.patch_size
    if not isinstance(patch, int) or patch < 1:
        raise UserError(f"encoder: trunk.patch_size is {patch!r}; expected a whole number of pixels")
    if resolution < patch or resolution % patch:
        raise UserError(f"encoder: resolution {resolution}; expected a multiple of the trunk's patch, {patch}")
    if config.hidden_size % config.num_attention_heads:
        raise UserError(
            f"encoder: trunk.hidden_size {config.hidden_size}; expected a multiple of its "
            f"{config.num_attention_heads} attention heads"
        )
    return config


def resample_positions(table: Tensor, grid: int, published: bool = True) -> Tensor:
    """A position table [1, 1 + n * n, W] for n x n patches -> [1, 1 + grid * grid, W]; the class token's stays.

    As DINOv2's own code reads it. Without registers (`published`) that is bicubic with the scale factor
    (grid + 0.1) / n, the models' tokens having been trained and published so, although it is not quite the size's;
    with registers bicubic to the size, with antialiasing.
    """
    side = math.isqrt(table.shape[1] - 1)
    assert side**2 == table.shape[1] - 1, "the table is of a square grid"
    if side == grid:
        return table
    patches = table[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    if published:
        patches = F.interpolate(patches, scale_factor=(grid + 0.1) / side, mode="bicubic")
    else:
        patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", antialias=True)
    return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2).to(table.dtype)], 1)


def read_trunk(source: str | Path) -> dict[str, Any]:
    """What `config.json` of a DINOv2 folder or hub id says of the trunk. Raises `UserError` for anything else."""
    _require_found(source)
    try:
        found, _ = PreTrainedConfig.get_config_dict(str(source))
    except (OSError, ValueError) as error:
        expected = "config.json" if Path(source).is_dir() else "a folder that is here, or an id that can be fetched"
        raise UserError(f"DINOv2 {source}: no configuration ({_one_line(error)}); expected {expected}") from None
    if not found:
        raise UserError(f"DINOv2 {source}: no configuration; expected config.json and safetensors")
    kind = found.get("model_type")
    if kind not in TRUNKS:
        raise UserError(f"DINOv2 {source}: config.json is of model_type {kind!r}; expected {' or '.join(TRUNKS)}")
    known = {"patch_size": TRUNKS[kind][0]().patch_size, "hidden_size": TRUNKS[kind][0]().hidden_size}
    return known | {key: found[key] for key in TRUNK_KEYS if key in found}


def load_trunk(source: str | Path, kind: str, dtype: torch.dtype = torch.float32) -> Any:
    """The model itself, with its position table as trained. Raises `UserError` for weights that are not all there."""
    try:
        with quiet(logging):
            trunk, report = TRUNKS[kind][1].from_pretrained(
                str(source), use_safetensors=True, trust_remote_code=False, dtype=dtype, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError, KeyError, TypeError) as error:
        raise UserError(
            f"DINOv2 {source}: cannot be loaded ({_one_line(error)}); expected safetensors, fetch them again"
        ) from None
    lacking = sorted(name for name in report["missing_keys"] if name != "embeddings.mask_token")
    if lacking:
        raise UserError(f"DINOv2 {source}: no weight {lacking[0]} ({len(lacking)} lacking); fetch it again")
    return trunk


def _require_found(source: str | Path) -> None:
    """A path must exist; what is not one may be an id of the hub, `owner/name`."""
    looks_like_path = isinstance(source, Path) or str(source).startswith((".", "/", "~")) or str(source).count("/") != 1
    if looks_like_path and not Path(source).is_dir():
        raise UserError(f"DINOv2 {source}: there is no such folder; expected one in transformers' layout, or a hub id")


def _frozen(trunk: Any) -> Any:
    return trunk.requires_grad_(False).eval()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
