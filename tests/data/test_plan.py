"""The pair rule against a brute-force oracle, and what keys, splits and shards depend on."""

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pics_common.errors import UserError
from pics_data.config import BuildConfig
from pics_data.plan import (
    Plan,
    choose_pairs,
    make_plan,
    read_shard_plan,
    sample_key,
    shard_samples_of_plan,
    shard_sizes,
    split_of,
    write_plan,
)
from pics_data.records import Instance, Photo, Reject

boxes = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 40), st.integers(0, 40))


@st.composite
def any_photo(draw: st.DrawFn) -> Photo:
    found = draw(st.lists(st.tuples(boxes, st.floats(0, 1000), st.booleans()), max_size=8))
    instances = tuple(
        Instance(str(i), "thing", tuple(map(float, box)), area, crowd=crowd)  # type: ignore[arg-type]
        for i, (box, area, crowd) in enumerate(found)
    )
    return Photo("1", "coco", "1.jpg", 100, 100, instances)


def corners(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    return box[0], box[1], box[0] + box[2], box[1] + box[3]


def holds(outer: Instance, inner: Instance) -> bool:
    a, b = corners(outer.box), corners(inner.box)
    return a[0] <= b[0] and a[1] <= b[1] and b[2] <= a[2] and b[3] <= a[3]


def iou(first: Instance, second: Instance) -> float:
    a, b = corners(first.box), corners(second.box)
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (first.box[2] * first.box[3] + second.box[2] * second.box[3] - width * height)


@given(any_photo(), st.sampled_from([0.0, 0.01171, 0.05]), st.integers(1, 30))
def test_pairs_are_those_of_the_rule_best_first(photo: Photo, min_area: float, count: int) -> None:
    oracle = []
    for i, j in itertools.combinations(range(len(photo.instances)), 2):
        a, b = photo.instances[i], photo.instances[j]
        large = min(a.area, b.area) >= min_area * 100 * 100
        if large and not (a.crowd or b.crowd) and iou(a, b) > 0 and not holds(a, b) and not holds(b, a):
            oracle.append((i, j, iou(a, b)))
    oracle.sort(key=lambda pair: -pair[2])
    chosen = choose_pairs(photo, min_area, count)
    assert [pair[2] for pair in chosen] == pytest.approx([pair[2] for pair in oracle[:count]])
    assert {pair[:2] for pair in chosen} <= {pair[:2] for pair in oracle}
    assert len({pair[:2] for pair in chosen}) == len(chosen)


def photos(count: int, pairs: int = 1) -> list[Photo]:
    """Photos with at least `pairs` pairs each: a row of boxes that overlap."""
    row = tuple(Instance(str(k), "thing", (10.0 * k, 5.0, 15.0, 20.0 + k), 300.0) for k in range(pairs + 1))
    return [Photo(f"{i}", "coco", f"/data/{i}.jpg", 100, 100, row) for i in range(count)]


def rows(plan: Plan) -> list[tuple[str, str]]:
    return list(zip(plan.table["key"].to_pylist(), plan.table["shard"].to_pylist(), strict=True))


def test_the_plan_depends_on_records_and_settings_only() -> None:
    config = BuildConfig(source="coco", pairs_per_photo=2)
    first, second = (make_plan(photos(50, 2), config) for _ in range(2))
    assert first.table.equals(second.table)
    assert first.digest == second.digest
    moved = [replace(photo, path=photo.path.replace("/data", "/elsewhere")) for photo in photos(50, 2)]
    assert make_plan(moved, config).digest == first.digest
    assert make_plan(photos(49, 2), config).digest != first.digest
    other = make_plan(photos(50, 2), replace(config, seed=1))
    assert {key for key, _ in rows(other)} == {key for key, _ in rows(first)}
    assert rows(other) != rows(first)


@given(st.integers(1, 120), st.integers(1, 4), st.integers(1, 40), st.sampled_from([0.0, 0.3, 1.0]))
def test_shards_hold_each_sample_once_and_photos_whole(count: int, pairs: int, per_shard: int, val: float) -> None:
    config = BuildConfig(source="coco", pairs_per_photo=pairs, shard_samples=per_shard, val_fraction=val)
    plan = make_plan(photos(count, pairs), config)
    assert plan.num_samples == count * pairs == len({key for key, _ in rows(plan)})
    shards_of_photo: dict[str, set[str]] = {}
    for photo_id, shard in zip(plan.table["photo_id"].to_pylist(), plan.table["shard"].to_pylist(), strict=True):
        shards_of_photo.setdefault(photo_id, set()).add(shard)
        assert shard.startswith(split_of(photo_id, val))
    assert all(len(shards) == 1 for shards in shards_of_photo.values())
    sizes = shard_sizes(plan)
    assert sum(sizes) == plan.num_samples
    assert max(sizes) <= per_shard + 2 * pairs
    for split in ("train", "val"):
        numbers = [int(shard[-6:]) for shard in plan.shards if shard.startswith(split)]
        assert numbers == list(range(len(numbers)))


def test_a_worker_reads_its_own_row_group_and_gets_back_what_was_planned(tmp_path: Path) -> None:
    source = [replace(p, license="by", url="u", width=100) for p in photos(40, 2)]
    source[3] = replace(
        source[3], instances=tuple(replace(i, segmentation=[[1.5, 2, 3, 4, 5, 6]]) for i in source[3].instances)
    )
    plan = make_plan(source, BuildConfig(source="coco", pairs_per_photo=2, shard_samples=7))
    write_plan(plan, tmp_path / "plan.parquet")
    by_id = {photo.id: photo for photo in source}
    keys = []
    for number, shard in enumerate(plan.shards):
        for composition in read_shard_plan(tmp_path / "plan.parquet", number):
            keys.append(composition.key)
            whole = by_id[composition.photo.id]
            assert composition.shard == shard
            assert replace(composition.photo, instances=()) == replace(whole, instances=())
            assert all(item in whole.instances for item in composition.photo.instances)
    assert keys == plan.table["key"].to_pylist()


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_keys_are_safe_names_and_tell_ids_apart(photo_id: str, one: str, two: str) -> None:
    photo = Photo(photo_id, "coco", "", 10, 10)
    things = [Instance(item, "thing", (0, 0, 1, 1), 1.0) for item in (one, two)]
    key = sample_key(photo, things)
    assert set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    assert len(key) <= 80
    if one != two:
        assert sample_key(photo, [things[0]]) != sample_key(photo, [things[1]])


def test_long_keys_still_fit_a_tar_header() -> None:
    things = [Instance("i" * 500, "thing", (0, 0, 1, 1), 1.0), Instance("j" * 500, "thing", (0, 0, 1, 1), 1.0)]
    assert len(sample_key(Photo("p" * 500, "scenes", "", 1, 1), things)) <= 80


def test_splits_follow_the_photo_and_the_fraction() -> None:
    splits = Counter(split_of(str(i), 0.2) for i in range(5000))
    assert 900 < splits["val"] < 1100
    assert all(split_of(str(i), 0.4) == "val" for i in range(5000) if split_of(str(i), 0.2) == "val")


def test_shard_size_by_default_grows_with_the_plan() -> None:
    assert [shard_samples_of_plan(n) for n in (1, 95, 1600, 16_000, 940_764)] == [16, 16, 100, 1000, 1000]


def test_what_went_in_is_counted() -> None:
    lone = Photo("lone", "coco", "", 10, 10)
    missing = Reject("coco-9", "plan", "missing photo", "9.jpg")
    malformed = Reject("coco-8-1", "plan", "malformed annotation", "")
    plan = make_plan([missing, *photos(5), lone, malformed], BuildConfig(source="coco"))
    assert (plan.photos, plan.missing, plan.without_pair, plan.num_samples) == (7, 1, 1, 5)
    assert plan.rejects == [missing, malformed]
    limited = make_plan([missing, *photos(5)], BuildConfig(source="coco", limit=2))
    assert (limited.photos, limited.missing, limited.num_samples) == (3, 1, 2)


def test_the_order_of_a_pair_says_nothing_about_the_order_in_the_source() -> None:
    pair = (Instance("a", "cup", (0, 0, 60, 60), 3600), Instance("b", "pot", (30, 30, 60, 60), 3600))
    photos = [Photo(f"p{i}", "scenes", "", 100, 100, pair) for i in range(400)]
    plan = make_plan(photos, BuildConfig(source="scenes"))
    first = Counter(orjson.loads(row)[0]["id"] for row in plan.table["instances"].to_pylist())
    assert 150 < first["a"] < 250


def test_equal_keys_are_refused() -> None:
    photo = photos(1)[0]
    twins = replace(photo, instances=(*photo.instances, *photo.instances))
    with pytest.raises(UserError, match="share a key"):
        make_plan([twins], BuildConfig(source="coco", pairs_per_photo=10))
