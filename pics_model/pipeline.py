"""PICSPipeline: a background and K objects -> one picture, in one diffusion pass; a diffusers pipeline.

`save_pretrained` writes a folder of safetensors and JSON, `from_pretrained` reads it; nothing is unpickled.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor

from pics_model.backbone import Backbone, latent_to_pixels
from pics_model.examples import Example
from pics_model.inputs import Batch, FramingSettings, collate, compose, hint, paste_back
from pics_model.interaction import Interactions
from pics_model.object_encoder import ConvObjectEncoder


class PICSPipeline(DiffusionPipeline):
    """Parts: `backbone`, `object_encoder`, `scheduler`. Settings: `preset` (a name), `patch` (pixels a side of a
    latent), `guidance` and `steps` (what sampling uses unless told otherwise), `framing` (of `FramingSettings`)."""

    model_cpu_offload_seq = "object_encoder->backbone"

    def __init__(
        self,
        backbone: Backbone,
        object_encoder: ConvObjectEncoder,
        scheduler: DDIMScheduler,
        preset: str = "",
        patch: int = 4,
        guidance: float = 1.0,
        steps: int = 20,
        framing: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(backbone=backbone, object_encoder=object_encoder, scheduler=scheduler)
        self.register_to_config(preset=preset, patch=patch, guidance=guidance, steps=steps, framing=framing or {})

    @property
    def framing(self) -> FramingSettings:
        """How photos are framed and regions made for this model."""
        return FramingSettings(**self.config.framing)

    def encode(self, batch: Batch) -> Interactions:
        """The objects of a batch, ready for the backbone."""
        codes = self.object_encoder(object_pixels(batch.objects.flatten(0, 1)))
        return Interactions(codes.unflatten(0, batch.objects.shape[:2]), batch.regions, batch.object_boxes)

    @torch.no_grad()
    def sample(
        self, batch: Batch, seeds: Sequence[int], steps: int | None = None, guidance: float | None = None
    ) -> Tensor:
        """Pictures [B, 3, R, R] in [-1, 1] for a batch on this pipeline's device; each depends on its own seed only."""
        steps = self.config.steps if steps is None else steps
        guidance = self.config.guidance if guidance is None else guidance
        where = hint(batch.target, batch.regions, batch.valid)
        objects = self.encode(batch)
        if guidance != 1.0:
            none = self.object_encoder.no_object(where).expand_as(objects.codes.flatten(0, 1)).view_as(objects.codes)
            objects.codes = torch.cat([objects.codes, none])
            objects.regions = torch.cat([objects.regions] * 2)
            objects.boxes = None if objects.boxes is None else torch.cat([objects.boxes] * 2)
            where = torch.cat([where] * 2)
        objects.keep = True
        side = self.framing.resolution // self.config.patch
        shape = (self.backbone.config.latent_channels, side, side)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        latent = torch.stack(noise).to(where)
        scheduler = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps, device=where.device)
        for timestep in scheduler.timesteps:
            double = latent if guidance == 1.0 else torch.cat([latent] * 2)
            answer = self.backbone(double, timestep, where, objects)
            if guidance != 1.0:
                answer, without = answer.chunk(2)
                answer = without + guidance * (answer - without)
            latent = scheduler.step(answer, timestep, latent).prev_sample
        return latent_to_pixels(latent, self.config.patch).clamp(-1, 1)

    @torch.no_grad()
    def __call__(
        self,
        examples: Sequence[Example],
        seeds: Sequence[int],
        steps: int | None = None,
        guidance: float | None = None,
    ) -> list[NDArray[np.uint8]]:
        """Composes each example's objects into its photo; returns pictures [H, W, 3] uint8 at the photos' own sizes.

        Outside of the objects' regions every pixel is the photo's. On a CPU a picture is the same, bit for bit, in
        whatever batch; on a GPU it is up to rounding, as kernels choose their order of summation by the batch.
        """
        inputs = [compose(example, self.framing, None) for example in examples]
        # On CPUs one at a time costs less than half of the speed, and is what makes the promise true there.
        size = 1 if self.device.type == "cpu" else len(inputs)
        made: list[NDArray[np.uint8]] = []
        for start in range(0, len(inputs), size):
            batch = collate(inputs[start : start + size]).to(self.device)
            pictures = self.sample(batch, seeds[start : start + size], steps, guidance)
            made += [*((pictures + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()]
        return [paste_back(e.photo, picture, i) for e, picture, i in zip(examples, made, inputs, strict=True)]


def object_pixels(objects: Tensor) -> Tensor:
    """RGBA [B, S, S, 4] uint8 -> [B, 4, S, S] float: RGB in [-1, 1], alpha in [0, 1]."""
    scaled = objects.permute(0, 3, 1, 2).float() / 255
    return torch.cat([scaled[:, :3] * 2 - 1, scaled[:, 3:]], 1)
