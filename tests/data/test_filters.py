"""Filters on what was measured: each rule at its limit, and the same verdict on metadata and on the table."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pics_data.config import BuildConfig
from pics_data.filters import COLUMNS, Drop, kept, why_dropped, why_row_dropped, widest_gap
from pics_data.sample_table import table_of
from tests.data.metas_for_tests import METAS, meta_of


@pytest.mark.parametrize(
    ("option", "limit", "fact", "kept_value", "dropped_value", "reason"),
    [
        ("max_parts", 2, "parts", 2, 3, "above --max-parts"),
        ("max_holes", 0, "holes", 0, 1, "above --max-holes"),
        ("max_border", 0.3, "border", 0.3, 0.3001, "above --max-border"),
        ("min_edge", 0.1, "edge", 0.1, 0.0999, "below --min-edge"),
    ],
)
def test_each_rule_on_objects_holds_at_its_limit(
    option: str, limit: float, fact: str, kept_value: float, dropped_value: float, reason: str
) -> None:
    config = BuildConfig(**{option: limit})
    for i in (0, 1):
        facts: list[dict[str, Any]] = [{}, {}]
        facts[i] = {fact: kept_value}
        assert why_dropped(meta_of(facts), config) is None
        facts[i] = {fact: dropped_value, "category": "dog"}
        drop = why_dropped(meta_of(facts), config)
        assert drop == Drop(reason, f"object {i} (dog): {fact} {dropped_value} {reason} {limit}")
        assert why_dropped(meta_of(facts), BuildConfig()) is None


def test_the_gap_of_a_pair_and_of_a_chain() -> None:
    config = BuildConfig(max_gap=3)
    assert why_dropped(meta_of([{}, {}], gaps=[3]), config) is None
    drop = why_dropped(meta_of([{}, {}], gaps=[3.16]), config)
    assert drop == Drop("above --max-gap", "objects 3.16 px apart above --max-gap 3")
    assert why_dropped(meta_of([{}]), BuildConfig(max_gap=0)) is None  # one object is apart from none
    chain = [1, 90, 2]  # of (0, 1), (0, 2), (1, 2): the ends are apart, each neighbour is near
    assert why_dropped(meta_of([{}] * 3, gaps=chain), config) is None
    assert why_dropped(meta_of([{}] * 3, gaps=[1, 90, 4]), config) is not None
    assert why_dropped(meta_of([{}] * 3, gaps=[1, 90, 4]), BuildConfig()) is None


@given(st.data())
def test_the_widest_gap_joins_all_and_no_less_does(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 6))
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    gaps = [(i, j, data.draw(st.integers(0, 5)) / 2) for i, j in pairs]

    def joined(limit: float) -> bool:
        reached, size = {0}, 0
        while len(reached) != size:
            size = len(reached)
            for i, j, gap in gaps:
                if gap <= limit and (i in reached or j in reached):
                    reached |= {i, j}
        return len(reached) == count

    widest = widest_gap(count, gaps)
    assert joined(widest)
    assert widest == 0 or not joined(widest - 0.5)


LIMITS = st.builds(
    BuildConfig,
    max_gap=st.sampled_from([-1.0, 0.0, 2.5]),
    max_parts=st.integers(0, 3),
    max_holes=st.integers(-1, 2),
    max_border=st.sampled_from([0.0, 0.2, 1.0]),
    min_edge=st.sampled_from([0.0, 0.1]),
)


@given(st.lists(METAS, max_size=6), LIMITS)
def test_the_table_is_filtered_as_the_build_filters(metas: list[dict[str, Any]], config: BuildConfig) -> None:
    verdicts = [why_dropped(meta, config) for meta in metas]
    table = table_of(metas, "train-000000")
    assert [why_row_dropped(row, config) for row in table.select(COLUMNS).to_pylist()] == verdicts
    expected = [meta["key"] for meta, verdict in zip(metas, verdicts, strict=True) if verdict is None]
    assert kept(table, config)["key"].to_pylist() == expected
    assert kept(table, BuildConfig()).equals(table)
