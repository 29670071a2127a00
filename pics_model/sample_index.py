"""Where the samples of a shard begin, found once: four bytes a sample, saved for other processes and runs.

Counting reads every header of a tar: a second for a million samples in the page cache, minutes from a cold disk.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pics_common.errors import UserError
from pics_common.files import write_atomic
from pics_model.shard_set import Shard
from pics_model.tar_index import sample_starts

Starts = NDArray[np.uint32]
FEW = 4  # local shards that are counted in the calling process
SMALL = 2**23  # bytes of a local tar that is counted sooner than its saved list is found


def count_samples(shard: Shard, path: Path, folder: Path) -> Starts:
    """Where each sample of `shard`, whose file is `path`, begins, in blocks of 512 bytes, and where the last one ends;
    from `folder` if it was saved there since the tar was last changed.

    Raises `UserError` that names the shard if it is missing, damaged, or has not as many samples as the index says.
    """
    starts = load(shard, folder)
    if starts is None:
        starts = sample_starts(path, shard.url)
        _save(shard, starts, folder)
    found = len(starts) - 1
    if shard.num_samples not in (None, found):
        raise UserError(f"shard {shard.url}: {found} samples, the index says {shard.num_samples}; build again")
    return starts


def count_local(shards: Sequence[Shard], folder: Path) -> list[Starts]:
    """`count_samples` of many local shards, by all cores."""
    count = partial(_count_local, folder=folder)
    if len(shards) <= FEW:
        return [count(shard) for shard in shards]
    with ProcessPoolExecutor(min(len(shards), os.cpu_count() or 1), get_context("fork")) as pool:
        return list(pool.map(count, shards, chunksize=8))


def load(shard: Shard, folder: Path) -> Starts | None:
    """What was saved of a shard; None where nothing was, or the tar was changed since. A remote one is not asked for.

    Raises `UserError` that names a local shard that is missing.
    """
    saved, stamp, _ = _saved(shard, folder)
    with suppress(OSError):
        data = saved.read_bytes()
        if data.startswith(stamp) and len(data) > len(stamp) and len(data) % 4 == 0:
            return np.frombuffer(data, np.uint32, offset=len(stamp))
    return None


def _save(shard: Shard, starts: Starts, folder: Path) -> None:
    saved, stamp, size = _saved(shard, folder)
    if shard.is_remote or size >= SMALL:
        with suppress(OSError):  # a cache that cannot be written costs time, and nothing else
            write_atomic(saved, stamp + starts.tobytes())


def _saved(shard: Shard, folder: Path) -> tuple[Path, bytes, int]:
    """Where the list of a shard is saved, what it begins with if it is of the shard as it is, and the tar's size."""
    if shard.is_remote:
        name, size, date = f"{shard.url} {shard.sha256}", shard.size or 0, 0
    else:
        try:
            stat = Path(shard.url).stat()
        except OSError as error:
            raise UserError(f"shard {shard.url}: cannot be read ({error.strerror})") from None
        name, size, date = os.fspath(Path(shard.url).absolute()), stat.st_size, stat.st_mtime_ns
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return folder / digest, np.array([size, date], np.int64).tobytes(), size


def _count_local(shard: Shard, folder: Path) -> Starts:
    return count_samples(shard, Path(shard.url), folder)
