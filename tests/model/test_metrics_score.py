"""Bootstrap intervals by simulation, and means of rows that lack some numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from pics_model.metrics import bootstrap
from pics_model.metrics.bootstrap import LEAST, mean_interval, paired_interval
from pics_model.metrics.score import BETTER, OF_SAMPLES, Row, mean, mean_difference, means, ranked

RUNS = 1000


def coverage(draw, truth: float, n: int) -> float:
    random = np.random.default_rng(7)
    hits = 0
    for seed in range(RUNS):
        low, high = mean_interval(draw(random, n), seed, resamples=1000)
        hits += low <= truth <= high
    return hits / RUNS


@pytest.mark.parametrize("n", [LEAST, 12, 60])
def test_the_interval_holds_the_mean_of_normal_values_95_times_in_100(n) -> None:
    found = coverage(lambda random, n: random.normal(3, 2, n), 3.0, n)
    assert abs(found - 0.95) < 0.021  # three standard errors


def test_the_interval_of_skewed_values_holds_too() -> None:
    assert coverage(lambda random, n: random.exponential(1, n), 1.0, 60) > 0.92


def test_the_interval_of_normal_values_is_students() -> None:
    values = np.random.default_rng(0).normal(0, 1, 40)
    values = (values - values.mean()) / values.std(ddof=1)
    low, high = mean_interval(values, resamples=40_000)
    half = student.ppf(0.975, 39) / np.sqrt(40)
    assert low == pytest.approx(-half, rel=0.05)
    assert high == pytest.approx(half, rel=0.05)


@pytest.mark.parametrize("freedom", [9, 14, 30, 1000])
def test_students_quantile_is_scipys(freedom) -> None:
    assert bootstrap._student_quantile(0.975, freedom) == pytest.approx(student.ppf(0.975, freedom), abs=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=LEAST, max_size=40), st.integers(0, 2**32), st.floats(-50, 50))
def test_intervals_hold_the_mean_and_move_with_the_values(values, seed, shift) -> None:
    array = np.array(values)
    low, high = mean_interval(array, seed, resamples=200)
    assert array.min() - 1e-9 <= low <= high <= array.max() + 1e-9
    moved = mean_interval(array + shift, seed, resamples=200)
    np.testing.assert_allclose(moved, [low + shift, high + shift], atol=1e-9)


def test_an_interval_is_of_its_seed_alone_and_not_of_the_blocks(monkeypatch) -> None:
    values = np.random.default_rng(0).normal(size=33)
    expected = mean_interval(values, 5)
    assert mean_interval(values, 6) != expected
    monkeypatch.setattr(bootstrap, "BLOCK", 33 * 7)
    assert mean_interval(values, 5) == expected


def test_a_paired_interval_sees_what_pairs_have_in_common() -> None:
    random = np.random.default_rng(1)
    hardness = random.normal(0, 10, 50)
    a, b = hardness + 1 + random.normal(0, 0.1, 50), hardness
    low, high = paired_interval(a, b)
    assert 0.9 < low < high < 1.1
    left, right = mean_interval(a), mean_interval(b)
    assert left[0] < right[1], "unpaired, the two cannot be told apart"


def rows_of(values: list[float | None], why: str = "the region is empty") -> list[Row]:
    return [Row(f"k{i}", {"mpsnr": v}, {} if v is not None else {"mpsnr": why}) for i, v in enumerate(values)]


def test_what_a_mean_leaves_out_is_counted_with_its_reason() -> None:
    score = mean(rows_of([*range(10), None, None]), "mpsnr")
    assert (score.value, score.count) == (4.5, 10)
    assert score.why == "2 of 12 left out: the region is empty"
    assert score.interval is not None
    assert score.interval[0] < 4.5 < score.interval[1]


def test_a_mean_of_nothing_is_none_with_the_reason() -> None:
    assert mean(rows_of([None, None]), "mpsnr").why == "the region is empty"
    assert mean([], "mpsnr").why == "no samples"
    assert mean(rows_of([1.0]), "ssim").why == "not measured"
    assert mean(rows_of([None]), "mpsnr").value is None


def test_few_samples_have_a_mean_but_no_interval() -> None:
    score = mean(rows_of([1.0, 2.0, 3.0]), "mpsnr")
    assert (score.value, score.interval) == (2.0, None)
    assert score.why == f"no interval: 3 samples, at least {LEAST} needed"


def test_an_infinite_value_is_never_averaged() -> None:
    with pytest.raises(AssertionError, match="inf"):
        mean(rows_of([1.0, float("inf")]), "mpsnr")


def test_differences_pair_by_key_and_tell_what_has_no_partner() -> None:
    ours, theirs = rows_of([float(i) for i in range(14)]), rows_of([float(i) - 2 for i in range(12)])
    theirs[3] = Row("k3", {"mpsnr": None}, {"mpsnr": "the region is empty"})
    score = mean_difference(ours, theirs[::-1], "mpsnr")
    assert (score.value, score.interval, score.count) == (2.0, (2.0, 2.0), 11)
    assert "2 of 14 left out: only one of the two has the sample" in score.why
    assert "1 of 14 left out: the region is empty" in score.why


def test_rows_rank_from_the_best_by_which_way_is_better() -> None:
    rows = rows_of([2.0, None, 3.0, 1.0])
    assert [row.key for row in ranked(rows, "mpsnr")] == ["k2", "k0", "k3"]
    lower = [Row(row.key, {"lpips": row.values["mpsnr"]}) for row in rows]
    assert [row.key for row in ranked(lower, "lpips")] == ["k3", "k0", "k2"]


def test_a_key_that_is_there_twice_is_refused() -> None:
    twice = rows_of([1.0]) * 2
    with pytest.raises(ValueError, match="k0 is there twice"):
        mean_difference(twice, twice, "mpsnr")


def test_means_come_in_the_order_of_a_report() -> None:
    assert [score.name for score in means(rows_of([1.0]))] == list(OF_SAMPLES)
    assert set(BETTER.values()) == {"higher", "lower"}
