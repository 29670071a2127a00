"""Where two bodies touch: how far one can move until it meets another, and whether they cross. Exact for their meshes.

Two triangle meshes cross if and only if an edge of one passes through a face of the other, so edges are cast as rays.
"""

import numpy as np
from numpy.typing import NDArray

from pics_data.scenes.rays import Array, rotate
from pics_data.scenes.scene import Placed
from pics_data.scenes.solids import sphere_directions

CLEARANCE = 3e-4  # world units between bodies that rest on each other: far less than a pixel, far more than rounding
TOUCHING = 2e-3  # world units; bodies that are nearer than this touch
DOWN = np.array([0, 0, -1], np.float32)
_EARLY = 0.02  # world units by which edges may meet before corners do, at most
_MARGIN = 0.012  # by which the bounds of a body of size 1 may fall short, and more


def crosses(a: Placed, b: Placed) -> bool:
    """Whether the surfaces of two bodies pass through each other."""
    low = np.maximum(a.bounds[0], b.bounds[0]) - np.float32(_MARGIN)
    high = np.minimum(a.bounds[1], b.bounds[1]) + np.float32(_MARGIN)
    if (low > high).any():
        return False
    return _edges_meet(a, b, low, high) or _edges_meet(b, a, low, high)


def _edges_meet(a: Placed, b: Placed, low: Array, high: Array) -> bool:
    start, end = (np.take(a.columns, a.shape.edges[:, k], axis=1) for k in range(2))
    meet = (np.maximum(start, end) >= low[:, None]) & (np.minimum(start, end) <= high[:, None])
    near = np.flatnonzero(meet[0] & meet[1] & meet[2])
    if not len(near):
        return False
    first = np.ascontiguousarray(np.take(start, near, axis=1).T)
    ways = np.ascontiguousarray(np.take(end, near, axis=1).T) - first
    return bool(b.body.tree.blocked(b.pose, first, ways, 1.0).any())


def travel(a: Placed, b: Placed, way: Array) -> tuple[float, Array]:
    """How far `a` can move along the unit vector `way` [3] before it meets `b`, infinite if never; and the place [3] on
    `b` where it does.

    A corner of one meets a face of the other: two edges that meet first, between their corners, are not seen.
    """
    across = _square_to(way)
    spots = [_flat(thing.columns, across) for thing in (a, b)]
    low, high = (np.stack(ends) for ends in zip(*((s.min(1), s.max(1)) for s in spots), strict=True))
    low, high = low.max(0) - np.float32(1e-4), high.min(0) + np.float32(1e-4)
    best, where = np.inf, np.zeros(3, np.float32)
    for from_, to, own, sign in ((a, b, spots[0], 1), (b, a, spots[1], -1)):
        u, v = own
        near = np.flatnonzero((u >= low[0]) & (u <= high[0]) & (v >= low[1]) & (v <= high[1]))
        if not len(near):
            continue
        start = np.take(from_.points, near, axis=0)
        ray = rotate(to.pose.turn.T, (way * np.float32(sign))[None])[0]
        reach = to.body.tree.distances(to.pose.to_own(start), ray) * np.float32(to.pose.scale)
        first = int(reach.argmin())
        if reach[first] < best:
            best = float(reach[first])
            where = start[first] + (way * np.float32(best) if sign > 0 else 0)
    return best, np.asarray(where, np.float32)


def _square_to(way: Array) -> Array:
    """Two unit vectors [2, 3] that with the unit vector `way` make a right-angled frame."""
    x, y, z = (float(v) for v in way)
    side = np.array([y, -x, 0.0] if abs(z) < 0.9 else [0.0, z, -y])
    side /= np.sqrt((side * side).sum())
    a, b, c = side
    return np.array([side, [y * c - z * b, z * a - x * c, x * b - y * a]], np.float32)


def _flat(columns: Array, across: Array) -> Array:
    x, y, z = columns
    return np.stack([x * a + y * b + z * c for a, b, c in across])


def approach(a: Placed, others: list[Placed], way: Array) -> tuple[Placed, list[bool]] | None:
    """`a` moved along `way` up to its first contact with any of `others`, and which of these it would then meet if it
    went on by `TOUCHING`.

    None if it meets nothing, or if it starts within one of them.
    """
    reach = [travel(a, other, way)[0] for other in others]
    first = min(reach, default=np.inf)
    if not np.isfinite(first) or any(crosses(a, other) for other in others):
        return None
    near = [other for other, far in zip(others, reach, strict=True) if far < first + 4 * _EARLY]

    def meets(back: float) -> bool:
        here = a.moved(way * np.float32(first - back))
        return any(crosses(here, other) for other in near)

    back = CLEARANCE
    if meets(back):  # two edges meet earlier than any corner: halve the way in between
        free = min(_EARLY, first)
        if meets(free):
            return None
        while free - back > CLEARANCE / 2:
            middle = (free + back) / 2
            free, back = (free, middle) if meets(middle) else (middle, back)
        back = free
    here = a.moved(way * np.float32(first - back))
    on = here.moved(way * np.float32(TOUCHING))
    return here, [any(other is one for one in near) and crosses(on, other) for other in others]


def touching(a: Placed, b: Placed) -> bool:
    """Whether two bodies that do not cross are nearer to each other than `TOUCHING`: moved by this, some way, they
    would."""
    low = np.maximum(a.bounds[0], b.bounds[0]) - np.float32(_MARGIN)
    high = np.minimum(a.bounds[1], b.bounds[1]) + np.float32(_MARGIN)
    if (low > high).any():
        return False
    ways: NDArray[np.float32] = np.concatenate([DOWN[None], -DOWN[None], sphere_directions(40)])
    return any(crosses(a.moved(way * np.float32(TOUCHING)), b) for way in ways)


def truth_of_pair(objects: tuple[Placed, ...], i: int, j: int) -> tuple[int | None, int | None, bool]:
    """Of objects i and j of a scene: which carries the other, which has the other in its room, 0 for i and 1 for j or
    None for neither; and whether they touch."""
    pair = objects[i], objects[j]
    supporter = next((k for k, (own, other) in enumerate(((i, 1), (j, 0))) if own in pair[other].rests), None)
    container = next((k for k, (own, other) in enumerate(((i, 1), (j, 0))) if pair[other].inside == own), None)
    return supporter, container, supporter is not None or touching(*pair)
