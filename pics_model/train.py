"""`python -m pics_model.train` and `torchrun --nproc-per-node N -m pics_model.train`: shards -> a trained model.

The clock of a run is `samples`: order of data, noise, timesteps, learning rate and what to save are functions of the
settings and of it. So a run continues from a checkpoint as if it had never stopped, and nothing else is kept.
"""

import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pics_common.errors import UserError, run_command
from pics_common.recipe import parse_recipe
from pics_model.autoencoder import latent_weight
from pics_model.checkpoint import (
    TrainState,
    list_checkpoints,
    load_checkpoint,
    read_state,
    save_checkpoint,
    save_snapshot,
)
from pics_model.inputs import Batch, hint, to_signed
from pics_model.objectives import TimestepRule, draw_noise, objective_target, weighted_error
from pics_model.optimizer import Optimizer, OptimizerKind
from pics_model.pipeline import PICSPipeline
from pics_model.presets import Preset, build, load_preset
from pics_model.ranks import STEPS_BETWEEN_TALKS, Ranks, one_process_group, terminations
from pics_model.settings import plain, require_ranges
from pics_model.stream import ShardStream
from pics_model.watch import Watch


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Trains a compositing model on shards."""

    shards: Path
    """Folder of shards, or one tar."""
    out: Path
    """Folder of the run: checkpoints, TensorBoard logs, and the model."""
    preset: str = "tiny"
    """Name of a preset, or path of a YAML file like it."""
    steps: int = 1000
    """Optimiser steps in all; the learning rate falls to zero over them."""
    batch_size: int = 16
    """Samples a step, over all ranks together."""
    optimizer: OptimizerKind = "muon"
    """`muon` learns far faster from nothing; `adamw` is the published choice, for fine-tuning."""
    matrix_rate: float = 0.02
    """Muon's learning rate, for matrices and convolutions."""
    learning_rate: float = 2e-3
    """AdamW's learning rate, for all else."""
    warmup: int = 20
    """Steps over which the learning rate rises."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of the gradient."""
    background_weight: float = 0.1
    """Weight of the loss outside of the regions, where the output is not used; 1 inside."""
    object_dropout: float = 0.05
    """Share of samples that are trained without object codes, for guidance."""
    timesteps: TimestepRule = "uniform"
    cutouts: Literal["visible", "full", "mix"] = "visible"
    """Object pictures: as far as the photo shows them, whole where the shards know it, or either by chance."""
    split: Literal["train", "val", "all"] = "train"
    seed: int = 0
    workers: int = 1
    """Loader processes a rank; 0 loads in the training process."""
    threads: int = 0
    """CPU threads a rank; 0 shares the machine's cores among the ranks."""
    bf16: bool = False
    """Computes in bfloat16 where it is safe."""
    save_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints kept."""
    log_every: float = 10.0
    """Seconds between lines in the terminal."""
    resume: bool = False
    """Goes on with the newest checkpoint of `out`, if there is one."""

    def __post_init__(self) -> None:
        anything = (0, math.inf)
        require_ranges(
            self,
            {
                "steps": (1, math.inf),
                "batch_size": (1, math.inf),
                "matrix_rate": anything,
                "learning_rate": anything,
                "warmup": anything,
                "weight_decay": anything,
                "clip": (1e-9, math.inf),
                "background_weight": anything,
                "object_dropout": (0, 1),
                "seed": (0, 2**63 - 1),
                "workers": anything,
                "threads": anything,
                "save_every": (1, math.inf),
                "keep": (1, math.inf),
                "log_every": anything,
            },
        )


class DenoisingLoss(nn.Module):
    """One module from batch to loss, so that DDP sees one forward call."""

    def __init__(self, pipeline: PICSPipeline, config: TrainConfig) -> None:
        super().__init__()
        self.backbone, self.object_encoder = pipeline.backbone, pipeline.object_encoder
        self.pipeline = [pipeline]  # in a list: its parts are registered above, once
        self.config = config

    def forward(self, batch: Batch, noise: Tensor, timesteps: Tensor, drop: Tensor) -> Tensor:
        """batch of B, noise [B, L, n, n], timesteps [B], drop [B] bool (trained without object codes) -> loss []."""
        pipeline = self.pipeline[0]
        with torch.no_grad():
            clean = pipeline.to_latent(to_signed(batch.target)).float()
        noisy = pipeline.scheduler.add_noise(clean, noise, timesteps)
        objects = pipeline.encode(batch)
        none = pipeline.no_object(noisy)[None].to(objects.codes.dtype)
        objects.codes = torch.where(drop[:, None, None, None], none, objects.codes)
        answer = self.backbone(noisy, timesteps, hint(batch.target, batch.regions, batch.valid), objects)
        inside = batch.regions.any(1, keepdim=True).float()
        weight = (inside + self.config.background_weight * (1 - inside)) * batch.valid[:, None]
        weight = latent_weight(pipeline.autoencoder, pipeline.config.patch, weight).expand_as(clean)
        return weighted_error(answer, objective_target(pipeline.scheduler, clean, noise, timesteps), weight)


def main(argv: list[str] | None = None) -> int:
    """The command; 143 if SIGTERM ended it before its last step. Raises `UserError` for what the user can mend."""
    config = parse_recipe(TrainConfig, sys.argv[1:] if argv is None else argv, prog="pics_model.train")
    with one_process_group(config.threads) as ranks:
        return 0 if train(config, ranks) else 143


def train(config: TrainConfig, ranks: Ranks) -> bool:
    """Runs or continues the training that `config` describes; returns whether it came to its end.

    SIGTERM makes it save a checkpoint and stop: after the step at hand, or where ranks must agree on one, within
    `STEPS_BETWEEN_TALKS`.
    """
    preset = load_preset(config.preset)
    _check(config, ranks)
    torch.manual_seed(config.seed)
    pipeline = build(preset).to(ranks.device)
    stream = ShardStream(
        config.shards,
        pipeline.framing,
        batch_size=config.batch_size,
        seed=config.seed,
        rank=ranks.rank,
        world_size=ranks.size,
        num_workers=config.workers,
        split=config.split,
        cutouts=config.cutouts,
    )
    module = DenoisingLoss(pipeline, config)
    rates = (config.learning_rate, config.matrix_rate)
    optimizer = Optimizer(module, config.optimizer, *rates, config.weight_decay)
    steps = _resume(config, preset, module, optimizer)
    ddp = DistributedDataParallel(module) if ranks.size > 1 else module
    watch = Watch(config.out, config.steps, config.batch_size, config.log_every, ranks)
    with watch, terminations() as terminated:
        watch.start(plain(config), pipeline, stream.num_samples, steps)
        batches = iter(stream.batches(steps * config.batch_size))
        stopped = False
        while steps < config.steps and not stopped:
            batch = watch.waiting(batches).to(ranks.device)
            loss, norm = _step(ddp, optimizer, batch, steps, pipeline, config)
            steps += 1
            stopped = (ranks.size == 1 or steps % STEPS_BETWEEN_TALKS == 0) and ranks.any(terminated())
            saving = steps % config.save_every == 0 or steps == config.steps or stopped
            watch.step(steps, loss, norm, rate(steps - 1, config.warmup, config.steps), saving)
            if saving and ranks.is_first:
                _save(config, preset, pipeline, module, optimizer, steps)
        watch.finish(steps, config.out / "model")
    return steps >= config.steps


def _step(
    ddp: nn.Module, optimizer: Optimizer, batch: Batch, steps: int, pipeline: PICSPipeline, config: TrainConfig
) -> tuple[Tensor, Tensor]:
    """One optimiser step; returns this rank's loss and the gradient's norm before clipping."""
    with torch.autocast(batch.target.device.type, torch.bfloat16, enabled=config.bf16):
        loss: Tensor = ddp(batch, *draw(batch, pipeline, config))
    loss.backward()
    norm = nn.utils.clip_grad_norm_(list(ddp.parameters()), config.clip)
    optimizer.step(rate(steps, config.warmup, config.steps))
    return loss.detach(), norm


def draw(batch: Batch, pipeline: PICSPipeline, config: TrainConfig) -> tuple[Tensor, Tensor, Tensor]:
    """What is random in a step, each sample's from its own seed: noise [B, L, n, n], timesteps [B], and [B] bool,
    whether it is trained without its object codes."""
    device = batch.target.device
    noise, timesteps = draw_noise(
        batch.seeds, pipeline.latent_shape, pipeline.scheduler.config.num_train_timesteps, config.timesteps
    )
    drop = torch.tensor([(seed >> 8) % 10_000 < config.object_dropout * 10_000 for seed in batch.seeds.tolist()])
    return noise.to(device), timesteps.to(device), drop.to(device)


def rate(step: int, warmup: int, total: int) -> float:
    """The learning rate's factor: rises over `warmup` steps, then falls in a straight line to zero at `total`."""
    rise = (step + 1) / max(warmup, 1)
    fall = (total - step) / max(total - warmup, 1)
    return max(0.0, min(1.0, rise, fall))


def _check(config: TrainConfig, ranks: Ranks) -> None:
    if config.batch_size % ranks.size:
        raise UserError(f"--batch-size {config.batch_size}: expected a multiple of the {ranks.size} ranks")
    if not config.resume and list_checkpoints(config.out):
        raise UserError(f"--out {config.out} holds a run; --resume continues it, or choose another folder")


def _save(
    config: TrainConfig, preset: Preset, pipeline: PICSPipeline, module: nn.Module, optimizer: Optimizer, steps: int
) -> None:
    """The snapshot first: were the run killed between the two, it would save both again."""
    state = TrainState(steps * config.batch_size, asdict(preset), plain(config))
    try:
        save_snapshot(config.out, pipeline)
        save_checkpoint(config.out, module, optimizer, state, config.keep)
    except (OSError, SafetensorError) as error:
        raise UserError(f"run {config.out}: cannot be written ({error}); make room for it, then --resume") from None


def _resume(config: TrainConfig, preset: Preset, module: nn.Module, optimizer: Optimizer) -> int:
    """Loads the newest checkpoint if asked to; returns the steps done."""
    found = list_checkpoints(config.out) if config.resume else []
    if not found:
        return 0
    state = read_state(found[-1])
    different = sorted(key for key, value in asdict(preset).items() if state.preset.get(key) != value)
    if different:
        raise UserError(
            f"checkpoint {found[-1]}: made with preset {state.preset.get('name')}, whose `{different[0]}` is not that "
            f"of --preset {config.preset}; give the preset it was made with, or another --out"
        )
    if state.samples % config.batch_size:
        raise UserError(
            f"--batch-size {config.batch_size}: {found[-1]} stands at {state.samples} samples, no multiple of it"
        )
    load_checkpoint(found[-1], module, optimizer)
    return state.samples // config.batch_size


if __name__ == "__main__":
    run_command(main)
