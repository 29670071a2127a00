"""Real COCO and LVIS photos through the same parts as a build."""

from pathlib import Path

import pytest
from pycocotools.coco import COCO

from pics_data.config import BuildConfig
from pics_data.decompose import decompose_all
from pics_data.masks import mask_of
from pics_data.plan import make_plan, read_shard_plan, write_plan
from pics_data.records import Photo, Reject, Sample
from pics_data.sources import coco, lvis

pytestmark = pytest.mark.shared


@pytest.fixture(scope="session")
def coco_photos(shared_data: Path) -> list[Photo]:
    folder = shared_data / "coco_mini"
    files = sorted((folder / "annotations").glob("*.json"))
    found = list(coco.photos([folder / "train2017", folder / "val2017"], files))
    assert len(found) == 159
    assert all(isinstance(photo, Photo) for photo in found)
    return [photo for photo in found if isinstance(photo, Photo)]


def test_the_published_rule_finds_its_pairs(coco_photos: list[Photo]) -> None:
    plans = {n: make_plan(coco_photos, BuildConfig(source="coco", pairs_per_photo=n)) for n in (1, 4)}
    assert plans[1].num_samples == 95
    assert plans[4].num_samples == 220
    keys = set(plans[4].table["key"].to_pylist())
    assert set(plans[1].table["key"].to_pylist()) <= keys


def test_masks_equal_pycocotools_on_every_annotation(shared_data: Path, coco_photos: list[Photo]) -> None:
    truth = COCO(str(shared_data / "coco_mini/annotations/instances_val2017.json"))
    seen = 0
    for photo in coco_photos:
        for item in photo.instances:
            if int(item.id) in truth.anns:
                mask = mask_of(item.segmentation, photo.height, photo.width)
                assert (mask == truth.annToMask(truth.anns[int(item.id)])).all()
                seen += 1
    assert seen == 624


def test_lvis_with_most_photos_absent(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "lvis"
    config = BuildConfig(source="lvis", pairs_per_photo=4, val_fraction=0)
    plan = make_plan(lvis.photos([folder / "val2017"], [folder / "lvis_val_100.json"]), config)
    assert (plan.photos, plan.missing) == (100, 96)
    assert {reject.reason for reject in plan.rejects} == {"missing photo"}
    write_plan(plan, tmp_path / "p.parquet")
    made = [
        record
        for n in range(len(plan.shards))
        for record in decompose_all(read_shard_plan(tmp_path / "p.parquet", n), config)
    ]
    assert all(isinstance(record, Sample) for record in made)
    assert len(made) == plan.num_samples


def test_every_real_composition_becomes_a_sample(coco_photos: list[Photo], tmp_path: Path) -> None:
    config = BuildConfig(source="coco")
    plan = make_plan(coco_photos, config)
    write_plan(plan, tmp_path / "p.parquet")
    made = [
        c for n in range(len(plan.shards)) for c in decompose_all(read_shard_plan(tmp_path / "p.parquet", n), config)
    ]
    assert [record for record in made if isinstance(record, Reject)] == []
    assert len(made) == 95
