"""A diffusion transformer trained by flow matching: diffusers' PixArt with interaction blocks in place of its own.

The hint (background with its holes, and where they are) is no branch of its own, as there is no trained model to
protect: its pixels lie beside the noisy latent, as further channels of the same tokens.

Legend: B pictures, R pixels a side, n = R / `hint_stride` latents of L channels a side, N = (n / `patch_size`)^2 tokens
of C = `num_heads` * `head_channels` channels, D code channels.
"""

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
LEAST_NOISE = 0.05


class FlowTransformer(ModelMixin, ConfigMixin):
    """The flow n - x_0 from a noisy latent x_t = (1 - t) x_0 + t n, a hint and the objects of the picture.

    Within, the network says x_0, and the flow is (x_t - x_0) / t (Li & He 2025, "Back to basics", with t not below
    0.05 in the division): noise has no structure that a narrow network could keep, a picture has. `latent_channels`,
    `sample_size` (n), `patch_size` and `num_layers` are diffusers' words; `hint_stride` are the pixels a side of a
    latent; `overlap`, `tau` and `placement` are the interaction block's.
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
        says: str = "clean",
        start: str = "zero",
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
        self._start()

    def _start(self) -> None:
        """Blocks that do nothing at first, and an empty answer (adaLN-Zero; Peebles & Xie 2023, section 3.2)."""
        transformer = self.transformer
        if self.config.start == "zero":
            silent = [transformer.adaln_single.linear, transformer.proj_out]
            for weight in (*silent[0].parameters(), *silent[1].parameters(), transformer.scale_shift_table):
                nn.init.zeros_(weight)
            for block in transformer.transformer_blocks:
                nn.init.zeros_(block.scale_shift_table)

    def forward(self, latent: Tensor, timestep: Tensor, hint: Tensor, objects: Interactions) -> Tensor:
        """latent [B, L, n, n], timestep [B] or scalar in 0 to 1000, hint [B, 4, R, R] in [-1, 1] -> [B, L, n, n].

        Raises `UserError` for objects that do not fit: see `check_objects`.
        """
        check_objects(objects, len(latent), self.config.code_channels, self.config.placement)
        prepare(self, objects, [(latent.shape[-1] // self.config.patch_size) ** 2])
        seen = torch.cat([latent, F.pixel_unshuffle(hint, self.config.hint_stride).to(latent.dtype)], 1)
        said: Tensor = self.transformer(
            seen,
            timestep=timestep.expand(len(latent)),
            cross_attention_kwargs={"interactions": objects},
            return_dict=False,
        )[0]
        if self.config.says == "velocity":
            return said
        noise_share = (timestep.float() / NUM_TIMESTEPS).clamp_min(LEAST_NOISE).expand(len(latent))[:, None, None, None]
        return ((latent.float() - said.float()) / noise_share).to(latent.dtype)
