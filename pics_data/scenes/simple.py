"""Simple solids: boxes, balls, rocks, turned and grown things, tubes. A category name and a generator -> a solid."""

import numpy as np
from numpy.random import Generator

from pics_data.scenes.profiles import edged, polygon, smooth
from pics_data.scenes.solids import Array, Solid, ball, bend, lathe, rounded_box, sweep

_THIN = ("book", "plank", "frame")


def make_box(category: str, rng: Generator) -> Solid:
    size = rng.uniform(0.55, 1.0, 3)
    if category == "brick":
        size *= (1.0, 0.55, 0.4)
    elif category == "book":
        size = np.array([rng.uniform(0.7, 0.85), rng.uniform(0.95, 1.1), rng.uniform(0.14, 0.26)])
    elif category == "cube":
        size[:] = size.mean()
    elif category == "plank":
        size = np.array([rng.uniform(0.22, 0.34), 1.0, rng.uniform(0.05, 0.08)])
    elif category == "frame":
        size = np.array([rng.uniform(0.6, 0.9), 1.0, rng.uniform(0.06, 0.09)])
    bevel = float(size.min()) * (rng.uniform(0.04, 0.22) if category not in _THIN else 0.1)
    mesh = rounded_box(size, bevel)
    if category == "frame":  # a lying picture frame: its middle is sunk
        inner = (np.abs(mesh[0][:, 0]) < size[0] * 0.36) & (np.abs(mesh[0][:, 1]) < size[1] * 0.4)
        mesh[0][inner & (mesh[0][:, 2] > 0), 2] -= np.float32(size[2] * 0.4)
        return Solid(category, *mesh, "boxy")
    return Solid(category, *mesh, "boxy", True, top=float(size[:2].min() / 2 - bevel))


def make_ball(category: str, rng: Generator) -> Solid:
    stretch = {"egg": (1.0, 1.0, 1.32), "pebble": (1.0, 0.8, 0.5)}.get(category, (1.0, 1.0, 1.0))

    def shape(v: Array) -> Array:
        v = v * np.array(stretch)
        if category == "egg":
            v[:, :2] *= 1 - 0.16 * v[:, 2:]
        return v

    return Solid(category, *bend(shape, ball()), "ball", True)


def make_rock(category: str, rng: Generator) -> Solid:
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


def make_straight(category: str, rng: Generator) -> Solid:
    """Solids with straight walls around the vertical axis; most carry something on their flat top."""
    u = rng.uniform
    outline, top, convex = None, 0.0, category not in ("star", "spool", "can", "candle")
    if category in ("cone", "pyramid"):
        r, h = u(0.35, 0.5), u(0.8, 1.0)
        outline = polygon(4, 0.03, 60) if category == "pyramid" else None
        profile = edged([(0, 0), (r, 0), (u(0.0, 0.06), h), (0, h)], bevel=0.04, steps=5)
    elif category == "frustum":
        r, h = u(0.42, 0.52), u(0.5, 0.9)
        tip = r * u(0.5, 0.75)
        profile = edged([(0, 0), (r, 0), (tip, h), (0, h)], bevel=u(0.02, 0.06))
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
        profile = edged([*lower, *upper])
        top = 0.88 * r
    elif category == "can":
        r, h = u(0.3, 0.36), u(0.8, 1.0)
        lower = [(0, 0.02), (r * 0.86, 0.02), (r * 0.88, 0), (r * 0.92, 0), (r, 0.07)]
        upper = [(r, h - 0.07), (r * 0.92, h), (r * 0.88, h), (r * 0.86, h - 0.03), (0, h - 0.03)]
        profile = edged([*lower, *upper], 0.012)
    elif category == "candle":
        r, h = u(0.13, 0.2), u(0.7, 0.9)
        wick = [(0.05, h - 0.03), (0.015, h - 0.03), (0.015, h + 0.1), (0, h + 0.1)]
        profile = edged([(0, 0), (r, 0), (r, h), (r * 0.8, h), *wick], 0.012)
    elif category == "plate":
        lower = [(0, 0), (0.27, 0), (0.29, 0.02), (0.5, u(0.08, 0.11))]
        upper = [(0.49, lower[-1][1] + 0.012), (0.31, 0.045), (0.28, 0.03), (0, 0.03)]
        return Solid(category, *lathe(edged([*lower, *upper], 0.01)), "round", top=0.27, level=0.03)
    else:  # cylinder, puck, prism, star
        r, h = (u(0.5, 0.6), u(0.22, 0.4)) if category == "puck" else (u(0.32, 0.5), u(0.7, 1.0))
        if category == "star":
            h = u(0.35, 0.8)
            outline = 0.78 + 0.22 * np.cos(np.arange(60) * (2 * np.pi / 60) * int(rng.integers(5, 8)))
        elif category == "prism":
            outline = polygon(int(rng.choice([3, 5, 6, 8])), 0.06, 60)
        profile = edged([(0, 0), (r, 0), (r, h), (0, h)], bevel=u(0.02, 0.08))
        top = 0.88 * r * (1.0 if outline is None else float(outline.min()))
    return Solid(category, *lathe(profile, outline), "round", convex, top=top)


def make_curved(category: str, rng: Generator) -> Solid:
    """Turned and grown things."""
    u = rng.uniform
    outline, wrap, top = None, "round", 0.0
    if category == "pawn":
        foot = [(0, 0), (0.3, 0), (0.33, 0.06), (0.24, 0.14), (0.13, 0.3), (0.11, 0.52)]
        head = [(0.21, 0.57), (0.13, 0.62), (0.2, 0.74), (0.19, 0.86), (0.1, 0.97), (0, 1.0)]
        profile = smooth([*foot, *head], 3)
    elif category == "bottle":
        neck, body, shoulder = u(0.06, 0.1), u(0.2, 0.28), u(0.5, 0.66)
        lower = [(0, 0), (body, 0), (body, shoulder), (neck, shoulder + 0.18)]
        upper = [(neck, 0.93), (neck * 1.3, 0.93), (neck * 1.3, 1.0), (0, 1.0)]
        profile = edged([*lower, *upper], bevel=0.07)
    elif category == "mushroom":
        cap, stem = u(0.42, 0.55), u(0.12, 0.2)
        lower = [(0, 0), (stem, 0), (stem * 0.8, 0.25), (stem * 0.8, 0.48)]
        profile = smooth([*lower, (cap * 0.9, 0.46), (cap, 0.56), (cap * 0.75, 0.8), (cap * 0.3, 0.93), (0, 0.95)], 3)
    elif category == "goblet":
        r, base = u(0.24, 0.32), u(0.18, 0.24)
        lower = [(0, 0), (base, 0), (base * 0.9, 0.03), (0.04, 0.08), (0.035, 0.42), (r * 0.7, 0.52), (r, 0.75)]
        upper = [(r * 0.88, 1.0), (r * 0.84, 1.0), (r * 0.92, 0.76), (r * 0.6, 0.56), (0, 0.52)]
        profile = smooth([*lower, *upper], 3)
    elif category == "cactus":
        outline = 1 - 0.13 * np.abs(np.cos(np.arange(72) * (2 * np.pi / 72) * 4)) ** 2
        r = u(0.28, 0.4)
        profile = smooth(
            [(0, 0), (r * 0.6, 0), (r * 0.85, 0.15), (r, 0.45), (r * 0.8, 0.75), (r * 0.3, 0.94), (0, 0.95)], 3
        )
    elif category == "pear":
        lower, upper = [(0, 0.02), (0.16, 0), (0.37, 0.16), (0.38, 0.36)], [(0.24, 0.62), (0.17, 0.82), (0.08, 0.95)]
        profile = smooth([*lower, *upper, (0, 0.96)])
    elif category == "gem":
        outline, wrap, top = polygon(8, 0.0, 48), "ball", 0.22
        profile = np.array([(0, 0), (0.12, 0), (0.3, 0.3), (0.46, 0.56), (0.36, 0.76), (0.3, 0.78), (0, 0.78)])
    else:  # pumpkin
        s = u(0.6, 0.95)
        outline = 1 - 0.16 * np.abs(np.cos(np.arange(72) * (2 * np.pi / 72) * int(rng.integers(4, 7)))) ** 3
        lower = [(0, 0.03), (0.18, 0.0), (0.42, 0.14 * s), (0.5, 0.36 * s)]
        profile = smooth([*lower, (0.4, 0.6 * s), (0.16, 0.72 * s), (0, 0.66 * s)])
    return Solid(category, *lathe(profile, outline), wrap, category == "gem", top=top)


def make_swept(category: str, rng: Generator) -> Solid:
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
