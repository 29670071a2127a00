"""What `inspect` counts: numbers against the metadata, signs against the filters of a build, and what looks wrong."""

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pics_data.config import BuildConfig
from pics_data.filters import kept
from pics_data.inspect_bare import spread
from pics_data.inspect_read import Found
from pics_data.inspect_survey import NUM_WORST, Survey, Thinned, add_table
from pics_data.inspect_warnings import warnings_of
from pics_data.sample_table import table_of
from tests.data.metas_for_tests import METAS, meta_of


def survey_of(metas: list[dict[str, Any]], tables: int = 1) -> Survey:
    """What is known of samples that stand in several tables."""
    survey = Survey()
    for part in np.array_split(np.arange(len(metas)), tables):
        here = [metas[i] for i in part]
        sizes = np.array([meta["num_bytes"] for meta in here], np.int64)
        add_table(survey, table_of(here, "a"), "a.tar", np.cumsum(sizes) - sizes, [])
    return survey


def found_of(metas: list[dict[str, Any]]) -> Found:
    return Found("folder", [], survey=survey_of(metas), num_samples=len(metas))


@settings(max_examples=60, deadline=None)
@given(st.lists(METAS, min_size=1, max_size=12), st.integers(1, 4))
def test_numbers_are_those_of_the_metadata(metas: list[dict[str, Any]], tables: int) -> None:
    survey = survey_of(metas, tables)
    objects = [item for meta in metas for item in meta["objects"]]
    relations = [relation for meta in metas for relation in meta["relations"]]
    assert survey.num_samples == len(metas)
    assert survey.values("area").tolist() == [item["area"] for item in objects]
    assert survey.values("border").tolist() == [item["border"] for item in objects]
    assert survey.values("hidden").tolist() == [item["hidden"] for item in objects if "hidden" in item]
    assert survey.values("box_iou").tolist() == [relation["box_iou"] for relation in relations]
    assert survey.counted("category") == Counter(item["category"] for item in objects)
    names = [sorted(meta["objects"][i]["category"] for i in r["objects"]) for meta in metas for r in meta["relations"]]
    assert survey.counted("pair") == Counter(" + ".join(pair) for pair in names)


# A rule's option keeps out just the samples that the page counts.
OPTIONS = {
    "in pieces": {"max_parts": 4}, "riddled": {"max_holes": 4}, "cut off": {"max_border": 0.2},
    "soft outline": {"min_edge": 0.02}, "far apart": {"max_gap": 10.0},
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(METAS, min_size=1, max_size=12), st.integers(1, 3))
def test_signs_are_what_the_filters_of_a_build_drop(metas: list[dict[str, Any]], tables: int) -> None:
    for meta in metas:  # gaps on both sides of the limit
        for i, relation in enumerate(meta["relations"]):
            relation["gap_px"] = relation["gap_px"] * (1 + meta["seed"] % 5 + i)
    survey = survey_of(metas, tables)
    for name, option in OPTIONS.items():
        dropped = len(metas) - kept(table_of(metas, "a"), BuildConfig(**option)).num_rows
        assert (survey.flags[name].samples if name in survey.flags else 0) == dropped, name


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.floats(0, 1).map(lambda v: round(v, 3))), max_size=30), st.integers(1, 5)
)
def test_the_worst_are_the_worst_of_all_one_of_each_photo(samples: list[tuple[int, float]], tables: int) -> None:
    photo = {"id": "", "file_name": "", "width": 9, "height": 9, "license": "", "url": ""}
    metas = [
        meta_of([{"border": border}, {}], key=f"k{i}", photo={**photo, "id": str(number)})
        for i, (number, border) in enumerate(samples)
    ]
    worst = survey_of(metas, tables).worst.get("cut off", [])
    of_photo = Counter[int]()
    for number, border in samples:
        if border > 0.1:
            of_photo[number] = max(of_photo[number], border)
    assert [entry.value for entry in worst] == sorted(of_photo.values(), reverse=True)[:NUM_WORST]
    assert len({entry.photo for entry in worst}) == len(worst)


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(4, 50))
def test_thinned_values_are_every_so_many_th_and_never_too_many(parts: list[int], most: int) -> None:
    thinned, everything = Thinned(most), np.arange(sum(parts), dtype=float)
    for end, size in zip(np.cumsum(parts), parts, strict=True):
        thinned.add(everything[end - size : end])
    values = thinned.values()
    assert thinned.total == sum(parts)
    assert len(values) <= most
    stride = int(values[1] - values[0]) if len(values) > 1 else 1
    assert len(values) > 1 or sum(parts) <= most
    assert values.tolist() == everything[::stride][: len(values)].tolist()
    assert len(everything[::stride]) == len(values) or not parts


def test_what_looks_wrong_is_said_with_the_option_that_mends_it() -> None:
    fine, far = meta_of([{}, {}], key="a"), meta_of([{}, {}], gaps=[30.0], key="b")
    cut = meta_of([{"border": 0.5}, {"category": "dog"}], key="c")
    unknown = {**fine, "photo": {**fine["photo"], "license": ""}}
    val = {**fine, "split": "val"}

    def says(metas: list[dict[str, Any]]) -> dict[str, str]:
        return {finding.option.partition(" ")[0]: finding.says for finding in warnings_of(found_of(metas))}

    healthy = [
        {**fine, "photo": {**fine["photo"], "id": str(i)}, "split": "val" if i == 0 else "train",
         "objects": [{**item, "category": f"c{(i + j) % 5}"} for j, item in enumerate(fine["objects"])]}
        for i in range(20)
    ]  # fmt: skip
    assert says(healthy) == {}
    assert says([fine, val, far])["--max-gap"].startswith("33 % of the samples hold objects that are more than 10 px")
    assert says([fine, val, cut])["--max-border"].startswith("33 % of the samples")
    assert says([fine, val, cut])["--not-categories"] == "83 % of the objects are of one category, cat"
    assert says([unknown, unknown, val])["--licenses"] == "the licence of 67 % of the samples is not known"
    assert says([fine] * 3)["--val-fraction"] == "no sample is kept for validation"
    assert says([*[fine] * 20, val])["--pairs-per-photo"].startswith("21 samples were made of each photo")
    rare = {**fine, "source": "rare"}
    assert "rare makes up" in says([*[fine] * 200, rare, val])["a"]


@given(st.integers(0, 500), st.integers(0, 60))
def test_samples_are_spread_evenly(total: int, count: int) -> None:
    chosen = spread(total, count)
    assert len(chosen) == min(total, count)
    assert chosen == sorted(set(chosen))
    assert all(0 <= index < total for index in chosen)
    gaps = np.diff([-1 - (chosen[0] if chosen else 0), *chosen])[1:]
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1
