"""What a training run says while it runs: lines in the terminal, scalars and pictures for a logger, and files of its
own: `history.jsonl`, `validation.jsonl`, `samples/`."""

import json
import math
import resource
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pics_common.errors import UserError
from pics_common.files import write_atomic
from pics_model.backbone import num_parameters
from pics_model.board import Board, open_board
from pics_model.inputs import Batch
from pics_model.learner import Step
from pics_model.pipeline import PICSPipeline
from pics_model.ranks import STEPS_BETWEEN_TALKS, Ranks
from pics_model.run_facts import write_run_facts
from pics_model.train_config import TrainConfig


class Watch:
    """Counts, times and reports the steps of one run. Only the first rank writes and speaks."""

    def __init__(self, config: TrainConfig, ranks: Ranks) -> None:
        self.config, self.ranks, self.out = config, ranks, config.out
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.keys: deque[list[str]] = deque(maxlen=STEPS_BETWEEN_TALKS)
        self.stalled = 0.0
        self.first = self.done = 0
        self.began = self.spoke = time.monotonic()
        self.board: Board | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.board is not None:
            self.board.close()

    def start(self, facts: Mapping[str, Any], pipeline: PICSPipeline, num_samples: int, steps: int) -> None:
        """Says what is about to run, on the terminal and in `run.json`. Raises `UserError` if it cannot be written."""
        self.first = self.done = steps
        if not self.ranks.is_first:
            return
        models = (pipeline.backbone, pipeline.object_encoder)
        size = sum(num_parameters(model) for model in models)
        trained = sum(w.numel() for model in models for w in model.parameters() if w.requires_grad)
        known = {"parameters": size, "trained_parameters": trained, "samples_in_shards": num_samples}
        try:
            write_run_facts(self.out, {**facts, **known}, steps, self.ranks)
            for name in ("history.jsonl", "validation.jsonl"):
                _forget_after(self.out / name, steps)
            self.board = open_board(self.config.logger, self.out, facts, steps * self.config.batch_size)
        except OSError as error:
            raise UserError(f"--out {self.out}: cannot be written ({error.strerror}); choose another folder") from None
        where = f"{self.ranks.size} x {self.ranks.device.type}, {torch.get_num_threads()} threads"
        again = f", continued at step {steps}" if steps else ""
        part = f" ({trained / 1e6:.2f} M trained)" if trained < 0.99 * size else ""
        print(
            f"training {pipeline.config.preset}: {size / 1e6:.2f} M parameters{part}, {num_samples} samples, "
            f"{where}{again}",
            flush=True,
        )

    def waiting(self, batches: Iterator[Batch]) -> Batch:
        """The next batch; the time that the step had to wait for it is counted as stall."""
        start = time.monotonic()
        batch = next(batches)
        self.stalled += time.monotonic() - start
        self.keys.append(batch.keys)
        return batch

    def step(self, steps: int, step: Step, rate: float, saving: bool) -> None:
        """Takes note of a finished step; the loss of one that was left out counts nowhere. Every rank must call it.
        `saving` says that a checkpoint follows: then all is told up to here, as a run that continues from it knows of
        no loss before.

        Raises `UserError` when loss or gradient is not a finite number: what follows could not be trusted.
        """
        if step.moved:
            self.losses.append(step.loss)
            self.norms.append(step.norm)
        if not self.is_due(steps, saving) or not self.losses:
            return
        mean = self.ranks.mean(torch.stack(self.losses).mean())
        norms = torch.stack(self.norms)
        if not math.isfinite(mean) or not bool(norms.isfinite().all()):
            raise UserError(self._not_finite(steps))
        self.losses.clear()
        self.norms.clear()
        if self.board is not None:
            self._note("history.jsonl", steps, {"loss": mean})
            told = {"loss": mean, "gradient_norm": norms[-1].item(), "learning_rate_factor": rate}
            self.board.scalars(told, steps * self.config.batch_size)
        now = time.monotonic()
        if self.ranks.is_first and (now - self.spoke >= self.config.log_every or steps == self.config.steps):
            self._say(steps, mean, now)

    @staticmethod
    def is_due(steps: int, saving: bool) -> bool:
        """Whether ranks talk after this step: at a number of steps and not a time, as their clocks differ."""
        return saving or steps % STEPS_BETWEEN_TALKS == 0

    def _not_finite(self, steps: int) -> str:
        """Which step, and which samples of this rank were in it."""
        bad = [not (a.isfinite() and b.isfinite()) for a, b in zip(self.losses, self.norms, strict=True)]
        number = bad.index(True) if True in bad else len(bad) - 1
        here = not self.losses[number].isfinite()
        step = steps - len(bad) + number + 1
        keys = f"; samples {', '.join(list(self.keys)[number - len(bad)])}" if here else ""
        return (
            f"loss or gradient is no finite number at step {step}{keys}; lower the learning rates and --resume, or "
            f"leave such steps out with --on-nan skip"
        )

    def _note(self, name: str, steps: int, values: Mapping[str, float]) -> None:
        with (self.out / name).open("a") as file:
            file.write(json.dumps({"step": steps, "samples": steps * self.config.batch_size, **values}) + "\n")

    def _say(self, steps: int, loss: float, now: float) -> None:
        took = max(now - self.spoke, 1e-9)
        pace = (steps - self.done) / took
        stall = self.stalled / took
        samples = pace * self.config.batch_size
        memory = self._memory()
        left = (self.config.steps - steps) / max(pace, 1e-9)
        print(
            f"step {steps}/{self.config.steps}  loss {loss:.4f}  {pace:.2f} steps/s  {samples:.0f} samples/s  waiting "
            f"for data {stall:.0%}  {memory / 1e9:.1f} GB  {_clock(left)} left",
            flush=True,
        )
        if self.board is not None:
            told = {"samples_per_second": samples, "data_stall": stall, "memory_gb": memory / 1e9}
            self.board.scalars(told, steps * self.config.batch_size)
        self.spoke, self.done, self.stalled = now, steps, 0.0

    def _memory(self) -> int:
        """Bytes at most used so far: of the GPU where there is one, else of this process."""
        if self.ranks.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.ranks.device)
        kilo = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What happens inside, validation or a checkpoint, does not count in the pace of steps."""
        start = time.monotonic()
        yield
        self.spoke += time.monotonic() - start

    def validated(self, steps: int, losses: Mapping[str, float], picture: NDArray[np.uint8] | None) -> None:
        """Notes what validation found, and keeps the picture as `samples/<samples>.png`."""
        if self.board is None:
            return
        samples = steps * self.config.batch_size
        self._note("validation.jsonl", steps, losses)
        self.board.scalars(losses, samples)
        print(f"step {steps}/{self.config.steps}  validation loss {losses['val_loss']:.4f}", flush=True)
        if picture is not None:
            done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            assert done
            write_atomic(self.out / "samples" / f"{samples:012d}.png", data.tobytes())
            self.board.picture("samples", picture, samples)

    def finish(self, steps: int, model: Path, left_out: tuple[int, int]) -> None:
        """The closing lines: what was made and where it is."""
        if not self.ranks.is_first:
            return
        took = time.monotonic() - self.began
        pace = (steps - self.first) / max(took, 1e-9)
        if any(left_out):
            print(f"left out: {left_out[0]} steps whose gradient was no number, {left_out[1]} samples not readable")
        print(f"trained {steps - self.first} steps in {_clock(took)} ({pace:.2f} steps/s); model: {model}")
        if steps < self.config.steps:
            print(f"told to end by SIGTERM at step {steps} of {self.config.steps}; saved, go on with --resume")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _forget_after(history: Path, steps: int) -> None:
    """Drops what a run wrote after the checkpoint that it now goes on from: it will be written again."""
    if history.is_file():
        # A line without its end was being written when the run was killed.
        whole = [line for line in history.read_text().splitlines(keepends=True) if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)["step"] <= steps]
        write_atomic(history, "".join(kept).encode())
