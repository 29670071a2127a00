"""What a training run is told: one option a field."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pics_common.errors import UserError
from pics_model.augment import AugmentSettings
from pics_model.board import Logger
from pics_model.objectives import TimestepRule
from pics_model.optimizer import OptimizerKind, ScheduleKind
from pics_model.parallel import Parallel
from pics_model.samples import Damage
from pics_model.settings import require_ranges
from pics_model.trainable import Trains


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Trains a compositing model on shards."""

    shards: tuple[str, ...]
    """Folder of shards, one tar, or a URL of either, s3://... or https://...; several are mixed."""
    out: Path
    """Folder of the run: checkpoints, TensorBoard logs, and the model."""
    preset: str | None = None
    """Name of a preset, or path of a YAML file like it, to start from random weights; `tiny` if nothing is given."""
    init: Path | None = None
    """Folder of a saved model or of a run, to start from its weights, in place of a preset."""
    trains: Trains = "all"
    """What moves: all; what the authors trained (ControlNet, U-Net's decoder, projector, and the interaction's own
    weights everywhere); the interaction's own weights and the projector alone; or these, and LoRA adapters on the
    attention of U-Net and ControlNet, for small GPUs."""
    lora_rank: int = 16
    """Rank of the adapters of `--trains lora`."""
    steps: int = 1000
    """Optimiser steps in all."""
    batch_size: int = 16
    """Samples a step, over all ranks together."""
    accumulate: int = 1
    """Parts in which a rank works on its share of a step, one after the other: the same step in less memory."""
    optimizer: OptimizerKind = "muon"
    """`muon` learns far faster from nothing; `adamw` is the published choice, for fine-tuning."""
    matrix_rate: float = 0.02
    """Muon's learning rate, for matrices and convolutions."""
    learning_rate: float = 2e-3
    """AdamW's learning rate, for all else."""
    warmup: int = 20
    """Steps over which the learning rate rises."""
    schedule: ScheduleKind = "linear"
    """How it falls to zero over the steps that follow: in a straight line, as half a cosine, or not at all."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: int = 0
    """Half-life, in samples, of a running mean of the weights, which then is what is validated and saved as the model;
    0 keeps none. It is shorter at the start, a twentieth of the samples seen."""
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
    weights: tuple[float, ...] = ()
    """How often a sample of each of --shards is seen relative to one of the others; alike if not given."""
    shuffle_shards: int | None = None
    """Shards whose samples are mixed at a time; 0 mixes all, as is done with local ones. Fewer need less room where
    shards have to be fetched."""
    cache: Path | None = None
    """Folder for shards that have to be fetched; one of the user's if not given."""
    cache_gb: float = 64.0
    """What it may hold."""
    on_damage: Damage = "fail"
    """What happens where a sample, or all of a shard, cannot be read: the run ends, or the next sample that can be read
    stands in, the same one on any ranks and workers."""
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
    compile: bool = False
    """Compiles the interaction blocks: minutes at the start, faster steps on a GPU."""
    parallel: Parallel = "ddp"
    """`ddp` keeps the whole model on each rank; `fsdp` (FSDP2) shares weights, gradients and optimiser out over the
    ranks, for models that do not fit."""
    save_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Newest checkpoints that are kept; that of the least validation loss is kept beside them."""
    val_shards: str | None = None
    """Shards to validate on; those of the split `val` of --shards if not given."""
    val_every: int = 0
    """Steps between validations; 0 validates where a checkpoint is saved."""
    val_samples: int = 64
    """Samples that are validated on, the same ones with the same noise each time; 0 for none."""
    grid_samples: int = 4
    """Of these, so many are composed and shown beside their truth; 0 for none."""
    on_nan: Literal["fail", "skip"] = "fail"
    """What happens where loss or gradient is no finite number: the run ends, or the step is left out."""
    max_skipped: int = 100
    """With skip, so many steps or samples may be left out, over all ranks, until the run ends all the same."""
    logger: Logger = "tensorboard"
    """Where scalars and pictures go, beside history.jsonl and samples/: `wandb` needs its package."""
    log_every: float = 10.0
    """Seconds between lines in the terminal."""
    encoded: Path | None = None
    """Encodings that `pics-data encode` has made of the shards with the model of --init: their folder, or that of the
    shards. Neither autoencoder nor trunk then runs in a step."""
    resume: bool = False
    """Goes on with the newest checkpoint of `out`, if there is one."""

    def __post_init__(self) -> None:
        anything = (0, math.inf)
        require_ranges(
            self,
            {
                "lora_rank": (1, 4096),
                "steps": (1, math.inf),
                "batch_size": (1, math.inf),
                "accumulate": (1, math.inf),
                "matrix_rate": anything,
                "learning_rate": anything,
                "warmup": anything,
                "weight_decay": anything,
                "clip": (1e-9, math.inf),
                "ema": anything,
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
                "val_every": anything,
                "val_samples": anything,
                "grid_samples": anything,
                "max_skipped": anything,
                "shuffle_shards": anything,
                "cache_gb": (0.001, math.inf),
                "log_every": anything,
            },
        )
        self.augment  # noqa: B018  # refuses settings that cannot work
        if self.init and self.preset:
            raise UserError(f"--preset {self.preset}: --init {self.init} brings sizes and weights; give one of the two")
        if self.weights and len(self.weights) != len(self.shards):
            raise UserError(f"--weights: {len(self.weights)} for {len(self.shards)} of --shards; expected one for each")
        if self.parallel == "fsdp" and self.optimizer == "muon":
            raise UserError("--parallel fsdp: Muon needs whole matrices; give --optimizer adamw")
        if self.val_shards and not self.val_samples:
            raise UserError(f"--val-shards {self.val_shards}: without effect, as --val-samples is 0")

    @property
    def sources(self) -> list[tuple[str, float]]:
        """The shards, each with its weight."""
        return list(zip(self.shards, self.weights or [1.0] * len(self.shards), strict=True))

    @property
    def cache_bytes(self) -> int:
        """What the cache may hold."""
        return int(self.cache_gb * 1e9)

    @property
    def begun(self) -> str:
        """The option that says what the run begins with, for messages."""
        return f"--init {self.init}" if self.init else f"--preset {self.preset or 'tiny'}"

    @property
    def augment(self) -> AugmentSettings:
        """What is changed in object pictures."""
        return AugmentSettings.of(self)
