"""The rule of pairs against a brute-force oracle; chains, clusters and filters against what they promise."""

import itertools
import tracemalloc
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pics_data import choose as module
from pics_data.choose import choose
from pics_data.config import BuildConfig
from pics_data.records import Instance, Photo

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


def chosen_of(photo: Photo, **settings: Any) -> list[tuple[tuple[int, ...], float]]:
    return [(choice.places, choice.box_iou) for choice in choose(photo, BuildConfig(source="coco", **settings))]


@given(any_photo(), st.sampled_from([0.0, 0.01171, 0.05]), st.integers(1, 30))
def test_pairs_are_those_of_the_rule_best_first(photo: Photo, min_area: float, count: int) -> None:
    oracle = []
    for i, j in itertools.combinations(range(len(photo.instances)), 2):
        a, b = photo.instances[i], photo.instances[j]
        large = min(a.area, b.area) >= min_area * 100 * 100
        if large and not (a.crowd or b.crowd) and iou(a, b) > 0 and not holds(a, b) and not holds(b, a):
            oracle.append((i, j, iou(a, b)))
    oracle.sort(key=lambda pair: -pair[2])
    chosen = chosen_of(photo, min_area=min_area, pairs_per_photo=count)
    assert [score for _, score in chosen] == pytest.approx([pair[2] for pair in oracle[:count]])
    assert {places for places, _ in chosen} <= {pair[:2] for pair in oracle}
    assert len({places for places, _ in chosen}) == len(chosen)


@given(any_photo(), st.integers(3, 8), st.integers(1, 10))
def test_more_objects_touch_in_a_chain_or_cluster(photo: Photo, size: int, count: int) -> None:
    chosen = chosen_of(photo, min_area=0.0, objects=size, pairs_per_photo=count)
    assert len({places for places, _ in chosen}) == len(chosen) <= count
    for places, score in chosen:
        items = [photo.instances[i] for i in places]
        assert list(places) == sorted(set(places))
        assert len(places) == size
        assert not any(item.crowd for item in items)
        assert not any(holds(a, b) for a, b in itertools.permutations(items, 2))
        links = {(i, j): iou(items[i], items[j]) for i, j in itertools.combinations(range(size), 2)}
        reached = {0}
        for _ in items:  # what is reached over links of the score or more is all
            reached |= {k for pair, value in links.items() if value >= score * 0.999 for k in pair if reached & {*pair}}
        assert reached == set(range(size))
        assert score > 0


def chosen_plainly(photo: Photo, size: int, count: int, containment: float) -> list[tuple[tuple[int, ...], float]]:
    """The rule of `choose` by loops over all pairs: seeds by IoU, each grown by what touches it most."""
    items = [item for item in photo.instances if not item.crowd]
    places = [i for i, item in enumerate(photo.instances) if not item.crowd]
    pairs = list(itertools.combinations(range(len(items)), 2))

    def inner(i: int, j: int) -> float:
        a, b = corners(items[i].box), corners(items[j].box)
        return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)

    def holds_most(i: int, j: int) -> bool:
        return containment < 1 and inner(i, j) >= containment * items[j].box[2] * items[j].box[3]

    def are_apart(i: int, j: int) -> bool:
        return not any(holds(items[a], items[b]) or holds_most(a, b) for a, b in ((i, j), (j, i)))

    link = {(i, j): iou(items[i], items[j]) if are_apart(i, j) else 0.0 for i, j in pairs}
    link |= {(j, i): value for (i, j), value in link.items()}
    found: dict[tuple[int, ...], float] = {}
    for i, j in sorted((pair for pair in pairs if link[pair] > 0), key=lambda pair: -link[pair]):
        members, weakest = [i, j], link[i, j]
        while len(members) < size:
            fits = [k for k in range(len(items)) if k not in members and all(are_apart(k, m) for m in members)]
            best = max(fits, key=lambda k: max(link[k, m] for m in members), default=None)  # of equal ones, the first
            if best is None or (most := max(link[best, m] for m in members)) == 0:
                break
            members.append(best)
            weakest = min(weakest, most)
        if len(members) == size:
            found.setdefault(tuple(places[k] for k in sorted(members)), weakest)
    return list(found.items())[:count]


@st.composite
def crowded_photo(draw: st.DrawFn) -> Photo:
    """Many boxes, many of them equal or of equal IoU."""
    sides = st.sampled_from([4.0, 6.0, 8.0])
    places = st.integers(0, 5).map(lambda i: 3.0 * i)
    found = draw(st.lists(st.tuples(places, places, sides, sides), min_size=2, max_size=24))
    instances = tuple(Instance(str(i), "thing", box, 100.0) for i, box in enumerate(found))
    return Photo("1", "coco", "1.jpg", 30, 30, instances)


@given(
    crowded_photo(),
    st.integers(2, 5),
    st.sampled_from([1, 3, 1000]),
    st.sampled_from([1.0, 0.5]),
    st.sampled_from([1, 7, 50, 2**18]),
    st.sampled_from([1, 2, 5, 2**16]),
)
def test_in_blocks_and_by_parts_the_same_is_chosen_as_from_all_pairs(
    photo: Photo, size: int, count: int, containment: float, cells: int, best: int
) -> None:
    with patch.object(module, "CELLS", cells), patch.object(module, "BEST", best):
        chosen = chosen_of(photo, min_area=0.0, objects=size, pairs_per_photo=count, containment=containment)
    plain = chosen_plainly(photo, size, count, containment)
    assert [places for places, _ in chosen] == [places for places, _ in plain]
    assert [score for _, score in chosen] == pytest.approx([score for _, score in plain])


@pytest.mark.parametrize("objects", [2, 4])
def test_memory_stays_flat_with_thousands_of_objects(objects: int) -> None:
    random = np.random.default_rng(0)
    drawn = np.concatenate([random.uniform(0, 500, (6000, 2)), random.uniform(110, 500, (6000, 2))], axis=1)
    instances = tuple(Instance(str(i), "thing", tuple(box), 20000.0) for i, box in enumerate(drawn.tolist()))
    photo = Photo("1", "coco", "1.jpg", 1000, 1000, instances)
    tracemalloc.start()
    try:
        assert len(chosen_of(photo, objects=objects, pairs_per_photo=100)) == 100
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20  # a table of all pairs has 36 million cells


def touching_row(count: int) -> Photo:
    row = tuple(Instance(str(k), f"c{k}", (10.0 * k, 5.0, 15.0, 20.0 + k), 300.0) for k in range(count))
    return Photo("1", "coco", "1.jpg", 100, 100, row)


def test_a_row_of_objects_gives_each_of_its_chains() -> None:
    photo = touching_row(6)
    assert sorted(places for places, _ in chosen_of(photo, objects=3, pairs_per_photo=9)) == [
        (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5)
    ]  # fmt: skip
    assert [places for places, _ in chosen_of(photo, objects=6, pairs_per_photo=9)] == [(0, 1, 2, 3, 4, 5)]
    assert chosen_of(photo, objects=7) == []


def test_one_object_is_the_largest() -> None:
    photo = Photo("1", "c", "", 10, 10, (Instance("a", "x", (0, 0, 2, 2), 4.0), Instance("b", "x", (0, 0, 9, 9), 81.0)))
    assert chosen_of(photo, objects=1) == [((1,), 0.0)]
    assert chosen_of(photo, objects=1, pairs_per_photo=5) == [((1,), 0.0), ((0,), 0.0)]


def test_filters_by_category_overlap_containment_and_crowd() -> None:
    photo = touching_row(4)
    every = {places for places, _ in chosen_of(photo, pairs_per_photo=9)}
    assert every == {(0, 1), (1, 2), (2, 3)}
    assert {p for p, _ in chosen_of(photo, pairs_per_photo=9, categories=("c1", "c2"))} == {(1, 2)}
    assert {p for p, _ in chosen_of(photo, pairs_per_photo=9, not_categories=("c0",))} == {(1, 2), (2, 3)}
    scores = dict(chosen_of(photo, pairs_per_photo=9))
    middle = sorted(scores.values())[1]
    assert {p for p, s in scores.items() if s > middle} == {
        p for p, _ in chosen_of(photo, pairs_per_photo=9, min_iou=middle)
    }
    assert {p for p, s in scores.items() if s <= middle} == {
        p for p, _ in chosen_of(photo, pairs_per_photo=9, max_iou=middle)
    }
    assert len(chosen_of(photo, pairs_per_photo=9, containment=0.3)) == 0  # a third of each box lies in the next
    assert len(chosen_of(photo, pairs_per_photo=9, containment=0.4)) == 3
    crowd = Photo("1", "c", "", 100, 100, (Instance("a", "x", (0, 0, 40, 50), 2000, crowd=True), photo.instances[3]))
    assert chosen_of(crowd) == []
    assert len(chosen_of(crowd, crowds=True)) == 1
