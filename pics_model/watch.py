"""What a training run says while it runs: lines in the terminal, scalars in TensorBoard, `run.json` at the start."""

import json
import math
import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from pics_common.errors import UserError
from pics_common.files import write_atomic
from pics_model.backbone import num_parameters
from pics_model.inputs import Batch
from pics_model.pipeline import PICSPipeline
from pics_model.ranks import STEPS_BETWEEN_TALKS, Ranks


class Watch:
    """Counts, times and reports the steps of one run. Only the first rank writes and speaks."""

    def __init__(self, out: Path, total_steps: int, batch_size: int, every: float, ranks: Ranks) -> None:
        self.out, self.total, self.batch_size, self.every, self.ranks = out, total_steps, batch_size, every, ranks
        self.losses: list[Tensor] = []
        self.stalled = 0.0
        self.first = self.done = 0
        self.began = self.spoke = time.monotonic()
        self.board: SummaryWriter | None = None
        self.history = out / "history.jsonl"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.board is not None:
            self.board.close()

    def start(self, settings: dict[str, Any], pipeline: PICSPipeline, num_samples: int, steps: int) -> None:
        """Says what is about to run, on the terminal and in `run.json`. Raises `UserError` if it cannot be written."""
        self.first = self.done = steps
        if not self.ranks.is_first:
            return
        size = num_parameters(pipeline.backbone) + num_parameters(pipeline.object_encoder)
        facts = {
            "settings": settings,
            "parameters": size,
            "samples_in_shards": num_samples,
            "ranks": self.ranks.size,
            "device": str(self.ranks.device),
            "threads": torch.get_num_threads(),
            "resumed_at_step": steps,
            "versions": {name: version(name) for name in ("pics-compositing", "torch", "diffusers", "numpy")},
            "python": platform.python_version(),
        }
        try:
            write_atomic(self.out / "run.json", json.dumps(facts, indent=1).encode())
            _forget_after(self.history, steps)
            # TensorBoard then forgets likewise what was written after the checkpoint; its clock is samples.
            purge = steps * self.batch_size + 1 if steps else None
            self.board = SummaryWriter(str(self.out / "tensorboard"), purge_step=purge)
        except OSError as error:
            raise UserError(f"--out {self.out}: cannot be written ({error.strerror}); choose another folder") from None
        where = f"{self.ranks.size} x {self.ranks.device.type}, {torch.get_num_threads()} threads"
        again = f", continued at step {steps}" if steps else ""
        print(f"training {settings['preset']}: {size / 1e6:.2f} M parameters, {num_samples} samples, {where}{again}")

    def waiting(self, batches: Iterator[Batch]) -> Batch:
        """The next batch; the time that the step had to wait for it is counted as stall."""
        start = time.monotonic()
        batch = next(batches)
        self.stalled += time.monotonic() - start
        return batch

    def step(self, steps: int, loss: Tensor, norm: Tensor, rate: float, saving: bool) -> None:
        """Takes note of a finished step. Every rank must call it. `saving` says that a checkpoint follows: then all is
        told up to here, as a run that continues from it knows of no loss before.

        Raises `UserError` when the loss is not a finite number: what follows could not be trusted.
        """
        self.losses.append(loss)
        if steps % STEPS_BETWEEN_TALKS and not saving:
            return
        mean = self.ranks.mean(torch.stack(self.losses).mean())
        self.losses.clear()
        if not math.isfinite(mean):
            raise UserError(f"the loss is {mean} at step {steps}; lower the learning rates and --resume")
        if self.board is not None:
            with self.history.open("a") as file:
                file.write(json.dumps({"step": steps, "samples": steps * self.batch_size, "loss": mean}) + "\n")
            self.board.add_scalar("loss", mean, steps * self.batch_size)
            self.board.add_scalar("gradient_norm", norm.item(), steps * self.batch_size)
            self.board.add_scalar("learning_rate_factor", rate, steps * self.batch_size)
        now = time.monotonic()
        if self.ranks.is_first and (now - self.spoke >= self.every or steps == self.total):
            self._say(steps, mean, now)

    def _say(self, steps: int, loss: float, now: float) -> None:
        pace = (steps - self.done) / max(now - self.spoke, 1e-9)
        stall = self.stalled / max(now - self.spoke, 1e-9)
        left = (self.total - steps) / max(pace, 1e-9)
        print(
            f"step {steps}/{self.total}  loss {loss:.4f}  {pace:.2f} steps/s  {pace * self.batch_size:.0f} samples/s"
            f"  waiting for data {stall:.0%}  {int(left // 60)}:{int(left % 60):02d} left",
            flush=True,
        )
        if self.board is not None:
            self.board.add_scalar("samples_per_second", pace * self.batch_size, steps * self.batch_size)
            self.board.add_scalar("data_stall", stall, steps * self.batch_size)
        self.spoke, self.done, self.stalled = now, steps, 0.0

    def finish(self, steps: int, model: Path) -> None:
        """The closing line: what was made and where it is."""
        if self.ranks.is_first:
            took = time.monotonic() - self.began
            pace = (steps - self.first) / max(took, 1e-9)
            print(f"trained {steps - self.first} steps in {took:.0f} s ({pace:.2f} steps/s); model: {model}")
            if steps < self.total:
                print(f"told to end by SIGTERM at step {steps} of {self.total}; saved, go on with --resume")


def _forget_after(history: Path, steps: int) -> None:
    """Drops what a run wrote after the checkpoint that it now goes on from: it will be written again."""
    if history.is_file():
        # A line without its end was being written when the run was killed.
        whole = [line for line in history.read_text().splitlines(keepends=True) if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)["step"] <= steps]
        write_atomic(history, "".join(kept).encode())
