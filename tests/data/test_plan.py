"""The pair rule against a brute-force oracle, and what keys, splits and shards depend on."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pics_data.config import BuildConfig
from pics_data.keys import sample_key
from pics_data.plan import Plan, read_shard_plan, shard_samples_of_plan, split_of
from pics_data.records import Instance, Photo, Reject
from tests.data.plain_build import compositions_of, plan_of, rejects_of, shard_names, table_of


def photos(count: int, pairs: int = 1) -> list[Photo]:
    """Photos with at least `pairs` pairs each: a row of boxes that overlap."""
    row = tuple(Instance(str(k), "thing", (10.0 * k, 5.0, 15.0, 20.0 + k), 300.0) for k in range(pairs + 1))
    return [Photo(f"{i}", "coco", f"/data/{i}.jpg", 100, 100, row) for i in range(count)]


def rows(plan: Plan) -> list[tuple[str, str]]:
    table = table_of(plan)
    return list(zip(table["key"].to_pylist(), table["shard"].to_pylist(), strict=True))


def test_the_plan_depends_on_records_and_settings_only() -> None:
    config = BuildConfig(source="coco", pairs_per_photo=2)
    first, second = (plan_of(photos(50, 2), config) for _ in range(2))
    assert table_of(first).equals(table_of(second))
    assert first.digest == second.digest
    moved = [replace(photo, path=photo.path.replace("/data", "/elsewhere")) for photo in photos(50, 2)]
    assert plan_of(moved, config).digest == first.digest
    assert plan_of(photos(49, 2), config).digest != first.digest
    other = plan_of(photos(50, 2), replace(config, seed=1))
    assert {key for key, _ in rows(other)} == {key for key, _ in rows(first)}
    assert rows(other) != rows(first)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 120), st.integers(1, 4), st.integers(1, 40), st.sampled_from([0.0, 0.3, 1.0]))
def test_shards_hold_each_sample_once_and_photos_whole(count: int, pairs: int, per_shard: int, val: float) -> None:
    config = BuildConfig(source="coco", pairs_per_photo=pairs, shard_samples=per_shard, val_fraction=val)
    plan = plan_of(photos(count, pairs), config)
    assert plan.num_samples == count * pairs == len({key for key, _ in rows(plan)})
    shards_of_photo: dict[str, set[str]] = {}
    table = table_of(plan)
    for photo_id, shard in zip(table["photo_id"].to_pylist(), table["shard"].to_pylist(), strict=True):
        shards_of_photo.setdefault(photo_id, set()).add(shard)
        assert shard.startswith(split_of(photo_id, val))
    assert all(len(shards) == 1 for shards in shards_of_photo.values())
    sizes = Counter(table["shard"].to_pylist()).values()
    assert sum(sizes) == plan.num_samples
    assert max(sizes) <= per_shard + 2 * pairs
    for split in ("train", "val"):
        numbers = [int(shard[-6:]) for shard in shard_names(plan) if shard.startswith(split)]
        assert numbers == list(range(len(numbers)))


def test_a_worker_reads_its_own_row_group_and_gets_back_what_was_planned(tmp_path: Path) -> None:
    source = [replace(p, license="by", url="u", width=100) for p in photos(40, 2)]
    source[3] = replace(
        source[3], instances=tuple(replace(i, segmentation=[[1.5, 2, 3, 4, 5, 6]]) for i in source[3].instances)
    )
    plan = plan_of(source, BuildConfig(source="coco", pairs_per_photo=2, shard_samples=1), tmp_path)
    by_id = {photo.id: photo for photo in source}
    keys = []
    for number, shard in enumerate(shard_names(plan)):
        for composition in read_shard_plan(plan.folder, number):
            keys.append(composition.key)
            whole = by_id[composition.photo.id]
            assert composition.shard == shard
            assert replace(composition.photo, instances=()) == replace(whole, instances=())
            assert all(item in whole.instances for item in composition.photo.instances)
    assert keys == table_of(plan)["key"].to_pylist()
    assert [path.name for path in tmp_path.glob("0*.parquet")] == ["000000.parquet"]


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
    plan = plan_of([missing, *photos(5), lone, malformed], BuildConfig(source="coco"))
    assert (plan.counts.photos, plan.counts.missing, plan.counts.without_pair, plan.num_samples) == (7, 1, 1, 5)
    assert rejects_of(plan) == [missing, malformed]
    limited = plan_of([missing, *photos(5)], BuildConfig(source="coco", limit=2))
    assert (limited.counts.photos, limited.counts.missing, limited.num_samples) == (3, 1, 2)


def test_the_order_of_a_pair_says_nothing_about_the_order_in_the_source() -> None:
    pair = (Instance("a", "cup", (0, 0, 60, 60), 3600), Instance("b", "pot", (30, 30, 60, 60), 3600))
    photos = [Photo(f"p{i}", "scenes", "", 100, 100, pair) for i in range(400)]
    plan = plan_of(photos, BuildConfig(source="scenes"))
    first = Counter(orjson.loads(row)[0]["id"] for row in table_of(plan)["instances"].to_pylist())
    assert 150 < first["a"] < 250


def test_objects_of_one_photo_with_the_same_id_are_rejects() -> None:
    photo = photos(1)[0]
    twins = replace(photo, instances=(*photo.instances, replace(photo.instances[0], box=(12.0, 5.0, 15.0, 20.0))))
    plan = plan_of([twins, *photos(3)[1:]], BuildConfig(source="coco", pairs_per_photo=10))
    assert rows(plan) == rows(plan_of(photos(3), BuildConfig(source="coco", pairs_per_photo=10)))
    assert [(r.key, r.reason) for r in rejects_of(plan)] == [("coco-0-0", "duplicate annotation id")]


def test_a_photo_that_is_named_twice_counts_once() -> None:
    plan = plan_of([*photos(5), *photos(2)], BuildConfig(source="coco"))
    once = plan_of(photos(5), BuildConfig(source="coco"))
    assert rows(plan) == rows(once)
    assert [reject.reason for reject in rejects_of(plan)] == ["duplicate photo id"] * 2
    assert plan.counts.photos == 7 == plan.num_samples + plan.counts.left_out


def test_photos_are_left_out_by_licence() -> None:
    licensed = [replace(p, license=word) for p, word in zip(photos(3), ("CC BY 4.0", "CC BY-NC 2.0", ""), strict=True)]
    plan = plan_of(licensed, BuildConfig(source="coco", licenses=("by 4.0", "CC0")))
    assert [composition.photo.id for composition in compositions_of(plan)] == ["0"]
    assert [(r.key, r.stage, r.detail) for r in rejects_of(plan)] == [
        ("coco-1", "filter", "CC BY-NC 2.0"),
        ("coco-2", "filter", "none given"),
    ]
    assert plan.counts.left_out == 2


def test_plans_of_many_shards_lie_in_several_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = BuildConfig(source="coco", shard_samples=2)
    whole = rows(plan_of(photos(40), config))
    monkeypatch.setattr("pics_data.plan.SHARDS_A_FILE", 3)
    plan = plan_of(photos(40), config, tmp_path)
    assert len(list(tmp_path.glob("0*.parquet"))) == -(-plan.num_shards // 3)
    assert [(c.key, c.shard) for c in compositions_of(plan)] == whole == rows(plan)
