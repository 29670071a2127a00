"""The distributions on the page of `inspect`: objects, relations, origins."""

from typing import Any

import numpy as np

from pics_common.charts import bars, histogram
from pics_common.page import Html, Section, section, share, tag
from pics_data.inspect_read import Survey


def _known(columns: dict[str, Any], name: str) -> Any:
    values = np.asarray(columns[name])
    return values[np.isfinite(values)]


def objects_section(survey: Survey) -> Section:
    area, parts = _known(survey.objects, "area"), _known(survey.objects, "parts")
    border, hidden, edge = (_known(survey.objects, name) for name in ("border", "hidden", "edge"))
    charts = [
        histogram(100 * area[area > 0], title="Area", unit="% of the photo", noun="objects", log=True,
                  remark=_zero_remark(area, "empty silhouettes are left out")),
        histogram(parts, title="Parts of a silhouette", unit="parts", noun="objects", whole=True, limits=(1, 12)),
    ]  # fmt: skip
    if edge.size:
        charts.append(histogram(edge, title="Sharpness along the outline", unit="mean gradient", noun="objects"))
    if border.size:
        cut = border[border > 0]
        remark = f"{share(border.size - cut.size, border.size)} do not touch it and are not drawn."
        charts.append(histogram(100 * cut, title="Cut off by the photo's border", unit="% of the outline",
                                noun="objects", limits=(0, 100), bins=20, remark=remark))  # fmt: skip
    if hidden.size:
        some = hidden[hidden > 0]
        remark = f"{share(hidden.size - some.size, hidden.size)} are fully in view and not drawn."
        charts.append(histogram(100 * some, title="Hidden by others", unit="% of the whole object", noun="objects",
                                limits=(0, 100), bins=20, remark=remark))  # fmt: skip
    charts.append(_top(survey, "category", "Categories", "objects"))
    return section("Objects", tag("div", *charts, class_="charts"))


def _zero_remark(values: Any, words: str) -> str:
    zeros = int(np.count_nonzero(values == 0))
    return f"{zeros:,} {words}." if zeros else ""


def _top(survey: Survey, name: str, title: str, noun: str, top: int = 20) -> Html:
    counts = survey.counts[name]
    rows: list[tuple[object, float]] = [(key or "not said", count) for key, count in counts.most_common(top)]
    if len(counts) > top:
        title = f"{title}: the {top} most frequent of {len(counts):,}"
    return bars(rows, title=title, noun=noun, total=counts.total())


def relations_section(survey: Survey) -> Section:
    iou, gap, contact = (_known(survey.samples, name) for name in ("box_iou", "gap_px", "contact_px"))
    charts = [histogram(iou, title="Overlap of the boxes", unit="IoU", noun="samples")]
    if gap.size:
        apart = gap[gap > 0]
        remark = f"{share(gap.size - apart.size, gap.size)} touch and are not drawn."
        limits = (0.0, float(np.quantile(apart, 0.98))) if apart.size else None
        charts.append(histogram(apart, title="Gap between the silhouettes", unit="px", noun="samples", limits=limits,
                                remark=remark))  # fmt: skip
    if contact.size:
        charts.append(histogram(contact[contact > 0], title="Contact or overlap of the silhouettes", unit="px",
                                noun="samples", log=True,
                                remark=_zero_remark(contact, "without contact are not drawn")))  # fmt: skip
    if survey.counts["relation"]:
        charts.append(_top(survey, "relation", "How the scenes were built", "samples"))
    front = _known(survey.samples, "front")
    if front.size:
        rows: list[tuple[object, float]] = [
            (f"object {int(value) + 1}", int(count))
            for value, count in zip(*np.unique(front, return_counts=True), strict=True)
        ]
        rows.append(("unknown, or both", len(survey.samples["front"]) - front.size))
        charts.append(bars(rows, title="Who is in front", noun="samples", total=len(survey.samples["front"])))
    charts.append(_top(survey, "pair", "What meets what", "samples", top=12))
    return section("Relations", tag("div", *charts, class_="charts"))


def origins_section(survey: Survey) -> Section:
    splits: dict[str, int] = {}
    for shard in survey.shards:
        splits[shard.split or "not said"] = splits.get(shard.split or "not said", 0) + shard.num_samples
    sizes, counts = np.unique(np.asarray(survey.samples["num_objects"]), return_counts=True)
    many: list[tuple[object, float]] = [(f"{int(k)} objects", int(n)) for k, n in zip(sizes, counts, strict=True)]
    charts = [
        bars(splits.items(), title="Splits", noun="samples", total=len(survey.keys)),
        _top(survey, "source", "Sources", "samples"),
        bars(many, title="Objects in a sample", noun="samples", total=int(counts.sum())),
        _top(survey, "license", "Licences of the photos", "samples", top=10),
    ]
    return section("Where it comes from", tag("div", *charts, class_="charts"))
