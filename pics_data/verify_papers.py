"""What stands beside the tars of a build: the index, the recipe, and where each shard stands in the plan."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow.parquet as pq

from pics_common import storage
from pics_common.errors import UserError
from pics_data.config import BuildConfig
from pics_data.ledger import INDEX_KIND
from pics_data.mixture import members_of_identity
from pics_data.parquet_read import told_if_damaged
from pics_data.photofile import MAX_PIXELS
from pics_data.plan import SHARDS_A_FILE, Plan, ShardGroup, plan_file, shards_of


@dataclass(frozen=True, slots=True)
class Entry:
    """What index.json says of a shard; `shard` is its name without `.tar`."""

    shard: str
    nsamples: int
    filesize: int
    sha256: str
    split: str
    source: str
    weight: float


@dataclass(frozen=True, slots=True)
class Planned:
    """A shard of the plan: its number there, its name, and the settings of the member that it belongs to."""

    number: int
    shard: str
    config: BuildConfig


@dataclass(frozen=True, slots=True)
class Index:
    """`index.json`: its shards in order; `recipe` is {} where it names none."""

    entries: list[Entry]
    recipe: Mapping[str, Any]

    @property
    def max_pixels(self) -> int:
        """The largest photo that the build took."""
        return int(self.recipe.get("max_pixels", MAX_PIXELS))


def read_index(folder: str) -> Index:
    """The index of a folder of shards. Raises `UserError` where it cannot be read or is not one."""
    url = storage.join(folder, "index.json")
    values = _read_json(url)
    if values.get("__kind__") != INDEX_KIND or not isinstance(values.get("shardlist"), list):
        raise UserError(f"{url}: no shard index; expected `__kind__` {INDEX_KIND} and a `shardlist`")
    entries = [_entry(url, item) for item in values["shardlist"]]
    if len({entry.shard for entry in entries}) != len(entries):
        raise UserError(f"{url}: lists a shard twice")
    recipe = values.get("recipe")
    return Index(entries, recipe if isinstance(recipe, dict) else {})


def _entry(url: str, item: Any) -> Entry:
    for key, kind in {"url": str, "nsamples": int, "filesize": int, "sha256": str, "split": str}.items():
        if not isinstance(item, dict) or not isinstance(item.get(key), kind):
            raise UserError(f"{url}: an entry of `shardlist` lacks `{key}`")
    name = item["url"]
    if "/" in name or "\\" in name or not name.endswith(".tar") or name == ".tar":
        raise UserError(f"{url}: `{name}` is not the plain name of a tar beside the index")
    source, weight = item.get("source", ""), item.get("weight", 1.0)
    if not isinstance(source, str) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise UserError(f"{url}: {name}: expected `source` as text and `weight` as a number above 0")
    shard = name.removesuffix(".tar")
    return Entry(shard, item["nsamples"], item["filesize"], item["sha256"], item["split"], source, float(weight))


def _read_json(url: str) -> dict[str, Any]:
    try:
        values = orjson.loads(storage.read(url))
    except orjson.JSONDecodeError as error:
        raise UserError(f"{url}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{url}: not a JSON object")
    return values


def read_recipe(folder: str) -> dict[str, Any] | None:
    """`recipe.json` of a folder of shards; None where there is none. Raises `UserError` where it is damaged."""
    try:
        values = _read_json(storage.join(folder, "recipe.json"))
    except FileNotFoundError:
        return None
    if not isinstance(values.get("recipe"), dict) or not isinstance(values.get("groups"), list):
        raise UserError(f"{storage.join(folder, 'recipe.json')}: not the recipe of a build")
    return values


def planned_shards(folder: str, recipe: Mapping[str, Any]) -> Iterator[Planned]:
    """The shards of the plan that `recipe`, the contents of `recipe.json`, speaks of, in order.

    Raises `UserError` where `recipe` is damaged.
    """
    try:
        members = members_of_identity(recipe["recipe"])
        plan = Plan(storage.join(folder, "plan"), groups=[ShardGroup(**group) for group in recipe["groups"]])
        for number, shard, member in shards_of(plan, members):
            yield Planned(number, shard, members[member].config)
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{storage.join(folder, 'recipe.json')}: not the recipe of a build ({error})") from None


def planned_keys(plan_folder: str, planned: Planned) -> list[str]:
    """The keys that the plan has for a shard, in order. Raises `UserError` where the plan is damaged."""
    url = storage.join(plan_folder, plan_file(planned.number))
    with told_if_damaged(url), storage.open_read(url) as stream, pq.ParquetFile(stream) as file:
        table = file.read_row_group(planned.number % SHARDS_A_FILE, columns=["key", "shard"])
    if set(table["shard"].to_pylist()) - {planned.shard}:
        raise UserError(f"{url}: row group {planned.number % SHARDS_A_FILE} is not shard {planned.shard}")
    return table["key"].to_pylist()
