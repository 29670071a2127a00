"""`python -m pics_model.train` and `torchrun --nproc-per-node N -m pics_model.train`: shards -> a trained model.

The clock of a run is `samples`: order of data, noise, timesteps, learning rate and what to save are functions of the
settings and of it. So a run continues from a checkpoint as if it had never stopped, and nothing else is kept.
"""

import sys
from collections.abc import Generator
from contextlib import closing, suppress
from functools import partial
from typing import cast

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from safetensors import SafetensorError

from pics_common.errors import UserError, run_command
from pics_common.recipe import parse_recipe
from pics_model.backbone import num_parameters
from pics_model.board import require_logger
from pics_model.checkpoint import (
    TrainState,
    best_checkpoint,
    checkpoint_tensors,
    describe,
    fingerprint,
    first_difference,
    list_checkpoints,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from pics_model.denoising import DenoisingLoss, Draws, draw
from pics_model.ema import Ema
from pics_model.encode import recipe_of
from pics_model.guard import Guard
from pics_model.held_out import SEED, HeldOut, hold_out
from pics_model.infer import load_model
from pics_model.inputs import Batch
from pics_model.learner import Learner
from pics_model.lora import merged
from pics_model.optimizer import Optimizer, rate
from pics_model.parallel import let_go, shared_out, whole_tensors
from pics_model.pipeline import PICSPipeline
from pics_model.presets import build, load_preset
from pics_model.ranks import STEPS_BETWEEN_TALKS, Ranks, one_process_group, terminations
from pics_model.settings import plain
from pics_model.shard_set import MissingSplitError, Sources, find_shards, is_one_tar
from pics_model.snapshot import keep_as, parts_of, save_model, with_weights
from pics_model.stream import ShardStream
from pics_model.train_config import TrainConfig
from pics_model.trainable import choose_trainable
from pics_model.watch import Watch


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
    stream = _stream(config, pipeline, ranks)
    model = describe(pipeline), fingerprint(pipeline)
    learner = _learner(config, pipeline, ranks, stream.encodings.nothing if stream.encodings else None)
    steps = _resume(config, learner, stream, *model)
    held_out = _held_out(config, pipeline, ranks)
    guard, watch = Guard(ranks, config.max_skipped), Watch(config, ranks)
    batches = stream.batches(device=ranks.device)
    left_out = (0, 0)
    # Closed before an error leaves here: it would keep the loader's workers alive, and Python waits for them at exit.
    with let_go(learner.model), watch, terminations() as terminated, closing(cast("Generator[Batch]", batches)):
        begun_with = {"preset": pipeline.config.preset}
        facts = {"settings": plain(config) | begun_with, "model": model[0], "data": stream.digest}
        if stream.encodings:
            facts["encodings"] = stream.encodings.recipe.key
        watch.start(facts, pipeline, stream.num_samples, steps)
        stopped = False
        while steps < config.steps and not stopped:
            batch = watch.waiting(batches)
            guard.left_out_samples(batch.skipped)
            factor = rate(steps, config.warmup, config.steps, config.schedule)
            steps += 1
            samples = steps * config.batch_size
            # Nothing draws from the global generator. Should a user's model do so, it too is a function of the clock.
            torch.manual_seed(config.seed + samples * ranks.size + ranks.rank)
            draws = _draw(batch, pipeline, config).to(ranks.device)
            step = learner.step(batch, draws, config.accumulate, factor, samples, config.on_nan == "skip")
            if not step.moved:
                guard.left_out_step(steps, batch.keys)
            stopped = (ranks.size == 1 or steps % STEPS_BETWEEN_TALKS == 0) and ranks.any(terminated())
            saving = steps % config.save_every == 0 or steps == config.steps or stopped
            watch.step(steps, step, factor, saving)
            if watch.is_due(steps, saving):
                left_out = guard.agree()
            val_loss = None
            if held_out and not stopped and (steps % config.val_every == 0 if config.val_every else saving):
                with watch.aside():
                    val_loss = _validate(held_out, learner, pipeline, ranks, watch, steps)
            if saving:
                state = TrainState(samples, *model, plain(config), stream.state_dict(), val_loss)
                with watch.aside():
                    _save(config, learner, state, ranks)
        watch.finish(steps, config.out / "model", left_out)
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
    pipeline.set_progress_bar_config(disable=True)
    choose_trainable(pipeline, config.trains, config.lora_rank)
    if config.checkpointing:
        pipeline.backbone.enable_gradient_checkpointing()
    if config.compile:
        pipeline.backbone.compile_repeated_blocks()
    return pipeline


def _tell_of_random_parts(pipeline: PICSPipeline) -> None:
    """A preset's weights are random, and what is frozen stays so."""
    for name, part in parts_of(pipeline):
        frozen = sum(weight.numel() for weight in part.parameters() if not weight.requires_grad)
        if frozen > num_parameters(part) / 2:
            print(f"note: {name} is random and not trained; `python -m pics_model.start` makes models of trained parts")


def _stream(config: TrainConfig, pipeline: PICSPipeline, ranks: Ranks) -> ShardStream:
    return ShardStream(
        config.sources,
        pipeline.framing,
        batch_size=config.batch_size,
        seed=config.seed,
        rank=ranks.rank,
        world_size=ranks.size,
        num_workers=config.workers,
        split=config.split,
        cutouts=config.cutouts,
        augment=config.augment,
        shuffle_shards=config.shuffle_shards,
        cache=config.cache,
        cache_bytes=config.cache_bytes,
        on_damage=config.on_damage,
        silhouettes=False,
        encoded=(recipe_of(pipeline, config.cutouts, config.augment), config.encoded) if config.encoded else None,
    )


def _held_out_stream(
    config: TrainConfig, pipeline: PICSPipeline, sources: Sources, batch_size: int, ranks: Ranks
) -> ShardStream:
    return ShardStream(
        sources,
        pipeline.framing,
        batch_size=batch_size,
        seed=SEED,
        rank=ranks.rank,
        world_size=ranks.size,
        split="val",
        cutouts=config.cutouts,
        cache=config.cache,
        cache_bytes=config.cache_bytes,
    )


def _held_out_sources(config: TrainConfig) -> Sources:
    """Where to validate: what was named for it, or those shards that have a split `val`. Raises `MissingSplitError`."""
    if config.val_shards:
        return config.val_shards
    kept = []
    for place, weight in config.sources:
        if not is_one_tar(place):
            with suppress(MissingSplitError):
                find_shards(place, "val", whole=False)
                kept.append((place, weight))
    if not kept:
        raise MissingSplitError(f"shards {', '.join(config.shards)} hold no split val")
    return kept


def _learner(config: TrainConfig, pipeline: PICSPipeline, ranks: Ranks, kept: torch.Tensor | None) -> Learner:
    nothing = None if kept is None else kept.to(ranks.device, pipeline.object_encoder.dtype)
    module = DenoisingLoss(pipeline, config.background_weight, config.min_snr, nothing)
    model = shared_out(module, ranks, config.parallel)
    rates = (config.learning_rate, config.matrix_rate)
    optimizer = Optimizer(module, config.optimizer, *rates, config.weight_decay)
    ema = Ema(module, config.ema) if config.ema else None
    return Learner(module, model, optimizer, ema, config.bf16, config.clip)


def _held_out(config: TrainConfig, pipeline: PICSPipeline, ranks: Ranks) -> HeldOut | None:
    """What to validate on; None, and a word about it, where shards hold nothing for it."""
    if not config.val_samples:
        return None
    shown = config.grid_samples if config.parallel == "ddp" else 0
    if config.grid_samples > shown and ranks.is_first:
        print("note: --grid-samples: nothing is composed while --parallel fsdp shares the model out")
    share = config.batch_size // config.accumulate
    try:
        open_stream = partial(_held_out_stream, config, pipeline, _held_out_sources(config))
        return hold_out(open_stream, pipeline, ranks, share, config.val_samples, shown)
    except MissingSplitError as error:
        if config.val_shards:
            raise
        if ranks.is_first:
            print(f"note: no validation: {error}; --val-shards gives others to validate on")
        return None


def _validate(
    held_out: HeldOut, learner: Learner, pipeline: PICSPipeline, ranks: Ranks, watch: Watch, steps: int
) -> float:
    # What is compiled is compiled for training; for a few samples now and then that would cost more than it saves.
    with torch.compiler.set_stance("force_eager"):
        losses = held_out.losses(learner, ranks)
        picture = held_out.picture(learner, pipeline)
    watch.validated(steps, losses, picture)
    return losses["val_loss"]


def _draw(batch: Batch, pipeline: PICSPipeline, config: TrainConfig) -> Draws:
    dropouts = (config.unconditional_dropout, config.object_dropout, config.side_dropout)
    return draw(batch.seeds, batch.num_objects, pipeline.latent_shape, config.timesteps, *dropouts)


def _check(config: TrainConfig, ranks: Ranks) -> None:
    require_logger(config.logger)
    if config.batch_size % (ranks.size * config.accumulate):
        parts = f" times --accumulate {config.accumulate}" if config.accumulate > 1 else ""
        raise UserError(f"--batch-size {config.batch_size}: expected a multiple of the {ranks.size} ranks{parts}")
    if not config.resume and list_checkpoints(config.out):
        raise UserError(f"--out {config.out} holds a run; --resume continues it, or choose another folder")


def _save(config: TrainConfig, learner: Learner, state: TrainState, ranks: Ranks) -> None:
    """The snapshot first: were the run killed between the two, it would save both again. Every rank must call it."""
    files = checkpoint_tensors(learner)
    pipeline = learner.module.pipeline[0]
    # Users get the mean where there is one, adapters added to their matrices, and no parts of weights.
    with learner.shown():
        tensors = {} if _is_plain(config) else merged(whole_tensors(learner.module.state_dict()))
        if not ranks.is_first:
            return
        try:
            model = save_model(config.out / "model", with_weights(pipeline, tensors) if tensors else pipeline)
            before = best_checkpoint(config.out)
            best = read_state(before).val_loss if before else None
            if state.val_loss is not None and (best is None or state.val_loss <= best):
                keep_as(model, config.out / "best")
            save_checkpoint(config.out, files, state, config.keep)
        except (OSError, SafetensorError) as error:
            raise UserError(f"run {config.out}: cannot be written ({error}); make room for it, then --resume") from None


def _is_plain(config: TrainConfig) -> bool:
    """Whether the model's own weights are those that users get."""
    return config.trains != "lora" and config.parallel == "ddp"


def _resume(config: TrainConfig, learner: Learner, stream: ShardStream, model: dict[str, object], frozen: str) -> int:
    """Loads the newest checkpoint if asked to; returns the steps done."""
    found = list_checkpoints(config.out) if config.resume else []
    if not found:
        return 0
    state = read_state(found[-1])
    different = first_difference(state.model, model)
    if different:
        key, before, now = different
        raise UserError(
            f"checkpoint {found[-1]}: made with another model than {config.begun}: `{key}` was {before!r} and is "
            f"{now!r}; begin as that run did, or give another --out"
        )
    for name in ("trains", "ema"):
        before, now = state.settings.get(name), getattr(config, name)
        if bool(before) != bool(now) or (name == "trains" and before != now):
            raise UserError(f"--{name} {now}: {found[-1]} was made with {before}")
    if state.frozen != frozen:
        raise UserError(
            f"checkpoint {found[-1]}: the weights of {config.begun} that are not trained are others than those the run "
            f"began with; begin as that run did, or give another --out"
        )
    if state.samples % config.batch_size:
        raise UserError(
            f"--batch-size {config.batch_size}: {found[-1]} stands at {state.samples} samples, no multiple of it"
        )
    stream.load_state_dict(state.stream)
    load_checkpoint(found[-1], learner, state)
    return state.samples // config.batch_size


if __name__ == "__main__":
    run_command(main)
