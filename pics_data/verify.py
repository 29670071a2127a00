"""`pics-data verify`: reads shards back, every byte, and names everything that is damaged.

Folders that `pics-data build` wrote are held to all of shards/README.md, and to their plan: what was planned is what is
in the shards and what was rejected. Tars without an index (the published shards) are held to what any reader needs:
safe names, whole samples, members that decode, masks of the photo's size.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

from pics_common import storage
from pics_common.errors import UserError
from pics_data.parquet_read import read_batches
from pics_data.progress import TimeLeft, say
from pics_data.tar_read import DamageError, tar_samples
from pics_data.verify_keys import KeyHashes
from pics_data.verify_papers import Index, planned_shards, read_index, read_recipe
from pics_data.verify_shard import ShardJob, ShardReport, verify_shard

JOBS_A_WORKER = 4  # shards that wait for each worker: memory stays the same however many there are


class DamagedError(UserError):
    """Something is damaged; `damages` are the lines that say what, one for each damaged file."""

    def __init__(self, message: str, damages: list[str]) -> None:
        super().__init__(message)
        self.damages = damages


@dataclass(slots=True)
class Verified:
    """What was read."""

    kind: str
    shards: int = 0
    samples: int = 0
    num_bytes: int = 0
    with_meta: int = 0
    rejected: int = 0
    compared: Counter[str] = field(default_factory=Counter)
    damages: list[str] = field(default_factory=list)


def verify(url: str, *, deep: bool = False, workers: int = 0, tell: Callable[[str], None] = say) -> str:
    """Verifies a folder of shards or one tar, at a path or URL; returns a summary.

    With `deep`, each sample is compared with its photo and its annotation, as far as these are reached, and its
    cut-outs with its own photo. `workers` processes share the work; 0: one for each CPU. `tell` is given a line for
    each damaged shard as soon as it is found; at the end `DamagedError` is raised. Raises `UserError` where nothing
    can be verified: no shards, no index, an unfinished build.
    """
    url = storage.absolute(url)
    if storage.file_size(url) is not None:
        return _verify_bare([url], url, "a bare tar", deep, workers, tell)
    if not storage.is_folder(url):
        raise UserError(f"shards: {url} does not exist; expected a folder of shards or a tar")
    names = {entry.name for entry in storage.list_folder(url)}
    if "index.json" in names:
        return _verify_indexed(url, names, deep, workers, tell)
    if "recipe.json" in names:
        raise UserError(f"{url}: index.json is missing, the build is not finished; run the same build command again")
    tars = [storage.join(url, name) for name in sorted(names) if name.endswith(".tar") and not name.startswith(".")]
    if not tars:
        raise UserError(f"{url}: holds no .tar and no index.json; expected shards")
    return _verify_bare(tars, url, "bare tars without an index", deep, workers, tell)


def _verify_bare(tars: list[str], url: str, kind: str, deep: bool, workers: int, tell: Callable[[str], None]) -> str:
    seen = Verified(kind)
    keys = KeyHashes()
    for _, report in _run(((ShardJob(tar, deep=deep), tar) for tar in tars), len(tars), workers, seen, tell):
        keys.add(report.key_hashes)
    _check_twice(keys, tars, seen, tell)
    return _summary(url, seen, deep)


def _verify_indexed(folder: str, names: set[str], deep: bool, workers: int, tell: Callable[[str], None]) -> str:
    index, recipe = read_index(folder), read_recipe(folder)
    seen = Verified("with index" if recipe else "with index, without the plan")
    listed = {entry.shard for entry in index.entries}
    for name in sorted(names):
        if name.endswith(".tar") and not name.startswith(".") and name.removesuffix(".tar") not in listed:
            _damaged(seen, tell, f"{storage.join(folder, name)}: not in index.json; is it of another build?")
    if recipe:
        _verify_planned(folder, index, recipe, deep, workers, seen, tell)
    else:
        jobs = ((ShardJob(storage.join(folder, f"{entry.shard}.tar"), folder, entry, max_pixels=index.max_pixels,
                          deep=deep), "") for entry in index.entries)  # fmt: skip
        keys = KeyHashes()
        for _, report in _run(jobs, len(index.entries), workers, seen, tell):
            keys.add(report.key_hashes)
        _check_twice(keys, [storage.join(folder, f"{entry.shard}.tar") for entry in index.entries], seen, tell)
    return _summary(folder, seen, deep)


def _verify_planned(
    folder: str,
    index: Index,
    recipe: dict[str, Any],
    deep: bool,
    workers: int,
    seen: Verified,
    tell: Callable[[str], None],
) -> None:
    """Shard by shard as the plan has them, so that no list of all keys is needed: each holds what its plan says."""
    entries = {entry.shard: entry for entry in index.entries}
    total = sum(group["num_shards"] for group in recipe["groups"])

    def jobs() -> Iterator[tuple[ShardJob, str]]:
        for planned in planned_shards(folder, recipe):
            entry = entries.pop(planned.shard, None)
            tar = storage.join(folder, f"{planned.shard}.tar")
            yield ShardJob(tar, folder, entry, planned, True, index.max_pixels, deep), planned.shard

    rejects = _Rejects(folder)
    for shard, report in _run(jobs(), total, workers, seen, tell):
        if wrong := rejects.differ(report.rejected):
            _damaged(seen, tell, f"{wrong} (shard {shard})")
    if wrong := rejects.too_many():
        _damaged(seen, tell, wrong)
    for shard in entries:
        _damaged(seen, tell, f"{storage.join(folder, f'{shard}.tar')}: in index.json, but not in the plan")


class _Rejects:
    """`rejects.parquet`, read alongside: the plan's rejects, then those of each shard in order."""

    def __init__(self, folder: str) -> None:
        self._url = storage.join(folder, "rejects.parquet")
        self._rows = self._keys(self._url)
        self._lost = False
        for key in self._keys(storage.join(folder, "plan", "rejects.parquet")):
            if next(self._rows, None) != key:
                raise UserError(f"{self._url}: {key}: dropped when planning, but not in it; run the same build again")

    def differ(self, rejected: Iterable[str] | None) -> str:
        """What is wrong where a shard's rejects are not the next rows. Behind that, or behind a shard whose mark is
        lost (None), no row can be told from another, and nothing more is said."""
        self._lost = self._lost or rejected is None
        for key in rejected or ():
            if not self._lost and next(self._rows, None) != key:
                self._lost = True
                return f"{self._url}: {key}: rejected by the shard's mark, but not at its place here"
        return ""

    def too_many(self) -> str:
        key = None if self._lost else next(self._rows, None)
        return "" if key is None else f"{self._url}: {key}: in it, but rejected by no shard"

    @staticmethod
    def _keys(url: str) -> Iterator[str]:
        for batch in read_batches(url, ["key"]):
            yield from batch["key"].to_pylist()


def _run(
    jobs: Iterable[tuple[ShardJob, str]], total: int, workers: int, seen: Verified, tell: Callable[[str], None]
) -> Iterator[tuple[str, ShardReport]]:
    """The reports of all jobs in order, added to `seen`, each with its job's name."""
    with TimeLeft("verify", "shards", total) as progress:
        for name, report in _reports(jobs, min(workers or os.cpu_count() or 1, total)):
            seen.shards += report.samples > 0 or bool(report.damage)
            seen.samples += report.samples
            seen.with_meta += report.with_meta
            seen.num_bytes += report.num_bytes
            seen.rejected += len(report.rejected or ())
            seen.compared += report.compared
            if report.damage:
                _damaged(seen, tell, report.damage)
            yield name, report
            progress.advance()


def _reports(jobs: Iterable[tuple[ShardJob, str]], workers: int) -> Iterator[tuple[str, ShardReport]]:
    if workers <= 1:
        yield from ((name, verify_shard(job)) for job, name in jobs)
        return
    waiting: deque[tuple[str, Future[ShardReport]]] = deque()
    # Spawned, not forked: a store's library has threads, and a fork may copy one that holds a lock.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_use_one_cpu)
    try:
        for job, name in jobs:
            waiting.append((name, pool.submit(verify_shard, job)))
            if len(waiting) >= JOBS_A_WORKER * workers:
                name, future = waiting.popleft()
                yield name, future.result()
        while waiting:
            name, future = waiting.popleft()
            yield name, future.result()
    except BrokenProcessPool:
        raise UserError("verify: a worker process was killed, perhaps for memory; try fewer --workers") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _use_one_cpu() -> None:
    import cv2

    cv2.setNumThreads(1)  # the other CPUs have workers of their own


def _check_twice(keys: KeyHashes, tars: list[str], seen: Verified, tell: Callable[[str], None]) -> None:
    for key, first, second in keys.twice(lambda shard: _keys_of(tars[shard])):
        _damaged(seen, tell, f"{tars[second]}: {key}: this key stands in {storage.base_name(tars[first])}, too")


def _keys_of(tar: str) -> list[str]:
    try:
        with storage.open_read(tar) as file:
            return [sample.key for sample in tar_samples(file, Counter())]
    except DamageError:
        return []  # told already


def _damaged(seen: Verified, tell: Callable[[str], None], line: str) -> None:
    seen.damages.append(line)
    tell(f"damaged: {line}")


def _summary(url: str, seen: Verified, deep: bool) -> str:
    size = f"{seen.samples} samples in {seen.shards} shards ({seen.kind}), {seen.num_bytes / 1e6:.1f} MB"
    if seen.damages:
        num = len(seen.damages)
        raise DamagedError(f"{url}: {num} {'thing is' if num == 1 else 'things are'} damaged, of {size}", seen.damages)
    parts = [f"{url}: whole. {size}", f"{seen.with_meta} samples with metadata"]
    parts += [f"{seen.rejected} rejected"] if seen.rejected else []
    if deep:
        compared = [f"{num} {what}" for what, num in sorted(seen.compared.items()) if "not reached" not in what]
        missed = [f"{num} {what}" for what, num in sorted(seen.compared.items()) if "not reached" in what]
        parts.append(f"compared: {', '.join(compared) or 'nothing, as there is no metadata'}")
        parts += [f"not compared: {', '.join(missed)}"] if missed else []
    return "; ".join(parts)
