"""The frame of every page that the toolkit writes: one HTML file that holds all it shows and asks nothing of a network.

The functions build HTML out of values. Whatever is not `Html` already is escaped, so text out of data (file names,
categories, licences) cannot become markup; a plain `str`, also one joined from `Html`, counts as text. A page carries
a content security policy that forbids scripts and requests, so the promise does not rest on care alone.

    html = page("Title", "What this is.", [section("Pictures", figure(rgb, "Cat on a mat", alt="a cat on a mat"))])
    write_page(Path("out/index.html"), html)
"""

import base64
import html as html_lib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pics_common.errors import UserError
from pics_common.files import write_atomic

VOID_TAGS = frozenset({"img", "input", "meta", "br"})
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


class Html(str):
    """Text that is HTML already; what the functions here return. Only these functions should make one."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page under a heading of its own."""

    title: str
    body: Html


def escape(value: object) -> Html:
    """`value` as HTML text, safe in an attribute too; `Html` is returned as it is."""
    return value if isinstance(value, Html) else Html(html_lib.escape(str(value)))


def join(parts: Iterable[object], separator: str = "") -> Html:
    """The parts one behind the other; each is escaped unless it is `Html`."""
    return Html(escape(separator).join(escape(part) for part in parts))


def tag(name: str, *children: object, **attributes: object) -> Html:
    """An element: `tag("p", "2 < 3", class_="note")` is `<p class="note">2 &lt; 3</p>`.

    An underscore in an attribute's name stands for a hyphen, at its end for nothing. An attribute that is None or
    False is left out, one that is True has no value.
    """
    text = name
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        text += " " + key.rstrip("_").replace("_", "-")
        if value is not True:
            text += f'="{escape(value)}"'
    return Html(f"<{text}>" if name in VOID_TAGS else f"<{text}>{join(children)}</{name}>")


def section(title: str, *body: object, lead: str = "") -> Section:
    """A section out of pieces; `lead` is a sentence under its heading that says what to look for."""
    return Section(title, join([tag("p", lead, class_="section-lead") if lead else "", *body]))


def number(value: float, digits: int = 3) -> str:
    """A number for reading: thousands apart, at most `digits` significant ones behind the point: 12,345 or 0.0123."""
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:,.{digits}g}" if whole == 0 else f"{value:,.{max(0, digits - whole)}f}"


def share(part: float, whole: float) -> str:
    """`part` of `whole` as a percentage; never rounds something to 0 % nor a lack to 100 %."""
    if whole == 0:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    fine = percent % 1 and (percent < 10 or percent > 99)
    return f"{percent:.1f} %" if fine else f"{percent:.0f} %"


def bytes_text(count: float) -> str:
    """A number of bytes in the unit that fits: 12.3 MB (powers of 1000, as file managers count)."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{number(count)} {unit}"
        count /= 1000
    return f"{number(count)} TB"


def encode_png(pixels: Any) -> bytes:
    """PNG of a uint8 array [H, W], [H, W, 3] or [H, W, 4]."""
    assert pixels.dtype == np.uint8, f"a picture holds uint8, not {pixels.dtype}"
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def encode_jpeg(rgb: Any, quality: int = 85) -> bytes:
    """JPEG of a uint8 array [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def data_uri(picture: Any) -> str:
    """A picture as part of the page: bytes of a PNG or JPEG as they are, a uint8 array as PNG."""
    data = picture if isinstance(picture, bytes) else encode_png(picture)
    for signature, mime in SIGNATURES.items():
        if data.startswith(signature):
            return f"data:{mime};base64,{base64.b64encode(data).decode()}"
    raise AssertionError("a picture on a page is PNG or JPEG")


def image(picture: Any, alt: str, *, class_: str | None = None, size: tuple[int, int] | None = None) -> Html:
    """An `<img>` of PNG or JPEG bytes or of a uint8 array; `alt` says what it shows to whoever does not see it.

    `size` (width, height) keeps its place free while the page loads; an array knows its own.
    """
    if size is None and not isinstance(picture, bytes):
        size = (picture.shape[1], picture.shape[0])
    width, height = size or (None, None)
    return tag("img", src=data_uri(picture), alt=alt, class_=class_, width=width, height=height)


def figure(picture: Any, caption: object, alt: str, *, class_: str | None = None) -> Html:
    """A picture with its caption; `picture` is what `image` takes."""
    return tag("figure", image(picture, alt), tag("figcaption", caption), class_=class_)


def table(rows: Iterable[Sequence[object]], header: Sequence[object], *, numbers: Sequence[int] = ()) -> Html:
    """A table; the columns in `numbers` are set flush right, numbers among the cells are made readable.

    It scrolls sideways inside itself where the window is too narrow, so that the page never does.
    """
    classes = ["number" if column in numbers else None for column in range(len(header))]
    head = [tag("th", cell, scope="col", class_=class_) for cell, class_ in zip(header, classes, strict=True)]
    body = [
        tag("tr", *(tag("td", _cell(cell), class_=class_) for cell, class_ in zip(row, classes, strict=True)))
        for row in rows
    ]
    grid = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body))
    return tag("div", grid, class_="scroll", tabindex="0")


def _cell(value: object) -> object:
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def facts(pairs: Iterable[tuple[object, object]]) -> Html:
    """The few numbers that matter, large: pairs of (value, what it is)."""
    return tag(
        "dl",
        *(tag("div", tag("dt", label), tag("dd", _cell(value))) for value, label in pairs),
        class_="facts",
    )


def command(text: str) -> Html:
    """A command to copy into a terminal."""
    return tag("pre", tag("code", text), class_="command", tabindex="0")


def note(*parts: object, kind: str = "") -> Html:
    """A remark set apart; `kind` is "", "good" or "bad"."""
    return tag("div", *parts, class_=f"note {kind}".strip())


def page(title: str, lead: object, sections: Iterable[Section], *, extra_css: str = "") -> str:
    """The whole HTML of a page. `lead` tells a stranger what is seen; a table of contents appears from 5 sections on.

    `extra_css` is the page's own style behind the common one: the program's, never the data's.
    """
    parts = list(sections)
    anchors = _anchors([part.title for part in parts])
    links = [tag("a", part.title, href=f"#{anchor}") for part, anchor in zip(parts, anchors, strict=True)]
    contents = tag("nav", *links, aria_label="Contents") if len(parts) > 4 else ""
    blocks = [
        tag("section", tag("h2", part.title), part.body, id=anchor) for part, anchor in zip(parts, anchors, strict=True)
    ]
    style = files("pics_common").joinpath("page.css").read_text(encoding="utf-8") + extra_css
    assert "</" not in style, "a style sheet cannot close its own element"
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(style)),
    ]
    lead_html = tag("p", lead, class_="lead") if not isinstance(lead, Html) else tag("div", lead, class_="lead")
    header = tag("header", tag("h1", title), lead_html, contents)
    body = tag("body", header, tag("main", *blocks))
    return f"<!doctype html>\n{tag('html', tag('head', *head), body, lang='en')}\n"


def _anchors(titles: Sequence[str]) -> list[str]:
    """One id a title, readable, each different."""
    anchors: list[str] = []
    for title in titles:
        base = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        anchor, count = base, 2
        while anchor in anchors:
            anchor, count = f"{base}-{count}", count + 1
        anchors.append(anchor)
    return anchors


def write_page(path: Path, html: str) -> Path:
    """Writes a page, whole or not at all; makes missing folders.

    Raises `UserError` where `path` cannot be written.
    """
    try:
        write_atomic(path, html.encode())
    except OSError as error:
        raise UserError(f"page {path}: cannot be written ({error.strerror or error}); choose another path") from None
    return path
