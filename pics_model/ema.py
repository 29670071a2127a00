"""A running mean of the weights that are trained: it often draws better than the weights themselves."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pics_common.errors import UserError
from pics_model.parallel import parted

# The mean reaches back over at most this share of the samples seen, or it would remember the random start
# (Karras et al. 2024, training loop of EDM2, `ema_rampup_ratio`).
RAMP_UP = 0.05


class Ema:
    """The mean of `module`'s trainable weights, in which a weight counts half as much every `half_life` samples."""

    def __init__(self, module: nn.Module, half_life: int) -> None:
        self.weights = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        self.means = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.half_life = half_life

    @torch.no_grad()
    def update(self, samples: int, batch_size: int) -> None:
        """Takes the weights in, as they are when `samples` have been seen, the last `batch_size` just now."""
        half_life = min(self.half_life, RAMP_UP * samples)
        torch._foreach_lerp_(
            list(self.means.values()), list(self.weights.values()), 1 - 0.5 ** (batch_size / half_life)
        )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the module has the mean as its weights; afterwards its own again, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        # Pointers, not numbers. What shares memory with the weights must not be used meanwhile.
        for name, weight in self.weights.items():
            weight.data, self.means[name] = self.means[name], weight.data

    def load(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Takes over what `means` held, whole. Raises `UserError` naming `source` if they belong to another model."""
        strange = sorted(tensors.keys() ^ self.means.keys())
        strange += [name for name in self.means if name in tensors and tensors[name].shape != self.means[name].shape]
        if strange:
            raise UserError(f"checkpoint {source}: the mean of weight `{strange[0]}` is not that of this model")
        for name, mean in self.means.items():
            mean.copy_(parted(tensors[name], mean))
