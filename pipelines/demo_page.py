"""The page that `make demo` ends with: for a dozen unseen scenes, what the model was given, what it made, the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pics_common.charts import bars, line
from pics_common.page import Html, command, facts, figure, note, number, page, section, share, tag, write_page

STYLE = Path(__file__).with_suffix(".css")
SHOWN_PX = 300  # pictures are enlarged by whole factors to about twice their size on the page, then stay crisp


@dataclass(frozen=True, slots=True)
class DemoEntry:
    """One unseen scene. All pictures are uint8 and square, of one side S; [S, S, 3] where not said otherwise."""

    key: str
    background_with_holes: Any  # [S, S, 3], or [S, S, 4] with alpha 0 in the holes, which are then drawn hatched
    objects: Sequence[Any]  # [S', S', 4] each, straight alpha (or [S', S', 3] on white)
    result: Any
    original: Any
    paste: Any  # plain copy-and-paste, in the order of `objects`
    relation: str = ""  # how the objects stand: beside, front, on, in
    front_correct: bool | None = None  # the right object is in front in the result; None where none hides another
    note: str = ""


@dataclass(frozen=True, slots=True)
class DemoFacts:
    """What was done and what came of it. Numbers that were not computed stay None and are left out of the page."""

    command: str  # the exact command that trains more
    training_steps: int
    training_samples: int  # samples seen in training, repetitions counted
    scenes: int | None = None  # different samples in the training shards
    seconds: Mapping[str, float] = field(default_factory=dict)  # stage -> seconds, in the order of the work
    loss: float | None = None  # mean over the last steps
    loss_curve: Sequence[tuple[float, float]] = ()  # (samples seen, loss)
    parameters: int | None = None
    front_share: float | None = None  # share of the judged samples whose right object is in front, 0 to 1
    front_judged: int = 0  # samples where the objects meet, so that one of them must be in front
    paste_front_share: float | None = None  # the same for copy-and-paste
    psnr_result: float | None = None  # dB, inside the regions, against the original
    psnr_paste: float | None = None
    verdict: str = ""  # plain words; written from the numbers above where empty
    more_training: str = ""  # what more training would do; likewise


INTRODUCTION = (
    "This page shows what a small neural network learned in a few minutes on this computer: to put two objects into a "
    "scene at once. It gets a scene with holes and the objects that belong in them, paints them all in a single pass "
    "so that none is laid over another, and has to work out alone which one stands in front. Every row below is a "
    "scene it never saw while learning: what it was given, what it made of it, and for comparison the real scene and "
    "what copy-and-paste makes."
)

COLUMNS = (
    ("Background", "The scene, with a hole where each object belongs.", "background"),
    ("Object 1", "Cut out, alone. The hole says where it goes and how large.", "object-1"),
    ("Object 2", "Likewise. Nothing says which of the two is in front.", "object-2"),
    ("Result", "What the model painted. Outside the holes, the scene is untouched.", "result"),
    ("Original", "The scene as it was, for comparison. The model never sees it.", "original"),
    ("Copy and paste", "Holes filled from their edges, both cut-outs laid on top, object 2 last.", "paste"),
)


def write_demo_page(path: Path, entries: Sequence[DemoEntry], facts: DemoFacts) -> None:
    """Writes the page to `path`, whole or not at all. Raises `UserError` where that cannot be written."""
    assert entries, "a demo page shows at least one scene"
    count = len(entries)
    scenes = section(
        f"{count} scene{'s' if count != 1 else ''} it had not seen",
        _grid(entries),
    )
    sections = [section("How well it works", *_outcome(facts)), scenes, section("More training", *_more(facts)),
                section("How this was made", *_making(facts))]  # fmt: skip
    write_page(
        path,
        page("Two objects, painted in one pass", INTRODUCTION, sections, extra_css=STYLE.read_text(encoding="utf-8")),
    )


def plain_verdict(numbers: DemoFacts) -> tuple[str, bool]:
    """What the numbers say, in plain words, and whether that is good news."""
    sentences, good = [], True
    if numbers.front_share is not None and numbers.front_judged:
        right = round(numbers.front_share * numbers.front_judged)
        good = numbers.front_share > 0.5
        sentences.append(
            f"In {right} of {numbers.front_judged} scenes where one object hides a part of the other, the right one "
            f"is in front ({share(right, numbers.front_judged)}; tossing a coin would give 50 %)."
        )
        if not good:
            sentences.append("So after this short training it does not yet know which object belongs in front.")
    if numbers.psnr_result is not None and numbers.psnr_paste is not None:
        gain = numbers.psnr_result - numbers.psnr_paste
        good = good and gain > 0
        words = "closer to the original than" if gain > 0.05 else "further from the original than"
        words = "as close to the original as" if abs(gain) <= 0.05 else words
        sentences.append(
            f"Inside the holes its picture is {words} copy-and-paste "
            f"({numbers.psnr_result:.1f} dB against {numbers.psnr_paste:.1f} dB, more is better)."
        )
        if gain < 0:
            sentences.append(
                "Copy-and-paste has it easy here: it lays down the very pixels of the scene, in full sharpness, while "
                "the model paints 64 x 64 pixels from memory. It has no idea who is in front, though."
            )
    if not sentences:
        return "Nothing was measured: judge by the pictures below.", False
    return " ".join(sentences), good


def _outcome(numbers: DemoFacts) -> list[Html]:
    words, good = plain_verdict(numbers)
    values: list[tuple[object, object]] = []
    if numbers.front_share is not None:
        values.append((share(numbers.front_share, 1), f"right object in front, of {numbers.front_judged} scenes"))
    if numbers.paste_front_share is not None:
        values.append((share(numbers.paste_front_share, 1), "the same for copy-and-paste"))
    if numbers.psnr_result is not None:
        values.append((f"{numbers.psnr_result:.1f} dB", "likeness to the original inside the holes (PSNR)"))
    if numbers.psnr_paste is not None:
        values.append((f"{numbers.psnr_paste:.1f} dB", "the same for copy-and-paste"))
    verdict = tag("p", numbers.verdict or words)
    return [note(verdict, kind="good" if good else ""), facts(values) if values else Html()]


def _more(numbers: DemoFacts) -> list[Html]:
    words = numbers.more_training or (
        f"The model saw {numbers.training_samples:,} samples, where a model meant for use sees millions: expect "
        "blurred shapes and washed-out textures. More training sharpens the objects first and settles who is in front "
        "after that. This command goes on from where the demo stopped:"
    )
    return [tag("p", words), command(numbers.command)]


def _making(numbers: DemoFacts) -> list[Html]:
    values: list[tuple[object, object]] = [
        (numbers.training_steps, "training steps"),
        (numbers.training_samples, "samples seen in training"),
    ]
    if numbers.scenes is not None:
        values.append((numbers.scenes, "different scenes among them"))
    if numbers.parameters is not None:
        values.append((f"{numbers.parameters / 1e6:.2f} M", "weights in the model"))
    if numbers.loss is not None:
        values.append((number(numbers.loss), "training loss at the end"))
    if numbers.seconds:
        values.append((_minutes(sum(numbers.seconds.values())), "in all, on this computer"))
    charts = []
    if numbers.seconds:
        stages = [(name, round(seconds)) for name, seconds in numbers.seconds.items()]
        charts.append(bars(stages, title="Time for each stage", noun="stages", unit="s"))
    if len(numbers.loss_curve) > 1:
        charts.append(line(numbers.loss_curve, title="Training loss", x_label="samples seen", y_label="loss"))
    return [facts(values), tag("div", *charts, class_="charts") if charts else Html()]


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{int(seconds // 60)} min {seconds % 60:.0f} s"


def _grid(entries: Sequence[DemoEntry]) -> Html:
    """The column names, which stay in sight on a wide window; what they mean; then a row a scene."""
    groups = [tag("i", words, class_=words.replace(" ", "-")) for words in ("given", "made", "to compare")]
    names = tag("div", *groups, *(tag("b", name, class_=kind) for name, _, kind in COLUMNS), class_="columns names",
                aria_hidden="true")  # fmt: skip
    heads = [tag("div", _icon(kind), tag("b", name), tag("span", words), class_=kind) for name, words, kind in COLUMNS]
    legend = tag("div", *heads, class_="columns legend")
    return tag("div", names, legend, *(_row(i, entry) for i, entry in enumerate(entries, 1)), class_="scenes")


def _row(index: int, entry: DemoEntry) -> Html:
    """A scene: a line of words, then the pictures in the order of `COLUMNS`."""
    size = entry.result.shape[0]
    for name in ("background_with_holes", "result", "original", "paste"):
        shape = getattr(entry, name).shape
        assert shape[:2] == (size, size), f"{entry.key}: {name} has shape {shape}, the result {size} x {size}"
    verdict: object = ""
    if entry.front_correct is not None:
        right = entry.front_correct
        words = "✓ right object in front" if right else "✗ wrong object in front"
        verdict = tag("span", words, class_="good-text" if right else "bad-text")
    words_line = [
        tag("b", f"{index}"),
        tag("span", _relation(entry.relation), class_="relation"),
        verdict,
        tag("span", entry.note, class_="muted") if entry.note else "",
        tag("span", entry.key, class_="key muted"),
    ]
    objects = [_cell(picture, f"object {i}", f"Object {i}", "object") for i, picture in enumerate(entry.objects, 1)]
    cells = [
        _cell(entry.background_with_holes, "the scene with holes", "Background", "background"),
        tag("div", *objects, class_="objects", style=f"--objects:{len(objects)}"),
        _cell(entry.result, "what the model painted", "Result", "result"),
        _cell(entry.original, "the scene as it was", "Original", "original"),
        _cell(entry.paste, "copy-and-paste", "Copy and paste", "paste"),
    ]
    return tag("article", tag("h3", *words_line), tag("div", *cells, class_="columns cells"), class_="row")


def _relation(label: str) -> str:
    words = {
        "beside": "side by side",
        "front": "one in front of the other",
        "on": "one on the other",
        "in": "one in the other",
    }
    return words.get(label, label)


def _cell(pixels: Any, alt: str, caption: str, class_: str) -> Html:
    return figure(_enlarge(pixels), caption, alt, class_=class_)


def _enlarge(pixels: Any) -> Any:
    """[H, W, C] uint8 enlarged by a whole factor to about `SHOWN_PX`, so that each pixel is an even square."""
    assert pixels.dtype == np.uint8, f"a picture holds uint8, not {pixels.dtype}"
    factor = max(1, round(SHOWN_PX / pixels.shape[0]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


# Small drawings over the columns: a room with a ball in front of a box, as each column would show it.
_ROOM = '<rect class="i-wall" width="64" height="64"/><path class="i-floor" d="M0 40h64v24H0z"/>'
_BOX = '<rect class="i-2" x="28" y="14" width="24" height="34"/>'
_BALL = '<circle class="i-1" cx="27" cy="40" r="13"/>'
_ICONS = {
    "background": _ROOM
    + '<rect class="i-hole" x="26" y="12" width="28" height="38"/>'
    + '<rect class="i-hole" x="12" y="25" width="30" height="30"/>',
    "object-1": '<circle class="i-1" cx="32" cy="32" r="22"/>',
    "object-2": '<rect class="i-2" x="17" y="10" width="30" height="44"/>',
    "result": _ROOM + _BOX + _BALL,
    "original": _ROOM + _BOX + _BALL,
    "paste": _ROOM + _BALL + _BOX,
}


def _icon(kind: str) -> Html:
    return Html(f'<svg viewBox="0 0 64 64" class="icon" aria-hidden="true">{_ICONS[kind]}</svg>')
