"""A number with its interval, or the reason why there is none; rows of samples -> means."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pics_model.metrics.bootstrap import LEAST, mean_interval, paired_interval

# Every metric, in the order of a report's columns, and which way is better.
BETTER = {
    "psnr": "higher",
    "ssim": "higher",
    "lpips": "lower",
    "mpsnr": "higher",
    "mssim": "higher",
    "mlpips": "lower",
    "clip": "higher",
    "clip_text": "higher",
    "dinov2": "higher",
    "dreamsim": "lower",
    "fid": "lower",
}
OF_SETS = ("fid",)
OF_SAMPLES = tuple(name for name in BETTER if name not in OF_SETS)


@dataclass(frozen=True, slots=True)
class Score:
    """One number of a report.

    `value` is None where it cannot be told. `why` then says the reason; beside a value it says what was left out.
    `interval` is the value's 95 % bootstrap interval, and `count` the number of samples that the value is of.
    """

    name: str
    value: float | None
    why: str = ""
    interval: tuple[float, float] | None = None
    count: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A sample's numbers by metric; where one is None, `why` has the reason under the same name.

    Values are finite, so that a row can be written as JSON: the infinite PSNR of identical pictures is a None as well.
    """

    key: str
    values: Mapping[str, float | None]
    why: Mapping[str, str] = field(default_factory=dict)


def mean(rows: Iterable[Row], name: str, seed: int = 0) -> Score:
    """The mean of a metric over the rows that have it. What was left out, and why, stands in the score's `why`."""
    kept: list[float] = []
    reasons: Counter[str] = Counter()
    for row in rows:
        value = row.values.get(name)
        if value is None:
            reasons[row.why.get(name, "not measured")] += 1
        else:
            assert math.isfinite(value), f"{row.key}: {name} is {value}"
            kept.append(value)
    return _mean(name, np.array(kept), reasons, mean_interval(np.array(kept), seed))


def means(rows: Sequence[Row], names: Sequence[str] = OF_SAMPLES, seed: int = 0) -> list[Score]:
    """The mean of each metric."""
    return [mean(rows, name, seed) for name in names]


def ranked(rows: Iterable[Row], name: str) -> list[Row]:
    """The rows that have the metric, best first; equals stay in their order."""
    having = [(value, row) for row in rows if (value := row.values.get(name)) is not None]
    return [row for _, row in sorted(having, key=lambda pair: pair[0], reverse=BETTER[name] == "higher")]


def mean_difference(rows: Iterable[Row], others: Iterable[Row], name: str, seed: int = 0) -> Score:
    """The mean of (rows - others) over the samples that both have, matched by key, with its paired interval.

    Pairing takes out how hard a sample is, so that small differences show with few samples. Raises `ValueError` if
    a key is there twice.
    """
    left, right = _by_key(rows), _by_key(others)
    first: list[float] = []
    second: list[float] = []
    reasons: Counter[str] = Counter()
    for key in dict.fromkeys([*left, *right]):
        if key not in left or key not in right:
            reasons["only one of the two has the sample"] += 1
            continue
        a, b = left[key].values.get(name), right[key].values.get(name)
        if a is None or b is None:
            lacking = left[key] if a is None else right[key]
            reasons[lacking.why.get(name, "not measured")] += 1
        else:
            first.append(a)
            second.append(b)
    a_values, b_values = np.array(first), np.array(second)
    return _mean(name, a_values - b_values, reasons, paired_interval(a_values, b_values, seed))


def _mean(name: str, kept: np.ndarray, reasons: Mapping[str, int], interval: tuple[float, float] | None) -> Score:
    total = len(kept) + sum(reasons.values())
    if not total:
        return Score(name, None, "no samples")
    notes = [f"{count} of {total} left out: {reason}" for reason, count in reasons.items()]
    if not len(kept):
        return Score(name, None, "; ".join(notes if len(reasons) > 1 else reasons))
    if interval is None:
        notes.append(f"no interval: {len(kept)} samples, at least {LEAST} needed")
    return Score(name, float(kept.mean()), "; ".join(notes), interval, len(kept))


def _by_key(rows: Iterable[Row]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for row in rows:
        if row.key in found:
            raise ValueError(f"sample {row.key} is there twice; expected each key once")
        found[row.key] = row
    return found
