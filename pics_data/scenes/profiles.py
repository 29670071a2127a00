"""Outlines that solids are turned from: curves and straight walls of (radius, height), and polygons seen from above."""

import numpy as np
from numpy.typing import NDArray

from pics_data.scenes.solids import NUM_SEGMENTS

Points = list[tuple[float, float]]


def smooth(points: Points, steps: int = 4) -> NDArray[np.float64]:
    """A Catmull-Rom curve through the control points [M, 2], never across the axis."""
    p = np.array([points[0], *points, points[-1]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True):
        pieces.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    curve = np.concatenate([*pieces, p[-1:]])
    curve[:, 0] = np.maximum(curve[:, 0], 0)
    return curve


def edged(points: Points, bevel: float = 0.03, steps: int = 3) -> NDArray[np.float64]:
    """Straight walls through the points, corners rounded by `bevel`, walls cut so that light varies along them."""
    p = np.array(points)
    out = [p[0]]
    for before, corner, after in zip(p[:-2], p[1:-1], p[2:], strict=True):
        into, onto = corner - before, after - corner
        cut = min(bevel, 0.45 * float(np.hypot(*into)), 0.45 * float(np.hypot(*onto)))
        start = corner - into / np.hypot(*into) * cut
        end = corner + onto / np.hypot(*onto) * cut
        last = out[-1]
        out += [last + (start - last) * s for s in np.linspace(0, 1, steps + 1)[1:]]
        out.append(0.25 * start + 0.5 * corner + 0.25 * end)
        out.append(end)
    last = out[-1]
    out += [last + (p[-1] - last) * s for s in np.linspace(0, 1, steps + 1)[1:]]
    return np.array(out)


def polygon(sides: int, softness: float = 0.0, segments: int = NUM_SEGMENTS) -> NDArray[np.float64]:
    """Outline factors of a regular polygon whose corners lie at radius 1."""
    angle = np.arange(segments) * (2 * np.pi / segments)
    turn = np.mod(angle + np.pi / sides, 2 * np.pi / sides) - np.pi / sides
    sharp: NDArray[np.float64] = np.cos(np.pi / sides) / np.cos(np.abs(turn) - np.pi / sides)
    return sharp * (1 - softness) + softness
