"""The Ray Data graph: shards of the plan -> (predict masks) -> decompose -> (views) -> write -> completion marks.

Only the number of a shard goes in and only its mark comes out: pixels never travel between processes. A shard is the
unit of work, of commit and of resume; a worker reads its rows of the plan, and holds one sample at a time.
"""

import logging
import os
import re
import socket
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from typing import Any

import orjson

from pics_common import storage
from pics_common.allocator import keep_freed_memory
from pics_common.errors import UserError
from pics_data.config import BuildConfig
from pics_data.decompose import decompose_all
from pics_data.mixture import Member
from pics_data.options import RayOptions
from pics_data.plan import Plan, read_shard_plan
from pics_data.quarantine import decompose_apart, is_second_attempt
from pics_data.records import Composition, Reject, Sample
from pics_data.shards import ShardMark, read_mark, write_shard
from pics_data.turns import with_rotations

MAX_RETRIES = 3  # of a shard whose worker died; Ray's own default here is without end
PAUSES = (1.0, 5.0)  # seconds, before a shard whose files could not be read or written is tried again
WINDOW = 4096  # shards that Ray knows of at a time: its driver keeps some 10 KB of each
CONNECT_SECONDS = 10.0
PLAIN = ".plain"  # where in the folder of a build its shards wait for views that only a network can make
GO_ON = "whole shards are kept, run the same command again to go on"
Todo = tuple[int, str, int]  # number, name and member of a shard


def build_shard(
    number: int,
    shard: str,
    plan_folder: str,
    folder: str,
    config: BuildConfig,
    masks: bytes = b"",
    apart: bool = False,
) -> ShardMark:
    """Makes one shard of the plan in `plan_folder`, with `masks` of a predictor or without. Needs no Ray.

    With `apart` photos are taken apart in a process of its own: one that kills it is a reject.
    """
    take_apart = decompose_apart if apart else decompose_all
    import cv2

    cv2.setNumThreads(1)  # a worker has one CPU: more threads than that only get in each other's way
    keep_freed_memory()
    compositions = _compositions(plan_folder, number, masks)
    if config.retry_rejects and (mark := read_mark(folder, shard)) is not None:
        rejected = {reject.key for reject in mark.rejects}
        again = (composition for composition in compositions if composition.key in rejected)
        if not any(isinstance(record, Sample) for record in take_apart(again, config)):
            return mark  # nothing would change
        compositions = _compositions(plan_folder, number, masks)
    return write_shard(folder, shard, _with_more(take_apart(compositions, config), config))


def _with_more(records: Iterator[Sample | Reject], config: BuildConfig) -> Iterator[Sample | Reject]:
    """The samples with the views that need no weights, and with rotations."""
    if config.views in ("inflate", "mesh"):
        from pics_data.views.stage import load_generator, with_views

        records = with_views(records, config, load_generator(config, config))
    return with_rotations(records, config)


def _compositions(plan_folder: str, number: int, masks: bytes) -> Iterator[Composition]:
    compositions = read_shard_plan(plan_folder, number)
    if not masks:
        return compositions
    from pics_data.predict.shards import with_masks

    return with_masks(compositions, orjson.loads(masks))


def check_address(config: RayOptions) -> None:
    """Raises `UserError` where nothing answers at `config.address`: Ray itself would try for many minutes."""
    if config.address in (None, "auto"):  # Ray looks `auto` up itself, and says at once if there is none
        return
    found = re.fullmatch(r"(?:ray://)?(.+):(\d+)", config.address)
    if found is None:
        raise UserError(f"--address {config.address}: expected `auto` or host:port")
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--address {config.address}: no Ray cluster answers there ({error})") from None


@contextmanager
def engine(config: RayOptions) -> Iterator[None]:
    """Ray, started on this machine or connected to, for the time of a `with` block; one within another is the same."""
    import ray

    if ray.is_initialized():
        yield
        return
    _start_ray(ray, config)
    try:
        yield
    finally:
        ray.shutdown()


def build_shards(
    todo: Iterable[Todo], plan: Plan, folder: str, members: list[Member], config: BuildConfig
) -> Iterator[tuple[int, ShardMark]]:
    """Makes the shards `todo` and yields number and mark of each as it is done, in any order.

    Runs within `engine`. Raises `UserError` where the machine fails: a full disk, a lost node, a worker that dies
    again and again.
    """
    import ray

    configs = [member.config for member in members]
    shards = iter(todo)
    while window := list(islice(shards, WINDOW)):
        left = {number: shard for number, shard, _ in window}
        with told_as_user_errors(folder, config, left):
            for number, mark in _run(ray, window, plan.folder, folder, configs, config.workers):
                del left[number]
                yield number, mark


@contextmanager
def told_as_user_errors(folder: str, options: RayOptions, left: dict[int, str]) -> Iterator[None]:
    """What Ray raises within a `with` block, as a `UserError` that says what to do; a bug is raised as it is.

    `left` are the names of the shards that are not done yet, by number.
    """
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise_user_error(error)
        if isinstance(error.cause, OSError):  # such as a full disk
            shared = "; do all nodes reach it?" if options.address else ""
            raise UserError(f"build: {error.cause.strerror} (at work in {folder}{shared}); {GO_ON}") from error
        raise  # a bug: Ray's error shows the worker's traceback
    except ray.exceptions.RayError as error:
        raise UserError(
            f"build: {type(error).__name__}: a worker died {1 + MAX_RETRIES} times, or a node was lost; {GO_ON}. "
            f"Shards that are not done: {', '.join(sorted(left.values())[:3])}{', ...' if len(left) > 3 else ''}"
        ) from error


def raise_user_error(error: BaseException | None) -> None:
    """Raises the `UserError` that a task or an actor of Ray failed with, if it is one."""
    while error is not None:
        if isinstance(error, UserError):
            raise error from None
        error = getattr(error, "cause", None) or error.__cause__


def _run(
    ray: Any, window: list[Todo], plan_folder: str, folder: str, configs: list[BuildConfig], workers: int
) -> Iterator[tuple[int, ShardMark]]:
    in_two = any(config.views == "zero123" for config in configs)
    first = storage.join(folder, PLAIN) if in_two else folder

    def work(row: dict[str, Any]) -> dict[str, Any]:
        config, masks = configs[row["member"]], row.get("masks", b"")
        for pause in (*PAUSES, None):
            try:
                mark = build_shard(row["number"], row["shard"], plan_folder, first, config, masks, is_second_attempt())
                break
            except OSError:  # a disk or a network that fails for a moment
                if pause is None:
                    raise
                time.sleep(pause)
        done = {"number": row["number"], "mark": orjson.dumps(asdict(mark))}
        return {**done, "shard": row["shard"], "member": row["member"]} if in_two else done

    items = [{"number": number, "shard": shard, "member": member} for number, shard, member in window]
    # A block a shard, or Ray would give a worker several shards and leave others without.
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    if any(config.masks != "given" for config in configs):
        dataset = _with_masks(dataset, plan_folder, configs)
    done = map_by_tasks(dataset, work, workers)
    if in_two:
        from pics_data.views.shards import ViewShard

        arguments = (first, folder, configs[0], configs, True)
        done = map_by_actors(done, ViewShard, arguments, configs[0])
    yield from marks_of(done)


def marks_of(done: Any) -> Iterator[tuple[int, ShardMark]]:
    """Number and mark of each shard, as its row comes out of the graph."""
    for row in done.iter_rows():
        values = orjson.loads(row["mark"])
        rejects = tuple(Reject(**reject) for reject in values.pop("rejects"))
        yield row["number"], ShardMark(**values, rejects=rejects)


def _with_masks(dataset: Any, plan_folder: str, configs: list[BuildConfig]) -> Any:
    """Adds the stage that predicts the silhouettes of a shard's objects: an operator with GPUs of its own."""
    from pics_data.predict.shards import PredictShard

    config = next(config for config in configs if config.masks != "given")
    return map_by_actors(dataset, PredictShard, (plan_folder, configs), config)


def map_by_tasks(dataset: Any, work: Callable[[dict[str, Any]], dict[str, Any]], workers: int) -> Any:
    """Maps a Ray dataset by a function, on one CPU each, `workers` at a time; 0: as many as there are."""
    import ray

    compute = ray.data.TaskPoolStrategy(size=workers) if workers else None
    with warnings.catch_warnings():
        # Ray 2.60 calls this way of passing `max_retries` deprecated, and offers no other yet.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", ray.util.annotations.RayDeprecationWarning)
        return dataset.map(work, compute=compute, num_cpus=1, max_retries=MAX_RETRIES)


def map_by_actors(dataset: Any, actor: type, arguments: tuple[Any, ...], config: RayOptions) -> Any:
    """Maps a Ray dataset by a pool of actors, each made once of `arguments`, with the resources `config` says."""
    import ray

    return dataset.map(
        actor,
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(size=config.predictors),
        num_gpus=config.gpus_per_worker or None,
        num_cpus=0 if config.gpus_per_worker else 1,
    )


def _start_ray(ray: Any, config: RayOptions) -> None:
    """Starts Ray on this machine, or connects to the cluster at `config.address`, and keeps it quiet."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    if config.address:
        try:
            ray.init(address=config.address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"--address {config.address}: no Ray cluster answers there ({error})") from None
    else:
        ray.init(
            num_cpus=config.workers or None,
            include_dashboard=False,
            object_store_memory=100 * 2**20,  # only names, marks and silhouettes pass through it
            **quiet,
        )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised here, once is enough
