"""Closed triangle meshes of everyday shapes, as numpy arrays: lathed, swept, rounded and noise-deformed solids.

Every solid stands on z = 0, is centred over the origin, has welded vertices, outward faces, and largest extent 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Ints = NDArray[np.int32]
Floats = NDArray[np.floating[Any]]

NUM_SEGMENTS = 40  # around an axis: a silhouette of 100 px then strays less than 0.2 px from the true circle
CREASE_COS = 0.75  # faces that meet at less than about 41 degrees are shaded as one smooth surface


@dataclass(frozen=True, slots=True)
class Cavity:
    """The room inside a container: a flat floor of `radius` at height `floor`, up to the rim at height `rim`."""

    floor: float
    radius: float
    rim: float
    rim_radius: float


@dataclass(frozen=True, slots=True)
class Solid:
    """`vertices` [V, 3] and `faces` [F, 3]. `wrap` says how a flat pattern is laid on it: "round", "boxy" or "ball".

    `top` is the radius of a flat place at height `level` that carries another solid, 0 for none; `foot` the radius of
    what touches the ground. A `convex` solid throws no shadow on itself. One that is not `closed` may show the back of
    its faces.
    """

    category: str
    vertices: Array
    faces: Ints
    wrap: str = "round"
    convex: bool = False
    top: float = 0.0
    foot: float = 0.0
    level: float = 0.0  # 0: as high as the solid is
    cavity: Cavity | None = None
    closed: bool = True

    @property
    def height(self) -> float:
        return float(self.vertices[:, 2].max())

    @property
    def radius(self) -> float:
        """Of the upright cylinder around the origin that holds the solid."""
        return float(np.hypot(self.vertices[:, 0], self.vertices[:, 1]).max())


def grounded(solid: Solid) -> Solid:
    """The same solid standing on z = 0, centred over the origin, with largest extent 1."""
    low, high = solid.vertices.min(0), solid.vertices.max(0)
    factor = 1.0 / float((high - low).max())
    middle = (low + high) / 2 if solid.cavity is None else np.zeros(3)  # a mug's room stays over the origin
    shift = np.array([middle[0], middle[1], low[2]], np.float32)
    vertices = np.ascontiguousarray((solid.vertices - shift) * np.float32(factor))
    flat = vertices[vertices[:, 2] < 0.01]
    cavity = solid.cavity
    if cavity is not None:
        floor, rim = (cavity.floor - float(shift[2])) * factor, (cavity.rim - float(shift[2])) * factor
        cavity = Cavity(floor, cavity.radius * factor, rim, cavity.rim_radius * factor)
    foot = float(np.hypot(flat[:, 0], flat[:, 1]).max())
    level = (solid.level - float(shift[2])) * factor if solid.level else float(vertices[:, 2].max())
    return replace(solid, vertices=vertices, top=solid.top * factor, foot=foot, level=level, cavity=cavity)


def dot(a: Array, b: Array) -> Array:
    """Of each row [N, 3] with each row; written out, as numpy's own ways take three to ten times as long."""
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2]


def sphere_directions(count: int) -> Array:
    """Evenly spread unit directions [count, 3] (a Fibonacci spiral)."""
    k = np.arange(count) + 0.5
    z = 1 - 2 * k / count
    turn = np.pi * (1 + 5**0.5) * k
    radius = np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), z], 1).astype(np.float32)


def corner_normals(vertices: Array, faces: Ints) -> Array:
    """Unit normals [F, 3, 3], one a face corner: smooth over gentle edges, split at creases."""
    a, b, c = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
    areas: Array = np.cross(b - a, c - a).astype(np.float32)
    units: Array = (areas / np.maximum(np.sqrt(dot(areas, areas)), 1e-12)[:, None]).astype(np.float32)
    corners = faces.ravel()
    order = np.argsort(corners, kind="stable")
    counts = np.bincount(corners, minlength=len(vertices))
    starts = np.cumsum(counts) - counts
    # Each corner meets every corner at the same vertex: list these pairs.
    per_corner = counts[corners[order]]
    first = np.repeat(order, per_corner)
    offsets = np.arange(len(first)) - np.repeat(np.cumsum(per_corner) - per_corner, per_corner)
    second = order[np.repeat(starts[corners[order]], per_corner) + offsets]
    face_1, face_2 = first // 3, second // 3
    smooth = dot(units.take(face_1, axis=0), units.take(face_2, axis=0)) > CREASE_COS
    first, face_2 = first[smooth], face_2[smooth]
    around = [np.bincount(first, areas[face_2, axis], minlength=len(corners)) for axis in range(3)]
    sums: Array = np.stack(around, axis=1).astype(np.float32)
    norms = np.sqrt(dot(sums, sums))[:, None]
    normals = np.where(norms > 1e-12, sums / np.maximum(norms, 1e-12), np.repeat(units, 3, axis=0))
    return np.asarray(normals.reshape(-1, 3, 3), np.float32)


def lathe(profile: Floats, outline: Floats | None = None) -> tuple[Array, Ints]:
    """Turns `profile` [M, 2] of (radius, z) around the z axis; it starts and ends at radius 0, from below to above.

    `outline` [N] multiplies the radius by the angle: a star, a square, lobes. A hollow solid's profile walks up the
    outer wall, over the rim and down inside.
    """
    n = NUM_SEGMENTS if outline is None else len(outline)
    angle = np.arange(n) * (2 * np.pi / n)
    factor = np.ones(n) if outline is None else outline
    inner = profile[1:-1]
    rings = np.stack(
        [
            inner[:, :1] * (factor * np.cos(angle)),
            inner[:, :1] * (factor * np.sin(angle)),
            np.repeat(inner[:, 1:], n, axis=1),
        ],
        axis=2,
    )
    m = len(inner)
    vertices = np.concatenate([rings.reshape(-1, 3), [[0, 0, profile[0, 1]], [0, 0, profile[-1, 1]]]])
    faces = [_grid_faces(m, n)]
    here, after = np.arange(n), (np.arange(n) + 1) % n
    bottom, top = np.full(n, m * n), np.full(n, m * n + 1)
    faces.append(np.stack([bottom, after, here], 1))
    faces.append(np.stack([top, (m - 1) * n + here, (m - 1) * n + after], 1))
    return vertices.astype(np.float32), np.concatenate(faces).astype(np.int32)


def _grid_faces(m: int, n: int, *, closed: bool = False) -> Ints:
    """Two triangles a cell of m rings of n vertices; the rings' own ends meet, `closed` joins last and first ring."""
    i, j = np.meshgrid(np.arange(m if closed else m - 1), np.arange(n), indexing="ij")
    i2, j2 = (i + 1) % m, (j + 1) % n
    a, b, c, d = (i * n + j).ravel(), (i * n + j2).ravel(), (i2 * n + j2).ravel(), (i2 * n + j).ravel()
    return np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int32)


def sweep(curve: Floats, radii: Floats, *, closed: bool = False, sides: int = 18) -> tuple[Array, Ints]:
    """A tube of `radii` [M] along `curve` [M, 3]; open ends are rounded off by a point."""
    tangents = np.roll(curve, -1, 0) - np.roll(curve, 1, 0) if closed else np.gradient(curve, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    normal = np.cross(tangents[0], [0.0, 0.0, 1.0] if abs(tangents[0, 2]) < 0.9 else [1.0, 0.0, 0.0])
    frames = []
    for tangent in tangents:  # parallel transport: the frame turns no more than the curve does
        normal = normal - tangent * float((normal * tangent).sum())
        normal /= np.sqrt((normal * normal).sum())
        frames.append(normal)
    normals = np.array(frames)
    binormals = np.cross(tangents, normals)
    angle = np.arange(sides) * (2 * np.pi / sides)
    if closed:  # spread the twist that is left over, so that the last ring meets the first
        twist = np.arctan2((normals[-1] * binormals[0]).sum(), (normals[-1] * normals[0]).sum())
        angle = angle[None] - twist * (np.arange(len(curve)) / (len(curve) - 1))[:, None]
    else:
        angle = np.repeat(angle[None], len(curve), 0)
    around = np.cos(angle)[..., None] * normals[:, None] + np.sin(angle)[..., None] * binormals[:, None]
    vertices = (curve[:, None] + radii[:, None, None] * around).reshape(-1, 3)
    faces = _grid_faces(len(curve), sides, closed=closed)
    if not closed:
        m, here, after = len(curve), np.arange(sides), (np.arange(sides) + 1) % sides
        vertices = np.concatenate([vertices, curve[:1], curve[-1:]])
        start, end = np.full(sides, m * sides), np.full(sides, m * sides + 1)
        base = (m - 1) * sides
        faces = np.concatenate(
            [faces, np.stack([start, after, here], 1), np.stack([end, base + here, base + after], 1)]
        )
    return vertices.astype(np.float32), faces.astype(np.int32)


def rounded_box(size: Floats, bevel: float, cuts: int = 6) -> tuple[Array, Ints]:
    """A box of `size` [3] whose edges are rounded with radius `bevel`; light varies along `cuts` lines of each side."""
    lines = []
    turn = bevel * (1 - np.tan(np.linspace(np.pi / 4, 0, 4 if cuts > 4 else 3)))
    for extent in size:
        half = extent / 2
        flat = np.linspace(-half + bevel, half - bevel, cuts)
        lines.append(np.concatenate([-half + turn[:-1], flat, half - turn[:-1][::-1]]))
    cube, faces = _cube(lines)
    core = np.clip(cube, -(np.asarray(size) / 2 - bevel), np.asarray(size) / 2 - bevel)
    away = cube - core
    away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-9)
    return (core + bevel * away).astype(np.float32), faces


def ball(cells: int = 12) -> tuple[Array, Ints]:
    """A unit sphere out of a cube: `cells` x `cells` x 12 nearly even triangles."""
    line = np.tan(np.linspace(-np.pi / 4, np.pi / 4, cells + 1))
    cube, faces = _cube([line, line, line])
    return (cube / np.linalg.norm(cube, axis=1, keepdims=True)).astype(np.float32), faces


def _cube(lines: list[NDArray[np.float64]]) -> tuple[NDArray[np.float64], Ints]:
    """The welded surface of a box that is cut along `lines` of each axis."""
    points: list[NDArray[np.float64]] = []
    faces: list[NDArray[np.int64]] = []
    count = 0
    for axis in range(3):
        u, v = lines[(axis + 1) % 3], lines[(axis + 2) % 3]
        for side in (0, -1):
            uu, vv = np.meshgrid(u, v, indexing="ij")
            square = np.empty((uu.size, 3))
            square[:, axis] = lines[axis][side]
            square[:, (axis + 1) % 3], square[:, (axis + 2) % 3] = uu.ravel(), vv.ravel()
            i, j = np.meshgrid(np.arange(len(u) - 1), np.arange(len(v) - 1), indexing="ij")
            a = (i * len(v) + j).ravel()
            b, c, d = a + len(v), a + len(v) + 1, a + 1
            quads = np.stack([a, b, c, a, c, d], 1) if side else np.stack([a, c, b, a, d, c], 1)
            faces.append(quads.reshape(-1, 3) + count)
            points.append(square)
            count += len(square)
    stacked = np.concatenate(points)
    _, index, inverse = np.unique(np.round(stacked, 6), axis=0, return_index=True, return_inverse=True)
    return stacked[index], inverse.ravel()[np.concatenate(faces)].astype(np.int32)


def join(*parts: tuple[Array, Ints]) -> tuple[Array, Ints]:
    """Several closed meshes as one."""
    shift = np.cumsum([0] + [len(v) for v, _ in parts[:-1]])
    faces = np.concatenate([f + s for (_, f), s in zip(parts, shift, strict=True)])
    return np.concatenate([v for v, _ in parts]), faces.astype(np.int32)


def bend(function: Callable[[Array], Array], mesh: tuple[Array, Ints]) -> tuple[Array, Ints]:
    """The mesh with its vertices moved by `function`."""
    return function(mesh[0]).astype(np.float32), mesh[1]


def moved(mesh: tuple[Array, Ints], x: float, y: float, z: float) -> tuple[Array, Ints]:
    """The mesh elsewhere."""
    return (mesh[0] + np.array([x, y, z], np.float32)).astype(np.float32), mesh[1]
