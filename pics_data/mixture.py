"""What a build is made of: one source, or a mixture of several, each with a recipe and a weight of its own."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pics_common import storage
from pics_common.errors import UserError
from pics_common.recipe import parse_recipe
from pics_data.config import BYTES_VERSION, NOT_IN_IDENTITY, OF_A_MEMBER, BuildConfig


@dataclass(frozen=True, slots=True)
class Member:
    """One source of a build. `name` is "" where it is the only one; `weight` is how often training sees its samples."""

    name: str
    weight: float
    config: BuildConfig


def members_of(config: BuildConfig) -> list[Member]:
    """The members of a build, each with its settings in full: its own, and what the mixture says for all.

    Raises `UserError` for settings that cannot be, and for recipes that do not go together.
    """
    if not config.mix:
        if config.mix_weights:
            raise UserError("--mix-weights has no effect without --mix; give the recipes to mix")
        return [Member("", 1.0, _with_weights_in_place(config.check()))]
    _check_mixture(config)
    weights = config.mix_weights or (1.0,) * len(config.mix)
    members = [_member(path, weight, config) for path, weight in zip(config.mix, weights, strict=True)]
    for kind in ("name", "source"):
        values = [member.name if kind == "name" else _source_of(member.config) for member in members]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise UserError(f"--mix: two recipes have the {kind} {twice[0]}; their samples could not be told apart")
    return members


def _source_of(config: BuildConfig) -> str:
    """What keeps a member's samples apart from those of others: the ids of scenes begin with their difficulty."""
    return f"{config.source} ({config.difficulty})" if config.source == "scenes" else config.source


def _check_mixture(config: BuildConfig) -> None:
    defaults = BuildConfig()
    for name in OF_A_MEMBER:
        if getattr(config, name) != getattr(defaults, name):
            option = "--" + name.replace("_", "-")
            raise UserError(f"{option} has no effect with --mix; set `{name}` in the recipes that are mixed")
    if config.mix_weights and len(config.mix_weights) != len(config.mix):
        raise UserError(f"--mix-weights: {len(config.mix_weights)} weights for {len(config.mix)} recipes of --mix")
    if not all(0 < weight < float("inf") for weight in config.mix_weights):
        raise UserError(f"--mix-weights {' '.join(map(str, config.mix_weights))}: expected numbers above 0")


def _member(path: Path, weight: float, config: BuildConfig) -> Member:
    own = parse_recipe(BuildConfig, ["--recipe", str(path)], prog="pics-data build")
    if own.mix:
        raise UserError(f"--mix: {path} is a mixture itself; name the recipes that it mixes")
    values = {name: getattr(own, name) for name in OF_A_MEMBER}
    if own.masks == "given":
        values["gpus_per_worker"] = 0.0  # those of the mixture are for the members that need a predictor
    merged = dataclasses.replace(config, mix=(), mix_weights=(), **values)
    try:
        return Member(path.stem.replace("-", "_"), weight, _with_weights_in_place(merged.check()))
    except UserError as error:
        raise UserError(f"--mix: {path}: {error}") from None


def _with_weights_in_place(config: BuildConfig) -> BuildConfig:
    return dataclasses.replace(
        config,
        mask_weights=in_place(config.mask_weights),
        view_weights=in_place(config.view_weights),
        view_saliency=in_place(config.view_saliency),
    )


def in_place(weights: str) -> str:
    """Local weights by a path that means the same to every process; the id of a hub as it is."""
    return storage.absolute(weights) if weights and Path(weights).exists() else weights


def identity(members: list[Member]) -> dict[str, Any]:
    """The settings that the bytes of the shards depend on, beside the plan, as JSON values."""
    first = members[0].config
    shared = {
        name: value for name, value in _settings(first).items() if members[0].name == "" or name not in OF_A_MEMBER
    }
    if members[0].name == "":
        return {"bytes_version": BYTES_VERSION, **shared}
    own = [
        {
            "name": member.name,
            "weight": member.weight,
            **{name: value for name, value in _settings(member.config).items() if name in OF_A_MEMBER},
        }
        for member in members
    ]
    return {"bytes_version": BYTES_VERSION, **shared, "members": own}


def members_of_identity(values: Mapping[str, Any]) -> list[Member]:
    """The members that `identity` wrote down: with all settings that it holds, and this version's defaults besides.

    Settings that this version does not know are left out. Raises `KeyError` or `TypeError` for other values.
    """
    shared = {name: value for name, value in values.items() if name != "members"}
    if "members" not in values:
        return [Member("", 1.0, _config(shared))]
    return [
        Member(member["name"], float(member.get("weight", 1.0)), _config({**shared, **member}))
        for member in values["members"]
    ]


def _config(values: Mapping[str, Any]) -> BuildConfig:
    known = {field.name for field in dataclasses.fields(BuildConfig)}
    plain: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name in known
    }
    if plain.get("meshes"):
        plain["meshes"] = Path(plain["meshes"])
    return BuildConfig(**plain)


def _settings(config: BuildConfig) -> dict[str, Any]:
    values = dataclasses.asdict(config)
    if config.masks != "given" or config.view_saliency:
        from pics_data.predict.weights import weights_digest  # the weights' contents count, not their place

        if config.masks != "given":
            values["mask_weights"] = weights_digest(config.masks, config.mask_weights)
        if config.view_saliency:
            values["view_saliency"] = weights_digest("rembg", config.view_saliency)
    if config.views == "zero123":
        from pics_data.views import zero123

        values["view_weights"] = zero123.weights_digest(config.view_weights)
    return {
        name: _plain(value) for name, value in values.items() if name not in (*NOT_IN_IDENTITY, "mix", "mix_weights")
    }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
