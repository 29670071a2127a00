"""The order of all samples, by arithmetic alone: once an epoch, whole on any ranks, as random as it says."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pics_common.errors import UserError
from pics_model.order import VISITS, WITHIN, Order, copies_of, rank_positions

counts_and_copies = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), min_size=1, max_size=9).filter(
    lambda shards: any(count for count, _ in shards)
)
seeds = st.integers(0, 2**63 - 1)
groups = st.integers(0, 5)
layouts = st.tuples(st.integers(1, 60), st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**31))


def order_of(shards: list[tuple[int, int]], seed: int = 0, group: int = 0) -> Order:
    return Order([count for count, _ in shards], [copies for _, copies in shards], seed, group)


def entries_of(order: Order, epoch: int) -> list[int]:
    """The entries of an epoch in their order."""
    found = [order.entry(epoch * order.num_entries + place) for place in range(order.num_entries)]
    assert {its_epoch for its_epoch, _ in found} == {epoch}
    return [entry for _, entry in found]


# --- every sample, once ---


@settings(max_examples=150, deadline=None)
@given(counts_and_copies, seeds, groups)
def test_every_epoch_holds_every_copy_of_every_sample_once(shards, seed, group) -> None:
    order = order_of(shards, seed, group)
    for epoch in (0, 1, 7):
        entries = entries_of(order, epoch)
        assert sorted(entries) == list(range(order.num_entries))
        seen = Counter(order.sample(entry) for entry in entries)
        assert seen == {(s, i): copies for s, (count, copies) in enumerate(shards) for i in range(count)}


@settings(max_examples=100, deadline=None)
@given(layouts, groups)
def test_ranks_share_every_epoch_and_have_equal_steps(layout, group) -> None:
    num_samples, world_size, share, seed = layout
    order = Order([num_samples // 3, num_samples - num_samples // 3], [1, 1], seed, group)
    batch_size = world_size * share
    num_steps = -(-2 * num_samples // batch_size)
    seen: Counter[tuple[int, int]] = Counter()
    for rank in range(world_size):
        for step in range(num_steps):
            positions = rank_positions(step, 0, batch_size, rank, world_size)
            assert len(positions) == share
            seen.update(order.entry(position) for position in positions)
    assert all(seen[epoch, entry] == 1 for epoch in (0, 1) for entry in range(num_samples))


@settings(max_examples=100, deadline=None)
@given(layouts, st.integers(0, 500), st.integers(0, 20))
def test_the_ranks_parts_join_to_the_same_batch(layout, start, step) -> None:
    _, world_size, share, _ = layout
    parts = [rank_positions(step, start, world_size * share, rank, world_size) for rank in range(world_size)]
    assert list(chain(*parts)) == list(rank_positions(step, start, world_size * share, 0, 1))


@settings(max_examples=100, deadline=None)
@given(layouts, st.integers(0, 20), st.integers(0, 20), st.integers(1, 6))
def test_resuming_goes_on_where_it_stopped_on_other_ranks_too(layout, done, more, other_size) -> None:
    _, world_size, share, _ = layout
    batch_size = world_size * share * other_size
    whole = rank_positions(done + more, 0, batch_size, 0, 1)
    resumed = [rank_positions(more, done * batch_size, batch_size, rank, other_size) for rank in range(other_size)]
    assert list(chain(*resumed)) == list(whole)


# --- which order it is ---


@settings(max_examples=60, deadline=None)
@given(counts_and_copies, seeds, st.integers(0, 3))
def test_all_shards_at_once_are_one_permutation_as_they_have_been_since_the_first_version(shards, seed, epoch) -> None:
    order = order_of(shards, seed)
    expected = np.random.default_rng([seed, epoch]).permutation(order.num_entries)
    assert entries_of(order, epoch) == expected.tolist()
    samples = [(s, i) for s, (count, copies) in enumerate(shards) for i in range(count) for _ in range(copies)]
    assert [order.sample(entry) for entry in range(order.num_entries)] == samples


@settings(max_examples=60, deadline=None)
@given(counts_and_copies, seeds, st.integers(1, 5), st.integers(0, 2))
def test_groups_are_what_the_words_say(shards, seed, group, epoch) -> None:
    """Beside a list that is made the plain way: visits in random order, cut into groups, each permuted."""
    order = order_of(shards, seed, group)
    first = np.concatenate([[0], np.cumsum([count * copies for count, copies in shards])])
    visits = [(s, copy) for s, (_, copies) in enumerate(shards) for copy in range(copies)]
    shuffled = [visits[v] for v in np.random.default_rng([seed, epoch, VISITS]).permutation(len(visits))]
    expected: list[int] = []
    for number, start in enumerate(range(0, len(shuffled), group)):
        mixed = [
            int(first[s]) + i * shards[s][1] + copy
            for s, copy in shuffled[start : start + group]
            for i in range(shards[s][0])
        ]
        expected += [mixed[i] for i in np.random.default_rng([seed, epoch, WITHIN + number]).permutation(len(mixed))]
    assert entries_of(order, epoch) == expected


def test_the_order_does_not_depend_on_what_was_asked_before() -> None:
    shards = [(5, 1), (3, 2), (4, 1), (2, 1)]
    for group in (0, 2):
        forth, back = order_of(shards, 3, group), order_of(shards, 3, group)
        places = list(range(4 * forth.num_entries))
        assert [forth.entry(p) for p in places] == [back.entry(p) for p in reversed(places)][::-1]


def test_epochs_and_seeds_and_groups_differ_in_order() -> None:
    orders = {
        tuple(entries_of(Order([5] * 4, [1] * 4, seed, group), epoch))
        for epoch in range(3)
        for seed in (0, 1)
        for group in (0, 1, 2)
    }
    assert len(orders) == 18


# --- how well it is mixed, and what must be at hand ---


@pytest.mark.parametrize("group", [4, 16, 0])
def test_a_batch_holds_as_many_shards_as_chance_gives_of_a_group(group) -> None:
    """Of G shards, a batch of B samples drawn at random holds G (1 - (1 - 1/G)^B) on average."""
    num_shards, batch_size = 64, 32
    order = Order([100] * num_shards, [1] * num_shards, 0, group)
    batches = [[order.entry(p)[1] for p in range(start, start + batch_size)] for start in range(0, 6400, batch_size)]
    distinct = np.mean([len({order.sample(entry)[0] for entry in batch}) for batch in batches])
    of = group or num_shards
    assert distinct == pytest.approx(of * (1 - (1 - 1 / of) ** batch_size), rel=0.05)


@settings(max_examples=60, deadline=None)
@given(counts_and_copies, seeds, st.integers(1, 4), st.integers(0, 60))
def test_what_is_needed_next_is_what_comes_next(shards, seed, group, position) -> None:
    order = order_of(shards, seed, group)
    needed = order.needed(position)
    assert len(needed) == len(set(needed)) <= 2 * group
    at = order.group_of(position)
    while order.group_of(position) == at:
        assert order.sample(order.entry(position)[1])[0] in needed[:group]
        position += 1
    assert order.sample(order.entry(position)[1])[0] in needed or order.counts[needed].min() == 0


def test_all_shards_are_needed_where_all_are_mixed() -> None:
    assert order_of([(3, 1), (0, 2), (2, 1)]).needed(4) == [0, 2]
    assert order_of([(3, 1)] * 5, 0, 2).most_needed([5, 1, 1, 7, 1]) == 14
    assert order_of([(3, 1)] * 5).most_needed([5, 1, 1, 7, 1]) == 15


# --- weights ---


@pytest.mark.parametrize(
    ("weights", "copies"),
    [([3, 6, 1, 18, 18, 18], [3, 6, 1, 18, 18, 18]), ([1.0, 1.0], [1, 1]), ([0.5, 0.75], [2, 3]), ([4, 2], [2, 1])],
)
def test_weights_become_the_least_whole_numbers(weights: list[float], copies: list[int]) -> None:
    assert copies_of(weights) == copies


@pytest.mark.parametrize("weights", [[1e-9, 1.0], [5000, 1]])
def test_weights_that_are_too_uneven_are_refused(weights) -> None:
    with pytest.raises(UserError, match="weights of the shards"):
        copies_of(weights)
