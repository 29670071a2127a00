"""One photo and its compositions -> samples: what a sample holds, what a drop does to its neighbours."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from PIL import Image

from pics_data.config import BuildConfig
from pics_data.decompose import decompose_all, front_object
from pics_data.plan import make_plan, read_shard_plan, write_plan
from pics_data.records import Composition, Reject, Sample
from pics_data.sources import coco
from tests.data.photos_for_tests import DrawnSet, draw_set


def plan_of(drawn: DrawnSet, folder: Path, **settings: Any) -> tuple[list[Composition], BuildConfig]:
    config = drawn.config(folder, shard_samples=1000, val_fraction=0.0, **settings)
    write_plan(make_plan(coco.photos(config.images, config.annotations), config), folder / "p.parquet")
    return list(read_shard_plan(folder / "p.parquet", 0)), config


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_sample_holds_the_photo_its_objects_and_what_was_measured(tmp_path: Path) -> None:
    compositions, config = plan_of(draw_set(tmp_path), tmp_path)
    for composition, sample in zip(compositions, decompose_all(compositions, config), strict=True):
        assert isinstance(sample, Sample)
        assert list(sample.members) == ["bg.jpg", "obj0.png", "mask0.png", "obj1.png", "mask1.png", "meta.json"]
        assert sample.members["bg.jpg"] == Path(composition.photo.path).read_bytes()
        meta = orjson.loads(sample.members["meta.json"])
        for i, item in enumerate(composition.photo.instances):
            mask = pixels(sample.members[f"mask{i}.png"])
            assert mask.dtype == np.bool_
            assert mask.shape == (72, 96)
            assert mask.sum() == item.area
            assert meta["objects"][i]["box"] == list(item.box)
            assert meta["objects"][i]["category"] == item.category
            assert pixels(sample.members[f"obj{i}.png"]).shape == (224, 224, 4)
        assert meta["relation"]["box_iou"] == round(composition.box_iou, 6)


def test_size_shrinks_photo_and_masks_and_leaves_cut_outs_sharp(tmp_path: Path) -> None:
    drawn = draw_set(tmp_path, num_photos=2)
    compositions, config = plan_of(drawn, tmp_path)
    small = replace(config, size=48)
    whole = [s for s in decompose_all(compositions, config) if isinstance(s, Sample)]
    shrunk = [s for s in decompose_all(compositions, small) if isinstance(s, Sample)]
    for before, after in zip(whole, shrunk, strict=True):
        assert pixels(after.members["bg.jpg"]).shape == (36, 48, 3)
        assert pixels(after.members["mask0.png"]).shape == (36, 48)
        assert after.members["obj0.png"] == before.members["obj0.png"]
        areas = [orjson.loads(s.members["meta.json"])["objects"][0]["area"] for s in (before, after)]
        assert abs(areas[0] - areas[1]) < 0.02
    larger = replace(config, size=1000)
    assert next(iter(decompose_all(compositions, larger))) == whole[0]  # never enlarged


def test_a_sample_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    compositions, config = plan_of(draw_set(tmp_path, num_photos=4), tmp_path, pairs_per_photo=2)
    together = list(decompose_all(compositions, config))
    again, _ = plan_of(DrawnSet(tmp_path / "photos", tmp_path / "instances.json", {}), tmp_path, pairs_per_photo=2)
    alone = [next(iter(decompose_all([c], config))) for c in reversed(again)]
    assert together == alone[::-1]
    assert len({sample.key for sample in together}) == len(compositions) > 4


def test_a_drop_leaves_its_neighbours_as_they_were(tmp_path: Path) -> None:
    compositions, config = plan_of(draw_set(tmp_path, num_photos=8), tmp_path)
    whole = list(decompose_all(compositions, config))

    def spoil(composition: Composition, **instance: Any) -> Composition:
        first, second = composition.photo.instances
        return replace(composition, photo=replace(composition.photo, instances=(first, replace(second, **instance))))

    broken = list(compositions)
    broken[1] = spoil(broken[1], segmentation={"size": [72, 95], "counts": [72 * 95]})
    broken[3] = spoil(broken[3], segmentation=[[0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    broken[4] = replace(broken[4], photo=replace(broken[4].photo, path=str(tmp_path / "gone.jpg")))
    broken[5] = replace(broken[5], photo=replace(broken[5].photo, width=95))
    path = Path(broken[6].photo.path)
    path.write_bytes(path.read_bytes()[:-400])
    results = list(decompose_all(broken, config))
    reasons = {1: "mask size mismatch", 3: "empty mask", 4: "missing photo", 5: "size mismatch", 6: "broken photo"}
    for i, (result, before) in enumerate(zip(results, whole, strict=True)):
        if i in reasons:
            assert isinstance(result, Reject)
            assert (result.key, result.stage, result.reason) == (compositions[i].key, "decompose", reasons[i])
        else:
            assert result == before


def test_front_is_one_object_or_none() -> None:
    assert front_object(None) is None
    assert front_object(np.full((4, 4), -1, np.int8)) is None
    assert front_object(np.int8([[-1, 1], [1, 1]])) == 1
    assert front_object(np.int8([[-1, 0], [1, 1]])) is None
    seam = np.ones((4, 5), np.int8)
    seam[0, 0] = 0
    assert front_object(seam) == 1


def test_scenes_carry_the_truth_about_what_is_hidden() -> None:
    from pics_data.sources import scenes

    config = BuildConfig(scene_size=96, object_size=64)
    photos = list(scenes.photos(config.scene_settings(), 6))
    compositions = [
        Composition(f"k{n}", "train-000000", "train", replace(photo, instances=photo.instances[:2]), 0.1, n)
        for n, photo in enumerate(photos)
    ]
    for sample in decompose_all(compositions, config):
        if isinstance(sample, Reject):
            assert sample.reason == "empty mask"
            continue
        meta = orjson.loads(sample.members["meta.json"])
        front = pixels(sample.members["front.png"])
        for i in range(2):
            visible, full = pixels(sample.members[f"mask{i}.png"]), pixels(sample.members[f"amodal{i}.png"])
            assert not (visible & ~full).any()
            hidden = 1 - visible.sum() / full.sum()
            assert abs(meta["objects"][i]["hidden"] - hidden) < 1e-3
            assert pixels(sample.members[f"full{i}.png"]).shape == (64, 64, 4)
            # Where the object is in front of the other, it shows, unless a third one hides it.
            assert not (visible & (front == 2 - i)).any()
