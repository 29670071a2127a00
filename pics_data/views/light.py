"""Light on a thing that stands alone, cheap enough for every pixel of a view: a lamp, the sky, and light from below.

What the thing hides from itself is found once, at its vertices. Colours are linear RGB, float32.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pics_data.scenes.rays import Array, Pose, Tree
from pics_data.scenes.solids import Ints, dot, sphere_directions

NUM_OPEN = 20  # directions over the sphere in which openness is sampled
CLUSTERS = 22  # a side: vertices of one cluster that face the same way are asked once
LIFT = 0.004  # of the thing's size: how far off the surface these rays start


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
    up = (normals[:, 2:] + 1) * np.float32(0.5)
    around = lamp.sky * up + lamp.bounce * (1 - up)
    facing = np.maximum(dot(normals, lamp.toward[None]), 0)[:, None]
    free = free[:, None]
    return color * (around * free + lamp.key * facing * (np.float32(0.35) + np.float32(0.65) * free))


def openness(vertices: Array, faces: Ints, corners: Array, tree: Tree) -> Array:
    """How much of the half space in front of it each face corner sees past the thing itself, [F, 3] in 0 to 1.

    `corners` [F, 3, 3] are unit normals. All in the tree's own space.
    """
    low = vertices.min(0)
    size = float((vertices.max(0) - low).max())
    at, normals = faces.reshape(-1), corners.reshape(-1, 3)
    cell = np.floor((vertices - low) * np.float32(CLUSTERS / size)).astype(np.int64)[at]
    way = np.round(normals * 1.5).astype(np.int64) + 2
    key = _number(np.concatenate([cell, way], 1))
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    found = _seen(vertices[at[first]], normals[first], np.float32(LIFT * size), tree)[inverse.ravel()]
    # The borders of clusters show no more once each vertex has the mean of its faces, and these of their vertices.
    count = np.maximum(np.bincount(at, minlength=len(vertices)), 1)
    for _ in range(2):
        at_vertices = np.bincount(at, found, minlength=len(vertices)) / count
        found = np.repeat(at_vertices[faces].mean(1), 3)
    at_vertices = np.bincount(at, found, minlength=len(vertices)) / count
    return np.asarray(at_vertices[faces], np.float32)


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


def _number(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """One integer for each row of six small ones."""
    out = rows[:, 0]
    for column in range(1, rows.shape[1]):
        out = out * 64 + rows[:, column]
    return out
