"""Pages: nothing of the data becomes markup, nothing is fetched, charts count right, the demo page tells the truth."""

import base64
import io
import re
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pics_common import charts
from pics_common.errors import UserError
from pics_common.page import (
    Html,
    bytes_text,
    command,
    facts,
    figure,
    image,
    join,
    note,
    page,
    section,
    share,
    table,
    tag,
    write_page,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "pipelines"))
from demo_page import DemoEntry, DemoFacts, plain_verdict, write_demo_page

# HTML knows no NUL and reads a carriage return as a new line; everything else must come back as it went in.
TEXT = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=30)


class Parsed(HTMLParser):
    """Tags with their attributes, and all text, of a page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attributes)))
        if name not in ("img", "input", "meta", "br"):
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag_name, attributes in self.tags if tag_name == name]


def picture(size: int = 8, channels: int = 3) -> Any:
    return np.random.default_rng(size).integers(0, 256, (size, size, channels), dtype=np.uint8)


@given(TEXT, TEXT)
def test_text_of_the_data_stays_text(text: str, other: str) -> None:
    parsed = Parsed(tag("p", text, tag("b", other, title=other), class_=text))
    assert [name for name, _ in parsed.tags] == ["p", "b"]
    assert parsed.text == text + other
    assert parsed.tags[0][1] == {"class": text}
    assert parsed.tags[1][1] == {"title": other}


@given(st.sampled_from(["<script>alert(1)</script>", "</style><img src=x onerror=alert(1)>", '"><b>', "&lt;b&gt;"]))
def test_hostile_text_in_every_part_of_a_page(text: str) -> None:
    parts = section(
        text, note(text), facts([(text, text)]), command(text), table([(text, 1)], (text, text)),
        figure(picture(), text, text), charts.bars([(text, 1)], title=text, noun=text, total=1),
        charts.histogram([1.0, 2.0], title=text, unit=text, noun=text, remark=text), lead=text,
    )  # fmt: skip
    html = page(text, text, [parts, parts])
    plain = page("t", "t", [section("t", *(["t"] * 3))])
    parsed = Parsed(html)
    assert not parsed.open
    assert html.count("<style>") == plain.count("<style>") == 1
    assert not parsed.all("script")
    assert len(parsed.all("img")) == 2
    assert parsed.text.count(text) > 20
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)


def test_joining_html_by_hand_does_not_make_html() -> None:
    bold = tag("b", "x")
    assert isinstance(bold, Html)
    assert tag("p", "" + bold) == "<p>&lt;b&gt;x&lt;/b&gt;</p>"
    assert tag("p", join([bold, "<"])) == "<p><b>x</b>&lt;</p>"


def test_attributes_left_out_and_bare() -> None:
    assert tag("input", checked=True, id=None, disabled=False, aria_label="a") == '<input checked aria-label="a">'


def test_a_page_holds_all_it_shows_and_asks_no_network() -> None:
    html = page("T", "L", [section(f"S {i}", figure(picture(), "c", "a")) for i in range(6)])
    parsed = Parsed(html)
    assert not parsed.open
    sources = [
        attributes[name] or "" for _, attributes in parsed.tags for name in ("src", "href") if name in attributes
    ]
    assert sources
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert not parsed.all("link")
    assert "url(" not in html
    assert "@import" not in html
    policy = next(m["content"] for m in parsed.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy
    anchors = {attributes["id"] for attributes in parsed.all("section")}
    assert {"#" + (anchor or "") for anchor in anchors} == {link["href"] for link in parsed.all("a")}
    assert len(anchors) == 6
    assert all(img.get("alt") for img in parsed.all("img"))


@pytest.mark.parametrize("channels", [3, 4])
def test_pictures_arrive_unchanged(channels: int) -> None:
    pixels = picture(9, channels)
    attributes = Parsed(image(pixels, "alt")).all("img")[0]
    data = base64.b64decode((attributes["src"] or "").removeprefix("data:image/png;base64,"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    assert (attributes["width"], attributes["height"]) == ("9", "9")


@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_a_share_never_hides_something_or_a_lack(part: int, rest: int) -> None:
    text = share(part, part + rest)
    assert text != "100 %"
    assert (text == "0 %") == (part == 0)


def test_bytes_in_the_unit_that_fits() -> None:
    assert [bytes_text(n) for n in (0, 999, 1000, 37_400_000, 243e9, 5e15)] == [
        "0 bytes", "999 bytes", "1 kB", "37.4 MB", "243 GB", "5,000 TB",
    ]  # fmt: skip


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60),
    st.booleans(),
    st.sampled_from([None, (1.0, 50.0), (2.0, 2.0)]),
)
def test_a_histogram_counts_every_value_once(
    values: list[float], log: bool, limits: tuple[float, float] | None
) -> None:
    svg = charts.histogram(values, title="T", unit="px", noun="things", log=log, limits=limits)
    assert counted(svg) == len(values)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=60), st.integers(1, 30))
def test_a_histogram_of_whole_numbers_counts_every_value_once(values: list[int], bins: int) -> None:
    svg = charts.histogram(values, title="T", unit="", noun="things", whole=True, bins=bins)
    assert counted(svg) == len(values)


def counted(svg: str) -> int:
    return sum(int(count.replace(",", "")) for count in re.findall(r": ([\d,]+) things</title>", svg))


def test_a_histogram_says_what_lies_beyond_its_axis_and_where_the_median_is() -> None:
    svg = charts.histogram([1, 2, 3, 400], title="Gap", unit="px", noun="things", limits=(0, 10))
    assert "1 beyond the axis" in svg
    assert "median 2.50 px" in svg
    assert "no things to count" in charts.histogram([], title="Gap", unit="px", noun="things")


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 12))
def test_ticks_are_few_and_cover_the_axis(low: float, span: float, about: int) -> None:
    ticks = charts._ticks(low, low + span, about)
    slack = 1e-6 * max(span, abs(low))
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + span - slack
    assert 2 <= len(ticks) <= about + 3
    assert all(a < b for a, b in pairwise(ticks))


def test_bars_keep_order_and_proportion() -> None:
    parsed = Parsed(charts.bars([("a", 10), ("b", 40)], title="T", noun="things", total=50))
    assert [bar["style"] for bar in parsed.all("div")] == ["width:25.0%", "width:100.0%"]
    assert parsed.text == "Ta1020 %b4080 %"


def test_a_page_is_whole_or_the_old_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "new" / "index.html"
    write_page(target, "old")
    full = OSError(28, "No space left on device")

    def fail(_: int) -> None:
        raise full

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(UserError, match=r"index\.html: cannot be written \(No space left on device\)"):
        write_page(target, "half of a new one")
    assert target.read_text() == "old"
    assert [p.name for p in target.parent.iterdir()] == ["index.html"]


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_page(tmp_path / "file" / "index.html", "x")
    with pytest.raises(UserError, match="cannot be written"):
        write_page(tmp_path, "x")


def demo_entry(key: str, size: int = 64, **more: Any) -> DemoEntry:
    pictures = [picture(size + i) for i in range(4)]
    square = [pixels[:size, :size] for pixels in pictures]
    return DemoEntry(key, square[0], [picture(size, 4), picture(size, 4)], *square[1:], **more)


def test_the_demo_page_shows_every_picture_enlarged_by_a_whole_factor(tmp_path: Path) -> None:
    entries = [demo_entry(f"k-{i}", size) for i, size in enumerate((64, 64, 128, 256))]
    write_demo_page(tmp_path / "index.html", entries, DemoFacts("make demo", 10, 160))
    parsed = Parsed((tmp_path / "index.html").read_text())
    assert not parsed.open
    sources = [attributes["src"] or "" for attributes in parsed.all("img")]
    assert len(sources) == 4 * 6
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(s.partition(",")[2])))) for s in sources]
    for i, (entry, factor) in enumerate(zip(entries, (5, 5, 2, 1), strict=True)):
        wanted = [entry.background_with_holes, *entry.objects, entry.result, entry.original, entry.paste]
        for got, want in zip(shown[6 * i : 6 * i + 6], wanted, strict=True):
            assert np.array_equal(got, np.kron(want, np.ones((factor, factor, 1), np.uint8)))


def test_the_demo_page_says_what_came_of_each_scene(tmp_path: Path) -> None:
    entries = [
        demo_entry("a", relation="on", front_correct=True),
        demo_entry("b", front_correct=False, note="<b>blurred</b>"),
        demo_entry("c", relation="beside"),
    ]
    command_line = "python -m pics_model.train --steps 9000 && echo '<done>'"
    write_demo_page(tmp_path / "i.html", entries, DemoFacts(command_line, 700, 11_200, verdict="It <works>."))
    text = Parsed((tmp_path / "i.html").read_text()).text
    assert text.count("✓ right object in front") == 1
    assert text.count("✗ wrong object in front") == 1
    assert "one on the other" in text
    assert "<b>blurred</b>" in text
    assert command_line in text
    assert "It <works>." in text
    assert "11,200" in text


@pytest.mark.parametrize(
    ("numbers", "good", "told"),
    [
        ({"front_share": 0.75, "front_judged": 40}, True, "In 30 of 40 scenes"),
        ({"front_share": 0.5, "front_judged": 40}, False, "does not yet know"),
        ({"front_share": 0.75, "front_judged": 40, "psnr_result": 14.0, "psnr_paste": 16.0}, False, "further from"),
        ({"psnr_result": 17.0, "psnr_paste": 16.0}, True, "closer to the original than copy-and-paste"),
        ({"psnr_result": 16.0, "psnr_paste": 16.0}, False, "as close to"),
        ({}, False, "Nothing was measured"),
    ],
)
def test_the_verdict_follows_the_numbers(numbers: dict[str, Any], good: bool, told: str) -> None:
    words, is_good = plain_verdict(DemoFacts("c", 1, 16, **numbers))
    assert told in words
    assert is_good == good
