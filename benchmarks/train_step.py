"""How fast does `tiny` train, where does the time go, and what is the least that its arithmetic could take?

    python benchmarks/train_step.py --shards demo/shards

Prints the median time of each part of a step, steps a second, and beside it the floor: the step's floating point
operations, counted by torch, at the speed that one large matrix product reaches on the same threads.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from pics_common.errors import run_command
from pics_common.recipe import parse_recipe
from pics_model.denoising import DenoisingLoss, draw
from pics_model.optimizer import Optimizer
from pics_model.presets import build, load_preset
from pics_model.ranks import one_process_group
from pics_model.stream import ShardStream
from pics_model.train_config import TrainConfig


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """Times training steps on real shards."""

    shards: Path
    preset: str = "tiny"
    batch_size: int = 16
    steps: int = 30
    """Steps that are timed, after three that are not."""
    threads: int = 0


def matrix_speed(seconds: float = 2.0) -> float:
    """Floating point operations a second of a 1024 x 1024 float32 matrix product, the best of many."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ b
        best = max(best, 2 * 1024**3 / (time.perf_counter() - start))
    return best


def main() -> int:
    config = parse_recipe(BenchConfig, sys.argv[1:], prog="train_step")
    with one_process_group(config.threads):
        torch.manual_seed(0)
        training = TrainConfig(shards=(str(config.shards),), out=Path("unused"), batch_size=config.batch_size)
        pipeline = build(load_preset(config.preset))
        module = DenoisingLoss(pipeline, training.background_weight)
        optimizer = Optimizer(module, "muon", training.learning_rate, training.matrix_rate, training.weight_decay)
        stream = ShardStream(config.shards, pipeline.framing, batch_size=config.batch_size, num_workers=1)
        batches = stream.batches()
        times: dict[str, list[float]] = {"data": [], "forward": [], "backward": [], "optimizer": []}

        def timed(part: str, work: Callable[[], object]) -> object:
            start = time.perf_counter()
            result = work()
            times[part].append(time.perf_counter() - start)
            return result

        for step in range(config.steps + 3):
            batch = timed("data", lambda: next(batches))
            drawn = draw(batch.seeds, batch.num_objects, pipeline.latent_shape)
            if step == 2:
                with FlopCounterMode(display=False) as counter:
                    module(batch, drawn).backward()
                flops = counter.get_total_flops()
            loss = timed("forward", lambda batch=batch, drawn=drawn: module(batch, drawn))
            timed("backward", lambda loss=loss: loss.backward())
            timed("optimizer", lambda: optimizer.step(0.1))
        medians = {part: statistics.median(values[3:]) for part, values in times.items()}
        whole, peak = sum(medians.values()), matrix_speed()
        print(
            f"{config.preset}, batch {config.batch_size}, {torch.get_num_threads()} threads, one loader process beside"
        )
        for part, value in medians.items():
            print(f"{part:>10} {value * 1000:7.1f} ms {value / whole:6.1%}")
        print(
            f"{'step':>10} {whole * 1000:7.1f} ms, {1 / whole:.2f} steps/s, {config.batch_size / whole:.1f} samples/s"
        )
        floor = flops / peak
        print(f"{'floor':>10} {floor * 1000:7.1f} ms: {flops / 1e9:.1f} GFLOP at {peak / 1e9:.0f} GFLOP/s; "
              f"the step takes {whole / floor:.1f} times as long")  # fmt: skip
    return 0


if __name__ == "__main__":
    run_command(main)
