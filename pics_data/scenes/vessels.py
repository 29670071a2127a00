"""Hollow solids: they hold what finds room in their `Cavity`."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pics_data.scenes.profiles import edged, polygon, smooth
from pics_data.scenes.solids import Array, Cavity, Ints, Solid, join, lathe, sweep

WALL = 0.035
SQUARE = 0.69  # of a square's corner radius: what a circle within it has, less a little


def make_vessel(category: str, rng: Generator) -> Solid:
    """Bowl, pot, mug, cup, vase, basket: round ones. Tray, crate: square ones."""
    outer, inside = _SHAPES[category](rng)
    outline = polygon(4, 0.0, 64) if category in ("tray", "crate") else None
    if category == "basket":
        outline = _ribs(12, 0.02, 60)
    elif category in ("pot", "vase") and rng.random() < 0.4:
        outline = _ribs(8, 0.05, 48)
    mesh = lathe(np.concatenate([outer, inside]), outline)
    if category == "mug":
        mesh = join(mesh, _handle(float(outer[-2, 0]), float(outer[-1, 1])))
    elif category == "basket" and rng.random() < 0.5:
        mesh = join(mesh, _arch(float(outer[-1, 0]), float(outer[-1, 1])))
    room = SQUARE if category in ("tray", "crate") else 0.95 if outline is not None else 1.0
    rim, rim_radius = float(inside[0, 1]), float(inside[0, 0]) * room
    floor = float(inside[-1, 1])
    flat = float(inside[inside[:, 1] < floor + 1e-6, 0].max())
    cavity = Cavity(floor, flat * room, rim, rim_radius)
    return Solid(category, *mesh, "boxy" if room == SQUARE else "round", cavity=cavity)


Profile = NDArray[np.float64]


def _bowl(rng: Generator) -> tuple[Profile, Profile]:
    h, base = rng.uniform(0.3, 0.46), rng.uniform(0.22, 0.3)
    outer = smooth([(0, 0), (base, 0), (base * 1.25, 0.06), (0.44, h * 0.55), (0.5, h)], 4)
    inside = smooth([(0.465, h - 0.005), (0.405, h * 0.58), (base * 1.2, 0.085), (base, WALL), (0, WALL)], 4)
    inside[:, 1] = np.maximum(inside[:, 1], WALL)  # the curve swings a little below its floor
    return outer, inside


def _tray(rng: Generator) -> tuple[Profile, Profile]:
    return _straight_walls(0.6, 0.6 + rng.uniform(0.0, 0.04), rng.uniform(0.1, 0.16))


def _crate(rng: Generator) -> tuple[Profile, Profile]:
    return _straight_walls(0.48, 0.48 + rng.uniform(0.0, 0.05), rng.uniform(0.3, 0.46))


def _pot(rng: Generator) -> tuple[Profile, Profile]:
    return _straight_walls(0.34, 0.34 * rng.uniform(1.2, 1.4), rng.uniform(0.42, 0.6))


def _basket(rng: Generator) -> tuple[Profile, Profile]:
    return _straight_walls(0.38, rng.uniform(0.44, 0.5), rng.uniform(0.28, 0.4))


def _cup(rng: Generator) -> tuple[Profile, Profile]:
    base = rng.uniform(0.24, 0.3)
    return _straight_walls(base, base * rng.uniform(1.0, 1.15), rng.uniform(0.62, 0.8))


def _mug(rng: Generator) -> tuple[Profile, Profile]:
    base = rng.uniform(0.3, 0.36)
    return _straight_walls(base, base * rng.uniform(1.0, 1.1), rng.uniform(0.55, 0.68))


def _vase(rng: Generator) -> tuple[Profile, Profile]:
    u = rng.uniform
    base, belly, neck, mouth = u(0.15, 0.2), u(0.25, 0.34), u(0.13, 0.18), u(0.18, 0.26)
    outer = smooth([(0, 0), (base, 0), (belly, u(0.3, 0.42)), (neck, u(0.7, 0.78)), (mouth, 1.0)], 4)
    wall = outer[5:][::-1]  # from the mouth down to a little above the foot
    inside = np.stack([np.maximum(wall[:, 0] - WALL, 0.02), wall[:, 1]], 1)
    floor = float(inside[-1, 1])
    return outer, np.concatenate([inside, [(0.0, floor)]])


def _straight_walls(base: float, rim: float, height: float, steps: int = 4) -> tuple[Profile, Profile]:
    outer = edged([(0, 0), (base, 0), (rim, height), (rim - WALL, height)], 0.015, steps)[:-1]
    inside = edged([(rim - WALL, height), (base - WALL, WALL), (0, WALL)], 0.02, steps)
    return outer, inside


_SHAPES = {
    "bowl": _bowl,
    "tray": _tray,
    "crate": _crate,
    "pot": _pot,
    "basket": _basket,
    "cup": _cup,
    "mug": _mug,
    "vase": _vase,
}


def _ribs(count: int, depth: float, segments: int) -> NDArray[np.float64]:
    turn = np.arange(segments) * (2 * np.pi / segments)
    return np.asarray(1 + depth * np.cos(turn * count))


def _handle(radius: float, height: float) -> tuple[Array, Ints]:
    angle = np.linspace(-1.25, 1.25, 14)
    curve = np.stack([radius - 0.04 + 0.2 * np.cos(angle), 0 * angle, height * (0.5 + 0.3 * np.sin(angle))], 1)
    return sweep(curve, np.full(14, 0.045), sides=10)


def _arch(radius: float, height: float) -> tuple[Array, Ints]:
    """A basket's handle, from rim to rim."""
    angle = np.linspace(0, np.pi, 22)
    curve = np.stack([(radius - 0.01) * np.cos(angle), 0 * angle, height - 0.03 + 0.62 * np.sin(angle)], 1)
    return sweep(curve, np.full(22, 0.028), sides=8)
