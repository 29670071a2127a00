"""Fills containers: finds where a body dropped into one comes to rest, by height maps, then exactly, by rays.

Heights are in the container's own space and cells (`Shape.heights`), in which offsets of the body are tried all at
once: lowered at an offset, it stops where the lowest gap between its underside and what is below closes. The lowest
stop is where it would roll to; on a level floor many are the lowest.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.random import Generator

from pics_data.scenes.catalogue import ROLLING
from pics_data.scenes.contact import CLEARANCE, DOWN, approach
from pics_data.scenes.rays import Array
from pics_data.scenes.scene import Placed
from pics_data.scenes.shapes import GRID, SPAN

_LEVEL = 0.004  # of the container's size: stops that differ by less are one level


def settle(
    body: Placed, around: Placed, contents: list[tuple[int, Placed]], number: int, rng: Generator
) -> Placed | None:
    """`body`, turned and scaled, dropped into the container `around`, object `number` of the scene, onto its
    `contents`; None if it does not come to rest in there.

    What rolls may end on others or on a round wall; all else must stand on the floor.
    """
    cavity = around.shape.solid.cavity
    assert cavity is not None
    scale = around.pose.scale
    ratio = body.pose.scale / scale
    ground = around.shape.heights[0]
    for _, thing in contents:
        ground = np.maximum(ground, _top(thing, around))
    half = int(max(cavity.radius, cavity.rim_radius) / SPAN * GRID) + 1
    stops = _stops(ground, _underside(body, around), half)
    reach = np.hypot(*np.meshgrid(*(np.arange(-half, half + 1),) * 2)) * (SPAN / GRID)
    stops[reach > max(cavity.radius, cavity.rim_radius) - 0.3 * body.shape.solid.radius * ratio] = np.inf
    lowest = float(stops.min())
    rolls = body.body.solid.category in ROLLING
    if not lowest < cavity.rim - 0.2 * body.shape.solid.height * ratio:
        return None
    if not rolls and lowest > cavity.floor + _LEVEL:
        return None
    spots = np.argwhere(stops <= lowest + _LEVEL)
    spot = (spots[rng.integers(len(spots))] - half) * (SPAN / GRID)
    x, y = (around.pose.turn[:2, :2] * spot.astype(np.float32)).sum(1) * np.float32(scale)
    sx, sy, sz = (float(v) for v in around.pose.shift)
    high = sz + (lowest + 0.15) * scale
    start = body.moved(np.array([sx + float(x), sy + float(y), high]) - body.pose.shift)
    found = approach(start, [around, *(thing for _, thing in contents)], DOWN)
    if found is None:
        return None
    here, touched = found
    if not rolls and abs(float(here.pose.shift[2]) - sz - cavity.floor * scale) > 8 * CLEARANCE:
        return None
    numbers = [number, *(k for k, _ in contents)]
    rests = tuple(k for k, one in zip(numbers, touched, strict=True) if one)
    return Placed(here.body, here.pose, rests=rests, inside=number)


def _stops(ground: Array, under: Array, half: int) -> Array:
    """How high the body's own origin stops at offsets of -half .. half cells, [2 half + 1, 2 half + 1]."""
    side = 2 * half + 1
    ring = np.pad(ground, half, constant_values=-np.inf)
    rows, columns = np.nonzero(np.isfinite(under))
    windows = sliding_window_view(ring, (side, side))[rows, columns]
    return np.asarray((windows - under[rows, columns][:, None, None]).max(0))


def _underside(body: Placed, around: Placed) -> Array:
    """The lowest points of a body over the container's cells, as if it stood at the container's origin, [G, G]."""
    return _seen(body, around, 1, np.zeros(2, np.float32))


def _top(thing: Placed, around: Placed) -> Array:
    """The highest points of what lies in the container, over its cells, [G, G]."""
    away = (thing.pose.shift - around.pose.shift) / np.float32(around.pose.scale)
    own = (around.pose.turn[:2, :2].T * away[:2]).sum(1)
    return _seen(thing, around, 0, own) + away[2]


def _seen(thing: Placed, around: Placed, which: int, middle: Array) -> Array:
    """One of an upright thing's height maps, on the container's cells."""
    ratio = np.float32(thing.pose.scale / around.pose.scale)
    line = (((np.arange(GRID) + 0.5) / GRID - 0.5) * SPAN).astype(np.float32)
    x, y = line[:, None] - middle[0], line[None] - middle[1]
    # The thing's turn about the vertical, as the container sees it: the first columns are (cosine, sine).
    (c1, s1), (c2, s2) = thing.pose.turn[:2, 0], around.pose.turn[:2, 0]
    cosine, sine = c1 * c2 + s1 * s2, s1 * c2 - c1 * s2
    u = (cosine * x + sine * y) / ratio
    v = (-sine * x + cosine * y) / ratio
    i = np.floor((u / SPAN + 0.5) * GRID).astype(int)
    j = np.floor((v / SPAN + 0.5) * GRID).astype(int)
    inside = (i >= 0) & (i < GRID) & (j >= 0) & (j < GRID)
    heights = thing.shape.heights[which]
    found = heights[np.clip(i, 0, GRID - 1), np.clip(j, 0, GRID - 1)] * ratio
    return np.where(inside, found, np.float32(-np.inf if which == 0 else np.inf))
