"""What tests of scenes share: brute force that knows nothing of ray trees, and how scenes are told apart."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from pics_data.records import Pixels
from pics_data.scenes.background import END
from pics_data.scenes.scene import Placed, Scene
from pics_data.sources.scenes import SceneSettings

SETTINGS = SceneSettings(seed=3, size=128)
KINDS = ("easy", "crowded", "containment")
Floats = NDArray[np.float64]


def digest(pixels: Pixels) -> str:
    """A hash of all that was rendered."""
    parts = [pixels.rgb, *pixels.masks, *pixels.full_masks, *pixels.full_rgba, pixels.front, pixels.depth, pixels.hides]
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def corners_of(thing: Placed) -> Floats:
    """The corners of a body's triangles in the world, [F, 3, 3]."""
    return thing.points.astype(np.float64)[thing.body.solid.faces]


def gap_between(a: Placed, b: Placed, reach: float = 0.006) -> float:
    """The distance between two bodies that do not cross: from corners of each to triangles of the other, and between
    their edges. Exact up to `reach`; infinite beyond."""
    tris = [corners_of(a), corners_of(b)]
    low = np.maximum(*(t.reshape(-1, 3).min(0) for t in tris)) - reach
    high = np.minimum(*(t.reshape(-1, 3).max(0) for t in tris)) + reach
    near = [t[((t.min(1) <= high) & (t.max(1) >= low)).all(1)] for t in tris]
    if not len(near[0]) or not len(near[1]):
        return np.inf
    best = np.inf
    for mine, other in (near, near[::-1]):
        points = np.unique(mine.reshape(-1, 3), axis=0)
        p, f = _close(points, points, other.min(1), other.max(1), reach)
        if len(p):
            best = min(best, float(_to_triangles(points[p], other[f]).min()))
    edges = [t[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2, 3) for t in near]
    p, f = _close(
        *(e(edges[0], axis=1) for e in (np.min, np.max)), *(e(edges[1], axis=1) for e in (np.min, np.max)), reach
    )
    if len(p):
        best = min(best, float(_between_edges(edges[0][p], edges[1][f]).min()))
    return best


def _close(
    low: Floats, high: Floats, other_low: Floats, other_high: Floats, reach: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of boxes that come within `reach` of each other."""
    found = []
    rows = max(1, 2_000_000 // len(other_low))
    for start in range(0, len(low), rows):
        part = slice(start, start + rows)
        p, f = np.nonzero((low[part, :1] <= other_high[:, 0] + reach) & (high[part, :1] >= other_low[:, 0] - reach))
        keep = (low[start + p, 1:] <= other_high[f, 1:] + reach) & (high[start + p, 1:] >= other_low[f, 1:] - reach)
        found.append((start + p[keep.all(1)], f[keep.all(1)]))
    return np.concatenate([p for p, _ in found]), np.concatenate([f for _, f in found])


def _between_edges(first: Floats, second: Floats) -> Floats:
    """Distances [N] of pairs of segments [N, 2, 3]."""
    d1, d2, r = first[:, 1] - first[:, 0], second[:, 1] - second[:, 0], first[:, 0] - second[:, 0]
    a, e, b = (d1**2).sum(1), (d2**2).sum(1), (d1 * d2).sum(1)
    c, f = (d1 * r).sum(1), (d2 * r).sum(1)
    across = a * e - b * b
    s = np.clip(np.where(across > 1e-18, (b * f - c * e) / np.maximum(across, 1e-18), 0), 0, 1)
    t = np.clip((b * s + f) / e, 0, 1)
    s = np.clip((b * t - c) / a, 0, 1)
    return np.sqrt(((r + s[:, None] * d1 - t[:, None] * d2) ** 2).sum(1))


def _to_triangles(p: Floats, tris: Floats) -> Floats:
    """Distances [N] from points to a triangle each: to the plane within, to the nearest edge outside."""
    a, b, c = tris.transpose(1, 0, 2)
    normal = np.cross(b - a, c - a)
    height = ((p - a) * normal).sum(1) / np.sqrt(np.maximum((normal**2).sum(1), 1e-30))
    inside = (normal**2).sum(1) > 1e-12  # of slivers, the edges tell as much
    nearest = np.full(len(p), np.inf)
    for start, end in ((a, b), (b, c), (c, a)):
        side = end - start
        inside &= (np.cross(side, p - start) * normal).sum(1) >= 0
        along = np.clip(((p - start) * side).sum(1) / np.maximum((side**2).sum(1), 1e-30), 0, 1)
        nearest = np.minimum(nearest, np.sqrt(((p - start - along[:, None] * side) ** 2).sum(1)))
    return np.where(inside, np.abs(height), nearest)


def look_along(scene: Scene, x: float, y: float, size: int) -> list[float]:
    """The depth along the camera's axis of each object, then of ground and backdrop, at a place of the picture; every
    triangle is asked. Infinite where the ray passes by."""
    camera = scene.camera
    right, down, forward = camera.axes.astype(np.float64)
    way = right * ((x * 2 / size - 1) / camera.focal) + down * ((y * 2 / size - 1) / camera.focal) + forward
    eye = camera.position.astype(np.float64)
    depths = []
    for thing in scene.objects:
        a, b, c = corners_of(thing).transpose(1, 0, 2)
        normal = np.cross(b - a, c - a)
        slope = normal @ way
        t = np.where(np.abs(slope) > 1e-12, ((a - eye) * normal).sum(1) / np.where(slope == 0, 1, slope), -1)
        p = eye + t[:, None] * way
        hit = t > 0
        for start, end in ((a, b), (b, c), (c, a)):
            hit &= (np.cross(end - start, p - start) * normal).sum(1) >= 0
        depths.append(float(t[hit].min()) if hit.any() else np.inf)
    wall = scene.backdrop.distance
    ground = -eye[2] / way[2] if way[2] < 0 else np.inf
    limit = (wall - eye[1]) / way[1] if wall else np.inf
    if not wall and eye[1] + ground * way[1] > END:
        ground = np.inf
    depths.append(min(ground, limit))
    return depths
