"""A diffusion transformer trained by flow matching: diffusers' PixArt with interaction blocks in place of its own.

The hint (background with its holes, and where they are) is no branch of its own, as there is no trained model to
protect: its pixels lie beside the noisy latent, as further channels of the same tokens.

Legend: B pictures, R pixels a side, n = R / `hint_stride` latents of L channels a side, N = (n / `patch_size`)^2 tokens
of C = `num_heads` * `head_channels` channels, D code channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import PixArtTransformer2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from pics_model.backbone import HINT_CHANNELS, check_objects, prepare, replace_blocks
from pics_model.interaction import OverlapForm
from pics_model.objects import Interactions

NUM_TIMESTEPS = 1000  # timesteps are told as shares of the noise times this, as diffusers' flow schedulers do


class FlowTransformer(ModelMixin, ConfigMixin):
    """The flow n - x_0 from a noisy latent x_t = (1 - t) x_0 + t n, a hint and the objects of the picture.

    The network says only what the noisy latent does not say by itself, see `precondition`: near noise it has to say the
    picture, near the picture the noise. `latent_channels`, `sample_size` (n), `patch_size` and `num_layers` are
    diffusers' words; `hint_stride` are the pixels a side of a latent, `picture_std` is the deviation of clean latents;
    `overlap`, `tau` and `placement` are the interaction block's.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ("InteractionBlock",)  # of `compile_repeated_blocks`

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 48,
        sample_size: int = 16,
        patch_size: int = 1,
        hint_stride: int = 4,
        num_layers: int = 6,
        num_heads: int = 4,
        head_channels: int = 32,
        code_channels: int = 64,
        overlap: OverlapForm = "blend",
        tau: float = 0.5,
        placement: bool = True,
        picture_std: float = 0.5,
    ) -> None:
        super().__init__()
        self.transformer = PixArtTransformer2DModel(
            num_attention_heads=num_heads,
            attention_head_dim=head_channels,
            in_channels=latent_channels + HINT_CHANNELS * hint_stride**2,
            out_channels=latent_channels,
            num_layers=num_layers,
            cross_attention_dim=code_channels,
            sample_size=sample_size,
            patch_size=patch_size,
            use_additional_conditions=False,
        )
        replace_blocks(self.transformer, code_channels, overlap, tau, placement)
        start_silent(self.transformer)

    def forward(self, latent: Tensor, timestep: Tensor, hint: Tensor, objects: Interactions) -> Tensor:
        """latent [B, L, n, n], timestep [B] or scalar in 0 to 1000, hint [B, 4, R, R] in [-1, 1] -> [B, L, n, n].

        Raises `UserError` for objects that do not fit: see `check_objects`.
        """
        check_objects(objects, len(latent), self.config.code_channels, self.config.placement)
        prepare(self, objects, [(latent.shape[-1] // self.config.patch_size) ** 2])
        timesteps = timestep.float().expand(len(latent))
        keep, scale, add = precondition(timesteps[:, None, None, None] / NUM_TIMESTEPS, self.config.picture_std)
        seen = [scale * latent, F.pixel_unshuffle(hint, self.config.hint_stride)]
        said: Tensor = self.transformer(
            torch.cat([part.to(latent.dtype) for part in seen], 1),
            timestep=timesteps,
            cross_attention_kwargs={"interactions": objects},
            return_dict=False,
        )[0]
        return (keep * latent + add * said).to(latent.dtype)


def precondition(t: Tensor, picture_std: float) -> tuple[Tensor, Tensor, Tensor]:
    """Factors by which a network's input and answer have unit variance at every noise share t: the flow is `keep` x_t +
    `add` F(`scale` x_t).

    As of Karras et al. (2022, table 1 and appendix B.6), with the flow's x_t in place of theirs. `keep` x_t is the best
    guess of the flow that is linear in x_t, and all that F adds when it is silent.
    """
    variance = (1 - t).square() * picture_std**2 + t.square()
    scale = variance.rsqrt()
    return (t - (1 - t) * picture_std**2) / variance, scale, -picture_std * scale


def start_silent(transformer: Any) -> None:
    """Starts a PixArt transformer with blocks that add nothing to their tokens but the objects, and an empty answer
    (adaLN-Zero; Peebles & Xie 2023, section 3.2)."""
    for part in (transformer.adaln_single.linear, transformer.proj_out):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    for part in (transformer, *transformer.transformer_blocks):
        nn.init.zeros_(part.scale_shift_table)
