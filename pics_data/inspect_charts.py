"""The distributions on the page of `inspect`: objects, relations, photos, sources."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from pics_common.charts import bars, histogram
from pics_common.page import Html, Section, number, section, share, table, tag
from pics_data.inspect_pictures import licence_in_short
from pics_data.inspect_read import Found
from pics_data.inspect_survey import Survey


def objects_section(survey: Survey) -> Section:
    area, parts, edge = (survey.values(name) for name in ("area", "parts", "edge"))
    border, hidden = survey.values("border"), survey.values("hidden")
    charts = [
        _top(survey.counted("category"), "Categories", "objects"),
        histogram(100 * area[area > 0], title="Area", unit="% of the photo", noun="objects", log=True,
                  remark=_remark(survey, "area", area <= 0, "are empty and not drawn")),
        histogram(parts, title="Parts of a silhouette", unit="parts", noun="objects", whole=True, limits=(1, 12)),
        histogram(edge, title="Sharpness along the outline", unit="mean gradient", noun="objects"),
        histogram(100 * border[border > 0], title="Cut off by the photo's border", unit="% of the outline",
                  noun="objects", limits=(0, 100), bins=20,
                  remark=_remark(survey, "border", border <= 0, "do not touch it and are not drawn")),
    ]  # fmt: skip
    if hidden.size:
        remark = _remark(survey, "hidden", hidden <= 0, "are fully in view and not drawn")
        charts.append(histogram(100 * hidden[hidden > 0], title="Hidden by others", unit="% of the whole object",
                                noun="objects", limits=(0, 100), bins=20, remark=remark))  # fmt: skip
    return section("Objects", tag("div", *charts, class_="charts"))


def relations_section(survey: Survey) -> Section | None:
    iou, gap, contact, overlap = (survey.values(name) for name in ("box_iou", "widest_gap", "contact_px", "overlap_px"))
    if not iou.size:
        return None
    apart = gap[gap > 0]
    charts = [
        _top(survey.counted("pair"), "What meets what", "pairs"),
        histogram(iou, title="Overlap of the boxes", unit="IoU", noun="pairs"),
        histogram(contact[contact > 0], title="Contact of the silhouettes", unit="px", noun="pairs", log=True,
                  remark=_remark(survey, "contact_px", contact <= 0, "do not touch and are not drawn")),
        histogram(overlap[overlap > 0], title="Overlap of the silhouettes", unit="px", noun="pairs", log=True,
                  remark=_remark(survey, "overlap_px", overlap <= 0, "do not overlap and are not drawn")),
        histogram(apart, title="Gap between the objects", unit="px", noun="samples",
                  limits=(0.0, float(np.quantile(apart, 0.98))) if apart.size else None,
                  remark=_remark(survey, "widest_gap", gap <= 0, "are without a gap and not drawn")),
    ]  # fmt: skip
    if labels := Counter({name: n for name, n in survey.counted("label").items() if name}):
        charts.append(_top(labels, "How the scenes were built", "pairs"))
    if front := survey.columns["front"].total:
        whole = survey.columns["box_iou"].total
        rows: list[tuple[object, float]] = [("known", front), ("unknown, or both", whole - front)]
        charts.append(bars(rows, title="Who is in front", noun="pairs", total=whole))
    return section("Relations", tag("div", *charts, class_="charts"))


def photos_section(found: Found) -> Section:
    survey = found.survey
    sides, num_bytes, num_objects = (survey.values(name) for name in ("longer_side", "num_bytes", "num_objects"))
    shrunk = bool((survey.values("photo_longer_side") > sides).any()) if sides.size else False
    sizes, counts = np.unique(num_objects, return_counts=True)
    many: list[tuple[object, float]] = [(f"{int(k)} objects", int(n)) for k, n in zip(sizes, counts, strict=True)]
    splits = sum(survey.splits.values(), Counter())
    rows: list[tuple[object, float]] = [(split or "not said", count) for split, count in sorted(splits.items())]
    charts = [
        bars(rows, title="Splits", noun="samples", total=splits.total()),
        bars(many, title="Objects in a sample", noun="samples", total=int(counts.sum())),
        histogram(sides, title="Longer side of the stored photo", unit="px", noun="samples",
                  remark="Photos were made smaller with --size." if shrunk else ""),
        histogram(num_bytes / 1000, title="Bytes a sample", unit="kB", noun="samples"),
    ]  # fmt: skip
    if survey.counted("license"):
        licences: Counter[str] = Counter()
        for text, count in survey.counted("license").items():
            licences[licence_in_short(text)] += count
        charts.insert(2, _top(licences, "Licences of the photos", "samples", top=10))
    return section("Photos", _sources(found), tag("div", *charts, class_="charts"))


def _sources(found: Found) -> Html:
    """Where samples come from, and how much of what training sees each source makes up."""
    splits = found.survey.splits
    if set(splits) <= {""}:
        return Html()
    weights = found.weights()
    seen = {source: counts["train"] * weights.get(source, 1.0) for source, counts in splits.items()}
    whole = sum(seen.values())
    rows = [
        (tag("b", source or "not said"), counts["train"], counts["val"], number(weights.get(source, 1.0)),
         share(seen[source], whole))
        for source, counts in sorted(splits.items(), key=lambda item: -seen[item[0]])
    ]  # fmt: skip
    header = ("source", "train samples", "val samples", "weight", "share of what training sees")
    return table(rows, header, numbers=(1, 2, 3, 4))


def _remark(survey: Survey, column: str, zero: NDArray[np.bool_], words: str) -> str:
    """Says how many are left out of a chart, and where it shows a part of the values only, how many it shows."""
    zeros = int(np.count_nonzero(zero))
    parts = [f"{share(zeros, zero.size)} {words}."] if zeros else []
    if (thinned := survey.columns.get(column)) and thinned.total > zero.size:
        parts.append(f"Drawn from {zero.size:,} of {thinned.total:,}.")
    return " ".join(parts)


def _top(counts: Counter[str], title: str, noun: str, top: int = 12) -> Html:
    rows: list[tuple[object, float]] = [(key or "not said", count) for key, count in counts.most_common(top)]
    if len(counts) > len(rows):
        part = share(sum(count for _, count in rows), counts.total())
        title = f"{title}: the {top} most frequent of {len(counts):,}, {part} of the {noun}"
    return bars(rows, title=title, noun=noun, total=counts.total())
