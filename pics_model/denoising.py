"""What a training step draws for each sample, and the loss that comes of it.

Everything random is drawn from a sample's own seed, so that a batch of eight is eight batches of one, whatever the
ranks. All numbers are drawn whatever the settings, so that one setting does not shift another's.

Legend: B pictures of K objects, R x R pixels, latents [B, L, n, n].
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from pics_model.autoencoder import latent_weight
from pics_model.inputs import Batch, hint, to_signed
from pics_model.objectives import TimestepRule, add_noise, draw_places, weighted_error
from pics_model.pipeline import PICSPipeline

NUM_CHANCES = 6  # drawn for a sample beside its noise


@dataclass(slots=True)
class Draws:
    """`noise` [B, L, n, n] and `places` [B] in [0, 1), see `objectives.levels`, float32. `hidden` [B] bool: all codes
    are replaced by that of nothing, for guidance. `left_out` [B] int64: the object that is left out, or -1. `bare` [B]
    bool: without views and words of the objects."""

    noise: Tensor
    places: Tensor
    hidden: Tensor
    left_out: Tensor
    bare: Tensor

    def to(self, device: torch.device | str) -> "Draws":
        """The same on another device."""
        return Draws(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))


def draw(
    seeds: Tensor,
    num_objects: Tensor,
    latent_shape: torch.Size,
    timesteps: TimestepRule = "uniform",
    unconditional_dropout: float = 0.0,
    object_dropout: float = 0.0,
    side_dropout: float = 0.0,
) -> Draws:
    """Draws for samples of `seeds` [B] with `num_objects` [B], on the CPU.

    With chance `unconditional_dropout` a sample is hidden; with chance `object_dropout`, independently, one of its
    objects is left out, each as likely as the other, if it has two or more; with chance `side_dropout` it is bare.
    """
    noise = torch.empty(len(seeds), *latent_shape)
    chances = torch.empty(len(seeds), NUM_CHANCES)
    for i, seed in enumerate(seeds.tolist()):
        generator = torch.Generator().manual_seed(seed)
        torch.randn(latent_shape, generator=generator, out=noise[i])
        torch.rand(NUM_CHANCES, generator=generator, out=chances[i])
    hide, leave, which, strip = chances[:, 2:].unbind(1)
    num = num_objects.cpu()
    # The product with a number just below 1 may round up to the number of objects.
    chosen = torch.minimum((which * num).long(), num - 1)
    left_out = torch.where((leave < object_dropout) & (num >= 2), chosen, -1)
    places = draw_places(chances[:, :2], timesteps)
    return Draws(noise, places, hide < unconditional_dropout, left_out, strip < side_dropout)


def leave_out(regions: Tensor, left_out: Tensor) -> Tensor:
    """Regions [B, K, R, R] without the objects `left_out` [B] (-1: none). An object without a region has no hole in the
    background and no token that asks its code: the picture holds it as it holds all else."""
    objects = torch.arange(regions.shape[1], device=regions.device)
    return regions & (objects != left_out[:, None])[:, :, None, None]


def without_sides(batch: Batch, bare: Tensor) -> Batch:
    """The batch without the views and words of samples `bare` [B]: the model shall not come to need them."""
    mask = None if batch.view_mask is None else batch.view_mask & ~bare[:, None, None]
    texts = batch.texts
    if any(text for words in texts for text in words):
        texts = [[""] * len(words) if out else words for words, out in zip(texts, bare.tolist(), strict=True)]
    return replace(batch, view_mask=mask, texts=texts)


class DenoisingLoss(nn.Module):
    """One module from batch to loss, so that DDP sees one forward call. Holds what can be trained: neither autoencoder
    nor text encoder. `background_weight` is the weight of errors outside of the regions; `min_snr` see `objectives`;
    `nothing` [M, W] are the features of the picture of no object, where batches bring features of theirs."""

    nothing: Tensor | None

    def __init__(
        self,
        pipeline: PICSPipeline,
        background_weight: float = 1.0,
        min_snr: float = 0.0,
        nothing: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.object_encoder = pipeline.backbone, pipeline.object_encoder
        self.pipeline = [pipeline]  # in a list: its parts are registered above, once
        self.background_weight, self.min_snr = background_weight, min_snr
        self.register_buffer("nothing", nothing, persistent=False)

    def forward(self, batch: Batch, draws: Draws) -> Tensor:
        """The batch's loss, []."""
        errors, weights = self.errors(batch, draws)
        return (errors * weights).mean()

    def errors(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor]:
        """Each picture's mean squared error [B], and what it weighs in training by its level of noise [B]."""
        pipeline = self.pipeline[0]
        # In full precision: targets are what the model can at best become.
        with torch.no_grad(), torch.autocast(batch.target.device.type, enabled=False):
            latent = pipeline.to_latent(to_signed(batch.target)) if batch.latent is None else batch.latent
            clean = latent.float()
            shown = add_noise(pipeline.scheduler, clean, draws.noise, draws.places, self.min_snr)
        objects = pipeline.encode(without_sides(batch, draws.bare))
        objects.regions = leave_out(batch.regions, draws.left_out)
        none = pipeline.no_object(clean) if self.nothing is None else self.object_encoder(self.nothing[None])
        none = none[None].to(objects.codes.dtype)
        objects.codes = torch.where(draws.hidden[:, None, None, None], none, objects.codes)
        where = hint(batch.target, objects.regions, batch.valid)
        answer = self.backbone(shown.latent, shown.timesteps, where, objects)
        inside = objects.regions.any(1, keepdim=True).float()
        weight = (inside + self.background_weight * (1 - inside)) * batch.valid[:, None]
        weight = latent_weight(pipeline.autoencoder, pipeline.config.patch, weight).expand_as(clean)
        return weighted_error(answer, shown.target, weight), shown.weight
