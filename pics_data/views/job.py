"""`pics-data views`: new shards out of built ones, sample for sample, with views and rotations.

The same rules as a build's hold: a shard is the unit of work and of resume, its bytes depend on the shards it is made
from and on the options alone, and the index is written last.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from pics_common import storage
from pics_common.errors import UserError
from pics_data.build import lock_folder
from pics_data.config import BuildConfig, check_views
from pics_data.ledger import INDEX_KIND
from pics_data.mixture import in_place, members_of_identity
from pics_data.options import RANGES, ViewOptions, ViewsConfig, check_ranges
from pics_data.parquet_read import read_batches
from pics_data.pipeline import WINDOW, check_address, engine, map_by_actors, map_by_tasks, marks_of, told_as_user_errors
from pics_data.predict.weights import weights_digest
from pics_data.progress import Progress, say
from pics_data.records import Reject
from pics_data.reject_file import RejectFile
from pics_data.shards import ShardMark, read_mark, remove_leftovers
from pics_data.verify_papers import Entry, Index, read_index
from pics_data.views.check import check_generator
from pics_data.views.shards import ViewShard

RECIPE = "views.json"  # what the folder was made with, and of which shards


@dataclass(slots=True)
class ViewsResult:
    """What was done: what went in is what came out and what was dropped."""

    folder: str
    samples_before: int
    samples: int = 0
    num_bytes: int = 0
    shards: int = 0
    kept_shards: int = 0
    seconds: float = 0.0
    rejects: Counter[tuple[str, str]] = field(default_factory=Counter)  # of this command, by stage and reason


def add_views(config: ViewsConfig) -> ViewsResult:
    """Makes the shards of `config.out`, or finishes what an earlier run of the same began.

    Raises `UserError` for bad input, before anything is written, and for an `out` that holds something else.
    """
    _check(config)
    config = dataclasses.replace(
        config,
        folder=storage.absolute(config.folder),
        out=storage.absolute(config.out),
        view_weights=in_place(config.view_weights),
        view_saliency=in_place(config.view_saliency),
    )
    if not config.folder or config.folder == config.out:
        raise UserError("pics-data views: give a folder of shards, and another one as --out")
    if storage.file_size(storage.join(config.folder, "index.json")) is None:
        raise UserError(f"{config.folder}: holds no index.json; expected the finished shards of `pics-data build`")
    index = read_index(config.folder)
    configs = _configs_of(index, config)
    check_generator(config, configs)
    check_address(config)
    recipe = _recipe(config, index)
    with lock_folder(config.out):
        _begin(config.out, recipe)
        remove_leftovers(config.out)
        return _finish(config, index, recipe, _make(config, index, configs))


def _check(config: ViewsConfig) -> None:
    check_ranges(config, RANGES)
    if config.views == "none" and not config.rotations:
        raise UserError("pics-data views: nothing to do; give --views or --rotations")
    if config.meshes is not None and config.views != "mesh":
        raise UserError("--meshes has no effect without --views mesh")
    if config.gpus_per_worker and config.views != "zero123":
        raise UserError("--gpus-per-worker has no effect without --views zero123")


def _configs_of(index: Index, config: ViewsConfig) -> list[BuildConfig]:
    """For each member of the build that made the shards, in order of their names, the settings that it was built with,
    its meshes among them: those of a scene are its own, those of any other source `config.meshes`."""
    try:
        built = {member.name: member.config for member in members_of_identity(index.recipe)}
    except (KeyError, TypeError):
        built = {}
    out = []
    for name in _members_of(index):
        known = built.get(name, BuildConfig(source="folder"))
        if config.meshes is not None:
            source = "folder" if known.source == "scenes" else known.source
            known = dataclasses.replace(known, source=source, meshes=config.meshes.absolute())
        check_views(dataclasses.replace(config, meshes=known.meshes), known.source)
        out.append(dataclasses.replace(known, gpus_per_worker=config.gpus_per_worker))
    return out


def _members_of(index: Index) -> list[str]:
    return sorted({_member_of(entry.shard) for entry in index.entries})


def _member_of(shard: str) -> str:
    """The member of a mixture that a shard's name tells: `train-lvis-000000`; "" where nothing was mixed."""
    return "-".join(shard.split("-")[1:-1])


def _recipe(config: ViewsConfig, index: Index) -> dict[str, Any]:
    """What the bytes of the new shards depend on."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(ViewOptions)}
    if config.views == "zero123":
        from pics_data.views import zero123

        values["view_weights"] = zero123.weights_digest(config.view_weights)
        if config.view_saliency:
            values["view_saliency"] = weights_digest("rembg", config.view_saliency)
    digest = hashlib.sha256("".join(entry.sha256 for entry in index.entries).encode()).hexdigest()
    return {**values, "meshes": str(config.meshes.absolute()) if config.meshes else "", "shards_sha256": digest}


def _begin(out: str, recipe: dict[str, Any]) -> None:
    """Raises `UserError` where `out` was made with other options, or holds anything else."""
    url = storage.join(out, RECIPE)
    try:
        existing = orjson.loads(storage.read(url))
    except (FileNotFoundError, NotADirectoryError):
        strangers = sorted(name for name in storage.list_names(out) if not name.startswith("."))
        if strangers:
            raise UserError(
                f"--out: {out} holds other files ({', '.join(strangers[:3])}); give an empty folder"
            ) from None
        storage.write(url, orjson.dumps(recipe, option=orjson.OPT_INDENT_2))
        return
    except orjson.JSONDecodeError:
        raise UserError(f"--out: {url} is not JSON; delete {out} or give another --out") from None
    differing = [
        f"{key} {existing.get(key)} there, {recipe[key]} here" for key in recipe if existing.get(key) != recipe[key]
    ]
    if differing:
        raise UserError(f"--out: {out} was made otherwise ({'; '.join(differing)}); give another --out, or delete it")


def _make(config: ViewsConfig, index: Index, configs: list[BuildConfig]) -> tuple[dict[str, ShardMark], int, float]:
    """The marks of all shards by name, how many were there already, and the seconds that it took."""
    marks = {e.shard: mark for e in index.entries if (mark := _whole(config.out, e.shard)) is not None}
    kept = len(marks)
    todo = [entry for entry in index.entries if entry.shard not in marks]
    if not todo:
        return marks, kept, 0.0
    storage.remove(storage.join(config.out, "index.json"))
    say(f"{sum(e.nsamples for e in todo)} samples in {len(todo)} shards" + (f", {kept} more are whole" if kept else ""))
    try:
        with engine(config), Progress(sum(entry.nsamples for entry in todo)) as progress:
            for place, mark in _run(todo, config, _members_of(index), configs):
                marks[todo[place].shard] = mark
                progress.advance(todo[place].nsamples)
    finally:
        remove_leftovers(config.out)
    return marks, kept, progress.seconds


def _whole(out: str, shard: str) -> ShardMark | None:
    mark = read_mark(out, shard)
    size = storage.file_size(storage.join(out, f"{shard}.tar")) or 0
    return mark if mark is not None and mark.num_bytes == size else None


def _run(
    todo: list[Entry], config: ViewsConfig, members: list[str], configs: list[BuildConfig]
) -> Iterator[tuple[int, ShardMark]]:
    import ray

    arguments = (config.folder, config.out, _options_of(config), configs, False)

    def work(row: dict[str, Any]) -> dict[str, Any]:
        return ViewShard(*arguments)(row)  # no weights to load: new for each shard

    for start in range(0, len(todo), WINDOW):
        window = list(enumerate(todo))[start : start + WINDOW]
        items = [{"number": n, "shard": e.shard, "member": members.index(_member_of(e.shard))} for n, e in window]
        left = {n: e.shard for n, e in window}
        with told_as_user_errors(config.out, config, left):
            dataset = ray.data.from_items(items, override_num_blocks=len(items))
            if config.views == "zero123":
                dataset = map_by_actors(dataset, ViewShard, arguments, config)
            else:
                dataset = map_by_tasks(dataset, work, config.workers)
            for number, mark in marks_of(dataset):
                del left[number]
                yield number, mark


def _options_of(config: ViewsConfig) -> ViewOptions:
    return ViewOptions(**{f.name: getattr(config, f.name) for f in dataclasses.fields(ViewOptions)})


def _finish(
    config: ViewsConfig,
    index: Index,
    recipe: dict[str, Any],
    made: tuple[dict[str, ShardMark], int, float],
) -> ViewsResult:
    """Writes the rejects and, last of all, the index."""
    marks, kept, seconds = made
    result = ViewsResult(config.out, sum(entry.nsamples for entry in index.entries))
    result.kept_shards, result.seconds = kept, seconds
    entries = []
    with TemporaryDirectory(prefix="pics-") as temporary:
        path = Path(temporary) / "rejects.parquet"
        with RejectFile(path) as rejects:
            for reject in _earlier_rejects(config.folder):
                rejects.add(reject)
            for entry in index.entries:
                mark = marks[entry.shard]
                for reject in mark.rejects:
                    if reject.stage == "views":
                        rejects.add(reject)
                        result.rejects[reject.stage, reject.reason] += 1
                if not mark.nsamples:
                    continue
                result.samples += mark.nsamples
                result.num_bytes += mark.num_bytes
                result.shards += 1
                entries.append(_index_entry(entry, mark))
        storage.upload(path, storage.join(config.out, "rejects.parquet"))
    head = {"__kind__": INDEX_KIND, "wids_version": 1, "name": "pics-views"}
    value = {**head, "shardlist": entries, "recipe": dict(index.recipe), "views": recipe}
    storage.write(storage.join(config.out, "index.json"), orjson.dumps(value, option=orjson.OPT_INDENT_2))
    return result


def _index_entry(entry: Entry, mark: ShardMark) -> dict[str, Any]:
    return {
        "url": f"{entry.shard}.tar",
        "nsamples": mark.nsamples,
        "filesize": mark.num_bytes,
        "sha256": mark.sha256,
        "split": entry.split,
        "source": entry.source,
        "weight": entry.weight,
    }


def _earlier_rejects(folder: str) -> Iterator[Reject]:
    url = storage.join(folder, "rejects.parquet")
    if storage.file_size(url) is None:
        return
    for batch in read_batches(url):
        yield from (Reject(**row) for row in batch.to_pylist())
