"""`python -m pics_model.train` and `torchrun --nproc-per-node N -m pics_model.train`: shards -> a trained model.

The clock of a run is `samples`: order of data, noise, timesteps, learning rate and what to save are functions of the
settings and of it. So a run continues from a checkpoint as if it had never stopped, and nothing else is kept.
"""

import math
import sys
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pics_common.errors import UserError, run_command
from pics_common.recipe import parse_recipe
from pics_model.augment import AugmentSettings
from pics_model.backbone import num_parameters
from pics_model.checkpoint import (
    TrainState,
    describe,
    fingerprint,
    first_difference,
    list_checkpoints,
    load_checkpoint,
    parts_of,
    read_state,
    save_checkpoint,
    save_snapshot,
)
from pics_model.denoising import DenoisingLoss, Draws, draw
from pics_model.infer import load_model
from pics_model.inputs import Batch
from pics_model.objectives import TimestepRule
from pics_model.optimizer import Optimizer, OptimizerKind
from pics_model.pipeline import PICSPipeline
from pics_model.presets import build, load_preset
from pics_model.ranks import STEPS_BETWEEN_TALKS, Ranks, one_process_group, terminations
from pics_model.settings import plain, require_ranges
from pics_model.stream import ShardStream
from pics_model.trainable import Trains, choose_trainable
from pics_model.watch import Watch


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Trains a compositing model on shards."""

    shards: Path
    """Folder of shards, or one tar."""
    out: Path
    """Folder of the run: checkpoints, TensorBoard logs, and the model."""
    preset: str | None = None
    """Name of a preset, or path of a YAML file like it, to start from random weights; `tiny` if nothing is given."""
    init: Path | None = None
    """Folder of a saved model or of a run, to start from its weights, in place of a preset."""
    trains: Trains = "all"
    """What moves: all; what the authors trained (ControlNet, U-Net's decoder, projector, and the interaction's own
    weights everywhere); or the interaction's own weights and the projector alone."""
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
    unconditional_dropout: float = 0.05
    """Share of samples that are trained without object codes, for guidance."""
    object_dropout: float = 0.0
    """Share of samples, of those with two objects or more, of which one is left out and stays in the background: so the
    model also learns to insert objects one at a time."""
    side_dropout: float = 0.3
    """Share of samples that are trained without views and words of their objects, where the model takes such."""
    timesteps: TimestepRule = "uniform"
    """Noise levels that are trained: evenly; `published`, 70 % from the less noisy half; `logit_normal`, most from the
    middle, usual for flow matching."""
    min_snr: float = 0.0
    """Gamma of min-SNR weighting, 5 in its paper; 0 weighs all noise levels alike."""
    cutouts: Literal["visible", "full", "mix"] = "visible"
    """Object pictures: as far as the photo shows them, whole where the shards know it, or either by chance."""
    rotation: float = 30.0
    """Each object picture is turned in the plane by an angle from U(-a, a), in degrees; 0 turns none."""
    rotation_chance: float = 1.0
    """Share of object pictures that are turned."""
    flip: float = 0.0
    """Share of object pictures that are mirrored, left to right."""
    colour: float = 0.0
    """Strength of changes of brightness and contrast of object pictures, 0 to 1; the authors' is 0.1."""
    colour_chance: float = 1.0
    """Share of object pictures whose colours are changed."""
    stored_rotations: bool = False
    """Takes turned pictures that the shards hold, where one is within --rotation, in place of turning anew."""
    split: Literal["train", "val", "all"] = "train"
    seed: int = 0
    workers: int = 1
    """Loader processes a rank; 0 loads in the training process."""
    threads: int = 0
    """CPU threads a rank; 0 shares the machine's cores among the ranks."""
    bf16: bool = False
    """Computes in bfloat16 where it is safe."""
    checkpointing: bool = False
    """Gradient checkpointing: less memory, more time."""
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
                "unconditional_dropout": (0, 1),
                "object_dropout": (0, 1),
                "side_dropout": (0, 1),
                "min_snr": anything,
                "seed": (0, 2**63 - 1),
                "workers": anything,
                "threads": anything,
                "save_every": (1, math.inf),
                "keep": (1, math.inf),
                "log_every": anything,
            },
        )
        self.augment  # noqa: B018  # refuses settings that cannot work

    @property
    def augment(self) -> AugmentSettings:
        """What is changed in object pictures."""
        return AugmentSettings(
            self.rotation, self.rotation_chance, self.flip, self.colour, self.colour_chance, self.stored_rotations
        )


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
    _check(config, ranks)
    pipeline = _model(config).to(ranks.device)
    if not config.init and ranks.is_first:
        _tell_of_random_parts(pipeline)
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
        augment=config.augment,
    )
    module = DenoisingLoss(pipeline, config.background_weight, config.min_snr)
    rates = (config.learning_rate, config.matrix_rate)
    optimizer = Optimizer(module, config.optimizer, *rates, config.weight_decay)
    steps = _resume(config, module, optimizer)
    ddp = DistributedDataParallel(module) if ranks.size > 1 else module
    watch = Watch(config.out, config.steps, config.batch_size, config.log_every, ranks)
    batches = stream.batches(steps * config.batch_size)
    # Closed before an error leaves here: it would keep the loader's workers alive, and Python waits for them at exit.
    with watch, terminations() as terminated, closing(cast("Generator[Batch]", batches)):
        watch.start(plain(config) | {"preset": pipeline.config.preset}, pipeline, stream.num_samples, steps)
        stopped = False
        while steps < config.steps and not stopped:
            batch = watch.waiting(batches).to(ranks.device)
            loss, norm = _step(ddp, optimizer, batch, _draw(batch, pipeline, config).to(ranks.device), steps, config)
            steps += 1
            stopped = (ranks.size == 1 or steps % STEPS_BETWEEN_TALKS == 0) and ranks.any(terminated())
            saving = steps % config.save_every == 0 or steps == config.steps or stopped
            watch.step(steps, loss, norm, rate(steps - 1, config.warmup, config.steps), saving)
            if saving and ranks.is_first:
                _save(config, module, optimizer, steps)
        watch.finish(steps, config.out / "model")
    return steps >= config.steps


def _model(config: TrainConfig) -> PICSPipeline:
    """The model as it is before its first step. Raises `UserError` if there is none, or none that can be trained."""
    torch.manual_seed(config.seed)
    pipeline = load_model(config.init, "--init") if config.init else build(load_preset(config.preset or "tiny"))
    scheduler = pipeline.scheduler
    if not isinstance(scheduler, DDIMScheduler | FlowMatchEulerDiscreteScheduler):
        raise UserError(
            f"--init {config.init}: its scheduler is a {type(scheduler).__name__}, which is only for sampling; "
            f"expected DDIMScheduler or FlowMatchEulerDiscreteScheduler"
        )
    choose_trainable(pipeline, config.trains)
    if config.checkpointing:
        pipeline.backbone.enable_gradient_checkpointing()
    return pipeline


def _tell_of_random_parts(pipeline: PICSPipeline) -> None:
    """A preset's weights are random, and what is frozen stays so."""
    for name, part in parts_of(pipeline):
        frozen = sum(weight.numel() for weight in part.parameters() if not weight.requires_grad)
        if frozen > num_parameters(part) / 2:
            print(f"note: {name} is random and not trained; `python -m pics_model.start` makes models of trained parts")


def _step(
    ddp: nn.Module, optimizer: Optimizer, batch: Batch, draws: Draws, steps: int, config: TrainConfig
) -> tuple[Tensor, Tensor]:
    """One optimiser step; returns this rank's loss and the gradient's norm before clipping."""
    with torch.autocast(batch.target.device.type, torch.bfloat16, enabled=config.bf16):
        loss: Tensor = ddp(batch, draws)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(list(ddp.parameters()), config.clip)
    optimizer.step(rate(steps, config.warmup, config.steps))
    return loss.detach(), norm


def _draw(batch: Batch, pipeline: PICSPipeline, config: TrainConfig) -> Draws:
    dropouts = (config.unconditional_dropout, config.object_dropout, config.side_dropout)
    return draw(batch.seeds, batch.num_objects, pipeline.latent_shape, config.timesteps, *dropouts)


def rate(step: int, warmup: int, total: int) -> float:
    """The learning rate's factor: rises over `warmup` steps, then falls in a straight line to zero at `total`."""
    rise = (step + 1) / max(warmup, 1)
    fall = (total - step) / max(total - warmup, 1)
    return max(0.0, min(1.0, rise, fall))


def _check(config: TrainConfig, ranks: Ranks) -> None:
    if config.init and config.preset:
        raise UserError(f"--preset {config.preset}: --init {config.init} brings sizes and weights; give one of the two")
    if config.batch_size % ranks.size:
        raise UserError(f"--batch-size {config.batch_size}: expected a multiple of the {ranks.size} ranks")
    if not config.resume and list_checkpoints(config.out):
        raise UserError(f"--out {config.out} holds a run; --resume continues it, or choose another folder")


def _save(config: TrainConfig, module: DenoisingLoss, optimizer: Optimizer, steps: int) -> None:
    """The snapshot first: were the run killed between the two, it would save both again."""
    pipeline = module.pipeline[0]
    state = TrainState(steps * config.batch_size, describe(pipeline), fingerprint(pipeline), plain(config))
    try:
        save_snapshot(config.out, pipeline)
        save_checkpoint(config.out, module, optimizer, state, config.keep)
    except (OSError, SafetensorError) as error:
        raise UserError(f"run {config.out}: cannot be written ({error}); make room for it, then --resume") from None


def _resume(config: TrainConfig, module: DenoisingLoss, optimizer: Optimizer) -> int:
    """Loads the newest checkpoint if asked to; returns the steps done."""
    found = list_checkpoints(config.out) if config.resume else []
    if not found:
        return 0
    state = read_state(found[-1])
    begun = f"--init {config.init}" if config.init else f"--preset {config.preset or 'tiny'}"
    different = first_difference(state.model, describe(module.pipeline[0]))
    if different:
        key, before, now = different
        raise UserError(
            f"checkpoint {found[-1]}: made with another model than {begun}: `{key}` was {before!r} and is {now!r}; "
            f"begin as that run did, or give another --out"
        )
    if state.settings.get("trains") != config.trains:
        raise UserError(f"--trains {config.trains}: {found[-1]} was made with {state.settings.get('trains')}")
    if state.frozen != fingerprint(module.pipeline[0]):
        raise UserError(
            f"checkpoint {found[-1]}: the weights of {begun} that are not trained are others than those the run began "
            f"with; begin as that run did, or give another --out"
        )
    if state.samples % config.batch_size:
        raise UserError(
            f"--batch-size {config.batch_size}: {found[-1]} stands at {state.samples} samples, no multiple of it"
        )
    load_checkpoint(found[-1], module, optimizer)
    return state.samples // config.batch_size


if __name__ == "__main__":
    run_command(main)
