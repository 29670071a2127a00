"""The embedded objects: a category name -> a function that draws one of its kind from a generator."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pics_data.scenes.solids import (
    NUM_SEGMENTS,
    Array,
    Cavity,
    Ints,
    Solid,
    ball,
    bend,
    grounded,
    join,
    lathe,
    rounded_box,
    sweep,
)

Points = list[tuple[float, float]]


def make_solid(category: str, rng: Generator) -> Solid:
    """One solid of a category of `CATEGORIES`, standing on z = 0 with largest extent 1."""
    return grounded(CATEGORIES[category](category, rng))


def _smooth(points: Points, steps: int = 4) -> NDArray[np.float64]:
    """A Catmull-Rom curve through the control points [M, 2], never across the axis."""
    p = np.array([points[0], *points, points[-1]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True):
        pieces.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    curve = np.concatenate([*pieces, p[-1:]])
    curve[:, 0] = np.maximum(curve[:, 0], 0)
    return curve


def _edged(points: Points, bevel: float = 0.03, steps: int = 3) -> NDArray[np.float64]:
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


def _polygon(sides: int, softness: float = 0.0, segments: int = NUM_SEGMENTS) -> NDArray[np.float64]:
    """Outline factors of a regular polygon whose corners lie at radius 1."""
    angle = np.arange(segments) * (2 * np.pi / segments)
    turn = np.mod(angle + np.pi / sides, 2 * np.pi / sides) - np.pi / sides
    sharp: NDArray[np.float64] = np.cos(np.pi / sides) / np.cos(np.abs(turn) - np.pi / sides)
    return sharp * (1 - softness) + softness


def _box(category: str, rng: Generator) -> Solid:
    size = rng.uniform(0.55, 1.0, 3)
    if category == "brick":
        size *= (1.0, 0.55, 0.4)
    elif category == "book":
        size = np.array([rng.uniform(0.7, 0.85), rng.uniform(0.95, 1.1), rng.uniform(0.14, 0.26)])
    elif category == "cube":
        size[:] = size.mean()
    bevel = float(size.min()) * (rng.uniform(0.04, 0.22) if category != "book" else 0.1)
    return Solid(category, *rounded_box(size, bevel), "boxy", True, top=float(size[:2].min() / 2 - bevel))


def _ball(category: str, rng: Generator) -> Solid:
    stretch = {"egg": (1.0, 1.0, 1.32), "pebble": (1.0, 0.8, 0.5)}.get(category, (1.0, 1.0, 1.0))

    def shape(v: Array) -> Array:
        v = v * np.array(stretch)
        if category == "egg":
            v[:, :2] *= 1 - 0.16 * v[:, 2:]
        return v

    return Solid(category, *bend(shape, ball()), "ball", True)


def _rock(category: str, rng: Generator) -> Solid:
    """A ball under a sum of random waves, cut flat below so that it stands."""
    rough = category == "rock"
    waves = rng.normal(size=(14, 3)) * (rng.uniform(1.2, 5.0, (14, 1)) if rough else rng.uniform(0.8, 2.6, (14, 1)))
    phases = rng.uniform(0, 2 * np.pi, 14)
    power = (0.075 if rough else 0.11) / (1 + 0.25 * np.linalg.norm(waves, axis=1))
    stretch = np.array([1.0, rng.uniform(0.7, 1.0), rng.uniform(0.6, 0.9) if rough else rng.uniform(0.8, 1.2)])

    def shape(v: Array) -> Array:
        bulge = (np.sin((v[:, None, :] * waves).sum(2) + phases) * power).sum(1)
        if rough:
            bulge = bulge - 0.25 * np.abs(bulge)
        v = v * (1 + 1.5 * bulge[:, None]) * stretch
        low = float(v[:, 2].min())
        v[:, 2] = np.maximum(v[:, 2], low * (0.72 if rough else 0.85))
        return v

    return Solid(category, *bend(shape, ball(13)), "ball")


def _straight(category: str, rng: Generator) -> Solid:
    """Solids with straight walls around the vertical axis; most carry something on their flat top."""
    u = rng.uniform
    outline, top, convex = None, 0.0, category not in ("star", "spool")
    if category in ("cone", "pyramid"):
        r, h = u(0.35, 0.5), u(0.8, 1.0)
        outline = _polygon(4, 0.03, 60) if category == "pyramid" else None
        profile = _edged([(0, 0), (r, 0), (u(0.0, 0.06), h), (0, h)], bevel=0.04, steps=5)
    elif category == "frustum":
        r, h = u(0.42, 0.52), u(0.5, 0.9)
        tip = r * u(0.5, 0.75)
        profile = _edged([(0, 0), (r, 0), (tip, h), (0, h)], bevel=u(0.02, 0.06))
        top = 0.85 * tip
    elif category == "barrel":
        r, h, belly = u(0.28, 0.34), u(0.8, 1.0), u(0.15, 0.35)
        wall = [(r * (1 + belly * 4 * t * (1 - t)), h * t) for t in np.linspace(0, 1, 11)]
        profile = np.array([(0, 0), (0.5 * r, 0), *wall, (0.5 * r, h), (0, h)])
        top = 0.9 * r
    elif category == "spool":
        r, h, waist = u(0.38, 0.46), u(0.8, 1.0), u(0.4, 0.6)
        lower = [(0, 0), (r, 0), (r, 0.16 * h), (waist * r, 0.26 * h)]
        upper = [(waist * r, 0.74 * h), (r, 0.84 * h), (r, h), (0, h)]
        profile = _edged([*lower, *upper])
        top = 0.88 * r
    else:  # cylinder, puck, prism, star
        r, h = (u(0.5, 0.6), u(0.22, 0.4)) if category == "puck" else (u(0.32, 0.5), u(0.7, 1.0))
        if category == "star":
            h = u(0.35, 0.8)
            outline = 0.78 + 0.22 * np.cos(np.arange(60) * (2 * np.pi / 60) * int(rng.integers(5, 8)))
        elif category == "prism":
            outline = _polygon(int(rng.choice([3, 5, 6, 8])), 0.06, 60)
        profile = _edged([(0, 0), (r, 0), (r, h), (0, h)], bevel=u(0.02, 0.08))
        top = 0.88 * r * (1.0 if outline is None else float(outline.min()))
    return Solid(category, *lathe(profile, outline), "round", convex, top=top)


def _curved(category: str, rng: Generator) -> Solid:
    """Turned and grown things."""
    u = rng.uniform
    outline, wrap, top = None, "round", 0.0
    if category == "pawn":
        foot = [(0, 0), (0.3, 0), (0.33, 0.06), (0.24, 0.14), (0.13, 0.3), (0.11, 0.52)]
        head = [(0.21, 0.57), (0.13, 0.62), (0.2, 0.74), (0.19, 0.86), (0.1, 0.97), (0, 1.0)]
        profile = _smooth([*foot, *head], 3)
    elif category == "bottle":
        neck, body, shoulder = u(0.06, 0.1), u(0.2, 0.28), u(0.5, 0.66)
        lower = [(0, 0), (body, 0), (body, shoulder), (neck, shoulder + 0.18)]
        upper = [(neck, 0.93), (neck * 1.3, 0.93), (neck * 1.3, 1.0), (0, 1.0)]
        profile = _edged([*lower, *upper], bevel=0.07)
    elif category == "mushroom":
        cap, stem = u(0.42, 0.55), u(0.12, 0.2)
        lower = [(0, 0), (stem, 0), (stem * 0.8, 0.25), (stem * 0.8, 0.48)]
        profile = _smooth([*lower, (cap * 0.9, 0.46), (cap, 0.56), (cap * 0.75, 0.8), (cap * 0.3, 0.93), (0, 0.95)], 3)
    elif category == "pear":
        lower, upper = [(0, 0.02), (0.16, 0), (0.37, 0.16), (0.38, 0.36)], [(0.24, 0.62), (0.17, 0.82), (0.08, 0.95)]
        profile = _smooth([*lower, *upper, (0, 0.96)])
    elif category == "gem":
        outline, wrap, top = _polygon(8, 0.0, 48), "ball", 0.22
        profile = np.array([(0, 0), (0.12, 0), (0.3, 0.3), (0.46, 0.56), (0.36, 0.76), (0.3, 0.78), (0, 0.78)])
    else:  # pumpkin
        s = u(0.6, 0.95)
        outline = 1 - 0.16 * np.abs(np.cos(np.arange(72) * (2 * np.pi / 72) * int(rng.integers(4, 7)))) ** 3
        lower = [(0, 0.03), (0.18, 0.0), (0.42, 0.14 * s), (0.5, 0.36 * s)]
        profile = _smooth([*lower, (0.4, 0.6 * s), (0.16, 0.72 * s), (0, 0.66 * s)])
    return Solid(category, *lathe(profile, outline), wrap, category == "gem", top=top)


def _vessel(category: str, rng: Generator) -> Solid:
    """Hollow solids: they hold what is small enough for the flat floor of their `Cavity`."""
    u = rng.uniform
    outline, wrap = None, "round"
    wall = 0.035
    if category == "bowl":
        rim, h, base = 0.5, u(0.32, 0.46), u(0.24, 0.3)
        outer = _smooth([(0, 0), (base, 0), (base * 1.25, 0.06), (0.44, h * 0.55), (rim, h)], 4)
        inside = _smooth(
            [(rim - wall, h - 0.005), (0.44 - wall, h * 0.58), (base * 1.2, 0.085), (base, wall), (0, wall)], 4
        )
        inside[:, 1] = np.maximum(inside[:, 1], wall)  # the curve swings a little below its floor
        floor_radius = base
    elif category in ("tray", "crate", "pot"):
        base, h = {"tray": (0.47, u(0.12, 0.17)), "crate": (0.48, u(0.34, 0.5)), "pot": (0.34, u(0.5, 0.65))}[category]
        rim = base + u(0.0, 0.03) if category != "pot" else base * u(1.2, 1.4)
        if category != "pot":
            outline, wrap = _polygon(4, 0.0, 64), "boxy"
        outer = _edged([(0, 0), (base, 0), (rim, h), (rim - wall, h)], 0.015, 4)[:-1]
        inside = _edged([(rim - wall, h), (base - wall, wall), (0, wall)], 0.02, 4)
        floor_radius = (base - wall) * (0.69 if outline is not None else 0.97)
    elif category == "mug":
        base, h = u(0.29, 0.36), u(0.62, 0.75)
        rim = base * u(1.0, 1.12)
        outer = _edged([(0, 0), (base, 0), (rim, h), (rim - wall, h)], 0.02, 4)[:-1]
        inside = _edged([(rim - wall, h), (base - wall, 0.05), (0, 0.05)], 0.03, 4)
        floor_radius = base - wall
    else:  # vase: too narrow inside to hold anything
        b, w, n, m = u(0.14, 0.22), u(0.24, 0.36), u(0.08, 0.15), u(0.15, 0.26)
        outer = _smooth([(0, 0), (b, 0), (w, u(0.25, 0.45)), (n, u(0.68, 0.8)), (m, 1.0)], 6)
        inside = np.array([(m - 0.02, 0.995), (n * 0.8, 0.78), (n * 0.7, 0.5), (0, 0.45)])
        return Solid(category, *lathe(np.concatenate([outer, inside]), _flutes(rng)), wrap)
    mesh = lathe(np.concatenate([outer, inside]), outline)
    if category == "mug":
        mesh = join(mesh, _handle(base, h))
    floor, opening = float(inside[-1, 1]), rim - wall
    if outline is not None:
        opening *= 0.69
    return Solid(category, *mesh, wrap, cavity=Cavity(floor, floor_radius, h, opening))


def _flutes(rng: Generator) -> NDArray[np.float64] | None:
    if rng.random() < 0.6:
        return None
    turn = np.arange(64) * (2 * np.pi / 64)
    return np.asarray(1 + 0.05 * np.cos(turn * 8))


def _handle(base: float, height: float) -> tuple[Array, Ints]:
    angle = np.linspace(-1.25, 1.25, 14)
    curve = np.stack([base - 0.03 + 0.2 * np.cos(angle), 0 * angle, height * (0.5 + 0.3 * np.sin(angle))], 1)
    return sweep(curve, np.full(14, 0.045), sides=10)


def _swept(category: str, rng: Generator) -> Solid:
    """Tubes along a curve."""
    u = rng.uniform
    t = np.linspace(0, 2 * np.pi, 56, endpoint=False)
    if category == "torus":
        r = u(0.12, 0.2)
        mesh = sweep(np.stack([0.5 * np.cos(t), 0.5 * np.sin(t), 0 * t], 1), np.full(56, r), closed=True)
    elif category == "knot":
        curve = np.stack([np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t), -np.sin(3 * t)], 1)
        mesh = sweep(curve, np.full(56, u(0.45, 0.6)), closed=True, sides=14)
    elif category == "spring":
        t = np.linspace(0, 2 * np.pi * 4, 110)
        curve = np.stack([0.4 * np.cos(t), 0.4 * np.sin(t), 0.9 * t / t[-1]], 1)
        mesh = sweep(curve, np.full(110, 0.075), sides=9)
    elif category == "banana":
        a = np.linspace(-0.95, 0.95, 26)
        radii = 0.16 * np.sqrt(np.maximum(1 - (a / 1.0) ** 4, 0.02))
        mesh = sweep(np.stack([0.62 * np.sin(a), -0.62 * np.cos(a), 0 * a], 1), radii, sides=14)
    else:  # capsule, lying
        s = np.linspace(-np.pi / 2, np.pi / 2, 9)
        r, half = u(0.2, 0.26), 0.5
        x = np.concatenate(
            [-half + r + r * np.sin(s[1:5]), np.linspace(-half + r, half - r, 8)[1:-1], half - r + r * np.sin(s[4:-1])]
        )
        radii = np.concatenate([r * np.cos(s[1:5]), np.full(6, r), r * np.cos(s[4:-1])])
        mesh = sweep(np.stack([x, 0 * x, 0 * x], 1), radii, sides=28)
        ends = [-half, half]
        mesh[0][-2:, 0] = ends
    return Solid(category, *mesh, "ball" if category in ("capsule", "banana") else "round", category == "capsule")


CATEGORIES: dict[str, Callable[[str, Generator], Solid]] = {
    **dict.fromkeys(("box", "cube", "brick", "book"), _box),
    **dict.fromkeys(("sphere", "egg", "pebble"), _ball),
    **dict.fromkeys(("rock", "blob"), _rock),
    **dict.fromkeys(("cylinder", "puck", "prism", "star", "cone", "pyramid", "frustum", "barrel", "spool"), _straight),
    **dict.fromkeys(("pawn", "bottle", "mushroom", "pear", "gem", "pumpkin"), _curved),
    **dict.fromkeys(("bowl", "tray", "crate", "pot", "mug", "vase"), _vessel),
    **dict.fromkeys(("torus", "knot", "spring", "banana", "capsule"), _swept),
}
CONTAINERS = ("bowl", "tray", "crate", "pot", "mug")
SUPPORTS = ("box", "cube", "brick", "book", "cylinder", "puck", "prism", "star", "frustum", "barrel", "spool")
