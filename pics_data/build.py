"""`pics-data build` from top to bottom: source -> plan -> folder -> shards -> rejects and index -> summary."""

import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from pics_common.errors import UserError
from pics_data.config import BuildConfig
from pics_data.pipeline import build_shards, check_address, engine
from pics_data.plan import Plan, make_plan, shard_sizes, write_plan
from pics_data.progress import Progress, say
from pics_data.records import Photo, Reject
from pics_data.shards import ShardMark, read_mark, remove_leftovers, replace, write_index, write_json, write_rejects

FORMAT_FILES = {"README.md", "schema.json"}  # the description of the format may lie beside the shards


@dataclass(slots=True)
class BuildResult:
    """What a build did: what went in is what came out and what was dropped.

    Photos = missing + without a pair + with compositions; compositions = samples + rejected.
    """

    folder: Path
    photos: int
    missing: int
    without_pair: int
    compositions: int
    samples: int
    num_bytes: int
    shards: int
    kept_shards: int
    seconds: float
    made_samples: int
    rejects: list[Reject] = field(default_factory=list)

    @property
    def num_rejected(self) -> int:
        """Compositions that were planned and could not be made."""
        return self.compositions - self.samples


def build(config: BuildConfig) -> BuildResult:
    """Builds what `config` says, or finishes what an earlier run of the same began.

    Raises `UserError` for bad input, before anything is written; for a folder that holds other shards; and past
    `max_reject_fraction`, in which case `rejects.parquet` is there to look at and the index is not written.
    """
    config.check()
    _check_writable(config.out)
    _existing_recipe(config.out)
    check_address(config)
    say(f"planning from {config.source}")
    plan = make_plan(_records(config), config)
    recipe = config.identity()
    config.out.mkdir(parents=True, exist_ok=True)
    with lock_folder(config.out):
        # Read behind the lock: another build may have come and gone while this one planned.
        _check_same_build(config.out, _existing_recipe(config.out), recipe, plan)
        return _build(config, plan, recipe)


def _check_writable(out: Path) -> None:
    """Planning may take minutes: a folder that cannot be written to is told before."""
    nearest = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"--out: {nearest} is a file; expected a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"--out: {nearest} cannot be written to; give another --out, or change its permissions")


def _build(config: BuildConfig, plan: Plan, recipe: dict[str, Any]) -> BuildResult:
    folder = config.out.resolve()
    (folder / "parts").mkdir(exist_ok=True)
    remove_leftovers(folder)
    _write_head(folder, config, plan, recipe)
    sizes = dict(zip(plan.shards, shard_sizes(plan), strict=True))
    marks = {shard: mark for shard in plan.shards if (mark := read_mark(folder, shard)) is not None}
    kept = len(marks)
    if kept < len(sizes):
        (folder / "index.json").unlink(missing_ok=True)  # it speaks of shards that are gone or damaged
    todo = [(number, shard) for number, shard in enumerate(plan.shards) if shard not in marks]
    say(
        f"{plan.num_samples} compositions from {plan.photos} photos in {len(sizes)} shards"
        + (f", {kept} of them whole from an earlier run" if kept else "")
    )
    made, seconds = 0, 0.0
    if todo:
        with engine(config), Progress(sum(sizes[shard] for _, shard in todo)) as progress:
            for mark in build_shards(todo, folder, config):
                marks[mark.shard] = mark
                made += mark.nsamples
                progress.advance(sizes[mark.shard])
        seconds = progress.seconds
        remove_leftovers(folder)  # of workers that died on the way, and whose shards others made
    ordered = [marks[shard] for shard in plan.shards]
    result = _result(folder, plan, ordered, kept, made, seconds)
    write_rejects(folder, result.rejects)
    if result.num_rejected > config.max_reject_fraction * result.compositions:
        reason, count = Counter(reject.reason for mark in ordered for reject in mark.rejects).most_common(1)[0]
        raise UserError(
            f"build: {result.num_rejected} of {result.compositions} compositions were rejected, more than "
            f"--max-reject-fraction {config.max_reject_fraction} allows; most often: {reason} ({count}); "
            f"see {folder / 'rejects.parquet'}"
        )
    write_index(folder, ordered, recipe, plan.digest)
    return result


def _records(config: BuildConfig) -> Iterator[Photo | Reject]:
    """The photos of the source, as an iterator."""
    if config.source == "coco":
        from pics_data.sources import coco

        return coco.photos(config.images, config.annotations)
    if config.source == "lvis":
        from pics_data.sources import lvis

        return lvis.photos(config.images, config.annotations)
    from pics_data.sources import scenes

    if config.meshes is not None and not config.meshes.is_dir():
        raise UserError(f"--meshes: {config.meshes} does not exist or is no folder; expected a folder of meshes")
    return iter(scenes.photos(config.scene_settings(), config.num_scenes))


def _existing_recipe(out: Path) -> dict[str, Any] | None:
    """The recipe that `out` belongs to; None for a folder that is not there or empty."""
    if not out.exists():
        return None
    path = out / "recipe.json"
    if path.is_file():
        try:
            existing = orjson.loads(path.read_bytes())
        except orjson.JSONDecodeError:
            raise UserError(f"--out: {path} is not JSON; delete {out} or give another --out") from None
        if not isinstance(existing, dict) or not isinstance(existing.get("recipe"), dict):
            raise UserError(f"--out: {path} is not the recipe of a build; delete {out} or give another --out")
        return existing
    strangers = sorted(p.name for p in out.iterdir() if p.name not in FORMAT_FILES and not p.name.startswith("."))
    if strangers:
        raise UserError(
            f"--out: {out} holds other files ({', '.join(strangers[:3])}{', ...' if len(strangers) > 3 else ''}) "
            "and no recipe.json of a build; give an empty folder"
        )
    return None


def _check_same_build(out: Path, existing: dict[str, Any] | None, recipe: dict[str, Any], plan: Plan) -> None:
    if existing is None:
        return
    mine = orjson.loads(orjson.dumps(recipe))
    theirs = existing["recipe"]
    differing = [f"{key} {theirs.get(key)} there, {mine.get(key)} here" for key in mine if theirs.get(key) != mine[key]]
    if differing:
        raise UserError(
            f"--out: {out} holds shards of another recipe ({'; '.join(differing)}); "
            "give another --out, or delete that folder"
        )
    if existing.get("plan_sha256") != plan.digest:
        raise UserError(
            f"--out: {out} was begun with other annotations or other photos present (same recipe, another plan); "
            "give another --out, or delete that folder"
        )


def _write_head(folder: Path, config: BuildConfig, plan: Plan, recipe: dict[str, Any]) -> None:
    """Writes what the folder belongs to before any shard is in it: `recipe.json`, then `plan.parquet`."""
    value = {
        "recipe": recipe,
        "plan_sha256": plan.digest,
        "images": [str(path) for path in config.images],
        "annotations": [str(path) for path in config.annotations],
        "photos": plan.photos,
        "missing_photos": plan.missing,
        "photos_without_pair": plan.without_pair,
        "compositions": plan.num_samples,
    }
    write_json(folder / "recipe.json", value)
    temporary = folder / f".plan.parquet.{os.getpid()}.tmp"
    write_plan(plan, temporary)
    replace(temporary, folder / "plan.parquet")


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Holds `folder` for this build. The lock goes with the process, however it ends, and leaves no file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--out: another build is writing to {folder}; wait for it or give another --out") from None
        except OSError:
            say(f"{folder} is on a file system without locks: see that no other build writes to it")
        yield
    finally:
        os.close(descriptor)


def _result(folder: Path, plan: Plan, marks: list[ShardMark], kept: int, made: int, seconds: float) -> BuildResult:
    return BuildResult(
        folder=folder,
        photos=plan.photos,
        missing=plan.missing,
        without_pair=plan.without_pair,
        compositions=plan.num_samples,
        samples=sum(mark.nsamples for mark in marks),
        num_bytes=sum(mark.num_bytes for mark in marks),
        shards=sum(mark.nsamples > 0 for mark in marks),
        kept_shards=kept,
        seconds=seconds,
        made_samples=made,
        rejects=[*plan.rejects, *(reject for mark in marks for reject in mark.rejects)],
    )
