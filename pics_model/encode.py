"""Samples -> encodings: what a model's frozen parts make of them, and the file of a whole shard.

In training that is the same in each step, and most of the work of a small step: a ViT-g sees each object's picture, an
autoencoder each photo. Plain functions; `pics-data encode` runs them on a cluster.

Legend: B pictures, N object pictures of S x S pixels, M tokens of width W, latents [L, n, n], C variants.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pics_common import storage
from pics_common.errors import UserError
from pics_common.files import new_file
from pics_model.augment import AugmentSettings, Look, draw_looks, pick_stored, stored_as
from pics_model.dino_encoder import DinoObjectEncoder
from pics_model.encoded import EncodingRecipe, changed, facts_of, read_about
from pics_model.encoded_file import Encoded, EncodedFile, EncodedWriter
from pics_model.inputs import FramingSettings, Inputs, compose, object_pixels, to_signed
from pics_model.object_encoder import nothing
from pics_model.pipeline import PICSPipeline
from pics_model.shard_reader import Cutouts, decode
from pics_model.shard_set import Shard
from pics_model.shard_table import ShardTable, Stored
from pics_model.side_tokens import Sides, add_sides

T = TypeVar("T")
R = TypeVar("R")
NO_CHANGE = AugmentSettings()
Pixels = NDArray[np.uint8]


def recipe_of(
    pipeline: PICSPipeline,
    cutouts: Cutouts = "visible",
    augment: AugmentSettings = NO_CHANGE,
    variants: int = 1,
    seed: int = 0,
    bf16: bool = False,
) -> EncodingRecipe:
    """What encodings of a model depend on; of its weights, every byte of those that are frozen.

    Raises `UserError` for a model without a frozen part, and for settings by which its inputs change from epoch to
    epoch.
    """
    trunk = trunk_of(pipeline)
    if pipeline.autoencoder is None and trunk is None:
        raise UserError(
            f"encodings: nothing to keep, as a model of preset `{pipeline.config.preset}` has neither an autoencoder "
            f"nor a frozen object encoder"
        )
    framing = pipeline.framing
    if framing.flip:
        raise UserError(
            f"encodings: framing.flip is {framing.flip}; expected 0, as a photo's latent is kept unmirrored"
        )
    matter = ["resolution", "frame"] + ["context"] * (framing.frame == "pair")
    if trunk is not None:
        matter += ["object_resolution", "snap", "views"]
        matter += ["margin_min", "margin_max"] * (not framing.snap or framing.views > 0)
    # Of the photo, cut-outs matter only to the square around the objects.
    chosen = cutouts if trunk is not None or framing.frame == "pair" else ""
    if chosen == "mix":
        raise UserError("--cutouts mix: changes from epoch to epoch, and encodings do not; give visible or full")
    drawn = {name: value for name, value in asdict(augment).items() if value != getattr(NO_CHANGE, name)}
    return EncodingRecipe(
        autoencoder=""
        if pipeline.autoencoder is None
        else _digest_of(pipeline.autoencoder, pipeline.autoencoder.config),
        trunk="" if trunk is None else _digest_of(trunk, pipeline.object_encoder.config["trunk"]),
        framing={name: _number(getattr(framing, name)) for name in matter},
        cutouts=chosen,
        augment={} if trunk is None else {name: _number(value) for name, value in drawn.items()},
        variants=variants,
        seed=seed,
        bf16=bf16,
    )


def _number(value: Any) -> Any:
    """30.0 as 30: the same setting gives the same key, however it was written."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def trunk_of(pipeline: PICSPipeline) -> nn.Module | None:
    """The part of a model's object encoder that no training moves; None where all of it trains."""
    encoder = pipeline.object_encoder
    return encoder.trunk if isinstance(encoder, DinoObjectEncoder) else None


def _digest_of(part: nn.Module, config: Mapping[str, Any]) -> str:
    """SHA-256 of a part's configuration and of every byte of its weights, 64 hex digits."""
    # Names that begin with _ say where a part was loaded from, and by which version.
    told = {key: value for key, value in config.items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    for name, weight in sorted(part.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}\n".encode())
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def latents_of(pipeline: PICSPipeline, photos: Pixels) -> NDArray[np.float16]:
    """Framed photos [B, R, R, 3] -> latents [B, L, n, n], as training takes them."""
    latents = pipeline.to_latent(to_signed(torch.from_numpy(photos).to(pipeline.device)))
    return _in_half(latents, "latents")


@torch.no_grad()
def features_of(pipeline: PICSPipeline, pictures: Pixels, batch_size: int, bf16: bool = False) -> NDArray[np.float16]:
    """Object pictures [N, S, S, 4] -> the tokens of a frozen trunk [N, M, W], `batch_size` pictures at a time."""
    device = pipeline.device
    parts = []
    for start in range(0, len(pictures), batch_size):
        some = torch.from_numpy(pictures[start : start + batch_size]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            features = pipeline.object_encoder.features(object_pixels(some).to(pipeline.object_encoder.dtype))
        parts.append(_in_half(features, "features"))
    return np.concatenate(parts)


@torch.no_grad()
def nothing_of(pipeline: PICSPipeline) -> NDArray[np.float16] | None:
    """The features [M, W] of the picture of no object, which guidance moves away from; None without a frozen trunk."""
    if trunk_of(pipeline) is None:
        return None
    like = torch.empty(0, device=pipeline.device, dtype=pipeline.object_encoder.dtype)
    pictures = nothing(pipeline.framing.object_resolution, like)
    return _in_half(pipeline.object_encoder.features(pictures), "features")[0]


def _in_half(values: Tensor, what: str) -> NDArray[np.float16]:
    half = values.to(torch.float16)
    if not half.isfinite().all():
        raise UserError(f"encodings: {what} that half precision cannot hold; this model's cannot be kept")
    return half.cpu().numpy()


def codes_of(encoder: DinoObjectEncoder, features: Tensor, sides: Sides | None = None) -> Tensor:
    """Features [N, M, W] -> object codes [N, M, D], by what of the encoder trains. `sides` as its forward takes them,
    but with features [N, V, M, W] in the place of the pictures of `views`."""
    project = encoder.projector
    return add_sides(encoder.sides, project(features.to(encoder.dtype)), sides, project)


def inputs_of(stored: Stored, framing: FramingSettings, recipe: EncodingRecipe) -> list[Inputs]:
    """The variants of a sample that are encoded, [C].

    One variant is what inference would see; several are drawn as training draws, each from a seed of its own. Their
    regions mean nothing: training draws its own. Raises `UserError` for a sample that is damaged.
    """
    whole = recipe.cutouts == "full"
    if recipe.variants == 1:
        example, lean = decode(stored, whole, framing.views, framing=framing)
        return [compose(example, framing, None, lean=lean)]
    augment = AugmentSettings(**recipe.augment)
    number = int.from_bytes(hashlib.sha256(stored.key.encode()).digest()[:8], "big")
    found = []
    for variant in range(recipe.variants):
        rng = np.random.default_rng([recipe.seed, variant, number])
        looks = draw_looks(rng, stored.num_objects, augment)
        pick = partial(_pick, looks, augment) if augment.stored_rotations else None
        example, lean = decode(stored, whole, framing.views, pick, framing)
        looks = [stored_as(look, angle) for look, angle in zip(looks, example.angles, strict=True)]
        found.append(compose(example, framing, rng, looks=looks, lean=lean))
    return found


def _pick(looks: Sequence[Look], augment: AugmentSettings, k: int, angles: list[float]) -> int | None:
    return pick_stored(looks[k], angles, augment)


def encode_samples(
    pipeline: PICSPipeline, samples: Sequence[Sequence[Inputs]], batch_size: int, bf16: bool = False
) -> list[list[Encoded]]:
    """The encodings of each variant of each sample; `batch_size` object pictures go through a trunk at a time."""
    made = [[Encoded() for _ in variants] for variants in samples]
    if pipeline.autoencoder is not None:
        latents = latents_of(pipeline, np.stack([variants[0].target for variants in samples]))
        for row, latent in zip(made, latents, strict=True):
            for encoded in row:
                encoded.latent = latent
    if trunk_of(pipeline) is None:
        return made
    flat = list(chain.from_iterable(samples))
    groups = [group for inputs in flat for group in (inputs.objects, *inputs.views)]
    ends = np.cumsum([len(group) for group in groups])[:-1]
    parts = iter(np.split(features_of(pipeline, np.concatenate(groups), batch_size, bf16), ends))
    for inputs, encoded in zip(flat, chain.from_iterable(made), strict=True):
        encoded.features, encoded.object_boxes = next(parts), inputs.object_boxes
        encoded.views = list(islice(parts, len(inputs.views))) or [encoded.features[:0]] * len(inputs.objects)
        encoded.cameras = inputs.cameras or [np.zeros((0, 3), np.float32)] * len(inputs.objects)
    return made


@dataclass(frozen=True, slots=True)
class EncodedShard:
    """What was done: `errors` are (key, why) of the samples that could not be read, and so are not encoded."""

    num_samples: int
    num_bytes: int
    errors: tuple[tuple[str, str], ...] = ()


def encode_shard(
    pipeline: PICSPipeline, recipe: EncodingRecipe, shard: Shard, path: Path, *, batch_size: int, threads: int = 1
) -> EncodedShard:
    """Writes the encodings of a shard to `path`: whole, or not at all. `threads` read and decode samples while the
    model works on a batch of others. The file's bytes depend on shard, model and recipe, and, by the rounding of
    networks, on batch size, device and number of CPU threads.

    Raises `UserError` for a tar that is damaged or is not the one that its index tells of. A sample that cannot be read
    is left out, and its neighbours are not affected.
    """
    table, framing = ShardTable([shard]), pipeline.framing
    samples = [table.sample(place) for place in range(len(table))]
    facts = replace(facts_of(shard, len(table)), sha256=_sha256_of(shard))
    about = {
        "recipe": recipe.as_json(),
        "shard": json.dumps(asdict(facts)),
        "keys": "\n".join(stored.key for stored in samples),
    }
    num_views = [n for stored in samples for n in _num_views(stored, framing.views if recipe.trunk else 0)]
    latent_shape = None if pipeline.autoencoder is None else tuple(pipeline.latent_shape)
    errors: list[tuple[str, str]] = []

    def read(stored: Stored) -> list[Inputs] | UserError:
        try:
            return inputs_of(stored, framing, recipe)
        except UserError as error:
            return error

    with new_file(path) as (file, commit):
        writer = EncodedWriter(file, samples, num_views, recipe.variants, latent_shape, nothing_of(pipeline), about)
        ready = enumerate(_ahead(samples, read, threads, batch_size))
        while group := list(islice(ready, batch_size)):
            errors += [(samples[place].key, str(one)) for place, one in group if isinstance(one, UserError)]
            good = [(place, one) for place, one in group if not isinstance(one, UserError)]
            made = encode_samples(pipeline, [one for _, one in good], batch_size, recipe.bf16) if good else []
            for (place, _), variants in zip(good, made, strict=True):
                for variant, encoded in enumerate(variants):
                    writer.write(place, variant, encoded)
        writer.finish()
        commit()
    return EncodedShard(len(samples), writer.layout.num_bytes, tuple(errors))


def find_encoded(recipe: EncodingRecipe, shard: Shard, path: Path) -> EncodedShard | None:
    """What an earlier run made of a shard, if that is whole, of the same recipe, and of the shard as it is now."""
    if not path.is_file():
        return None
    try:
        file = EncodedFile(path)
        made, facts = read_about(file.layout, path)
        table = ShardTable([shard])
        if made.as_json() != recipe.as_json() or changed(facts, facts_of(shard, len(table))):
            return None
        # Where no index tells what is in a shard, its headers do.
        if not shard.sha256 and not all(file.is_of(place, table.sample(place)) for place in range(len(table))):
            return None
    except UserError:
        return None
    keys = file.layout.about["keys"].split("\n")
    absent = [(key, "it could not be read") for key, there in zip(keys, file.present(), strict=True) if not there]
    return EncodedShard(len(file), file.layout.num_bytes, tuple(absent))


def _num_views(stored: Stored, most: int) -> list[int]:
    """How many views of each of a sample's objects are encoded: the first ones, without a gap."""
    objects = range(stored.num_objects)
    return [next(v for v in count() if v == most or f"obj{k}_view{v + 1}.png" not in stored.members) for k in objects]


def _sha256_of(shard: Shard) -> str:
    """Of a shard's bytes. Of a remote one it is the index's, "" if that has none: what was fetched was held against it.
    Raises `UserError` for a shard that is not what its index says."""
    if storage.is_remote(shard.url):
        return shard.sha256
    with shard.path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if shard.sha256 and found != shard.sha256:
        raise UserError(f"shard {shard.url}: its SHA-256 is not that of index.json; `pics-data verify` tells more")
    return found


def _ahead(items: Iterable[T], work: Callable[[T], R], threads: int, depth: int) -> Iterator[R]:
    """What `work` makes of each item, in order; up to `depth` are worked on, or wait, ahead of the caller."""
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
