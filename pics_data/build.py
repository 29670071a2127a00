"""`pics-data build` from top to bottom: source -> plan -> folder -> shards -> rejects and index -> summary."""

import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from pics_common import storage
from pics_common.errors import UserError
from pics_data.config import OBJECTLESS, BuildConfig
from pics_data.ledger import Ledger, read_ledger, write_index, write_rejects
from pics_data.mixture import Member, members_of
from pics_data.pipeline import Todo, build_shards, check_address, engine
from pics_data.plan import Counts, Plan, shards_of
from pics_data.planning import basis_of, install, planned
from pics_data.progress import Progress, say
from pics_data.shards import remove_leftovers


@dataclass(slots=True)
class BuildResult:
    """What a build did: what went in is what came out and what was dropped.

    Photos = missing + without a pair + left out + with compositions; compositions = samples + rejected + filtered.
    """

    folder: str
    photos: Counts
    compositions: int
    samples: int
    num_bytes: int
    shards: int
    kept_shards: int
    made_samples: int
    seconds: float
    rejects: Counter[tuple[str, str]] = field(default_factory=Counter)  # by stage and reason


def build(config: BuildConfig, plan_only: bool = False) -> BuildResult:
    """Builds what `config` says, or finishes what an earlier run of the same began.

    With `plan_only` the plan is written and nothing else. Raises `UserError` for bad input, before anything is written;
    for a folder that holds other shards; and past `max_reject_fraction`, in which case `rejects.parquet` is there to
    look at and the index is not written.
    """
    config = replace(config, out=storage.absolute(config.out))
    members = members_of(config)
    _check_writable(config.out)
    check_address(config)
    for member in members:
        if member.config.masks != "given":
            from pics_data.predict import check_predictor  # torch, or onnxruntime: only who predicts pays

            check_predictor(member.config.masks, member.config.mask_weights)
    if config.views != "none":
        from pics_data.views.check import check_generator

        check_generator(config, [member.config for member in members])
    basis = basis_of(members)
    plans_with_ray = config.duplicates == "drop" or any(m.config.source in OBJECTLESS for m in members)
    with (
        engine(config) if plans_with_ray else nullcontext(),
        planned(config, members, basis) as (plan, is_stored),
        lock_folder(config.out),
    ):
        if not is_stored:
            plan = install(plan, config, basis)
        elif plan.counts.missing:
            say(f"{plan.counts.missing} photos were missing when this folder was planned; a new --out would look again")
        return _planned_result(plan, config) if plan_only else _build(config, members, plan, basis.recipe)


def _check_writable(out: str) -> None:
    """Planning may take minutes: a folder that cannot be written to is told before."""
    if storage.is_remote(out):
        probe = storage.join(out, ".pics-data")
        try:
            storage.write(probe, b"")
            storage.remove(probe)
        except OSError as error:
            raise UserError(f"--out: {out} cannot be written to ({error.strerror}); give another --out") from None
        return
    path = storage.local_path(out)
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if not nearest.is_dir():
        raise UserError(f"--out: {nearest} is a file; expected a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"--out: {nearest} cannot be written to; give another --out, or change its permissions")


def _build(config: BuildConfig, members: list[Member], plan: Plan, recipe: dict[str, Any]) -> BuildResult:
    folder = config.out
    remove_leftovers(folder)
    ledger = read_ledger(folder, plan, members)
    again = config.retry_rejects
    todo = sum(not ledger.is_done(n) or (again and bool(ledger.num_rejects[n])) for n in range(plan.num_shards))
    kept = plan.num_shards - todo
    if todo:
        storage.remove(storage.join(folder, "index.json"))  # it speaks of shards that are gone or will change
    say(
        f"{plan.num_samples} compositions from {plan.counts.photos} photos in {plan.num_shards} shards"
        + (f", {kept} of them whole from an earlier run" if kept else "")
    )
    made, seconds = 0, 0.0
    if todo:
        try:
            made, seconds = _make_shards(config, members, plan, ledger, plan.num_samples - _samples_of(ledger, again))
        finally:
            remove_leftovers(folder)  # of workers that died on the way
    result = _planned_result(plan, config)
    result.samples, result.num_bytes = int(ledger.nsamples.sum()), int(ledger.num_bytes.sum())
    result.shards, result.kept_shards = int((ledger.nsamples > 0).sum()), kept
    result.made_samples, result.seconds = made, seconds
    result.rejects = write_rejects(folder, plan, members, ledger)
    _check_rejects(config, result)
    write_index(folder, plan, members, ledger, recipe)
    return result


def _samples_of(ledger: Ledger, again: bool) -> int:
    """Planned samples of the shards that stay as they are."""
    stay = (ledger.nsamples >= 0) & ~((ledger.num_rejects > 0) & again)
    return int((ledger.nsamples + ledger.num_rejects)[stay].sum())


def _make_shards(
    config: BuildConfig, members: list[Member], plan: Plan, ledger: Ledger, num_samples: int
) -> tuple[int, float]:
    """Makes what is not done and enters it into `ledger`; returns the samples made, and seconds."""

    def left() -> Iterator[Todo]:
        for number, shard, member in shards_of(plan, members):
            if not ledger.is_done(number) or (config.retry_rejects and ledger.num_rejects[number]):
                yield number, shard, member

    made = 0
    # The list of what is left is read while it is worked on, so what is done must not change it.
    done = Ledger(plan.num_shards)
    with engine(config), Progress(num_samples) as progress:
        for number, mark in build_shards(left(), plan, config.out, members, config):
            done.enter(number, mark)
            made += mark.nsamples
            progress.advance(mark.nsamples + len(mark.rejects))
    ledger.take(done)
    return made, progress.seconds


def _check_rejects(config: BuildConfig, result: BuildResult) -> None:
    failed = Counter({key: n for key, n in result.rejects.items() if key[0] not in ("plan", "filter")})
    if failed.total() > config.max_reject_fraction * result.compositions:
        (_, reason), count = failed.most_common(1)[0]
        raise UserError(
            f"build: {failed.total()} of {result.compositions} compositions were rejected, more than "
            f"--max-reject-fraction {config.max_reject_fraction} allows; most often: {reason} ({count}); "
            f"see {storage.join(config.out, 'rejects.parquet')}"
        )


@contextmanager
def lock_folder(folder: str) -> Iterator[None]:
    """Holds a local `folder`, made if need be, for this build. The lock goes with the process, however it ends.

    A store knows no locks: two builds of one recipe write the same bytes there, and only take twice the work.
    """
    if storage.is_remote(folder):
        yield
        return
    path = storage.local_path(folder)
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY)
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


def _planned_result(plan: Plan, config: BuildConfig) -> BuildResult:
    return BuildResult(
        folder=config.out,
        photos=plan.counts,
        compositions=plan.num_samples,
        samples=0,
        num_bytes=0,
        shards=plan.num_shards,
        kept_shards=0,
        made_samples=0,
        seconds=0.0,
    )
