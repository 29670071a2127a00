"""U-Net and ControlNet of diffusers with interaction blocks in place of their transformer blocks.

The noisy latent goes into the U-Net. The ControlNet sees the hint (background with its holes, and where they are),
never the latent: its first convolution is zero and stays so, which makes "replaces" out of diffusers' "adds".
"""

from collections.abc import Iterable
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from pics_common.errors import UserError
from pics_model.interaction import InteractionBlock, OverlapForm
from pics_model.objects import Interactions

HINT_CHANNELS = 4


class Backbone(ModelMixin, ConfigMixin):
    """eps, v or x0 (as trained) from a noisy latent, a hint and the objects of the picture.

    `latent_channels` and the sizes are diffusers' own words: `block_out_channels` per level, `attention_levels` says
    which levels hold transformer blocks, `transformer_depth` how many at a place, `head_channels` is the width of a
    head. `hint_channels` has an entry for every halving from hint to latent, and one more. `overlap`, `tau`,
    `learn_tau` and `placement` are the interaction block's.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ("InteractionBlock",)  # of `compile_repeated_blocks`

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 48,
        block_out_channels: tuple[int, ...] = (64, 96),
        attention_levels: tuple[bool, ...] = (True, True),
        layers_per_block: int = 1,
        head_channels: int = 32,
        norm_num_groups: int = 16,
        code_channels: int = 64,
        hint_channels: tuple[int, ...] = (16, 32, 64),
        overlap: OverlapForm = "blend",
        tau: float = 0.5,
        placement: bool = True,
        transformer_depth: int = 1,
        learn_tau: bool = False,
    ) -> None:
        super().__init__()
        heads = tuple(channels // head_channels for channels in block_out_channels)
        down = tuple("CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attention_levels)
        up = tuple("CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attention_levels))
        shared: dict[str, Any] = {
            "in_channels": latent_channels,
            "down_block_types": down,
            "block_out_channels": tuple(block_out_channels),
            "layers_per_block": layers_per_block,
            "norm_num_groups": norm_num_groups,
            "cross_attention_dim": code_channels,
            "attention_head_dim": heads,  # diffusers means the number of heads
            "use_linear_projection": True,
            "transformer_layers_per_block": transformer_depth,
        }
        self.unet = UNet2DConditionModel(out_channels=latent_channels, up_block_types=up, **shared)
        self.controlnet = ControlNetModel(
            conditioning_channels=HINT_CHANNELS, conditioning_embedding_out_channels=tuple(hint_channels), **shared
        )
        for part in (self.unet, self.controlnet):
            replace_blocks(part, code_channels, overlap, tau, placement, learn_tau)
        for weight in self.controlnet.conv_in.parameters():
            nn.init.zeros_(weight)
            weight.requires_grad_(False)

    def forward(self, latent: Tensor, timestep: Tensor, hint: Tensor, objects: Interactions) -> Tensor:
        """latent [B, L, n, n], timestep [B] or scalar int64, hint [B, 4, R, R] in [-1, 1] -> [B, L, n, n].

        Raises `UserError` for objects that do not fit: see `check_objects`.
        """
        check_objects(objects, len(latent), self.config.code_channels, self.config.placement)
        levels = [level for level, here in enumerate(self.config.attention_levels) if here]
        sides = {latent.shape[-1] >> level for level in [*levels, len(self.config.attention_levels) - 1]}
        prepare(self, objects, [side**2 for side in sides])
        shared: dict[str, Any] = {
            "encoder_hidden_states": objects.codes.flatten(1, 2),
            "cross_attention_kwargs": {"interactions": objects},
            "return_dict": False,
        }
        down, mid = self.controlnet(latent, timestep, controlnet_cond=hint, **shared)
        out: Tensor = self.unet(
            latent, timestep, down_block_additional_residuals=down, mid_block_additional_residual=mid, **shared
        )[0]
        return out


def check_objects(objects: Interactions, num_pictures: int, code_channels: int, placement: bool) -> None:
    """Raises `UserError` if the objects' tensors do not fit each other, the pictures or the model."""
    codes, regions, boxes = objects.codes, objects.regions, objects.boxes
    if codes.ndim != 4 or codes.shape[-1] != code_channels:
        raise UserError(f"codes have shape {list(codes.shape)}; expected [pictures, objects, tokens, {code_channels}]")
    if codes.shape[0] != num_pictures or codes.shape[1] == 0:
        raise UserError(
            f"codes have shape {list(codes.shape)}; expected {num_pictures} pictures, and an object or more"
        )
    side = regions.shape[-1]
    if regions.dtype != torch.bool or tuple(regions.shape) != (*codes.shape[:2], side, side):
        raise UserError(
            f"regions are {regions.dtype} of shape {list(regions.shape)}; expected bool [{codes.shape[0]}, "
            f"{codes.shape[1]}, R, R], a square for each code"
        )
    if placement and (boxes is None or boxes.shape != (*codes.shape[:2], 4)):
        found = "absent" if boxes is None else f"of shape {list(boxes.shape)}"
        raise UserError(
            f"boxes are {found}; this model needs [{codes.shape[0]}, {codes.shape[1]}, 4], the squares that "
            f"the object pictures show"
        )


def prepare(model: nn.Module, objects: Interactions, grids: Iterable[int]) -> None:
    """Makes all that the blocks share, for grids of so many tokens: nothing of it can be compiled with them, as its
    sizes are those of the regions."""
    for num_tokens in grids:
        objects.routing(num_tokens)
        if objects.boxes is not None:
            objects.places(num_tokens)
    for block in model.modules():
        if objects.keep and isinstance(block, InteractionBlock):
            block.prepare(objects)


def forget(model: nn.Module) -> None:
    """Frees what inference kept of a picture's objects."""
    for block in model.modules():
        if isinstance(block, InteractionBlock):
            block.kept = None


def replace_blocks(
    model: nn.Module, code_channels: int, overlap: OverlapForm, tau: float, placement: bool, learn_tau: bool = False
) -> int:
    """Puts an `InteractionBlock` in the place of every `BasicTransformerBlock`, weights kept; returns how many."""
    stock = [(name, block) for name, block in model.named_modules() if isinstance(block, BasicTransformerBlock)]
    for name, block in stock:
        parent, _, leaf = name.rpartition(".")
        new = InteractionBlock(block, code_channels, overlap, tau, placement, learn_tau)
        model.get_submodule(parent)[int(leaf)] = new  # type: ignore[operator]
    return len(stock)


def interaction_layers(model: nn.Module) -> list[str]:
    """Names of the interaction blocks of a backbone, in the order in which they run."""
    names = [name for name, module in model.named_modules() if isinstance(module, InteractionBlock)]
    stages = {"controlnet": 0, "down_blocks": 0, "mid_block": 1, "unet": 1, "up_blocks": 2}

    def place(name: str) -> list[int]:
        return [int(part) if part.isdigit() else stages.get(part, 0) for part in name.split(".")]

    return sorted(names, key=place)


def init_from_scratch(backbone: Backbone) -> None:
    """ControlNet branches start from zero to protect a trained U-Net; where nothing is trained yet, that only costs
    steps. Gives the zero convolutions an ordinary start."""
    control = backbone.controlnet
    for conv in [
        *control.controlnet_down_blocks,
        control.controlnet_mid_block,
        control.controlnet_cond_embedding.conv_out,
    ]:
        conv.reset_parameters()


def num_parameters(module: nn.Module) -> int:
    """Weights of a module, frozen ones included."""
    return sum(p.numel() for p in module.parameters())
