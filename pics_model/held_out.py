"""Validation: the same held-out samples with the same noise each time and in every run, so that curves compare."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pics_model.denoising import Draws, draw
from pics_model.grid import draw_rows
from pics_model.inputs import Batch
from pics_model.learner import Learner
from pics_model.order import rank_positions
from pics_model.pipeline import PICSPipeline
from pics_model.ranks import Ranks
from pics_model.stream import ShardStream

BANDS = ("clear", "medium", "noisy")  # thirds of the way from picture to noise
SEED = 0  # of their order, sizes and noise: not the run's own

# Opens the held-out samples, seed `SEED`, for a batch size and this rank of some ranks.
OpenStream: TypeAlias = Callable[[int, Ranks], ShardStream]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """`parts` are this rank's share, each a batch, its draws and which of its samples count, [B] 0 or 1: all ranks
    have parts of equal number and size. `shown` are samples to compose, on the first rank."""

    parts: list[tuple[Batch, Draws, torch.Tensor]]
    shown: Batch | None
    num_samples: int

    @torch.no_grad()
    def losses(self, learner: Learner, ranks: Ranks) -> dict[str, float]:
        """`val_loss`, and the same by bands of noise: the mean squared error, samples and levels of noise weighing
        alike. The same for any number of ranks, up to rounding. Every rank must call it."""
        totals = torch.zeros(2, len(BANDS), dtype=torch.float64, device=ranks.device)
        with learner.shown():
            for batch, draws, counts in self.parts:
                batch, draws, counts = batch.to(ranks.device), draws.to(ranks.device), counts.to(ranks.device)
                with torch.autocast(ranks.device.type, torch.bfloat16, enabled=learner.bf16):
                    errors, _ = learner.module.errors(batch, draws)
                band = (draws.places * len(BANDS)).long().clamp(max=len(BANDS) - 1)
                totals[0].index_add_(0, band, errors.double() * counts)
                totals[1].index_add_(0, band, counts.double())
        totals = ranks.sum(totals)
        found = {"val_loss": (totals[0].sum() / totals[1].sum()).item()}
        means = (totals[0] / totals[1]).tolist()
        return found | {f"val_loss_{name}": mean for name, mean in zip(BANDS, means, strict=True) if mean == mean}

    def picture(self, learner: Learner, pipeline: PICSPipeline) -> NDArray[np.uint8] | None:
        """A sheet [H, W, 3] of held-out samples composed by the model as it is: a row each. None on ranks that show
        nothing."""
        if self.shown is None:
            return None
        batch = self.shown.to(pipeline.device)
        generators = [torch.Generator().manual_seed(seed) for seed in batch.seeds.tolist()]
        with learner.shown():
            made = pipeline.sample(batch, generators, read=True)
        return draw_rows(batch, made)


def hold_out(
    open_stream: OpenStream, pipeline: PICSPipeline, ranks: Ranks, batch_size: int, num_samples: int, num_shown: int
) -> HeldOut:
    """Reads the first samples of the stream that `open_stream` opens, this rank's share, in batches of at most
    `batch_size` over all ranks; they are kept in memory, as the small integers that shards hold.

    Raises `UserError` for shards that cannot be used, `MissingSplitError` for those that hold nothing held out.
    """
    alone = Ranks(0, 1, ranks.device)
    count = min(num_samples, open_stream(1, alone).num_samples)
    batch_size = ranks.size * min(batch_size // ranks.size, -(-count // ranks.size))
    batches = open_stream(batch_size, ranks).batches()
    parts = []
    for step in range(-(-count // batch_size)):
        batch = next(batches)
        places = torch.tensor(rank_positions(step, 0, batch_size, ranks.rank, ranks.size))
        draws = draw(batch.seeds, batch.num_objects, pipeline.latent_shape)
        # Evenly spread over all levels of noise, in an order that has nothing to do with that of the samples.
        levels = (places * _coprime(count) % count + 0.5) / count
        parts.append((batch, replace(draws, places=levels.float()), (places < count).float()))
    shown = next(open_stream(min(num_shown, count), alone).batches()) if num_shown and ranks.is_first else None
    return HeldOut(parts, shown, count)


def _coprime(count: int) -> int:
    """A stride near the golden section of `count` that reaches every place."""
    return next(stride for stride in range(max(1, int(count * 0.618)), 2 * count + 2) if np.gcd(stride, count) == 1)
