"""Real COCO and LVIS photos through the same parts as a build."""

from pathlib import Path

import pytest
from pycocotools.coco import COCO

from pics_data.config import BuildConfig
from pics_data.decompose import decompose_all
from pics_data.masks import mask_of
from pics_data.records import Photo, Reject, Sample
from pics_data.sources import coco, lvis
from tests.data.plain_build import compositions_of, plan_of, rejects_of, table_of

pytestmark = pytest.mark.shared


@pytest.fixture(scope="session")
def coco_photos(shared_data: Path) -> list[Photo]:
    folder = shared_data / "coco_mini"
    files = sorted((folder / "annotations").glob("*.json"))
    found = list(coco.photos([str(folder / "train2017"), str(folder / "val2017")], list(map(str, files))))
    assert len(found) == 159
    assert all(isinstance(photo, Photo) for photo in found)
    return [photo for photo in found if isinstance(photo, Photo)]


def test_the_published_rule_finds_its_pairs(coco_photos: list[Photo]) -> None:
    plans = {n: plan_of(coco_photos, BuildConfig(source="coco", pairs_per_photo=n)) for n in (1, 4)}
    assert plans[1].num_samples == 95
    assert plans[4].num_samples == 220
    keys = set(table_of(plans[4])["key"].to_pylist())
    assert set(table_of(plans[1])["key"].to_pylist()) <= keys


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


def test_lvis_with_most_photos_absent(shared_data: Path) -> None:
    folder = shared_data / "lvis"
    config = BuildConfig(source="lvis", pairs_per_photo=4, val_fraction=0)
    plan = plan_of(lvis.photos([str(folder / "val2017")], [str(folder / "lvis_val_100.json")]), config)
    assert (plan.counts.photos, plan.counts.missing) == (100, 96)
    assert {reject.reason for reject in rejects_of(plan)} == {"missing photo"}
    made = list(decompose_all(compositions_of(plan), config))
    assert all(isinstance(record, Sample) for record in made)
    assert len(made) == plan.num_samples


def test_every_real_composition_becomes_a_sample(coco_photos: list[Photo]) -> None:
    config = BuildConfig(source="coco")
    plan = plan_of(coco_photos, config)
    made = list(decompose_all(compositions_of(plan), config))
    assert [record for record in made if isinstance(record, Reject)] == []
    assert len(made) == 95
