"""What the builder says of boxes is what the trainer would find in the masks: batches are the same without them."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from pics_data.config import BuildConfig
from pics_model.inputs import FramingSettings
from pics_model.stream import ShardStream
from tests.data.photos_for_tests import draw_set
from tests.data.plain_build import build_plainly


@pytest.fixture(scope="module", params=["photos", "scenes"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    if request.param == "photos":
        build_plainly(draw_set(folder / "drawn", num_photos=8).config(folder / "shards", object_size=48))
    else:
        build_plainly(BuildConfig(out=str(folder / "shards"), num_scenes=6, scene_size=96, object_size=48))
    return folder / "shards"


@pytest.mark.parametrize("cutouts", ["visible", "full"])
@pytest.mark.parametrize("frame", ["photo", "pair"])
def test_batches_are_the_same_with_masks_and_with_boxes_alone(built, frame, cutouts, monkeypatch) -> None:
    framing = FramingSettings(resolution=40, object_resolution=32, frame=frame)
    streams = [
        ShardStream(built, framing, batch_size=2, split="all", cutouts=cutouts, silhouettes=silhouettes)
        for silhouettes in (True, False)
    ]
    whole = list(islice(streams[0].batches(), 4))
    monkeypatch.setattr("pics_model.shard_reader.read_mask", lambda *_: pytest.fail("a mask was decoded"))
    for one, two in zip(whole, islice(streams[1].batches(), 4), strict=True):
        for name in ("target", "objects", "boxes", "object_boxes", "regions", "valid", "seeds"):
            assert torch.equal(getattr(one, name), getattr(two, name))
