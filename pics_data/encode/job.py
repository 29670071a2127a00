"""`pics-data encode`: the encodings of shards, as a Ray Data job of one operator: actors that hold the model.

A shard is the unit of work, of commit and of resume: its file is written beside its name and renamed. An actor is given
whole shards, and decodes samples in threads while its GPU works on a batch: a sample is 5 ms of one CPU (see
docs/encoded.md), so that a few threads keep any card at work, and pixels need not travel between processes.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pics_common import storage
from pics_common.errors import UserError
from pics_data.build import lock_folder
from pics_data.encode.options import EncodeConfig
from pics_data.options import RayOptions
from pics_data.pipeline import WINDOW, check_address, engine, map_by_actors, told_as_user_errors
from pics_data.progress import Progress, say
from pics_data.shards import remove_leftovers

if TYPE_CHECKING:
    from pics_model.encode import EncodedShard
    from pics_model.encoded import EncodingRecipe
    from pics_model.pipeline import PICSPipeline
    from pics_model.shard_set import Shard

MAX_SHOWN = 3  # samples that could not be read, of all


@dataclass(slots=True)
class EncodeResult:
    """What was done: `errors` are (key, why) of the samples that could not be read."""

    folder: Path
    samples: int = 0
    num_bytes: int = 0
    shards: int = 0
    kept_shards: int = 0
    seconds: float = 0.0
    errors: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Job:
    """A shard to encode, how many samples it has, and where to."""

    shard: "Shard"
    num_samples: int
    path: Path


def encode(config: EncodeConfig) -> EncodeResult:
    """Encodes the shards of `config.folder`, or finishes what an earlier run of the same began.

    Raises `UserError` for bad input, before anything is written, and for a damaged shard; its neighbours' files stay.
    """
    from pics_model.encode import find_encoded

    check_address(_ray_options(config, 0))
    recipe = _recipe(_load(config), config)
    jobs, place = _jobs(config, recipe)
    with lock_folder(str(place)):
        remove_leftovers(str(place))
        result = EncodeResult(place)
        todo = []
        for job in jobs:
            kept = find_encoded(recipe, job.shard, job.path)
            if kept is None:
                todo.append(job)
            else:
                result.kept_shards += 1
                _enter(result, kept)
        if todo:
            _make(todo, config, recipe, result)
    return result


def _jobs(config: EncodeConfig, recipe: "EncodingRecipe") -> tuple[list[Job], Path]:
    """All shards, and the folder of their encodings."""
    from pics_model.encoded import file_name
    from pics_model.shard_table import open_shards

    if config.out is None and storage.is_remote(config.folder):
        raise UserError(
            f"--out is missing: encodings are files of this machine, and the shards of {config.folder} are not"
        )
    table = open_shards(storage.absolute(config.folder))
    place = (config.out.absolute() if config.out else table.shards[0].path.parent) / recipe.folder_name
    counted = zip(table.shards, table.counts, strict=True)
    return [Job(shard, count, place / file_name(shard)) for shard, count in counted], place


def _load(config: EncodeConfig) -> "PICSPipeline":
    from pics_model.infer import load_model

    return load_model(config.model)


def _recipe(pipeline: "PICSPipeline", config: EncodeConfig) -> "EncodingRecipe":
    """What the encodings depend on. Raises `UserError` for options without effect."""
    from pics_model.augment import AugmentSettings
    from pics_model.encode import recipe_of, trunk_of

    augment = AugmentSettings.of(config)
    if config.variants > 1 and trunk_of(pipeline) is None:
        raise UserError(f"--variants {config.variants}: no effect, as all of this model's object encoder trains")
    if config.variants == 1 and (augment != AugmentSettings() or config.seed):
        raise UserError("--rotation, --flip, --colour and --seed: no effect without --variants; give 2 or more")
    return recipe_of(pipeline, config.cutouts, augment, config.variants, config.seed, config.bf16)


def _make(todo: list[Job], config: EncodeConfig, recipe: "EncodingRecipe", result: EncodeResult) -> None:
    more = f", {result.kept_shards} more are whole" if result.kept_shards else ""
    say(f"{len(todo)} shards to encode{more}")
    options = _ray_options(config, len(todo))
    try:
        with engine(options), Progress(sum(job.num_samples for job in todo)) as progress:
            for made in _run(todo, config, recipe, options, result.folder):
                _enter(result, made)
                progress.advance(made.num_samples)
    finally:
        remove_leftovers(str(result.folder))
    result.seconds = progress.seconds


def _ray_options(config: EncodeConfig, num_shards: int) -> RayOptions:
    """One actor a GPU, or a worker; no more than there are shards."""
    actors = max(1, min(config.gpus or config.workers, num_shards))
    workers = 0 if config.address or config.gpus else actors
    return RayOptions(
        gpus_per_worker=1.0 if config.gpus else 0.0, predictors=actors, workers=workers, address=config.address
    )


def _run(
    todo: list[Job], config: EncodeConfig, recipe: "EncodingRecipe", options: RayOptions, folder: Path
) -> Iterator["EncodedShard"]:
    import ray

    from pics_model.encode import EncodedShard

    for start in range(0, len(todo), WINDOW):
        window = todo[start : start + WINDOW]
        left = {number: job.shard.name for number, job in enumerate(window)}
        items = [
            {"number": number, "path": str(job.path), "shard": json.dumps(asdict(job.shard))}
            for number, job in enumerate(window)
        ]
        with told_as_user_errors(str(folder), options, left):
            dataset = ray.data.from_items(items, override_num_blocks=len(items))
            for row in map_by_actors(dataset, ShardEncoder, (config, recipe), options).iter_rows():
                del left[row["number"]]
                values = json.loads(row["made"])
                errors = tuple((key, why) for key, why in values.pop("errors"))
                yield EncodedShard(**values, errors=errors)


class ShardEncoder:
    """A shard's row of the graph -> what was made of it, once its file is in place. Loads the model once."""

    def __init__(self, config: EncodeConfig, recipe: "EncodingRecipe") -> None:
        import cv2
        import torch

        cv2.setNumThreads(1)  # each reader is a thread already
        if not config.gpus:
            torch.set_num_threads(1)  # what is computed must not depend on the machine that it is computed on
        self._config, self._recipe = config, recipe
        self._pipeline = _load(config)
        if _recipe(self._pipeline, config) != recipe:
            raise UserError(f"--model {config.model}: changed since the start, or another one on this node")
        self._pipeline.to("cuda" if config.gpus else "cpu")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from pics_model.encode import encode_shard
        from pics_model.shard_set import Shard

        shard, path = Shard(**json.loads(row["shard"])), Path(row["path"])
        sizes = {"batch_size": self._config.batch_size, "threads": self._config.readers}
        made = encode_shard(self._pipeline, self._recipe, shard, path, **sizes)
        return {"number": row["number"], "made": json.dumps(asdict(made))}


def _enter(result: EncodeResult, made: "EncodedShard") -> None:
    result.samples += made.num_samples
    result.num_bytes += made.num_bytes
    result.shards += 1
    result.errors += made.errors


def encode_summary(result: EncodeResult) -> str:
    """The closing lines of the command."""
    encoded = result.samples - len(result.errors)
    each = result.num_bytes / max(result.samples, 1)
    lines = [
        f"samples       {encoded} of {result.samples} in {result.shards} shards, {result.num_bytes / 1e6:.1f} MB, "
        f"{each:,.0f} bytes each"
    ]
    lines += [f"not encoded   {key}: {why}" for key, why in result.errors[:MAX_SHOWN]]
    if len(result.errors) > MAX_SHOWN:
        lines.append(f"              and {len(result.errors) - MAX_SHOWN} more")
    if result.kept_shards:
        lines.append(f"resumed       {result.kept_shards} shards were whole from an earlier run")
    if result.seconds:
        lines.append(f"time          {result.seconds:.0f} s")
    lines.append(f"folder        {result.folder}")
    return "\n".join(lines)
