"""The plan of a build: the one that its folder holds, where its inputs are still the same, or a new one."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from pics_common import storage
from pics_common.errors import UserError
from pics_data.config import OBJECTLESS, BuildConfig
from pics_data.mixture import Member, identity
from pics_data.plan import Counts, FindDuplicates, Plan, ShardGroup, make_plan
from pics_data.progress import PlanProgress, say
from pics_data.records import Photo, Reject
from pics_data.sources import records_of

RECIPE = "recipe.json"
PLAN = "plan"
OURS = {"README.md", "schema.json", PLAN, "annotated", "fingerprints"}  # what may be in a folder that is no build yet


@dataclass(frozen=True, slots=True)
class Basis:
    """What a build stands on, as JSON values.

    `recipe` holds the settings that the shards' bytes depend on; `inputs` what the plan is made from, and marks by
    which a change of it shows.
    """

    recipe: dict[str, Any]
    inputs: list[dict[str, str]]


def basis_of(members: list[Member]) -> Basis:
    """To be taken once, before planning: an input that changes while it is read differs from it the next time."""
    return Basis(identity(members), _inputs_of(members))


def existing_recipe(out: str) -> dict[str, Any] | None:
    """The `recipe.json` of the build that `out` belongs to; None for a folder that is not there or empty.

    Raises `UserError` for a folder that holds something else.
    """
    try:
        data = storage.read(storage.join(out, RECIPE))
    except (FileNotFoundError, NotADirectoryError):
        strangers = sorted(name for name in storage.list_names(out) if name not in OURS and not name.startswith("."))
        if strangers:
            raise UserError(
                f"--out: {out} holds other files ({', '.join(strangers[:3])}{', ...' if len(strangers) > 3 else ''}) "
                "and no recipe.json of a build; give an empty folder"
            ) from None
        return None
    try:
        existing = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise UserError(f"--out: {out}/{RECIPE} is not JSON; delete {out} or give another --out") from None
    if not isinstance(existing, dict) or not isinstance(existing.get("recipe"), dict):
        raise UserError(f"--out: {out}/{RECIPE} is not the recipe of a build; delete {out} or give another --out")
    return existing


@contextmanager
def planned(config: BuildConfig, members: list[Member], basis: Basis) -> Iterator[tuple[Plan, bool]]:
    """The plan for the time of a `with` block, and whether it is the one that `config.out` holds.

    A new plan lies in a temporary folder, to be put in place by `install`. Raises `UserError` for bad input, and where
    `config.out` holds shards of another recipe.
    """
    existing = existing_recipe(config.out)
    check_same_recipe(config.out, existing, basis.recipe)
    if existing is not None and existing.get("inputs") == basis.inputs:
        yield _stored_plan(config.out, existing), True
        return
    names = ", ".join(member.config.source for member in members)
    say(f"planning from {names}")
    with TemporaryDirectory(prefix="pics-plan-") as folder:
        with PlanProgress() as progress:
            plan = make_plan(members, _records, config, Path(folder), _finder(config), progress.tick)
        yield plan, False


def _records(member: Member) -> Iterator[Photo | Reject]:
    records = records_of(member.config)
    if member.config.source not in OBJECTLESS:
        return records
    from pics_data.annotate import annotated

    return annotated(records, member.config)


def _finder(config: BuildConfig) -> FindDuplicates | None:
    if config.duplicates == "keep":
        return None
    from pics_data.deduplicate import find_duplicates

    return lambda photos: find_duplicates(photos, config)


def install(plan: Plan, config: BuildConfig, basis: Basis) -> Plan:
    """Puts a new plan, made on `basis`, into `config.out`: its files, then `recipe.json`. Returns the plan where it now
    lies.

    Raises `UserError` where a build with another plan is there already.
    """
    existing = existing_recipe(config.out)  # another build may have come while this one planned
    check_same_recipe(config.out, existing, basis.recipe)
    if existing is not None and existing.get("plan_sha256") != plan.digest:
        raise UserError(
            f"--out: {config.out} was begun with other annotations or other photos present (same recipe, another "
            "plan); give another --out, or delete that folder"
        )
    folder = storage.join(config.out, PLAN)
    for path in sorted(Path(plan.folder).iterdir()):
        storage.upload(path, storage.join(folder, path.name))
    value = {
        "recipe": basis.recipe,
        "plan_sha256": plan.digest,
        "inputs": basis.inputs,
        "counts": dataclasses.asdict(plan.counts),
        "groups": [dataclasses.asdict(group) for group in plan.groups],
    }
    storage.write(storage.join(config.out, RECIPE), orjson.dumps(value, option=orjson.OPT_INDENT_2))
    return dataclasses.replace(plan, folder=folder)


def _inputs_of(members: list[Member]) -> list[dict[str, str]]:
    """Where annotations and photos are. The photos themselves are not looked at."""
    inputs = []
    for member in members:
        config = member.config
        inputs += [{"images": storage.absolute(url)} for url in config.images]
        for url in config.annotations:
            inputs.append({"annotations": storage.absolute(url), "signature": _signature(url)})
        if not config.annotations:  # the photos' own names are all there is
            inputs += [{"photos": storage.absolute(url), "signature": _signature(url)} for url in config.images]
    return inputs


def _signature(url: str) -> str:
    try:
        return storage.signature(url)
    except OSError:
        return "missing"  # whoever reads it says what is wrong


def check_same_recipe(out: str, existing: dict[str, Any] | None, recipe: dict[str, Any]) -> None:
    """Raises `UserError` where `out` holds shards of another recipe."""
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


def _stored_plan(out: str, existing: dict[str, Any]) -> Plan:
    try:
        groups = [ShardGroup(**group) for group in existing["groups"]]
        counts = Counts(**existing["counts"])
        return Plan(storage.join(out, PLAN), str(existing["plan_sha256"]), groups, counts)
    except (KeyError, TypeError):
        raise UserError(
            f"--out: {out}/{RECIPE} is not the recipe of a build; delete {out} or give another --out"
        ) from None
