"""The ray caster: one Embree tree a solid, in the solid's own space; rays are moved instead of meshes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

Array = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pose:
    """Own space -> world: x_world = scale * turn x + shift, with `turn` a rotation matrix [3, 3]."""

    turn: Array
    scale: float
    shift: Array

    def to_world(self, points: Array) -> Array:
        return rotate(self.turn, points) * np.float32(self.scale) + self.shift

    def to_own(self, points: Array) -> Array:
        return rotate(self.turn.T, (points - self.shift) * np.float32(1 / self.scale))


def rotate(matrix: Array, vectors: Array) -> Array:
    """`matrix` [3, 3] times each of `vectors` [N, 3]. Written out, as BLAS may round by its number of threads."""
    x, y, z = vectors[:, 0], vectors[:, 1], vectors[:, 2]
    out = np.empty_like(vectors)
    for row in range(3):
        out[:, row] = matrix[row, 0] * x + matrix[row, 1] * y + matrix[row, 2] * z
    return out


@dataclass(frozen=True, slots=True)
class Hits:
    """Of N rays: `ray` [M] the ones that hit, their `depth` [M] in world units, `face` [M] and `weights` [M, 3]."""

    ray: NDArray[np.int64]
    depth: Array
    face: NDArray[np.int32]
    weights: Array


def blend(corners: Array, hits: Hits) -> Array:
    """What stands at the corners of faces [F, 3, C], at the hits between them, [M, C]."""
    w = hits.weights
    three = np.take(corners, hits.face, axis=0)
    return three[:, 0] * w[:, :1] + three[:, 1] * w[:, 1:2] + three[:, 2] * w[:, 2:]


class Tree:
    """An Embree tree over one mesh; about 1 ms a 1,000 faces to build. Robust: no ray slips through an edge."""

    def __init__(self, vertices: Array, faces: NDArray[np.int32]) -> None:
        self._scene: Any = EmbreeScene(robust=True)
        TriangleMesh(self._scene, np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32))
        # The first query builds the tree: ask now, so that threads may share it later.
        self._scene.run(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32))

    def first(self, pose: Pose, origin: Array, directions: Array) -> Hits:
        """First hits of unit `directions` [N, 3] from one world `origin` [3]."""
        own = np.ascontiguousarray(rotate(pose.turn.T, directions))
        start = np.ascontiguousarray(np.broadcast_to(pose.to_own(origin[None]), own.shape))
        found = self._scene.run(start, own, output=True)
        ray = np.flatnonzero(found["primID"] >= 0)
        u, v = found["u"][ray], found["v"][ray]
        weights = np.stack([1 - u - v, u, v], 1)
        return Hits(ray, found["tfar"][ray] * np.float32(pose.scale), found["primID"][ray], weights)

    def distances(self, origins: Array, direction: Array) -> Array:
        """How far it is from each of `origins` [N, 3] to the mesh along a unit `direction` [3], in own space, [N];
        infinite where it is not met."""
        ways = np.ascontiguousarray(np.broadcast_to(direction, origins.shape), np.float32)
        found = self._scene.run(np.ascontiguousarray(origins, np.float32), ways, query="DISTANCE")
        return np.where(found < 1e30, found, np.float32(np.inf))

    def blocked(self, pose: Pose, origins: Array, directions: Array, reach: float = 1e30) -> Bools:
        """Which rays meet the mesh within `reach` (world units)."""
        start = np.ascontiguousarray(pose.to_own(origins))
        own = np.ascontiguousarray(rotate(pose.turn.T, directions))
        limit = np.full(len(own), reach / pose.scale, np.float32)
        answer: Bools = self._scene.run(start, own, limit, query="OCCLUDED") != -1
        return answer
