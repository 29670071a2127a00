"""The light on a mesh that stands alone: its formula pixel by pixel, and how much of the world each corner sees."""

import numpy as np
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pics_data.scenes.rays import Tree
from pics_data.scenes.solids import corner_normals, sphere_directions
from pics_data.views.light import Lamp, _numbered, lit, openness
from pics_data.views.mesh import STUDIO

DENSE = sphere_directions(240)


def seen_from(mesh: trimesh.Trimesh, point: NDArray[np.float64], normal: NDArray[np.float64]) -> float:
    """The share of the half space over a point, weighted by the cosine, that no triangle hides: Möller and Trumbore's
    formula for each of many directions and all triangles."""
    ways = DENSE[DENSE @ normal > 0.05].astype(np.float64)
    a, b, c = mesh.triangles.transpose(1, 0, 2)
    e1, e2, s = b - a, c - a, point + 0.004 * normal - a
    free = []
    for way in ways:
        p = np.cross(way, e2)
        det = (e1 * p).sum(1)
        det = np.where(np.abs(det) < 1e-12, np.inf, det)
        u, q = (s * p).sum(1) / det, np.cross(s, e1)
        v, t = (q @ way) / det, (e2 * q).sum(1) / det
        free.append(not ((u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)).any())
    return float(np.average(free, weights=ways @ normal))


def opened(mesh: trimesh.Trimesh) -> NDArray[np.float32]:
    points, faces = mesh.vertices.astype(np.float32), np.ascontiguousarray(mesh.faces, np.int32)
    return openness(points, faces, corner_normals(points, faces), Tree(points, faces))


def test_a_corner_is_as_open_as_all_rays_from_it_say() -> None:
    """A cup of triangles, of one unit: open outside, half closed within, and ever more so towards its floor."""
    wall = trimesh.creation.annulus(0.35, 0.45, 0.9, sections=40)
    floor = trimesh.creation.cylinder(0.36, 0.06, sections=40)
    floor.apply_translation([0, 0, -0.42])
    mesh = trimesh.util.concatenate([wall.subdivide(), floor])
    corners = corner_normals(mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32))
    found = opened(mesh)
    rng = np.random.default_rng(0)
    true, close = [], []
    for face in rng.permutation(len(mesh.faces))[:40]:
        k = int(rng.integers(3))
        point, normal = mesh.vertices[mesh.faces[face, k]], corners[face, k].astype(np.float64)
        true.append(seen_from(mesh, point, normal))
        close.append(float(found[face, k]))
    assert np.ptp(true) > 0.6, "it has both open and closed places"
    assert np.corrcoef(true, close)[0, 1] > 0.8
    assert np.abs(np.array(true) - close).mean() < 0.15


def test_nothing_hides_a_ball_from_the_world() -> None:
    assert opened(trimesh.creation.icosphere(subdivisions=3)).min() > 0.99


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=80))
def test_labels_are_numbered_as_sorting_would(labels: list[int]) -> None:
    _, first, number = np.unique(labels, return_index=True, return_inverse=True)
    found = _numbered(np.array(labels), 31)
    assert (found[0] == first).all()
    assert (found[1] == number).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_light_is_the_sum_of_sky_ground_and_lamp(seed: int) -> None:
    rng = np.random.default_rng(seed)
    color, free = rng.random((9, 3), np.float32), rng.random(9, np.float32)
    normals = rng.normal(size=(9, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    lamp = Lamp(STUDIO.toward, *rng.random((3, 3), np.float32))
    found = lit(color, normals, free, lamp)
    for m in range(9):
        up = (1 + normals[m, 2]) / 2  # of the half space over it, the part that is above the horizon
        facing = max(0.0, float(normals[m] @ lamp.toward))
        light = free[m] * (up * lamp.sky + (1 - up) * lamp.bounce) + facing * (0.35 + 0.65 * free[m]) * lamp.key
        np.testing.assert_allclose(found[m], color[m] * light, rtol=1e-4, atol=1e-5)
