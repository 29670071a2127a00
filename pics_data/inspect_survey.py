"""What `inspect` knows of all samples, gathered table by table: counts, distributions and extremes, in memory that
does not grow with their number.

Up to `MOST_VALUES` values of a column are kept as they are; of more, every second, fourth, ... is. Counts are of all.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pics_data.filters import widest_gap
from pics_data.inspect_rules import RULES, Rule

COLUMNS = (
    "key", "split", "source", "photo_id", "license", "photo_width", "photo_height", "width", "height", "num_objects",
    "categories", "areas", "parts", "holes", "borders", "edges", "hidden",
    "pairs", "box_iou", "gap_px", "contact_px", "overlap_px", "front", "labels", "num_bytes",
)  # fmt: skip
OF_OBJECTS = {"area": "areas", "parts": "parts", "holes": "holes", "border": "borders", "edge": "edges",
              "hidden": "hidden"}  # fmt: skip
OF_PAIRS = ("box_iou", "gap_px", "contact_px", "overlap_px", "front")
MOST_VALUES = 1_000_000  # kept of a column
MOST_NAMES = 200_000  # counted apart, of one kind
NUM_WORST = 4  # samples shown for each rule
NUM_EXAMPLES = 3

Values = NDArray[np.float64]


class Thinned:
    """The numbers of one column: all of them, or of too many every 2nd, 4th, 8th, ... NaN ("not known") is left out."""

    def __init__(self, most: int = MOST_VALUES) -> None:
        self.total = 0
        self._most, self._stride, self._kept = most, 1, 0
        self._parts: list[Values] = []

    def add(self, values: Values) -> None:
        values = values[np.isfinite(values)]
        kept = values[-self.total % self._stride :: self._stride]
        self.total += values.size
        self._parts.append(kept)
        self._kept += kept.size
        while self._kept > self._most:
            self._parts = [self.values()[::2]]
            self._stride, self._kept = 2 * self._stride, self._parts[0].size

    def values(self) -> Values:
        return np.concatenate([np.empty(0), *self._parts])


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample stands: `num_bytes` from `start` on in the tar at `url`."""

    url: str
    key: str
    start: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Worst:
    """A sample at the bad end of a rule."""

    value: float
    photo: str
    place: Place


@dataclass(slots=True)
class Flag:
    """How many samples break a rule, of how many that it can be told of; and the first few."""

    samples: int = 0
    whole: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Survey:
    """All that the page says in numbers. What no table has said is not in `columns` and `counts`."""

    num_samples: int = 0  # that the tables speak of
    num_flagged: int = 0
    num_photos: int = 0
    num_bytes: int = 0
    columns: dict[str, Thinned] = field(default_factory=dict)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    splits: dict[str, Counter[str]] = field(default_factory=dict)  # source -> samples by split
    flags: dict[str, Flag] = field(default_factory=dict)  # by the rule's name
    worst: dict[str, list[Worst]] = field(default_factory=dict)
    chosen: list[Place] = field(default_factory=list)

    def values(self, column: str) -> Values:
        return self.columns[column].values() if column in self.columns else np.empty(0)

    def counted(self, kind: str) -> Counter[str]:
        return self.counts.get(kind, Counter())


def add_table(survey: Survey, table: pa.Table, url: str, starts: NDArray[np.int64], picks: list[int]) -> None:
    """Adds the samples of one tar, which lies at `url`: a table with at least `COLUMNS`.

    `starts` says where each sample begins; the samples in the rows `picks` are to be shown.
    """
    rows = table.num_rows
    if not rows:
        return
    sizes = _numbers(table["num_bytes"])
    num_objects = _numbers(table["num_objects"]).astype(np.int64)
    owner = np.repeat(np.arange(rows), num_objects)
    objects = {name: _numbers(_flat(table[column])) for name, column in OF_OBJECTS.items()}
    pairs = {name: _numbers(_flat(table[name])) for name in OF_PAIRS}
    samples = {
        "widest_gap": _widest_gaps(table, num_objects, pairs["gap_px"]),
        "num_bytes": sizes,
        "longer_side": np.maximum(_numbers(table["width"]), _numbers(table["height"])),
        "photo_longer_side": np.maximum(_numbers(table["photo_width"]), _numbers(table["photo_height"])),
        "num_objects": num_objects.astype(np.float64),
    }
    survey.num_samples += rows
    survey.num_bytes += int(sizes.sum())
    # Samples of one photo stand in one shard.
    survey.num_photos += len(pc.unique(pc.binary_join_element_wise(table["source"], table["photo_id"], "/")))
    for name, values in (objects | pairs | samples).items():
        survey.columns.setdefault(name, Thinned()).add(values)
    _count_names(survey, table, num_objects)

    def place(row: int) -> Place:
        return Place(url, table["key"][row].as_py(), int(starts[row]), int(sizes[row]))

    flagged = np.zeros(rows, bool)
    for rule in RULES:
        values = objects[rule.column] if rule.of == "objects" else samples[rule.column]
        at = owner if rule.of == "objects" else np.arange(rows)
        known = np.isfinite(values)
        _apply_rule(survey, rule, values[known], at[known], flagged, table, place)
    survey.num_flagged += int(np.count_nonzero(flagged))
    survey.chosen += [place(row) for row in picks]


def _apply_rule(
    survey: Survey, rule: Rule, values: Values, at: NDArray[np.int64], flagged: NDArray[np.bool_], table: pa.Table,
    place: Any,
) -> None:  # fmt: skip
    """Counts the samples that break a rule, and keeps the worst: `values` belong to the samples in the rows `at`."""
    if not values.size:
        return
    flag = survey.flags.setdefault(rule.name, Flag())
    beyond = np.unique(at[values < rule.limit if rule.low else values > rule.limit])
    flagged[beyond] = True
    flag.samples += beyond.size
    flag.whole += np.unique(at).size
    for row in beyond[: NUM_EXAMPLES - len(flag.examples)]:
        flag.examples.append(table["key"][int(row)].as_py())

    bad = values if not rule.low else -values
    worst = survey.worst.setdefault(rule.name, [])
    least = -rule.harmless if rule.low else rule.harmless
    if len(worst) == NUM_WORST:
        least = max(least, -worst[-1].value if rule.low else worst[-1].value)
    candidates = np.flatnonzero(bad > least)
    candidates = candidates[np.argsort(-bad[candidates], kind="stable")]
    found = {entry.photo: entry for entry in worst}
    added = 0
    for i in candidates:
        row = int(at[i])
        photo = f"{table['source'][row].as_py()}/{table['photo_id'][row].as_py()}"
        if photo not in found or bad[i] > (-found[photo].value if rule.low else found[photo].value):
            found[photo] = Worst(float(values[i]), photo, place(row))
            added += 1
        if added == NUM_WORST:
            break
    ordered = sorted(found.values(), key=lambda entry: entry.value if rule.low else -entry.value)
    survey.worst[rule.name] = ordered[:NUM_WORST]


def _count_names(survey: Survey, table: pa.Table, num_objects: NDArray[np.int64]) -> None:
    for kind, column in (("license", table["license"]), ("category", _flat(table["categories"])),
                         ("label", _flat(table["labels"]))):  # fmt: skip
        _add_counts(survey, kind, _value_counts(column))
    _add_counts(survey, "pair", _pair_names(table, num_objects))
    for source in pc.unique(table["source"]).to_pylist():
        splits = table.filter(pc.equal(table["source"], source))["split"]
        survey.splits.setdefault(source, Counter()).update(dict(_value_counts(splits)))


def _add_counts(survey: Survey, kind: str, counts: Iterator[tuple[str, int]]) -> None:
    counter = survey.counts.setdefault(kind, Counter())
    counter.update(dict(counts))
    if len(counter) > MOST_NAMES:  # the rare ones of so many are not what the page is about
        survey.counts[kind] = Counter(dict(counter.most_common(MOST_NAMES // 2)))


def _value_counts(column: pa.ChunkedArray) -> Iterator[tuple[str, int]]:
    counted = pc.value_counts(column)
    for name, number in zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True):
        if name is not None:
            yield name, number


def _pair_names(table: pa.Table, num_objects: NDArray[np.int64]) -> Iterator[tuple[str, int]]:
    """Two categories, sorted, for each pair of objects in a sample, and how often they occur."""
    pairs = np.asarray(_flat(_flat(table["pairs"]))).reshape(-1, 2)
    if not pairs.size:
        return
    encoded = pc.dictionary_encode(_flat(table["categories"]))
    if encoded.null_count:
        return  # nothing says what these objects are
    names = np.array(encoded.dictionary.to_pylist(), dtype=object)
    rank = np.argsort(np.argsort(names))
    ranks = rank[np.asarray(encoded.indices)]
    first_object = np.cumsum(num_objects) - num_objects
    of_pair = np.repeat(first_object, num_objects * (num_objects - 1) // 2)
    both = np.sort(ranks[of_pair[:, None] + pairs], axis=1)
    codes, counts = np.unique(both[:, 0] * len(names) + both[:, 1], return_counts=True)
    ordered = np.sort(names)
    for code, number in zip(codes.tolist(), counts.tolist(), strict=True):
        yield f"{ordered[code // len(names)]} + {ordered[code % len(names)]}", number


def _widest_gaps(table: pa.Table, num_objects: NDArray[np.int64], gaps: Values) -> Values:
    """The widest gap of each sample, as `--max-gap` takes it; NaN for a single object."""
    found = np.full(table.num_rows, np.nan)
    num_pairs = num_objects * (num_objects - 1) // 2
    first_pair = np.cumsum(num_pairs) - num_pairs
    two = num_objects == 2
    found[two] = gaps[first_pair[two]]
    pairs = np.asarray(_flat(_flat(table["pairs"]))).reshape(-1, 2)
    for row in np.flatnonzero(num_objects > 2):
        here = slice(first_pair[row], first_pair[row] + num_pairs[row])
        if np.isfinite(gaps[here]).all():
            of_pairs = zip(pairs[here].tolist(), gaps[here].tolist(), strict=True)
            found[row] = widest_gap(int(num_objects[row]), [(i, j, gap) for (i, j), gap in of_pairs])
    return found


def _flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The values of a column of lists, one behind the other."""
    return _one_array(column).flatten()


def _numbers(column: pa.ChunkedArray | pa.Array) -> Values:
    """A column as floats; NaN for null."""
    return np.asarray(_one_array(column).cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column


def totals(splits: Mapping[str, Counter[str]]) -> Counter[str]:
    """Samples of each source."""
    return Counter({source: counts.total() for source, counts in splits.items()})
