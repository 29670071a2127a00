"""`pics-data inspect`: one page that answers at a glance whether a folder of shards is good data to train on."""

from pathlib import Path

from pics_common import storage
from pics_common.page import (
    Html,
    Section,
    bytes_text,
    facts,
    join,
    note,
    number,
    page,
    section,
    share,
    table,
    tag,
    write_page,
)
from pics_data.inspect_charts import objects_section, photos_section, relations_section
from pics_data.inspect_pictures import STYLE, broken_card, decode_view, sample_card
from pics_data.inspect_read import Found, read_folder
from pics_data.inspect_rules import RULES
from pics_data.inspect_survey import Place
from pics_data.inspect_warnings import warnings_of
from pics_data.progress import TimeLeft
from pics_data.scenes import MESH_SUFFIXES
from pics_data.tar_read import DamageError, read_range

NUM_SHARDS = 20  # rows of the table of shards
NUM_REMARKS = 12


def inspect_shards(folder: str, out: Path, max_samples: int = 24) -> Path:
    """Writes the page about the shards in `folder`, a path or URL, to `out`; returns where the page is.

    `out` is a .html file, or a folder for an index.html. The numbers are of all samples, read from the tables of
    samples; pictures are of `max_samples` spread over sources and shards, and of the extremes. Of shards without tables
    (the published ones) a part is read. Of a folder of meshes, the page shows each mesh. Raises `UserError` for a
    missing folder, one without shards, and papers that are damaged.
    """
    folder = storage.absolute(folder)
    if meshes := _folder_of_meshes(folder):
        from pics_data.inspect_meshes import inspect_meshes

        return inspect_meshes(meshes, out)
    found = read_folder(folder, max_samples)
    worst = [entry.place for entries in found.survey.worst.values() for entry in entries]
    with TimeLeft("inspect", "pictures", len(found.survey.chosen) + len(worst)) as progress:
        sections = [
            _glance(found),
            _samples(found, progress),
            _extremes(found, progress),
            objects_section(found.survey),
            relations_section(found.survey),
            photos_section(found),
            _left_out(found),
            _shards(found),
        ]
    lead = (
        f"What is in the training shards of {folder}: pictures taken apart into a photo, the objects in it, and their "
        "silhouettes. Look whether the coloured outlines follow the objects, and whether the objects really touch or "
        "hide each other."
    )
    html = page(f"Shards: {storage.base_name(folder)}", lead, [part for part in sections if part], extra_css=STYLE)
    return write_page(out if out.suffix == ".html" else out / "index.html", html)


def _folder_of_meshes(folder: str) -> Path | None:
    """The path of a local folder that holds meshes and no shards."""
    if storage.is_remote(folder) or not storage.local_path(folder).is_dir():
        return None
    path = storage.local_path(folder)
    if any(path.glob("*.tar")) or (path / "index.json").exists() or (path / "recipe.json").exists():
        return None
    return path if any(found.suffix.lower() in MESH_SUFFIXES for found in path.rglob("*")) else None


def _glance(found: Found) -> Section:
    survey = found.survey
    total = ("about " if found.estimated else "") + number(found.num_samples)
    values: list[tuple[object, object]] = [(total, "samples")]
    values += [(survey.num_photos, "photos")] if not found.num_read else []
    values += [(len(found.shards), "shards"), (bytes_text(found.num_bytes), "in all")]
    values += [(bytes_text(found.num_bytes / found.num_samples), "a sample")]
    remarks = found.remarks[:NUM_REMARKS]
    if more := len(found.remarks) - len(remarks):
        remarks.append(f"and {more:,} remarks more")
    return section(
        "At a glance",
        facts(values),
        _verdict(found),
        note(*(tag("p", remark) for remark in remarks)) if remarks else "",
        _flags(found),
    )


def _verdict(found: Found) -> Html:
    """What looks wrong, or that nothing does, and what it was told from."""
    findings = warnings_of(found)
    survey = found.survey
    basis = ""
    if found.num_read:
        tars = f"{found.num_read:,} of {len(found.shards):,} tars" if found.num_read < len(found.shards) else "the tars"
        basis = (
            f"There is no table of samples. {number(survey.num_samples)} samples, spread over {tars}, were read in its "
            f"place, and all numbers below stand for these. Not known: {found.unknown}."
        )
    good = share(survey.num_samples - survey.num_flagged, survey.num_samples)
    clean = f"{good} of the samples bear none of the signs below." if survey.num_samples else ""
    if not findings:
        return note(tag("p", f"Nothing looks wrong. {clean} {basis}"), kind="good")
    items = [
        tag("li", finding.says, ". ", tag("code", finding.option) if finding.option else "") for finding in findings
    ]
    head = f"{len(items)} {'thing looks' if len(items) == 1 else 'things look'} wrong. {clean}"
    hint = tag("p", "Behind each, what to give to ", tag("code", "pics-data build"), " to change it.", class_="muted")
    return note(tag("p", head), tag("ul", *items), hint, tag("p", basis) if basis else "", kind="bad")


def _flags(found: Found) -> Html | str:
    flags = [(rule, found.survey.flags[rule.name]) for rule in RULES if rule.name in found.survey.flags]
    if not flags:
        return ""
    rows = [
        (tag("b", rule.name), rule.says, flag.samples, share(flag.samples, flag.whole),
         tag("code", rule.option) if rule.option else "",
         join([tag("div", tag("code", key)) for key in flag.examples]))
        for rule, flag in sorted(flags, key=lambda pair: -pair[1].samples)
    ]  # fmt: skip
    header = ("sign", "samples that …", "samples", "share", "left out by", "for example")
    return table(rows, header, numbers=(2, 3))


def _samples(found: Found, progress: TimeLeft) -> Section:
    chosen = found.survey.chosen
    cards = [_card(place, 430, 330, progress) for place in chosen]
    switch = tag("label", tag("input", type="checkbox", id="overlays", checked=True),
                 "show silhouettes and boxes", class_="toggle")  # fmt: skip
    lead = (
        f"{len(cards)} of {number(found.num_samples)}, spread over sources and shards. Each object has its colour: "
        "tinted silhouette, box, cut-out on the right; stripes where two silhouettes overlap; a thin outline shows "
        "what others hide. Point at a photo to see it bare. Below it, where there are any: each object from other "
        "sides, with the degrees that the camera went round it and climbed, and copies turned in the plane (↺)."
    )
    return section("Samples", switch, tag("div", *cards, class_="samples"), lead=lead)


def _card(
    place: Place, width: int, height: int, progress: TimeLeft, headline: str = "", *, small: bool = False
) -> Html:
    progress.advance()
    try:
        with storage.open_read(place.url) as file:
            key, members = read_range(file, place.start, place.num_bytes)
        if key != place.key:
            raise DamageError(f"{key} stands in its place in {storage.base_name(place.url)}")
        return sample_card(decode_view(key, members), width, height, headline, small=small)
    except DamageError as error:
        return broken_card(place.key, str(error))
    except OSError as error:
        return broken_card(place.key, f"{storage.base_name(place.url)} cannot be read ({error.strerror})")


def _extremes(found: Found, progress: TimeLeft) -> Section | None:
    """The samples at the bad end of a few measures; a measure whose worst is harmless is left out."""
    blocks: list[Html] = []
    for rule in RULES:
        cards = [
            _card(worst.place, 250, 200, progress, rule.words.format(worst.value).replace("%", " %"), small=True)
            for worst in found.survey.worst.get(rule.name, [])
        ]
        blocks += [tag("h3", rule.title), tag("div", *cards, class_="smalls")] if cards else []
    lead = "The ends of the distributions, worst first: if these are fine, the rest is."
    return section("Worth a look", *blocks, lead=lead) if blocks else None


def _left_out(found: Found) -> Section:
    lead = "What went in and did not come out, by reason."
    account = _account(found)
    if found.rejects is None:
        text = f"{storage.base_name(found.folder)} has no rejects.parquet."
        return section("Left out", account, tag("p", text, class_="muted"), lead=lead)
    rows = [
        (tag("b", reason), stage, entry.count,
         join([tag("div", tag("code", key), f": {detail}" if detail else "") for key, detail in entry.examples]))
        for (stage, reason), entry in found.rejects.items()
    ]  # fmt: skip
    if not rows:
        return section("Left out", account, tag("p", "Nothing was rejected."), lead=lead)
    header = ("reason", "stage", "count", "for example")
    return section("Left out", account, table(rows, header, numbers=(2,)), lead=lead)


def _account(found: Found) -> Html | str:
    """The photos and samples that the plan counted, and what became of them."""
    recipe = found.recipe or {}
    counts, groups = recipe.get("counts"), recipe.get("groups")
    if not isinstance(counts, dict) or not groups:
        return ""
    photos = counts["photos"]
    planned = sum(group["num_samples"] for group in groups)
    kinds = (
        ("missing", "not there"), ("without_pair", "without objects that make a sample"),
        ("left_out", "left out by licence or as duplicates"),
    )  # fmt: skip
    rows: list[tuple[object, object, object]] = [("photos that the source named", photos, "")]
    rows += [(f"– {words}", counts[name], share(counts[name], photos)) for name, words in kinds if counts.get(name)]
    rows.append(("samples planned from the rest", planned, ""))
    rows.append(("samples in the shards", found.num_samples, share(found.num_samples, planned)))
    return table(rows, ("what", "count", "share"), numbers=(1, 2))


def _shards(found: Found) -> Section:
    nsamples = {entry.shard: entry.nsamples for entry in found.index.entries} if found.index else {}
    shown = found.shards[:NUM_SHARDS]
    rows = [
        (tag("code", f"{shard.name}.tar"), shard.split or "not said", nsamples.get(shard.name, "not said"),
         bytes_text(shard.num_bytes))
        for shard in shown
    ]  # fmt: skip
    hidden = len(found.shards) - len(shown)
    more = tag("p", f"and {hidden:,} more", class_="muted") if hidden else ""
    return section("Shards", table(rows, ("file", "split", "samples", "size"), numbers=(2, 3)), more)
