"""The Ray Data graph: shards of the plan -> decompose -> write -> completion marks.

Only the number of a shard goes in and only its mark comes out: pixels never travel between processes. A shard is the
unit of work, of commit and of resume; a worker reads its rows of the plan, and holds one sample at a time.
"""

import logging
import os
import re
import socket
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pics_common.errors import UserError
from pics_data.config import BuildConfig
from pics_data.decompose import decompose_all
from pics_data.plan import read_shard_plan
from pics_data.records import Reject
from pics_data.shards import ShardMark, write_shard

MAX_RETRIES = 3  # of a shard whose worker died; Ray's own default here is without end
CONNECT_SECONDS = 10.0
GO_ON = "whole shards are kept, run the same command again to go on"


def build_shard(number: int, shard: str, folder: Path, config: BuildConfig) -> ShardMark:
    """Makes one shard of the plan that lies in `folder`. Needs no Ray."""
    import cv2

    cv2.setNumThreads(1)  # a worker has one CPU: more threads than that only get in each other's way
    return write_shard(folder, shard, decompose_all(read_shard_plan(folder / "plan.parquet", number), config))


def check_address(config: BuildConfig) -> None:
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
def engine(config: BuildConfig) -> Iterator[None]:
    """Ray, started on this machine or connected to, for the time of a `with` block."""
    import ray

    _start_ray(ray, config)
    try:
        yield
    finally:
        ray.shutdown()


def build_shards(todo: Sequence[tuple[int, str]], folder: Path, config: BuildConfig) -> Iterator[ShardMark]:
    """Makes the shards `todo` (number in the plan, name) and yields their marks as they are done, in any order.

    Runs within `engine`. Raises `UserError` where the machine fails: a full disk, a lost node, a worker that dies
    again and again.
    """
    import ray

    left = {shard for _, shard in todo}
    try:
        for mark in _run(ray, todo, folder, config):
            left.discard(mark.shard)
            yield mark
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OSError):  # such as a full disk
            shared = "; do all nodes share it?" if config.address else ""
            raise UserError(f"build: {error.cause.strerror} (at work in {folder}{shared}); {GO_ON}") from error
        raise  # a bug: Ray's error shows the worker's traceback
    except ray.exceptions.RayError as error:
        raise UserError(
            f"build: {type(error).__name__}: a worker died {1 + MAX_RETRIES} times, or a node was lost; {GO_ON}. "
            f"{len(left)} shards are not done, the first is {min(left, default='none')}"
        ) from error


def _run(ray: Any, todo: Sequence[tuple[int, str]], folder: Path, config: BuildConfig) -> Iterator[ShardMark]:
    def work(row: dict[str, Any]) -> dict[str, Any]:
        return asdict(build_shard(row["number"], row["shard"], folder, config))

    items = [{"number": number, "shard": shard} for number, shard in todo]
    # A block a shard, or Ray would give a worker several shards and leave others without.
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    compute = ray.data.TaskPoolStrategy(size=config.workers) if config.workers else None
    with warnings.catch_warnings():
        # Ray 2.60 calls this way of passing `max_retries` deprecated, and offers no other yet.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", ray.util.annotations.RayDeprecationWarning)
        done = dataset.map(work, compute=compute, num_cpus=1, max_retries=MAX_RETRIES)
    for row in done.iter_rows():
        rejects = tuple(Reject(**reject) for reject in row.pop("rejects"))
        yield ShardMark(**row, rejects=rejects)


def _start_ray(ray: Any, config: BuildConfig) -> None:
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
            object_store_memory=100 * 2**20,  # only names and marks pass through it
            **quiet,
        )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised here, once is enough
