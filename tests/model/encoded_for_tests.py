"""Shards whose samples differ in objects and views, a model that takes views, and their encodings."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pics_model.encode import encode_shard, recipe_of
from pics_model.encoded import EncodingRecipe, Encodings, file_name, open_encodings
from pics_model.encoded_file import Encoded
from pics_model.inputs import Inputs
from pics_model.pipeline import PICSPipeline
from pics_model.shard_set import find_shards
from pics_model.shard_table import open_shards
from tests.model.models_for_tests import LATENT, pipeline_of
from tests.model.shards_for_tests import encode, make_members, write_index, write_tar

SIZE = (48, 64)
# Each object and each view of a sample has another number of neighbours in the file.
OBJECTS = {"train-000000": [2, 1, 3], "train-000001": [2, 2]}
VIEWS = {"train-000000": [[2, 0], [1], [0, 0, 2]], "train-000001": [[0, 0], [1, 2]]}
HALF = 2**-10  # what half precision rounds by at most, relatively, and a little more


def preset(text: str = LATENT, **parts: dict[str, Any]) -> PICSPipeline:
    """The model of a preset's text with other values in its parts; one margin, so that the stream draws nothing."""
    values = yaml.safe_load(text)
    for name, changes in ({"framing": {"margin_min": 1.25, "margin_max": 1.25}} | parts).items():
        values[name] = values[name] | changes
    return pipeline_of(yaml.dump(values))


def sample(number: int, num_objects: int, views: Sequence[int]) -> dict[str, bytes]:
    """A sample whose object k has `views[k]` other views."""
    members = make_members(number, size=SIZE, num_objects=num_objects)
    meta = json.loads(members.pop("meta.json"))
    for k, num in enumerate(views):
        meta["objects"][k]["views"] = [{"azimuth": 30.0 * v + 10 * k, "elevation": 5} for v in range(num)]
        for v in range(num):
            picture = np.full((30, 30, 4), (255, 255, 255, 0), np.uint8)
            picture[4 : 20 + v, 5:25] = (10 * number, 40 * k, 60 * v, 255)
            members[f"obj{k}_view{v + 1}.png"] = encode(picture, "PNG")
    return members | {"meta.json": json.dumps(meta).encode()}


def write(folder: Path) -> Path:
    folder.mkdir()
    number = 0
    for name, counts in OBJECTS.items():
        samples = []
        for place, num_objects in enumerate(counts):
            samples.append((f"s{number}", sample(number, num_objects, VIEWS[name][place])))
            number += 1
        write_tar(folder / f"{name}.tar", samples)
    write_index(folder, {f"{name}.tar": len(counts) for name, counts in OBJECTS.items()})
    return folder


def encode_all(pipeline: PICSPipeline, shards: Path, out: Path, recipe: EncodingRecipe | None = None) -> Encodings:
    recipe = recipe or recipe_of(pipeline)
    for shard in find_shards(shards):
        made = encode_shard(pipeline, recipe, shard, out / recipe.folder_name / file_name(shard), batch_size=2)
        assert not made.errors
    return open_encodings(open_shards(shards), recipe, out)


@dataclass(slots=True)
class EncodedInputs(Inputs):
    """Inputs with their encodings."""

    encoded: Encoded | None = None


def read(encodings: Encodings, shards: Path, index: int, variant: int = 0) -> Encoded:
    """One variant of sample `index` of all shards."""
    table = open_shards(shards)
    number, place = place_of(index)
    return encodings.read(table.sample(index), number, place, variant)


def place_of(index: int) -> tuple[int, int]:
    """Shard and place in it of sample `index` of all."""
    first = len(OBJECTS["train-000000"])
    return (0, index) if index < first else (1, index - first)


def as_given(inputs: Inputs) -> EncodedInputs:
    return EncodedInputs(**{name: getattr(inputs, name) for name in Inputs.__slots__})


def with_views() -> PICSPipeline:
    """A model that takes two views of an object."""
    framing = {"views": 2, "margin_min": 1.25, "margin_max": 1.25}
    return preset(encoder={"views": True, "tokens_per_view": 2}, framing=framing)


def same(one: Encoded, other: Encoded) -> None:
    """Both are the same, to the bit."""
    parts = [[item.latent, item.features, item.object_boxes, *item.views, *item.cameras] for item in (one, other)]
    for a, b in zip(*parts, strict=True):
        assert (a is None) == (b is None)
        assert a is None or (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
