"""Charts for pages: inline SVG or plain HTML with axes, units and labels, and no library behind them.

Every chart is a `<figure>` whose text alternative says what a reader who does not see it would miss. Charts take their
colours from page.css, so they follow the light and the dark scheme.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pics_common.page import Html, number, share, tag

WIDTH, HEIGHT = 380, 210  # of a chart in CSS pixels, before it shrinks into a narrow column
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 22, 42  # margins for the axes' labels


def histogram(
    values: Any,
    *,
    title: str,
    unit: str,
    noun: str,
    bins: int = 24,
    limits: tuple[float, float] | None = None,
    log: bool = False,
    whole: bool = False,
    remark: str = "",
) -> Html:
    """How often each value occurs, with the median marked.

    `values` is any sequence of finite numbers in `unit`; `noun` names what is counted ("objects"). Values outside
    `limits` are counted in the outermost bar, and the caption says how many. `log` sets the horizontal axis in powers
    of ten (positive values only); `whole` gives each whole number its own bar.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        return _figure(title, Html() if remark else tag("p", f"no {noun} to count", class_="empty"), remark)
    assert np.isfinite(data).all(), f"{title}: a histogram takes finite values"
    edges = _edges(data, bins, limits, log, whole)
    counts = np.histogram(np.clip(data, edges[0], edges[-1]), edges)[0]
    outside = int(np.count_nonzero((data < edges[0]) | (data > edges[-1])))
    median = float(np.median(data))

    def x(value: float) -> float:
        low, high, at = (np.log10([edges[0], edges[-1], value])) if log else (edges[0], edges[-1], value)
        return float(LEFT + (WIDTH - LEFT - RIGHT) * (at - low) / (high - low))

    ceiling = _ticks(0, int(counts.max()), 4, whole=True)[-1]

    def y(count: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * count / ceiling

    marks = []
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        span = f"{low + 0.5:g}" if whole and high - low == 1 else f"{low:.3g} to {high:.3g}"
        hint = tag("title", f"{span} {unit}: {count:,} {noun}".replace(" :", ":"))
        box = {"x": f"{x(low) + 0.5:.1f}", "width": f"{max(x(high) - x(low) - 1, 0.5):.1f}"}
        height = f"{HEIGHT - BOTTOM - y(count):.1f}"
        marks.append(tag("rect", hint, class_="bar", y=f"{y(count):.1f}", height=height, **box))
    about = 12 if whole else 5
    ticks = _log_ticks(edges[0], edges[-1]) if log else _ticks(edges[0], edges[-1], about, whole=whole)
    ticks = [tick for tick in ticks if edges[0] <= tick <= edges[-1]]
    at = min(max(x(median), LEFT), WIDTH - RIGHT)
    sign = unit.split()[0] if unit.startswith(("%", "px")) else ""
    label = f"median {number(median)} {sign}".strip()
    anchor = "end" if at > WIDTH * 0.7 else "start"
    shift = -5 if anchor == "end" else 5
    marks += [
        tag("line", class_="median", x1=f"{at:.1f}", x2=f"{at:.1f}", y1=TOP - 12, y2=HEIGHT - BOTTOM),
        tag("text", label, class_="median-label", x=f"{at + shift:.1f}", y=TOP - 8, text_anchor=anchor),
    ]
    x_ticks = [(x(tick), f"{tick:g}") for tick in ticks]
    y_ticks = [(y(tick), f"{tick:,.0f}") for tick in _ticks(0, ceiling, 4, whole=True)]
    drawing = _axes(marks, x_ticks, y_ticks, unit or "number", noun)
    beyond = f"{outside:,} beyond the axis stand in its last bar." if outside else ""
    spread = f"from {number(float(data.min()))} to {number(float(data.max()))} {unit}".strip()
    alt = f"Histogram of {title.lower()}: {data.size:,} {noun}, {label}, {spread}."
    return _figure(title, _svg(drawing, alt), " ".join(part for part in (remark, beyond) if part))


def line(points: Sequence[tuple[float, float]], *, title: str, x_label: str, y_label: str) -> Html:
    """A curve through (x, y) points in the order of x; the vertical axis starts at 0."""
    if len(points) < 2:
        return _figure(title, tag("p", "too few points to draw", class_="empty"), "")
    xs, ys = np.asarray(points, dtype=np.float64).T
    left, right, ceiling = float(xs.min()), float(xs.max()), _ticks(0, float(ys.max()), 4)[-1]

    def at(px: float, py: float) -> tuple[float, float]:
        across = (px - left) / ((right - left) or 1)
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * across,
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * py / ceiling,
        )

    path = " ".join("{:.1f},{:.1f}".format(*at(px, py)) for px, py in zip(xs, ys, strict=True))
    end_x, end_y = at(xs[-1], ys[-1])
    marks = [
        tag("polyline", class_="curve", points=path),
        tag("circle", class_="curve-end", cx=f"{end_x:.1f}", cy=f"{end_y:.1f}", r=3),
        tag("text", number(float(ys[-1])), class_="median-label", x=f"{end_x:.1f}", y=f"{end_y - 9:.1f}",
            text_anchor="end"),
    ]  # fmt: skip
    x_ticks = [(at(t, 0)[0], f"{t:,g}") for t in _ticks(left, right, 4) if left <= t <= right]
    y_ticks = [(at(left, t)[1], f"{t:g}") for t in _ticks(0, ceiling, 4)]
    alt = f"{title}: {y_label} goes from {number(float(ys[0]))} to {number(float(ys[-1]))} over {x_label}."
    return _figure(title, _svg(_axes(marks, x_ticks, y_ticks, x_label, y_label), alt), "")


def bars(
    counts: Iterable[tuple[object, float]], *, title: str, noun: str, unit: str = "", total: float | None = None
) -> Html:
    """Named quantities, one bar a name, in the given order: (name, value) pairs.

    With `total`, each value's share of it is shown too. A real table, so that names wrap and can be read aloud.
    """
    rows = list(counts)
    if not rows:
        return _figure(title, tag("p", f"no {noun} to count", class_="empty"), "")
    top = max((value for _, value in rows), default=0) or 1
    body = []
    for name, value in rows:
        bar = tag("div", class_="hbar", style=f"width:{100 * value / top:.1f}%")
        cells = [tag("th", name, scope="row"), tag("td", bar, class_="track", aria_hidden="true")]
        cells.append(tag("td", f"{number(value)}{' ' + unit if unit else ''}", class_="number"))
        if total is not None:
            cells.append(tag("td", share(value, total), class_="number muted"))
        body.append(tag("tr", *cells))
    return _figure(title, tag("table", tag("tbody", *body), class_="bars"), "")


def _figure(title: str, content: Html, remark: str) -> Html:
    caption = tag("figcaption", tag("b", title), tag("span", remark) if remark else "")
    return tag("figure", caption, content, class_="chart")


def _svg(drawing: list[Html], alt: str) -> Html:
    return tag("svg", *drawing, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=alt)


def _axes(
    marks: list[Html], x_ticks: list[tuple[float, str]], y_ticks: list[tuple[float, str]], x_label: str, y_label: str
) -> list[Html]:
    """The marks on a quiet grid: labels below and to the left, each axis named with its unit."""
    floor = HEIGHT - BOTTOM
    grid = []
    for at, text in y_ticks:
        grid.append(tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{at:.1f}", y2=f"{at:.1f}"))
        grid.append(tag("text", text, x=LEFT - 6, y=f"{at + 3.5:.1f}", text_anchor="end"))
    for at, text in x_ticks:
        grid.append(tag("text", text, x=f"{at:.1f}", y=floor + 15, text_anchor="middle"))
        grid.append(tag("line", class_="axis", x1=f"{at:.1f}", x2=f"{at:.1f}", y1=floor, y2=floor + 3))
    axis = tag("line", class_="axis", x1=LEFT, x2=WIDTH - RIGHT, y1=floor, y2=floor)
    names = [
        tag("text", x_label, class_="axis-name", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 8, text_anchor="middle"),
        tag("text", y_label, class_="axis-name", x=4, y=TOP - 10, text_anchor="start"),
    ]
    return [*grid, *marks, axis, *names]


def _edges(data: Any, bins: int, limits: tuple[float, float] | None, log: bool, whole: bool) -> Any:
    """Edges of the bars, rising; they cover `limits`, or else all of `data`."""
    low, high = limits or (float(data.min()), float(data.max()))
    if whole:
        step = max(1, math.ceil((high - low + 1) / bins))
        return np.arange(math.floor(low), math.floor(high) + step + 1, step) - 0.5
    if high <= low:
        low, high = (low / 2, low * 2) if log else (low - 0.5, low + 0.5)
    if log:
        assert low > 0, "a logarithmic axis takes positive values"
        return np.geomspace(low, high, bins + 1)
    return np.linspace(low, high, bins + 1)


def _ticks(low: float, high: float, about: int, whole: bool = False) -> list[float]:
    """Round numbers from below `low` to at least `high`: 1, 2 or 5 times a power of ten apart, about `about` steps."""
    span = (high - low) or 1
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= about)
    if whole:
        step = max(1.0, round(step))
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [round(step * i, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between `low` and `high`; the powers alone over more than three decades."""
    factors = (1, 2, 5) if high / low <= 1000 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [float(f"{factor}e{power}") for power in powers for factor in factors if low <= factor * 10.0**power <= high]
