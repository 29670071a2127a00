"""Encodings kept beside shards, for training: latents of the photos, and what a frozen trunk sees in their objects.

They lie in `encoded-<key>/<shard>.safetensors` (see `encoded_file`). The key is a hash of all that they depend on, so
that those of several models, or of several ways to change the objects' pictures, stand beside each other, and none is
ever used for another. `pics-data encode` makes them.

Legend: B pictures of K objects, V views of one, M tokens of width W a picture, latents [L, n, n].
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pics_common import storage
from pics_common.errors import UserError
from pics_model.encoded_file import MEND, Array, Encoded, EncodedFile, Layout, read_layout
from pics_model.shard_set import Shard
from pics_model.shard_table import ShardTable, Stored

if TYPE_CHECKING:
    from pics_model.inputs import Inputs

PREFIX, SUFFIX = "encoded-", ".safetensors"
NewTensor = Callable[[Sequence[int], np.dtype[Any]], Tensor]


@dataclass(frozen=True, slots=True)
class EncodingRecipe:
    """All that encodings depend on besides the shards. Without a part that makes them, nothing depends on its settings.

    `autoencoder` and `trunk` are hashes of weights and configuration, "" where a model has no such frozen part.
    `framing` are those of `FramingSettings`, and `augment` those of `AugmentSettings`, that matter. Of `variants` 1 the
    objects' pictures are as in inference; else each is drawn as in training, from `seed` and the sample's key.
    """

    autoencoder: str
    trunk: str
    framing: Mapping[str, Any]
    cutouts: str
    augment: Mapping[str, Any]
    variants: int = 1
    seed: int = 0
    bf16: bool = False

    @property
    def key(self) -> str:
        """Eight hex digits that tell recipes apart."""
        return hashlib.sha256(self.as_json().encode()).hexdigest()[:8]

    @property
    def folder_name(self) -> str:
        """The name of the folder of these encodings."""
        return f"{PREFIX}{self.key}"

    def as_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def difference(self, other: "EncodingRecipe") -> tuple[str, Any, Any] | None:
        """The first thing, in words, for which encodings of `other` cannot stand for those of this recipe, and its
        values there and here; None if they can: how they were drawn, how often and how exactly is all the same."""
        ours, theirs = self._compared(), other._compared()
        for name in (*ours, *theirs):
            if ours.get(name) != theirs.get(name):
                return name, theirs.get(name), ours.get(name)
        return None

    def _compared(self) -> dict[str, Any]:
        framing = {f"framing.{name}": value for name, value in self.framing.items()}
        parts = {"autoencoder": self.autoencoder[:12], "trunk of the object encoder": self.trunk[:12]}
        return {**parts, **framing, "cutouts": self.cutouts, **self.augment}


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """By what a changed shard is noticed before any of it is read: its samples, its bytes, and the SHA-256 of them, ""
    where nobody knows it."""

    num_samples: int
    num_bytes: int
    sha256: str = ""


def facts_of(shard: Shard, num_samples: int) -> ShardFacts:
    """Of a shard as it is now, and as far as is known without reading it."""
    size = shard.size if storage.is_remote(shard.url) else storage.file_size(shard.url)
    return ShardFacts(num_samples, size or 0, shard.sha256)


def read_about(layout: Layout, path: Path) -> tuple[EncodingRecipe, ShardFacts]:
    """Of which model, settings and shard a file's encodings are. Raises `UserError` for those of another version."""
    try:
        return EncodingRecipe(**json.loads(layout.about["recipe"])), ShardFacts(**json.loads(layout.about["shard"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"encodings {path}: of another version ({error!r}); {MEND}") from None


def changed(then: ShardFacts, now: ShardFacts) -> str:
    """What has changed of a shard since it was encoded, in words; "" if nothing has."""
    for name, before, after in (
        ("samples", then.num_samples, now.num_samples),
        ("bytes", then.num_bytes, now.num_bytes),
        ("SHA-256", then.sha256[:12], now.sha256[:12]),
    ):
        if before and after and before != after:
            return f"{name} {before} then, {after} now"
    return ""


def file_name(shard: Shard) -> str:
    """The name of the file of a shard's encodings."""
    return f"{shard.path.stem}{SUFFIX}"


class Encodings:
    """The encodings of all samples of a table of shards; made by `open_encodings`.

    A file is looked at when the first of its samples is asked for. `nothing` [M, W] float16 are the features of the
    picture of no object, None where a model has no frozen trunk.
    """

    def __init__(self, table: ShardTable, folders: Sequence[Path], recipe: EncodingRecipe) -> None:
        """`folders` has the encodings' place for each shard; `recipe` is theirs."""
        self.recipe = recipe
        self._table, self._folders = table, folders
        self._files: dict[int, EncodedFile] = {}
        self._tensors, nothing = self._file(0).layout.tensors, self._file(0).nothing
        self.nothing = None if nothing is None else torch.from_numpy(nothing)

    def num_bytes(self, num_objects: int, num_views: int) -> int:
        """What a sample's encodings take in a batch whose pictures have so many objects, of so many views each."""
        sizes = {name: math.prod(shape[1:]) * dtype.itemsize for name, (dtype, shape, _) in self._tensors.items()}
        return sizes.get("latents", 0) + num_objects * (1 + num_views) * sizes.get("features", 0)

    def read(self, stored: Stored, number: int, place: int, variant: int) -> Encoded:
        """One variant of a sample: `place` of shard `number` of the table, where it is `stored`.

        Raises `UserError` that names file and key: for files that are missing, damaged or another recipe's, and for
        shards and samples that have changed.
        """
        return self._file(number).read(place, variant, stored)

    def _file(self, number: int) -> EncodedFile:
        if number not in self._files:
            shard = self._table.shards[number]
            file = EncodedFile(self._folders[number] / file_name(shard))
            recipe, facts = read_about(file.layout, file.path)
            if recipe != self.recipe:
                raise UserError(f"encodings {file.path}: of another model or settings than its neighbours; {MEND}")
            if what := changed(facts, facts_of(shard, self._table.counts[number])):
                raise UserError(f"encodings {file.path}: made before {shard.url} was changed ({what}); {MEND}")
            self._files[number] = file
        return self._files[number]

    def put_into(self, inputs: "Inputs", stored: Stored, number: int, place: int, rng: np.random.Generator) -> "Inputs":
        """The inputs of a sample with a variant of its encodings, drawn from `rng`, in the place of the pictures that
        it was made from: what is not used need not travel to the training process. Raises as `read`."""
        encoded = self.read(stored, number, place, int(rng.integers(self.recipe.variants)))
        changes: dict[str, Any] = {"encoded": encoded}
        if encoded.features is not None:
            changes["objects"], changes["object_boxes"] = inputs.objects[:, :0, :0], encoded.object_boxes
            if encoded.views:
                changes["views"] = [np.empty((len(views), 0, 0, 4), np.uint8) for views in encoded.views]
                changes["cameras"] = encoded.cameras
        return replace(inputs, **changes)


def stack(items: Sequence[Encoded | None], most: int, new: NewTensor) -> dict[str, Tensor]:
    """The encodings of a batch whose pictures have at most `most` objects, for `inputs.Batch`; float16, 0 for objects
    and views that are not there: `latent` [B, L, n, n], `features` [B, K, M, W], `view_features` [B, K, V, M, W], each
    only if there is any. `new` makes the tensors, as in `inputs.collate`."""
    given = [item for item in items if item is not None]
    out: dict[str, Tensor] = {}
    if not given:
        return out
    first = given[0]
    if first.latent is not None:
        out["latent"] = new((len(given), *first.latent.shape), first.latent.dtype)
        for row, item in zip(out["latent"].numpy(), given, strict=True):
            row[:] = item.latent
    if first.features is None:
        return out
    shape, dtype = first.features.shape[1:], first.features.dtype
    out["features"] = new((len(given), most, *shape), dtype)
    for row, item in zip(out["features"].numpy(), given, strict=True):
        _fill(row, item.features)
    most_views = max(len(views) for item in given for views in item.views)
    if most_views:
        out["view_features"] = new((len(given), most, most_views, *shape), dtype)
        for row, item in zip(out["view_features"].numpy(), given, strict=True):
            row[len(item.views) :] = 0
            for values, views in zip(row, item.views, strict=False):
                _fill(values, views)
    return out


def _fill(row: Array, values: Array | None) -> None:
    """Values in the first places of a row, 0 in the rest."""
    assert values is not None, "all of a batch are of one recipe"
    row[: len(values)] = values
    row[len(values) :] = 0


def open_encodings(table: ShardTable, wanted: EncodingRecipe, folder: Path | None = None) -> Encodings:
    """The encodings that fit `wanted` of all shards of a table. `folder` holds their folders, or is one of them; by
    default they lie beside each shard.

    Raises `UserError` where there are none, where those that there are are another model's (with what differs), and
    where a shard has none.
    """
    places = [folder or shard.path.parent for shard in table.shards]
    found = {place: _find(place, wanted) for place in dict.fromkeys(places)}
    for shard, place in zip(table.shards, places, strict=True):
        if file_name(shard) not in found[place][1]:
            raise UserError(f"encodings {found[place][0] / file_name(shard)}: missing; run `pics-data encode` again")
    return Encodings(table, [found[place][0] for place in places], found[places[0]][2])


def _find(place: Path, wanted: EncodingRecipe) -> tuple[Path, set[str], EncodingRecipe]:
    """The one folder of encodings in `place`, or that it is, whose recipe fits: its path, its files, its recipe."""
    recipes: dict[Path, EncodingRecipe] = {}
    names: dict[Path, set[str]] = {}
    for folder in (place, *sorted(place.glob(f"{PREFIX}*"))):
        names[folder] = {path.name for path in folder.glob(f"[!.]*{SUFFIX}")}
        if names[folder]:
            path = folder / min(names[folder])
            recipes[folder] = read_about(read_layout(path), path)[0]
    if not recipes:
        raise UserError(f"encodings {place}: there are none; `pics-data encode SHARDS --model MODEL` makes them")
    differences = {folder: wanted.difference(recipe) for folder, recipe in recipes.items()}
    fitting = [folder for folder, different in differences.items() if different is None]
    if len(fitting) > 1:
        shown = ", ".join(f"{folder.name} ({recipes[folder].variants} variants)" for folder in fitting)
        raise UserError(f"encodings {place}: several fit: {shown}; name the folder of one")
    if not fitting:
        folder, different = next((folder, different) for folder, different in differences.items() if different)
        more = f"; {len(recipes) - 1} others do not fit either" if len(recipes) > 1 else ""
        raise UserError(_differs(folder, different) + more)
    return fitting[0], names[fitting[0]], recipes[fitting[0]]


def _differs(path: Path, different: tuple[str, Any, Any]) -> str:
    name, there, here = different
    return (
        f"encodings {path}: made with another {name}, {_shown(there)} there and {_shown(here)} here; encode with this "
        f"model and these settings, or train with those"
    )


def _shown(value: Any) -> str:
    return "none" if value in (None, "") else str(value)
