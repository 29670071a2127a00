"""The mask stage in the Ray Data graph: actors that hold a predictor, each given a whole shard or a chunk of photos.

Silhouettes travel as RLE, a few hundred bytes each; the photo itself is read where it is needed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import orjson

from pics_common import storage
from pics_data.config import BuildConfig
from pics_data.plan import read_shard_plan
from pics_data.predict.stage import PredictMasks
from pics_data.records import Composition, Instance, Photo, Reject

Masks = Mapping[str, Mapping[str, Any]]  # photo id -> instance id -> RLE


def make_stage(config: BuildConfig) -> PredictMasks:
    """The stage with the weights that `config` names, on the GPU that its actor was given."""
    assert config.masks != "given"
    device = "cuda" if config.gpus_per_worker else "cpu"
    return PredictMasks(config.masks, config.mask_weights, config.max_pixels, device)


class PredictShard:
    """A shard's row of the graph -> the same row with `masks`: the silhouettes that its objects lack."""

    def __init__(self, plan_folder: str, configs: Sequence[BuildConfig]) -> None:
        self._plan_folder = plan_folder
        self._configs = configs
        self._stages: dict[tuple[str, str], PredictMasks] = {}

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        config = self._configs[row["member"]]
        if config.masks == "given":
            return {**row, "masks": b""}
        which = (config.masks, config.mask_weights)
        if which not in self._stages:
            self._stages[which] = make_stage(config)
        masks = masks_of(read_shard_plan(self._plan_folder, row["number"]), self._stages[which])
        return {**row, "masks": orjson.dumps(masks)}


def masks_of(compositions: Iterator[Composition], stage: PredictMasks) -> Masks:
    """The silhouettes of all objects of `compositions` that have none; a photo is decoded once.

    What cannot be read or found is left out: taking the photo apart then says why it is dropped.
    """
    masks: dict[str, dict[str, Any]] = {}
    for _, group in groupby(compositions, key=lambda composition: composition.photo.id):
        of_photo = list(group)
        items = {item.id: item for c in of_photo for item in c.photo.instances if item.segmentation is None}
        if items:
            photo, _ = stage(replace(of_photo[0].photo, instances=tuple(items.values())))
            found = photo.instances if photo is not None else ()
            masks[of_photo[0].photo.id] = {item.id: item.segmentation for item in found}
    return masks


def with_masks(compositions: Iterator[Composition], masks: Masks) -> Iterator[Composition]:
    """The compositions with the silhouettes that were predicted for them."""
    for composition in compositions:
        found = masks.get(composition.photo.id, {})
        instances = tuple(
            replace(item, segmentation=found.get(item.id)) if item.segmentation is None else item
            for item in composition.photo.instances
        )
        yield replace(composition, photo=replace(composition.photo, instances=instances))


class AnnotateChunk:
    """A chunk of photos without annotation -> the file of their objects, written to `folder`; returns its number."""

    def __init__(self, folder: str, config: BuildConfig) -> None:
        self._folder = folder
        self._stage = make_stage(config)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        photos: list[Photo] = []
        rejects: list[Reject] = []
        for values in orjson.loads(row["photos"]):
            photo, dropped = self._stage(photo_from_json(values))
            photos += [photo] if photo is not None else []
            rejects += [replace(reject, key=f"{values['source']}-{reject.key}", stage="plan") for reject in dropped]
        data = orjson.dumps({"digest": row["digest"], "photos": photos, "rejects": rejects})
        storage.write(storage.join(self._folder, chunk_file(row["number"])), data)
        return {"number": row["number"]}


def chunk_file(number: int) -> str:
    """The name of the file of a chunk."""
    return f"{number:06d}.json"


def photo_from_json(values: dict[str, Any]) -> Photo:
    """A photo as orjson writes it."""
    items = (Instance(**{**item, "box": tuple(item["box"])}) for item in values["instances"])
    return Photo(**{**values, "instances": tuple(items)})
