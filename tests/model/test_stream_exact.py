"""Exactly once, the same for any ranks and workers, and resumed exactly: through the real loader, in many shapes."""

import json
from collections import Counter
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pics_common.errors import UserError
from pics_model.inputs import Batch, FramingSettings
from pics_model.stream import ShardStream
from tests.model.shards_for_tests import make_members, write_index, write_shards, write_tar

# More workers than cores are the point of these tests; torch would have fewer.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

FRAMING = FramingSettings(resolution=16, object_resolution=16)
LAYOUTS = ([3], [1, 4, 2], [2, 2, 2, 2, 2], [1, 0, 6, 1, 3, 2])  # samples of each shard


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    parent = tmp_path_factory.mktemp("layouts")
    return [
        write_shards(parent / str(i), {f"train-{s:06}.tar": n for s, n in enumerate(counts)}, size=(24, 32))
        for i, counts in enumerate(LAYOUTS)
    ]


def stream_of(folder: Path, **options: object) -> ShardStream:
    return ShardStream(folder, FRAMING, silhouettes=False, **options)  # type: ignore[arg-type]


def rows(batches: list[Batch]) -> list[tuple[str, int, bytes]]:
    """A row a sample: its key, its seed, and its pictures' bytes."""
    return [
        (key, int(seed), objects.numpy().tobytes() + regions.numpy().tobytes() + target.numpy().tobytes())
        for batch in batches
        for key, seed, objects, regions, target in zip(
            batch.keys, batch.seeds, batch.objects, batch.regions, batch.target, strict=True
        )
    ]


def by_ranks(folder: Path, num_steps: int, start: int, ranks: int, **options: object) -> list[tuple[str, int, bytes]]:
    """The rows of a run of several ranks, step by step."""
    parts = [
        list(islice(stream_of(folder, rank=r, world_size=ranks, **options).batches(start), num_steps))
        for r in range(ranks)
    ]
    assert {len(part) for part in parts} == {num_steps}, "ranks with more steps than others"
    return rows([batch for step in zip(*parts, strict=True) for batch in step])


@cache
def expected(folder: Path, seed: int, group: int, num: int) -> list[tuple[str, int, bytes]]:
    """The first rows of the sequence, one at a time, in one process."""
    stream = stream_of(folder, batch_size=1, seed=seed, shuffle_shards=group)
    return rows(list(islice(stream.batches(), num)))


shapes = st.fixed_dictionaries(
    {
        "layout": st.integers(0, len(LAYOUTS) - 1),
        "ranks": st.sampled_from([1, 1, 2, 3]),
        "workers": st.sampled_from([0, 0, 0, 0, 1, 2, 3]),
        "share": st.integers(1, 4),
        "group": st.integers(0, 3),
        "steps": st.integers(1, 4),
        "done": st.integers(0, 5),
    }
)


@settings(max_examples=64, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=shapes)
@example(shape={"layout": 0, "ranks": 1, "workers": 8, "share": 2, "group": 0, "steps": 4, "done": 1})
@example(shape={"layout": 0, "ranks": 2, "workers": 8, "share": 1, "group": 1, "steps": 3, "done": 0})
@example(shape={"layout": 3, "ranks": 3, "workers": 2, "share": 4, "group": 2, "steps": 4, "done": 5})
def test_any_ranks_workers_shards_batch_and_group_give_the_one_sequence(folders, shape) -> None:
    """From any step on, whatever ran before: so resuming on other ranks and workers is covered as well."""
    batch_size = shape["ranks"] * shape["share"]
    start, num = shape["done"] * batch_size, shape["steps"] * batch_size
    folder = folders[shape["layout"]]
    found = by_ranks(
        folder,
        shape["steps"],
        start,
        shape["ranks"],
        batch_size=batch_size,
        num_workers=shape["workers"],
        shuffle_shards=shape["group"],
        seed=1,
    )
    assert found == expected(folder, 1, shape["group"], 108)[start : start + num]


@pytest.mark.parametrize("group", [0, 1, 2])
@pytest.mark.parametrize("layout", range(len(LAYOUTS)))
def test_what_that_one_sequence_holds(folders, layout, group) -> None:
    """Each epoch every sample once, drawn anew."""
    num = sum(LAYOUTS[layout])
    sequence = expected(folders[layout], 1, group, 108)
    for epoch in range(108 // num):
        keys = [key for key, _, _ in sequence[epoch * num : (epoch + 1) * num]]
        assert sorted(keys) == [f"s{i:06}" for i in range(num)]
    assert len({seed for _, seed, _ in sequence}) == 108


# --- the state ---


def test_a_state_goes_on_anywhere(folders) -> None:
    folder = folders[2]
    first = stream_of(folder, batch_size=6, num_workers=2, shuffle_shards=2)
    seen = rows(list(islice(first.batches(), 3)))
    state = json.loads(json.dumps(first.state_dict()))
    assert state["samples_seen"] == 18
    on_three = []
    for rank in range(3):
        stream = stream_of(folder, batch_size=6, rank=rank, world_size=3, shuffle_shards=2)
        stream.load_state_dict(state)
        on_three.append(list(islice(stream.batches(), 2)))
        assert stream.state_dict()["samples_seen"] == 30
    seen += rows([batch for step in zip(*on_three, strict=True) for batch in step])
    # Another batch size does not matter either.
    last = stream_of(folder, batch_size=5, shuffle_shards=2, num_workers=1)
    last.load_state_dict(state | {"samples_seen": 30})
    seen += rows(list(islice(last.batches(), 2)))
    assert seen == expected(folder, 0, 2, 108)[:40]


def test_a_state_counts_what_was_given_out_not_what_was_made_ahead(folders) -> None:
    stream = stream_of(folders[1], batch_size=2, num_workers=2)
    batches = stream.batches()
    for step in range(1, 5):
        next(batches)
        assert stream.state_dict()["samples_seen"] == 2 * step


def test_skipping_far_ahead_decodes_nothing(folders, monkeypatch) -> None:
    stream = stream_of(folders[1], batch_size=2)
    read = []
    table = stream.samples.table
    real = table.sample_of
    monkeypatch.setattr(table, "sample_of", lambda number, place: (read.append(place), real(number, place))[1])
    next(stream.batches(10**12))
    assert len(read) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 2}, "--seed 2: the run began with 0"),
        ({"shuffle_shards": 3}, "--shuffle-shards 3: the run began with 0"),
    ],
)
def test_a_state_of_another_order_is_refused(folders, change, said) -> None:
    state = stream_of(folders[1], batch_size=2).state_dict()
    with pytest.raises(UserError, match=said):
        stream_of(folders[1], batch_size=2, **change).load_state_dict(state)


@pytest.fixture
def three(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "three", {f"train-{i:06}.tar": 2 for i in range(3)}, size=(24, 32))


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("change", ["content", "count", "fewer", "name"])
def test_a_state_of_other_data_is_refused_with_what_differs(three, change, index) -> None:
    if not index:
        (three / "index.json").unlink()
    state = stream_of(three, batch_size=2).state_dict()
    counts = dict.fromkeys((f"train-{i:06}.tar" for i in range(3)), 2)
    if change == "content":
        write_tar(three / "train-000001.tar", [(f"s{i}", make_members(i, size=(240, 320))) for i in (8, 9)])
        said = r"other data: `train-000001.tar samples=2 .*` then, `train-000001.tar samples=2 .*` now"
    elif change == "count":
        write_tar(three / "train-000001.tar", [("s8", make_members(8, size=(24, 32)))])
        counts["train-000001.tar"] = 1
        said = r"`train-000001.tar samples=2 .*` then, `train-000001.tar samples=1 .*` now"
    elif change == "fewer":
        (three / "train-000002.tar").unlink()
        del counts["train-000002.tar"]
        said = "3 shards then, 2 now"
    else:
        (three / "train-000002.tar").rename(three / "train-000007.tar")
        counts = dict.fromkeys([*list(counts)[:2], "train-000007.tar"], 2)
        said = "`train-000002.tar .*` then, `train-000007.tar .*` now"
    if index:
        write_index(three, counts)
    with pytest.raises(UserError, match=said):
        stream_of(three, batch_size=2).load_state_dict(state)


def test_the_same_data_elsewhere_goes_on(three, tmp_path) -> None:
    state = stream_of(three, batch_size=2).state_dict()
    three.rename(tmp_path / "moved")
    stream = stream_of(tmp_path / "moved", batch_size=2)
    stream.load_state_dict(state)
    assert stream.digest == state["digest"]


# --- mixtures of shard sets ---


def test_shard_sets_are_mixed_by_their_weights(folders) -> None:
    stream = ShardStream([(folders[0], 2.0), (folders[1], 1.0)], FRAMING, batch_size=1)
    epoch = Counter(batch.keys[0] for batch in islice(stream.batches(), stream.num_samples))
    # Both name their samples alike: the first three come twice from one set and once from the other.
    assert epoch == {f"s{i:06}": 3 if i < 3 else 1 for i in range(7)}


def test_weights_of_sets_and_of_their_indexes_multiply(three, folders) -> None:
    index = json.loads((three / "index.json").read_text())
    for entry, weight in zip(index["shardlist"], (1, 2, 3), strict=True):
        entry["weight"] = weight
    (three / "index.json").write_text(json.dumps(index))
    stream = ShardStream([(three, 3.0), (folders[0], 1.0)], FRAMING, batch_size=1)
    assert stream.order.copies.tolist() == [3, 6, 9, 1]


@pytest.mark.parametrize(
    ("sources", "said"), [([], "none are named"), ([("x", 0.0)], "weight 0.0"), ([("x", np.inf)], "weight inf")]
)
def test_shard_sets_that_cannot_be(sources, said) -> None:
    with pytest.raises(UserError, match=said):
        ShardStream(sources, FRAMING, batch_size=1)


def test_a_group_below_zero_is_refused(three) -> None:
    with pytest.raises(UserError, match="shuffle_shards -1: expected 0"):
        stream_of(three, batch_size=2, shuffle_shards=-1)


def test_seeds_are_drawn_for_the_sample_not_for_its_place(folders) -> None:
    """Of any group size the same things are drawn for a sample in an epoch."""
    num = sum(LAYOUTS[3])
    drawn = [dict(row[:2] for row in expected(folders[3], 1, group, 108)[:num]) for group in (0, 1, 3)]
    assert drawn[0] == drawn[1] == drawn[2]


def test_batches_may_go_straight_to_a_device(folders) -> None:
    batch = next(stream_of(folders[1], batch_size=2).batches(device=torch.device("meta")))
    assert {batch.target.device.type, batch.regions.device.type} == {"meta"}
    assert batch.regions.shape == (2, 2, 16, 16)
    assert batch.regions.dtype == torch.bool
