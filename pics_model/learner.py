"""What a run changes, and one step of it: model, optimiser, and the running mean of the weights."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pics_model.denoising import DenoisingLoss, Draws
from pics_model.ema import Ema
from pics_model.inputs import Batch
from pics_model.optimizer import Optimizer
from pics_model.parallel import synchronised, whole


@dataclass(frozen=True, slots=True)
class Learner:
    """`module` holds the model's trained parts, `model` is the same as ranks share it out, `ema` is there where a mean
    is kept. `bf16` computes in bfloat16 where it is safe, `clip` is the largest norm of the gradient."""

    module: DenoisingLoss
    model: nn.Module
    optimizer: Optimizer
    ema: Ema | None
    bf16: bool
    clip: float

    def step(self, batch: Batch, draws: Draws, parts: int, factor: float, samples: int, careful: bool) -> "Step":
        """One optimiser step on this rank's share of a batch, in `parts` of equal size, with the learning rates times
        `factor`; `samples` have been seen by all ranks when it is done. Where `careful`, a step whose gradient is no
        finite number changes nothing: it is the same on all ranks, as gradients are exchanged."""
        share = len(batch.keys)
        device = batch.target.device.type
        losses = []
        for number, (some, theirs) in enumerate(zip(split(batch, parts), split_draws(draws, parts), strict=True), 1):
            with synchronised(self.model, number == parts):
                with torch.autocast(device, torch.bfloat16, enabled=self.bf16):
                    loss: Tensor = self.model(some, theirs) / parts
                loss.backward()
            losses.append(loss.detach())
        weights = list(self.optimizer.weights.values())
        norm = whole(nn.utils.clip_grad_norm_(weights, self.clip)).detach()
        if careful and not norm.isfinite():
            self.optimizer.forget_gradients()
            return Step(torch.stack(losses).sum(), norm, moved=False)
        self.optimizer.step(factor)
        if self.ema is not None:
            self.ema.update(samples, share * self.num_ranks)
        return Step(torch.stack(losses).sum(), norm, moved=True)

    @property
    def num_ranks(self) -> int:
        """How many processes share a step."""
        return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1

    def shown(self) -> AbstractContextManager[None]:
        """Inside, the module's weights are those that users get: the mean, where one is kept."""
        return nullcontext() if self.ema is None else self.ema.applied()


@dataclass(frozen=True, slots=True)
class Step:
    """This rank's `loss` [], the gradient's `norm` [] before clipping, the same on all ranks, and whether the weights
    were moved."""

    loss: Tensor
    norm: Tensor
    moved: bool


def split(batch: Batch, parts: int) -> Iterator[Batch]:
    """The batch in `parts` of equal size, in order; they share its memory."""
    size = len(batch.keys) // parts
    tensors = [name for name in Batch.__slots__ if isinstance(getattr(batch, name), Tensor)]
    for begin in range(0, parts * size, size):
        names = [*tensors, "keys", "texts"]
        yield replace(batch, **{name: getattr(batch, name)[begin : begin + size] for name in names})


def split_draws(draws: Draws, parts: int) -> Iterator[Draws]:
    """Likewise what was drawn for it."""
    size = len(draws.places) // parts
    for begin in range(0, parts * size, size):
        yield Draws(*(getattr(draws, name)[begin : begin + size] for name in Draws.__slots__))
