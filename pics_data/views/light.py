"""Light on a thing that stands alone, cheap enough for every pixel of a view: a lamp, the sky, and light from below.

What the thing hides from itself is found once, at its vertices. Colours are linear RGB, float32.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pics_data.scenes.rays import Array, Pose, Tree
from pics_data.scenes.solids import Ints, dot, sphere_directions
from pics_data.views.raycast import bounds

NUM_OPEN = 20  # directions over the sphere in which openness is sampled
CLUSTERS = 22  # a side: vertices of one cluster that face the same way are asked once
WAYS = 5  # along each axis: normals that fall into the same of these steps face the same way
LIFT = 0.004  # of the thing's size: how far off the surface these rays start
Longs = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Lamp:
    """`toward` [3] is the unit direction to the lamp; `key`, `sky` and `bounce` [3] the light from there, from above
    and from below."""

    toward: Array
    key: Array
    sky: Array
    bounce: Array


def lit(color: Array, normals: Array, free: Array, lamp: Lamp) -> Array:
    """Colours [M, 3] of a matt surface of `color` with unit `normals` [M, 3], `free` [M] of which is not hidden."""
    up = (normals[:, 2] + 1) * np.float32(0.5)
    down = 1 - up
    facing = np.maximum(dot(normals, lamp.toward[None]), 0)
    direct = np.float32(0.35) + np.float32(0.65) * free
    out = np.empty(color.shape, np.float32)
    for channel in range(3):  # numpy is several times as fast along long rows
        around = lamp.sky[channel] * up + lamp.bounce[channel] * down
        out[:, channel] = color[:, channel] * (around * free + lamp.key[channel] * facing * direct)
    return out


def openness(vertices: Array, faces: Ints, corners: Array, tree: Tree) -> Array:
    """How much of the half space in front of it each face corner sees past the thing itself, [F, 3] in 0 to 1.

    `corners` [F, 3, 3] are unit normals. All in the tree's own space.
    """
    low, high = bounds(vertices)
    size = float((high - low).max())
    at, normals = faces.ravel().astype(np.int64), corners.reshape(-1, 3)
    first, cluster = _clusters(np.floor((vertices - low) * np.float32(CLUSTERS / size)), at, normals)
    found = _seen(vertices[at[first]], normals[first], np.float32(LIFT * size), tree)[cluster]
    # The borders of clusters show no more once each vertex has the mean of its faces, and these of their vertices.
    count = np.maximum(np.bincount(at, minlength=len(vertices)), 1)
    a, b, c = np.ascontiguousarray(at.reshape(-1, 3).T)
    at_vertices = np.bincount(at, found, minlength=len(vertices)) / count
    for _ in range(2):
        of_faces = (at_vertices[a] + at_vertices[b] + at_vertices[c]) / 3
        at_vertices = np.bincount(at, np.repeat(of_faces, 3), minlength=len(vertices)) / count
    return np.asarray(at_vertices[faces], np.float32)


def _clusters(cells: Array, at: Longs, normals: Array) -> tuple[Longs, Longs]:
    """Corners of one cell of the grid that face about the same way make a cluster.

    Vertices lie in `cells` [V, 3], whole numbers of 0 to `CLUSTERS`; corners are `at` [N] of these vertices and have
    unit `normals` [N, 3]. Returns the first corner of each cluster, and the cluster of each corner [N].
    """
    x, y, z = cells.T.astype(np.int64)
    side = CLUSTERS + 1
    occupied, cell = _numbered((x * side + y) * side + z, side**3)
    i, j, k = np.round(normals.T * 1.5).astype(np.int64) + 2  # 0 to WAYS - 1
    return _numbered(((cell[at] * WAYS + i) * WAYS + j) * WAYS + k, len(occupied) * WAYS**3)


def _numbered(labels: Longs, limit: int) -> tuple[Longs, Longs]:
    """The first place of each of the `labels` [N], which are below `limit`, in their order; and for each place the
    number of its label [N]. As `np.unique`, which sorts, and takes several times as long."""
    places = np.full(limit, -1)
    places[labels[::-1]] = np.arange(len(labels) - 1, -1, -1)  # of several, the last one stays
    used = np.flatnonzero(places >= 0)
    number = np.empty(limit, np.int64)
    number[used] = np.arange(len(used))
    return places[used], number[labels]


def _seen(points: Array, normals: Array, lift: np.float32, tree: Tree) -> Array:
    directions = sphere_directions(NUM_OPEN)
    cosines = np.stack([dot(normals, way[None]) for way in directions], 1)
    point, way = np.nonzero(cosines > 0.1)
    start = np.take(points + lift * normals, point, axis=0)
    here = Pose(np.eye(3, dtype=np.float32), 1.0, np.zeros(3, np.float32))
    free = ~tree.blocked(here, start, np.take(directions, way, axis=0))
    weights = cosines[point, way]
    total = np.bincount(point, weights, minlength=len(points))
    return (np.bincount(point, weights * free, minlength=len(points)) / np.maximum(total, 1e-6)).astype(np.float32)
