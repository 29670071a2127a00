"""How fast does a preset train, where do time and memory go, and what is the least that its arithmetic could take?

    python benchmarks/train_step.py --shards demo/shards
    python benchmarks/train_step.py --shards out/coco --preset sd21 --optimizer adamw --bf16     # on a GPU

Prints the median time and the most memory of each part of a step, steps a second, and beside it the floor: the step's
floating point operations, counted by torch, at the speed that one large matrix product reaches on the same device,
threads and precision. Memory is what tensors hold at once, weights and optimiser included.
"""

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from train_memory import GB, Alive

from pics_common.errors import run_command
from pics_common.recipe import parse_recipe
from pics_model.denoising import DenoisingLoss, draw
from pics_model.optimizer import Optimizer, OptimizerKind
from pics_model.presets import build, load_preset
from pics_model.ranks import one_process_group
from pics_model.stream import ShardStream
from pics_model.train_config import TrainConfig
from pics_model.trainable import choose_trainable

PARTS = ("data", "forward", "backward", "optimizer")


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """Times training steps on real shards."""

    shards: str
    preset: str = "tiny"
    batch_size: int = 16
    optimizer: OptimizerKind = "muon"
    bf16: bool = False
    checkpointing: bool = False
    steps: int = 30
    """Steps that are timed, after three that are not."""
    workers: int = 1
    threads: int = 0


def matrix_speed(device: torch.device, bf16: bool, seconds: float = 2.0) -> float:
    """Floating point operations a second of a matrix product, the best of many."""
    size = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if bf16 else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ b
        _wait(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> int:
    config = parse_recipe(BenchConfig, sys.argv[1:], prog="train_step")
    with one_process_group(config.threads) as ranks:
        device = ranks.device
        torch.manual_seed(0)
        training = TrainConfig(shards=(config.shards,), out=Path("unused"), batch_size=config.batch_size)
        pipeline = build(load_preset(config.preset)).to(device)
        choose_trainable(pipeline, "all")
        if config.checkpointing:
            pipeline.backbone.enable_gradient_checkpointing()
        module = DenoisingLoss(pipeline, training.background_weight)
        rates = (training.learning_rate, training.matrix_rate)
        optimizer = Optimizer(module, config.optimizer, *rates, training.weight_decay)
        stream = ShardStream(
            config.shards, pipeline.framing, batch_size=config.batch_size, num_workers=config.workers, silhouettes=False
        )
        batches = stream.batches(device=device)
        times: dict[str, list[float]] = {part: [] for part in PARTS}
        memory = dict.fromkeys(PARTS, 0.0)
        flops = 0
        for number in range(config.steps + 4):
            counting = number == config.steps + 3  # the last step is for memory: looking on takes time
            alive = Alive() if counting and device.type == "cpu" else None
            if alive:
                note_all(alive, module, optimizer)

            def timed(part: str, work: Callable[[], object], alive: Alive | None = alive) -> object:
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                elif alive:
                    alive.peak = alive.now
                start = time.perf_counter()
                with alive or nullcontext():
                    result = work()
                _wait(device)
                times[part].append(time.perf_counter() - start)
                held = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else alive.peak if alive else 0
                memory[part] = held / GB
                return result

            def forward(batch: object, drawn: object) -> object:
                with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
                    return module(batch, drawn)

            batch = timed("data", lambda: next(batches))
            drawn = draw(batch.seeds, batch.num_objects, pipeline.latent_shape).to(device)
            if number == 2:
                with FlopCounterMode(display=False) as counter:
                    forward(batch, drawn).backward()
                flops = counter.get_total_flops()
            loss = timed("forward", lambda batch=batch, drawn=drawn: forward(batch, drawn))
            timed("backward", lambda loss=loss: loss.backward())
            timed("optimizer", lambda: optimizer.step(0.1))
        report(config, device, {part: statistics.median(values[3:-1]) for part, values in times.items()}, memory, flops)
    return 0


def note_all(alive: Alive, module: nn.Module, optimizer: Optimizer) -> None:
    """What is there before the step."""
    for tensor in [*module.state_dict().values(), *optimizer.tensors().values()]:
        alive.note(tensor)


def report(
    config: BenchConfig, device: torch.device, medians: dict[str, float], memory: dict[str, float], flops: int
) -> None:
    whole, peak = sum(medians.values()), matrix_speed(device, config.bf16)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    kind = "bf16" if config.bf16 else "fp32"
    print(f"{config.preset}, batch {config.batch_size}, {kind}, {where}, {config.workers} loader processes beside")
    for part, value in medians.items():
        print(f"{part:>10} {value * 1000:7.1f} ms {value / whole:6.1%}  {memory[part]:6.2f} GB")
    print(f"{'step':>10} {whole * 1000:7.1f} ms, {1 / whole:.2f} steps/s, {config.batch_size / whole:.1f} samples/s")
    floor = flops / peak
    print(f"{'floor':>10} {floor * 1000:7.1f} ms: {flops / 1e9:.1f} GFLOP at {peak / 1e9:.0f} GFLOP/s; "
          f"the step takes {whole / floor:.1f} times as long")  # fmt: skip


if __name__ == "__main__":
    run_command(main)
