"""A solid with all that is ever asked of it, found once: its ray tree, its outermost points, its light, its heights.

Scenes use a fixed stock of embedded shapes, `VARIANTS` of each category, as trees and light take long to make and
little to keep. Legend: V vertices, F faces, E edges, H outermost points, C corners that differ, G cells a side.
"""

from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

from pics_data.scenes.catalogue import CATEGORIES, make_solid
from pics_data.scenes.meshes import Skin, load_model
from pics_data.scenes.rays import Array, Pose, Tree
from pics_data.scenes.solids import Ints, Solid, corner_normals, dot, sphere_directions

VARIANTS = 8
NUM_OPEN = 64  # directions over the sphere in which a shape's own shade is sampled
LIFT = 4e-3  # of the shape's size: how far off the surface these rays start
GRID = 40  # cells a side of the height maps ...
SPAN = 1.44  # ... and the width that they cover: the diagonal of a unit square, and a little more
Free = Callable[[NDArray[np.int64], Array], NDArray[np.bool_]]
HERE = Pose(np.eye(3, dtype=np.float32), 1.0, np.zeros(3, np.float32))


class Shape:
    """A solid in its own space, and what is known of it; all but the tree is found when it is first asked for."""

    def __init__(self, solid: Solid, tree: Tree, skin: Skin | None = None, corners: Array | None = None) -> None:
        self.solid = solid
        self.tree = tree
        self.skin = skin
        self._corners = corners

    @cached_property
    def corners(self) -> Array:
        """Unit normals at face corners, [F, 3, 3]."""
        return corner_normals(self.solid.vertices, self.solid.faces) if self._corners is None else self._corners

    @cached_property
    def hull(self) -> Array:
        """The vertices [H, 3] that lie outermost in some direction: bounds and outlines need no others."""
        x, y, z = self.solid.vertices.T
        flat = np.arange(24) * (np.pi / 12)
        around = np.stack([np.cos(flat), np.sin(flat), 0 * flat], 1)
        directions = np.concatenate([sphere_directions(240), around, np.eye(3), -np.eye(3)])
        first = [int((x * np.float32(a) + y * np.float32(b) + z * np.float32(c)).argmax()) for a, b, c in directions]
        return self.solid.vertices[np.unique(first)]

    @cached_property
    def edges(self) -> Ints:
        """Each edge once, [E, 2]."""
        pairs = np.sort(
            np.concatenate([self.solid.faces[:, [0, 1]], self.solid.faces[:, [1, 2]], self.solid.faces[:, [2, 0]]]), 1
        )
        codes = np.unique(pairs[:, 0].astype(np.int64) * len(self.solid.vertices) + pairs[:, 1])
        return np.stack(np.divmod(codes, len(self.solid.vertices)), 1).astype(np.int32)

    @cached_property
    def base(self) -> float:
        """The radius of the disc around the origin in which the solid lies flat on what is below it; 0 if on feet."""
        v = self.solid.vertices
        low = v[v[:, 2] < 2e-3]
        if not len(low) or float(np.hypot(low[:, 0], low[:, 1]).min()) > 0.3 * self.solid.foot:
            return 0.0
        turn = np.arange(16) * (np.pi / 8)
        return max(0.0, min(float((low[:, 0] * np.cos(a) + low[:, 1] * np.sin(a)).max()) for a in turn))

    @cached_property
    def middle(self) -> Array:
        """The centre of mass of a solid body [3]; of an open mesh, that of its surface."""
        v, f = self.solid.vertices.astype(np.float64), self.solid.faces
        a, b, c = v[f[:, 0]], v[f[:, 1]], v[f[:, 2]]
        if self.solid.closed:
            weights = (a * np.cross(b, c)).sum(1) / 6
            centers = (a + b + c) / 4
        else:
            weights = np.sqrt((np.cross(b - a, c - a) ** 2).sum(1))
            centers = (a + b + c) / 3
        return np.asarray((centers * weights[:, None]).sum(0) / weights.sum(), np.float32)

    @cached_property
    def knots(self) -> tuple[Array, Array, Ints]:
        """Where light is found, once for all corners that share vertex and normal: points [C, 3], normals [C, 3], and
        the number of each face's three [F, 3]."""
        faces, normals = self.solid.faces.reshape(-1), self.corners.reshape(-1, 3)
        way = np.round(normals * 4).astype(np.int64) + 4
        keys = ((faces.astype(np.int64) * 9 + way[:, 0]) * 9 + way[:, 1]) * 9 + way[:, 2]
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        return self.solid.vertices[faces[first]], normals[first], inverse.reshape(-1, 3).astype(np.int32)

    @cached_property
    def open(self) -> Array:
        """How much of everything each knot sees past the shape itself, and where it lies: `moments` [C, 4]."""
        points, normals, _ = self.knots
        if self.solid.convex:
            return np.concatenate([np.ones((len(points), 1), np.float32), normals * np.float32(2 / 3)], 1)
        start = points + normals * np.float32(LIFT)
        count = NUM_OPEN if len(points) < 20_000 else NUM_OPEN // 4
        return moments(
            normals, sphere_directions(count), lambda point, way: ~self.tree.blocked(HERE, start[point], way)
        )

    @cached_property
    def heights(self) -> tuple[Array, Array]:
        """Seen from above and from below: the highest and the lowest point over each cell, [G, G] each, x then y.

        Cells are filled to their borders: where a shape may be, it is. Where it is not: -inf and +inf.
        """
        line = ((np.arange(GRID) + 0.5) / GRID - 0.5) * SPAN
        x, y = np.meshgrid(line, line, indexing="ij")
        start = np.stack([x.ravel(), y.ravel(), np.full(GRID * GRID, 3.0)], 1).astype(np.float32)
        down = np.array([0, 0, -1], np.float32)
        over = 3 - self.tree.distances(start, down)
        start[:, 2] = -3
        under = self.tree.distances(start, -down) - 3
        over, under = (h.reshape(GRID, GRID) for h in (over, under))
        return _spread(over, np.maximum), _spread(under, np.minimum)


def _spread(heights: Array, choose: np.ufunc) -> Array:
    """The extreme of each cell and its neighbours."""
    ring = np.pad(heights, 1, "edge")
    rows = choose(choose(ring[:-2], ring[1:-1]), ring[2:])
    return np.asarray(choose(choose(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:]))


def moments(normals: Array, directions: Array, free: Free) -> Array:
    """What points with unit `normals` [N, 3] see: the share of the light that an even sky all around would give them,
    and the mean of the directions that it comes from, weighted alike, [N, 4]. A free point: 1, and 2/3 of its normal.

    `free(point, way)` says of rays, by the number of their point [R] and unit direction [R, 3], which get away.
    """
    cosines = np.stack([dot(normals, way[None]) for way in directions], 1)
    point, way = np.nonzero(cosines > 0.03)
    weights = cosines[point, way]
    total = np.maximum(np.bincount(point, weights, minlength=len(normals)), 1e-6)
    rays = np.take(directions, way, axis=0)
    weights = weights * free(point, rays)
    sums = [np.bincount(point, weights * part, minlength=len(normals)) / total for part in (1.0, *rays.T)]
    return np.stack(sums, 1).astype(np.float32)


@lru_cache(maxsize=len(CATEGORIES) * VARIANTS)
def stock_shape(category: str, variant: int) -> Shape:
    """One of the embedded shapes; `variant` is below `VARIANTS`."""
    solid = make_solid(category, default_rng([list(CATEGORIES).index(category), variant]))
    return Shape(solid, Tree(solid.vertices, solid.faces))


@lru_cache(maxsize=64)
def file_shape(path: Path) -> Shape:
    """The shape of a user's mesh file. Raises `UserError` as `load_model` does."""
    model = load_model(path)
    return Shape(model.solid, model.tree, model.skin, model.corners)
