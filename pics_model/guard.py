"""What may be left out of a run, and when that is too much: steps whose gradient is no number, samples that cannot be
read. All ranks come to the same end, at the same step."""

import sys
from collections.abc import Sequence

import torch

from pics_common.errors import UserError
from pics_model.ranks import Ranks

SHOWN = 20  # lines a rank prints about what it left out; the rest is counted


class Guard:
    """Counts what this rank left out; `most` is how much all ranks together may."""

    def __init__(self, ranks: Ranks, most: int) -> None:
        self.ranks, self.most = ranks, most
        self.steps = self.samples = 0
        self.told = 0

    def left_out_step(self, step: int, keys: Sequence[str]) -> None:
        """A step whose gradient is no number, on all ranks; `keys` are this rank's samples in it."""
        if self.ranks.is_first:  # all ranks left it out: it is counted once
            self.steps += 1
        self._tell(f"step {step} is left out: its gradient is no finite number; samples {', '.join(keys)}")

    def left_out_samples(self, lines: Sequence[str]) -> None:
        """Samples of this rank for which others stand, and why."""
        self.samples += len(lines)
        for line in lines:
            self._tell(f"left out: {line}")

    def _tell(self, line: str) -> None:
        if self.told < SHOWN:
            print(f"note: {line}", file=sys.stderr, flush=True)
        elif self.told == SHOWN:
            print("note: more is left out, and counted", file=sys.stderr, flush=True)
        self.told += 1

    def agree(self) -> tuple[int, int]:
        """Steps and samples left out by all ranks. Every rank must call it.

        Raises `UserError`, on all ranks, when there are more than allowed.
        """
        counts = torch.tensor([self.steps, self.samples], device=self.ranks.device)
        steps, samples = (int(count) for count in self.ranks.sum(counts))
        if steps + samples > self.most:
            raise UserError(
                f"{samples} samples and {steps} steps were left out, more than --max-skipped {self.most}; mend the "
                f"shards (`pics-data verify`) or lower the learning rate, then --resume"
            )
        return steps, samples
