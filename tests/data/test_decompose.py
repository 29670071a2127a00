"""One photo and its compositions -> samples: what a sample holds, what a drop does to its neighbours."""

import io
import json
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import fsspec
import jsonschema
import numpy as np
import orjson
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from pics_data import codecs
from pics_data.config import BuildConfig
from pics_data.decompose import PHOTOS_AHEAD, decompose_all, front_of_pair
from pics_data.records import Composition, Instance, Photo, Pixels, Reject, Sample
from tests.data.photos_for_tests import DrawnSet, draw_set

COCO = BuildConfig(source="coco")
SCHEMA = json.loads((Path(__file__).parents[2] / "shards" / "schema.json").read_text())


def photos_of(drawn: DrawnSet) -> list[Photo]:
    """The photos of a drawn set with their three discs."""
    photos = []
    for image in drawn.document["images"]:
        of_image = [a for a in drawn.document["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
        instances = tuple(
            Instance(str(a["id"]), f"category {a['category_id']}", tuple(a["bbox"]), a["area"], a["segmentation"])
            for a in sorted(of_image, key=lambda a: a["id"])
        )
        path = str(drawn.images / image["file_name"])
        photos.append(Photo(str(image["id"]), "coco", path, image["width"], image["height"], instances, "CC BY"))
    return photos


def compose(photo: Photo, *places: int, seed: int = 1) -> Composition:
    """A composition of the instances of `photo` at `places`."""
    chosen = replace(photo, instances=tuple(photo.instances[i] for i in places))
    key = "-".join([photo.source, photo.id, *map(str, places)])
    return Composition(key, "train-000000", "train", chosen, 0.1, seed)


def pairs_of(drawn: DrawnSet) -> list[Composition]:
    return [compose(photo, 0, 1, seed=n) for n, photo in enumerate(photos_of(drawn))]


def sample_of(composition: Composition, config: BuildConfig = COCO) -> Sample:
    (made,) = decompose_all([composition], config)
    assert isinstance(made, Sample)
    return made


def meta_of(sample: Sample) -> dict[str, Any]:
    return orjson.loads(sample.members["meta.json"])


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_sample_holds_the_photo_its_objects_and_what_was_measured(tmp_path: Path) -> None:
    compositions = pairs_of(draw_set(tmp_path))
    for composition, sample in zip(compositions, decompose_all(compositions, COCO), strict=True):
        assert isinstance(sample, Sample)
        assert list(sample.members) == ["bg.jpg", "obj0.png", "mask0.png", "obj1.png", "mask1.png", "meta.json"]
        assert sample.members["bg.jpg"] == Path(composition.photo.path).read_bytes()
        meta = meta_of(sample)
        assert (meta["source"], meta["split"], meta["seed"]) == ("coco", "train", composition.seed)
        assert meta["photo"]["file_name"] == Path(composition.photo.path).name
        for i, item in enumerate(composition.photo.instances):
            mask = pixels(sample.members[f"mask{i}.png"])
            assert mask.dtype == np.bool_
            assert mask.shape == (72, 96)
            assert mask.sum() == item.area
            assert meta["objects"][i]["box"] == list(item.box)
            assert meta["objects"][i]["category"] == item.category
            side = min(224, int(meta["objects"][i]["crop"][2]))
            assert pixels(sample.members[f"obj{i}.png"]).shape == (side, side, 4)


@pytest.mark.parametrize("places", [(0,), (0, 1), (2, 0, 1), (0, 1, 2, 0, 1, 2, 0, 1)])
def test_any_number_of_objects_with_the_relations_of_all_pairs(tmp_path: Path, places: tuple[int, ...]) -> None:
    for photo in photos_of(draw_set(tmp_path, num_photos=3)):
        sample = sample_of(compose(photo, *places))
        parts = [f"{part}{i}.png" for i in range(len(places)) for part in ("obj", "mask")]
        assert list(sample.members) == ["bg.jpg", *parts, "meta.json"]
        meta = meta_of(sample)
        jsonschema.Draft202012Validator(SCHEMA).validate(meta)
        assert [tuple(r["objects"]) for r in meta["relations"]] == list(combinations(range(len(places)), 2))
        assert meta.get("relation") == (meta["relations"][0] if len(places) > 1 else None)
        masks = [pixels(sample.members[f"mask{i}.png"]) for i in range(len(places))]
        for relation in meta["relations"]:
            i, j = relation["objects"]
            a, b = np.argwhere(masks[i]), np.argwhere(masks[j])
            nearest = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1).min(axis=1))
            assert relation["overlap_px"] == (nearest == 0).sum()
            assert relation["contact_px"] == (nearest < 1.5).sum()
            assert relation["gap_px"] == pytest.approx(0 if nearest.min() < 1.5 else nearest.min() - 1, abs=0.006)
            assert relation["front"] is None
            if places[i] == places[j]:  # the same silhouette given twice
                assert relation["box_iou"] == 1
                assert relation["overlap_px"] == masks[i].sum()


def test_swapped_objects_have_their_facts_swapped(tmp_path: Path) -> None:
    for photo in photos_of(draw_set(tmp_path, num_photos=3)):
        one, other = (meta_of(sample_of(compose(photo, *places))) for places in ((0, 1), (1, 0)))
        for i in (0, 1):
            changed = {"crop"}  # its margin is drawn by the object's place
            facts = [{k: v for k, v in item.items() if k not in changed} for item in one["objects"]]
            assert facts[i] == {k: v for k, v in other["objects"][1 - i].items() if k not in changed}
        for fact in ("box_iou", "gap_px", "overlap_px", "front"):
            assert one["relation"][fact] == other["relation"][fact]


def test_size_shrinks_photo_and_masks_and_leaves_cut_outs_sharp(tmp_path: Path) -> None:
    compositions = pairs_of(draw_set(tmp_path, num_photos=2))
    for composition in compositions:
        before, after = (sample_of(composition, replace(COCO, size=size)) for size in (0, 48))
        assert pixels(after.members["bg.jpg"]).shape == (36, 48, 3)
        assert pixels(after.members["mask0.png"]).shape == (36, 48)
        assert after.members["obj0.png"] == before.members["obj0.png"]
        areas = [meta_of(sample)["objects"][0]["area"] for sample in (before, after)]
        assert abs(areas[0] - areas[1]) < 0.02
        crops = [meta_of(sample)["objects"][0]["crop"] for sample in (before, after)]
        assert crops[1] == [value / 2 for value in crops[0]]
        assert sample_of(composition, replace(COCO, size=1000)) == before  # never enlarged


def test_an_object_that_vanishes_at_the_stored_size_is_rejected(tmp_path: Path) -> None:
    photo = photos_of(draw_set(tmp_path, num_photos=1))[0]
    hair = Instance("9", "hair", (10, 10, 1, 40), 40, [[10.0, 10.0, 11.0, 10.0, 11.0, 50.0, 10.0, 50.0]])
    composition = compose(replace(photo, instances=(photo.instances[0], hair)), 0, 1)
    sample_of(composition)
    (reject,) = decompose_all([composition], replace(COCO, size=16))
    assert reject == Reject(composition.key, "decompose", "empty mask", "object 1 (hair)")


def test_a_sample_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    photos = photos_of(draw_set(tmp_path, num_photos=4))
    compositions = [compose(photo, *places) for photo in photos for places in ((0, 1), (1, 2), (0, 1, 2))]
    together = list(decompose_all(compositions, COCO))
    assert together == [sample_of(composition) for composition in reversed(compositions)][::-1]
    assert len({sample.key for sample in together}) == 12


def test_a_drop_leaves_its_neighbours_as_they_were(tmp_path: Path) -> None:
    compositions = pairs_of(draw_set(tmp_path, num_photos=9))
    whole = list(decompose_all(compositions, COCO))

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
    broken[7] = spoil(broken[7], segmentation={"labels": "index", "values": [1]})
    results = list(decompose_all(broken, COCO))
    reasons = {
        1: "mask size mismatch",
        3: "empty mask",
        4: "missing photo",
        5: "size mismatch",
        6: "broken photo",
        7: "missing labels",
    }
    for i, (result, before) in enumerate(zip(results, whole, strict=True)):
        if i in reasons:
            assert isinstance(result, Reject)
            assert (result.key, result.stage, result.reason) == (compositions[i].key, "decompose", reasons[i])
        else:
            assert result == before


def test_silhouettes_come_from_the_label_picture(tmp_path: Path) -> None:
    drawn = draw_set(tmp_path, num_photos=2)
    for photo in photos_of(drawn):
        drawn_sample = sample_of(compose(photo, 0, 2))  # two that do not overlap
        values = np.zeros((photo.height, photo.width), np.uint8)
        for i, name in ((0, "mask0.png"), (2, "mask1.png")):
            values[pixels(drawn_sample.members[name])] = 40 + i
        labels = tmp_path / f"{photo.id}.png"
        Image.fromarray(values).save(labels)
        instances = tuple(
            replace(item, segmentation={"labels": "index", "values": [40 + i]})
            for i, item in enumerate(photo.instances)
        )
        labelled = replace(photo, labels=str(labels), instances=instances)
        assert sample_of(compose(labelled, 0, 2)) == drawn_sample
        labels.unlink()
        (reject,) = decompose_all([compose(labelled, 0, 2)], COCO)
        assert isinstance(reject, Reject)
        assert (reject.reason, reject.detail) == ("missing labels", str(labels))


def test_filters_drop_before_anything_is_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compositions = pairs_of(draw_set(tmp_path))
    samples = list(decompose_all(compositions, COCO))
    edges = [min(o["edge"] for o in meta_of(s)["objects"]) for s in samples if isinstance(s, Sample)]
    config = replace(COCO, min_edge=sorted(edges)[6])
    encoded = []
    png = codecs.png
    monkeypatch.setattr(codecs, "png", lambda array: encoded.append(array) or png(array))
    results = list(decompose_all(compositions, config))
    for composition, result, before, edge in zip(compositions, results, samples, edges, strict=True):
        if edge < config.min_edge:
            assert isinstance(result, Reject)
            assert (result.key, result.stage, result.reason) == (composition.key, "filter", "below --min-edge")
            assert result.detail.startswith("object ")
        else:
            assert result == before
    assert sum(isinstance(result, Reject) for result in results) == 6
    assert len(encoded) == 2 * 6  # the cut-outs of the six that were kept


class SlowStore(MemoryFileSystem):
    """A store whose reads wait for each other: as many as are let in at a time, counted."""

    protocol = "slow"
    store: dict[str, Any] = {}  # noqa: RUF012 - as in its parent
    begun: list[str] = []  # noqa: RUF012
    gate = threading.Semaphore(0)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **settings: Any) -> bytes:
        self.begun.append(path)
        assert self.gate.acquire(timeout=20)
        return super().cat_file(path, start, end, **settings)


@pytest.fixture
def slow_store() -> Iterator[type[SlowStore]]:
    fsspec.register_implementation("slow", SlowStore, clobber=True)
    SlowStore.begun.clear()
    SlowStore.gate = threading.Semaphore(0)
    yield SlowStore
    SlowStore.gate.release(1000)
    SlowStore.store.clear()


def to_store(photo: Photo) -> Photo:
    url = f"slow://{uuid.uuid4().hex}/{Path(photo.path).name}"
    SlowStore().pipe_file(url, Path(photo.path).read_bytes())
    return replace(photo, path=url)


def test_photos_are_read_ahead_and_the_samples_are_the_same(tmp_path: Path, slow_store: type[SlowStore]) -> None:
    photos = photos_of(draw_set(tmp_path, num_photos=20))
    here = [compose(photo, *places) for photo in photos for places in ((0, 1), (1, 2))]
    stored = [to_store(photo) for photo in photos]
    stored[5] = replace(stored[5], path="slow://nowhere/gone.jpg")
    there = [compose(photo, *places) for photo in stored for places in ((0, 1), (1, 2))]
    slow_store.gate.release(PHOTOS_AHEAD)
    reader = decompose_all(there, COCO)
    made = [next(reader)]
    assert len(slow_store.begun) <= PHOTOS_AHEAD + 1
    slow_store.gate.release(1000)
    made += list(reader)
    assert len(slow_store.begun) == 20  # each photo once, though two samples come of it
    for index, (result, composition) in enumerate(zip(made, here, strict=True)):
        if index in (10, 11):
            assert result == Reject(composition.key, "decompose", "missing photo", "slow://nowhere/gone.jpg")
        else:
            assert result == sample_of(composition)


def test_whoever_stops_early_leaves_no_reader_behind(tmp_path: Path, slow_store: type[SlowStore]) -> None:
    compositions = [compose(to_store(photo), 0, 1) for photo in photos_of(draw_set(tmp_path, num_photos=30))]
    slow_store.gate.release(1)
    reader = decompose_all(compositions, COCO)
    next(reader)
    reader.close()
    slow_store.gate.release(1000)
    for thread in threading.enumerate():
        if thread.name.startswith("read-ahead"):
            thread.join(timeout=20)
            assert not thread.is_alive()
    assert len(slow_store.begun) <= PHOTOS_AHEAD + 1


def truth(front: list[list[int]], *full: list[list[int]]) -> Pixels:
    masks = [np.array(mask, bool) for mask in full]
    return Pixels(rgb=np.zeros((*masks[0].shape, 3), np.uint8), masks=masks, full_masks=masks, front=np.int8(front))


def test_in_front_is_one_of_two_objects_or_none() -> None:
    everywhere = np.ones((4, 5), bool)
    pair = [everywhere, everywhere]
    assert front_of_pair(Pixels(rgb=None, masks=pair), 0, 1) is None  # a photograph
    nowhere = truth([[-1, -1]], [[1, 0]], [[0, 1]])
    assert front_of_pair(nowhere, 0, 1) is None
    assert front_of_pair(truth([[-1, 1], [1, 1]], [[0, 1], [1, 1]], [[1, 1], [1, 1]]), 0, 1) == 1
    assert front_of_pair(truth([[0, 1]], [[1, 1]], [[1, 1]]), 0, 1) is None  # each somewhere
    seam = np.ones((4, 5), np.int8)
    seam[0, 0] = 0
    assert front_of_pair(Pixels(rgb=None, masks=pair, full_masks=pair, front=seam), 0, 1) == 1


def test_in_front_of_two_does_not_ask_a_third() -> None:
    # 0 and 1 meet on three pixels; on the first, object 2 is before both and hides which is first.
    three = truth([[2, 1, 1, 2]], [[1, 1, 1, 0]], [[1, 1, 1, 1]], [[1, 0, 0, 1]])
    assert front_of_pair(three, 0, 1) == 1
    assert front_of_pair(three, 1, 2) == 2
    assert front_of_pair(three, 0, 2) == 2


@pytest.mark.parametrize("count", [2, 3])
def test_scenes_carry_the_truth_about_what_is_hidden(count: int) -> None:
    from pics_data.sources import scenes

    config = BuildConfig(scene_size=96, object_size=64)
    photos = [p for p in scenes.photos(config.scene_settings(), 20) if len(p.instances) >= count][:6]
    assert len(photos) == 6
    compositions = [compose(photo, *range(count), seed=n) for n, photo in enumerate(photos)]
    made = list(decompose_all(compositions, config))
    assert sum(isinstance(record, Sample) for record in made) >= 3
    for composition, sample in zip(compositions, made, strict=True):
        if isinstance(sample, Reject):
            assert sample.reason == "empty mask"
            continue
        meta = meta_of(sample)
        jsonschema.Draft202012Validator(SCHEMA).validate(meta)
        front = pixels(sample.members["front.png"])
        visible = [pixels(sample.members[f"mask{i}.png"]) for i in range(count)]
        full = [pixels(sample.members[f"amodal{i}.png"]) for i in range(count)]
        for i in range(count):
            assert not (visible[i] & ~full[i]).any()
            hidden = 1 - visible[i].sum() / full[i].sum()
            assert abs(meta["objects"][i]["hidden"] - hidden) < 1e-3
            side = min(64, int(meta["objects"][i]["full_crop"][2]))
            assert pixels(sample.members[f"full{i}.png"]).shape == (side, side, 4)
        for relation in meta["relations"]:
            i, j = relation["objects"]
            # Where the object is in front of the other, it shows, unless a third one hides it.
            assert not (visible[i] & (front == j + 1)).any()
            ahead = {k: (full[i] & full[j] & (front == k + 1)).sum() for k in (i, j)}
            total = sum(ahead.values())
            assert relation["front"] in (i, j, None)
            for k in (i, j):
                assert (relation["front"] == k) == (total > 0 and ahead[k] >= 0.9 * total)
            pair = replace(composition.photo, instances=tuple(composition.photo.instances[k] for k in (i, j)))
            assert relation["label"] == scenes.relation_label(pair, config.scene_settings())
