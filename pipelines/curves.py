"""The curves of a run as a picture for a page: `history.jsonl` and `validation.jsonl` -> SVG.

    python pipelines/curves.py --run runs/scenes --out curves.svg

Training loss as it is told (grey) and its mean over 25 lines; validation loss, and the same by bands of noise.
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from pics_common.errors import UserError, require_file, run_command
from pics_common.files import write_atomic
from pics_common.recipe import parse_recipe

WIDTH, HEIGHT = 860, 380
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 24, 52
SMOOTH = 25
INK, FAINT = "#333333", "#dddddd"
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class CurvesConfig:
    """Draws the curves of a training run."""

    run: Path
    """Folder of the run."""
    out: Path = Path("curves.svg")


@dataclass(frozen=True, slots=True)
class Series:
    """A line of (samples, loss), its name beside its end, and how it is drawn."""

    name: str
    points: Sequence[Point]
    style: str
    colour: str


def read(path: Path, key: str) -> list[Point]:
    lines = [json.loads(line) for line in require_file(path, "--run").read_text().splitlines()]
    return [(line["samples"], line[key]) for line in lines if key in line]


def smooth(points: Sequence[Point]) -> list[Point]:
    """At each point the mean of it and its neighbours, `SMOOTH` in all; near the ends of as many as both sides have."""
    reach = [min(SMOOTH // 2, i, len(points) - 1 - i) for i in range(len(points))]
    windows = [points[i - r : i + r + 1] for i, r in enumerate(reach)]
    return [(x, sum(y for _, y in window) / len(window)) for (x, _), window in zip(points, windows, strict=True)]


def series_of(run: Path) -> list[Series]:
    """The lines of a run. Raises `UserError` where it has told nothing yet."""
    history = read(run / "history.jsonl", "loss")
    if len(history) < 2:
        raise UserError(f"--run {run}: its history.jsonl has {len(history)} lines; nothing to draw yet")
    lines = [
        Series("", history, 'stroke-width="0.8"', "#c8c8c8"),
        Series("training", smooth(history), 'stroke-width="2.2"', "#777777"),
    ]
    path = run / "validation.jsonl"
    if path.is_file():
        lines.append(Series("validation", read(path, "val_loss"), 'stroke-width="2.8"', "#0072b2"))
        for band, colour in (("noisy", "#d55e00"), ("medium", "#e69f00"), ("clear", "#009e73")):
            points = read(path, f"val_loss_{band}")
            lines.append(Series(f"  {band} pictures", points, 'stroke-width="1.5" stroke-dasharray="6 3"', colour))
    return [one for one in lines if one.points]


def draw(lines: Sequence[Series]) -> str:
    """An SVG whose vertical axis is logarithmic; the first tenth of the training loss may lie above it."""
    most = max(x for line in lines for x, _ in line.points)
    seen = sorted(y for line in lines for _, y in line.points)
    low, high = math.log10(seen[0]), math.log10(seen[int(0.985 * (len(seen) - 1))])

    def place(x: float, y: float) -> tuple[float, float]:
        up = (min(math.log10(y), high) - low) / max(high - low, 1e-9)
        return LEFT + x / most * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for value in ticks(10**low, 10**high):
        _, y = place(0, value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{FAINT}"/>')
        parts.append(text(LEFT - 8, y + 4, f"{value:g}", "end"))
    step = next(tick for tick in ticks(1, 10 * most) if most / tick <= 6)
    for number in range(int(most / step) + 1):
        x, _ = place(number * step, 10**low)
        parts.append(text(x, HEIGHT - BOTTOM + 20, f"{number * step:,.0f}", "middle"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "samples seen", "middle"))
    parts.append(text(LEFT, 14, "loss (mean squared error, logarithmic)", "start"))
    taken: list[float] = []
    for line in lines:
        where = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line.points))
        parts.append(f'<polyline points="{where}" fill="none" stroke="{line.colour}" {line.style}/>')
        if line.name:
            x, y = place(*line.points[-1])
            while any(abs(y - other) < 15 for other in taken):
                y += 1
            taken.append(y)
            parts.append(text(x + 10, y + 4, f"{line.name.strip()} {line.points[-1][1]:.4f}", "start", line.colour))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="13">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten within the bounds."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [factor * 10.0**power for power in powers for factor in (1, 2, 5) if low <= factor * 10.0**power <= high]


def text(x: float, y: float, words: str, anchor: str, colour: str = INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def main() -> int:
    config = parse_recipe(CurvesConfig, sys.argv[1:], prog="curves")
    write_atomic(config.out, draw(series_of(config.run)).encode())
    print(config.out)
    return 0


if __name__ == "__main__":
    run_command(main)
