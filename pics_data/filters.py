"""What filters drop a sample: rules on what was measured of it, the same while building and on shards afterwards.

The rules are `max_gap`, `max_parts`, `max_holes`, `max_border` and `min_edge` of `BuildConfig`; by default all is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import pyarrow as pa

from pics_data.config import BuildConfig
from pics_data.records import RejectError

# What filters read of the table of samples.
COLUMNS = ("categories", "parts", "holes", "borders", "edges", "pairs", "gap_px")

Gap = tuple[int, int, float]  # of objects i and j, in pixels


class FilteredError(RejectError):
    """Raised for a sample that could be made and is not wanted."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Which rule a sample breaks, as a countable reason, and where."""

    reason: str
    detail: str


def why_dropped(meta: Mapping[str, Any], config: BuildConfig) -> Drop | None:
    """Why `config` drops the sample of this `meta.json`; None where it is kept."""
    facts = {name: [item[name] for item in meta["objects"]] for name in ("parts", "holes", "border", "edge")}
    gaps = [(*relation["objects"], relation["gap_px"]) for relation in meta["relations"]]
    return _broken_rule([item["category"] for item in meta["objects"]], facts, gaps, config)


def why_row_dropped(row: Mapping[str, Any], config: BuildConfig) -> Drop | None:
    """As `why_dropped`, for a row of the table of samples that has at least `COLUMNS`."""
    facts = {"parts": row["parts"], "holes": row["holes"], "border": row["borders"], "edge": row["edges"]}
    gaps = [(i, j, gap) for (i, j), gap in zip(row["pairs"], row["gap_px"], strict=True)]
    return _broken_rule(row["categories"], facts, gaps, config)


def kept(table: pa.Table, config: BuildConfig) -> pa.Table:
    """The rows of a table of samples, with at least `COLUMNS`, that the filters of `config` keep."""
    rows = table.select(COLUMNS).to_pylist()
    return table.filter(pa.array([why_row_dropped(row, config) is None for row in rows], pa.bool_()))


def _broken_rule(
    categories: Sequence[str], facts: Mapping[str, Sequence[float]], gaps: Sequence[Gap], config: BuildConfig
) -> Drop | None:
    """The first rule that a sample breaks; `facts` holds a value for each object."""
    highest = {
        "parts": config.max_parts or inf,
        "holes": inf if config.max_holes < 0 else config.max_holes,
        "border": config.max_border,
    }
    for i, category in enumerate(categories):
        for fact, limit in highest.items():
            if facts[fact][i] > limit:
                return _drop(f"object {i} ({category}): {fact} {facts[fact][i]}", f"above --max-{fact}", limit)
        if facts["edge"][i] < config.min_edge:
            return _drop(f"object {i} ({category}): edge {facts['edge'][i]}", "below --min-edge", config.min_edge)
    if config.max_gap >= 0 and (gap := widest_gap(len(categories), gaps)) > config.max_gap:
        return _drop(f"objects {gap} px apart", "above --max-gap", config.max_gap)
    return None


def _drop(what: str, rule: str, limit: float) -> Drop:
    return Drop(rule, f"{what} {rule} {limit:g}")


def widest_gap(num_objects: int, gaps: Sequence[Gap]) -> float:
    """The widest gap on the way from each object to all others, by the way whose widest gap is least; 0 for one object.

    `gaps` are those of all pairs. For two objects it is their gap; for a chain, the widest one between neighbours,
    however far apart its ends are.
    """
    group = list(range(num_objects))
    widest = 0.0
    for i, j, gap in sorted(gaps, key=lambda entry: entry[2]):
        if group[i] != group[j]:
            group = [group[i] if each == group[j] else each for each in group]
            widest = gap
    return widest
