"""`pics-data inspect`: one page that answers at a glance whether a folder of shards is good data to train on."""

from pathlib import Path
from typing import Any

import numpy as np

from pics_common.errors import UserError
from pics_common.page import (
    Html,
    Section,
    bytes_text,
    facts,
    join,
    note,
    page,
    section,
    share,
    table,
    tag,
    write_page,
)
from pics_data.inspect_charts import objects_section, origins_section, relations_section
from pics_data.inspect_measure import measure_bare, quality_flags, spread
from pics_data.inspect_pictures import STYLE, BrokenSampleError, View, broken_card, decode_view, sample_card
from pics_data.inspect_read import Survey, read_members, survey_folder
from pics_data.ledger import read_rows

NUM_WORST = 4  # samples shown for each thing worth a look
NUM_SHARDS = 40  # rows of the table of shards


def inspect_shards(folder: Path, out: Path, max_samples: int = 24) -> Path:
    """Writes the page about the shards in `folder` to `out`, a .html file or a folder for an index.html; returns where.

    All samples' metadata is read; pictures only of `max_samples` spread evenly over the set and of the extremes.
    Samples without metadata (the published shards) are measured from the masks of a part of them.
    Raises `UserError` for a missing folder, one without tars, a damaged tar and an unreadable rejects.parquet.
    """
    survey = survey_folder(folder)
    if not survey.keys:
        raise UserError(f"shards {folder}: its tars hold no sample; expected a folder that `pics-data build` wrote")
    measured = measure_bare(survey)
    rejects = _read_rejects(folder)
    sections = [
        _glance(survey, rejects, measured),
        _samples(survey, max_samples),
        _extremes(survey),
        objects_section(survey),
        relations_section(survey),
        origins_section(survey),
        _left_out(survey, rejects),
        _shards(survey),
    ]
    lead = (
        f"What is in the training shards of {folder}: pictures taken apart into a photo, the objects in it, and their "
        "silhouettes. Look whether the coloured outlines follow the objects, whether the objects really touch or hide "
        "each other, and whether the flags below are few."
    )
    html = page(f"Shards: {folder.resolve().name}", lead, [part for part in sections if part], extra_css=STYLE)
    return write_page(out if out.suffix == ".html" else out / "index.html", html)


def _read_rejects(folder: Path) -> list[dict[str, str]] | None:
    """Rows of rejects.parquet, or None where there is none."""
    path = folder / "rejects.parquet"
    return read_rows(path, ["key", "stage", "reason", "detail"]) if path.is_file() else None


def _glance(survey: Survey, rejects: list[dict[str, str]] | None, measured: int) -> Section:
    total = len(survey.keys)
    flags = quality_flags(survey)
    looked = len(np.unique(np.asarray(survey.samples["index"])))
    flagged = len(np.unique(np.concatenate([flag.samples for flag in flags]))) if flags else 0
    sentences = []
    if looked:
        sentences.append(f"{share(looked - flagged, looked)} of the samples bear none of the flags below.")
        worst = max(flags, key=lambda flag: len(flag.samples))
        if len(worst.samples):
            sentences.append(f"The commonest is “{worst.name}”, {share(len(worst.samples), worst.whole)}.")
    if rejects is not None:
        sentences.append(
            f"{len(rejects):,} of {total + len(rejects):,} were left out when building "
            f"({share(len(rejects), total + len(rejects))})." if rejects else "Nothing was left out when building."
        )  # fmt: skip
    if survey.num_without_meta:
        sentences.append(
            f"{survey.num_without_meta:,} of {total:,} samples carry no meta.json; {measured:,} of them, spread "
            "evenly, were measured from their masks, and the numbers below stand for these."
        )
    remarks = [tag("p", remark) for remark in survey.index_remarks]
    remarks += [tag("p", tag("code", key), f" cannot be measured: {why}") for key, why in survey.broken.items()]
    if survey.strangers:
        kinds = ", ".join(f"{count:,} of tar type {kind!r}" for kind, count in sorted(survey.strangers.items()))
        remarks.append(
            tag("p", f"The tars hold members that are no plain files: {kinds}. `pics-data verify` says more.")
        )
    values: list[tuple[object, object]] = [(total, "samples")]
    values += [(len(survey.photos), "photos")] if survey.photos else []
    values += [(len(survey.shards), "shards"), (bytes_text(sum(shard.num_bytes for shard in survey.shards)), "in all")]
    values += [(bytes_text(sum(shard.num_bytes for shard in survey.shards) / total), "a sample")]
    rows = [
        (tag("b", flag.name), flag.meaning, len(flag.samples), share(len(flag.samples), flag.whole),
         _keys(survey, flag.samples[:3]))
        for flag in sorted(flags, key=lambda flag: -len(flag.samples))
    ]  # fmt: skip
    header = ("flag", "a sample bears it where", "samples", "share", "for example")
    return section(
        "At a glance",
        facts(values),
        note(tag("p", " ".join(sentences)), kind="good" if looked and flagged <= looked / 10 else "")
        if sentences
        else "",
        note(*remarks, kind="bad") if remarks else "",
        table(rows, header, numbers=(2, 3)) if rows else "",
    )


def _keys(survey: Survey, indices: Any) -> Html:
    return join([tag("div", tag("code", survey.keys[int(i)])) for i in indices])


def _samples(survey: Survey, max_samples: int) -> Section:
    chosen = spread(len(survey.keys), max_samples)
    cards = [_card(survey, index, 430, 330) for index in chosen]
    switch = tag("label", tag("input", type="checkbox", id="overlays", checked=True),
                 "show silhouettes and boxes", class_="toggle")  # fmt: skip
    lead = (
        f"{len(cards)} of {len(survey.keys):,}, evenly spread. Each object has its colour: tinted silhouette, box, "
        "cut-out on the right; a thin outline shows what others hide. Point at a photo to see it bare."
    )
    return section("Samples", switch, tag("div", *cards, class_="samples"), lead=lead)


def _card(survey: Survey, index: int, width: int, height: int, headline: str = "", *, small: bool = False) -> Html:
    key = survey.keys[index]
    try:
        view: View = decode_view(key, read_members(survey, index))
    except BrokenSampleError as error:
        return broken_card(key, str(error))
    return sample_card(view, width, height, headline, small=small)


def _extremes(survey: Survey) -> Section | None:
    """The samples at the bad end of a few measures; a measure whose worst is harmless is left out."""
    rules: list[tuple[str, str, Any, float, int, str]] = [
        ("Smallest objects", "area", survey.objects, 0.02, 1, "{:.2%} of the photo"),
        ("Most pieces", "parts", survey.objects, 2, -1, "{:.0f} parts"),
        ("Cut off by the border", "border", survey.objects, 0.1, -1, "{:.0%} of an outline"),
        ("Softest outlines", "edge", survey.objects, 0.04, 1, "gradient {:.3f}"),
        ("Most hidden", "hidden", survey.objects, 0.5, -1, "{:.0%} hidden"),
        ("Furthest apart", "gap_px", survey.samples, 5, -1, "{:,.0f} px apart"),
    ]
    blocks: list[Html] = []
    for title, column, columns, harmless, sign, words in rules:
        worst = _worst(survey, columns, column, harmless, sign)
        cards = [
            _card(survey, index, 250, 200, words.format(value).replace("%", " %"), small=True) for index, value in worst
        ]
        blocks += [tag("h3", title), tag("div", *cards, class_="smalls")] if cards else []
    lead = "The ends of the distributions, worst first: if these are fine, the rest is."
    return section("Worth a look", *blocks, lead=lead) if blocks else None


def _worst(survey: Survey, columns: Any, column: str, harmless: float, sign: int) -> list[tuple[int, float]]:
    """(sample, value) of the `NUM_WORST` worst beyond `harmless`, each of another photo; `sign` 1: small is bad."""
    values, indices = np.asarray(columns[column]), np.asarray(columns["index"], dtype=int)
    photo_of = dict(zip(survey.samples["index"], survey.samples["photo"], strict=True))
    found: dict[float, tuple[int, float]] = {}
    for row in np.argsort(sign * values, kind="stable"):  # NaN last
        index, value = int(indices[row]), float(values[row])
        if len(found) == NUM_WORST or not sign * value < sign * harmless:
            break
        found.setdefault(photo_of[index], (index, value))
    return list(found.values())


def _left_out(survey: Survey, rejects: list[dict[str, str]] | None) -> Section:
    lead = "What went in and did not come out, by reason."
    if rejects is None:
        return section("Left out", tag("p", f"{survey.folder.name} has no rejects.parquet.", class_="muted"), lead=lead)
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rejects:
        groups.setdefault((row["stage"], row["reason"]), []).append(row)
    attempted = len(rejects) + len(survey.keys)
    rows = []
    for (stage, reason), group in sorted(groups.items(), key=lambda item: -len(item[1])):
        examples = [
            tag("div", tag("code", row["key"]), f": {row['detail']}" if row["detail"] else "") for row in group[:3]
        ]
        rows.append((tag("b", reason), stage, len(group), share(len(group), attempted), join(examples)))
    if not rows:
        return section("Left out", tag("p", "Nothing."), lead=lead)
    header = ("reason", "stage", "count", "share", "for example")
    return section("Left out", table(rows, header, numbers=(2, 3)), lead=lead)


def _shards(survey: Survey) -> Section:
    shown = survey.shards[:NUM_SHARDS]
    rows = [
        (tag("code", shard.path.name), shard.split, shard.num_samples, bytes_text(shard.num_bytes)) for shard in shown
    ]
    hidden = len(survey.shards) - len(shown)
    more = tag("p", f"and {hidden:,} more", class_="muted") if hidden else ""
    return section("Shards", table(rows, ("file", "split", "samples", "size"), numbers=(2, 3)), more)
