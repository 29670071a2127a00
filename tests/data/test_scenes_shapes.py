"""The stock of solids, cameras and rays that scenes are made of."""

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from pics_data.scenes.camera import frame
from pics_data.scenes.catalogue import CATEGORIES, CONTAINERS, HOLDERS, SUPPORTS, make_solid
from pics_data.scenes.rays import Pose, Tree
from pics_data.scenes.shapes import HERE, stock_shape
from pics_data.scenes.solids import corner_normals


@pytest.mark.parametrize("category", CATEGORIES)
def test_solids_are_closed_upright_and_of_unit_size(category: str) -> None:
    for seed in range(2):
        solid = make_solid(category, np.random.default_rng(seed))
        shape = trimesh.Trimesh(solid.vertices, solid.faces, process=False)
        assert shape.is_watertight
        assert shape.volume > 0.0005
        assert shape.extents.max() == pytest.approx(1, abs=1e-5)
        assert solid.vertices[:, 2].min() == 0
        assert len(solid.faces) < 4100
        assert all(part.volume > 0 for part in shape.split(only_watertight=False)), "a part is turned inside out"
        normals = corner_normals(solid.vertices, solid.faces)
        assert np.linalg.norm(normals, axis=2) == pytest.approx(1, abs=1e-4)
        assert (np.einsum("fkd,fd->fk", normals, shape.face_normals) > 0.3).all()
        assert (solid.top > 0) or category not in SUPPORTS
        assert (solid.cavity is not None) == (category in (*CONTAINERS, *HOLDERS))


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 0.7), st.floats(2.2, 4), st.floats(0.3, 0.95), st.integers(0, 2**32 - 1))
def test_the_camera_frames_any_points(pitch: float, focal: float, fill: float, seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(60, 3)).astype(np.float32)
    camera = frame(points, pitch, focal, fill, (0.0, 0.0))
    spots = camera.project(points, 2) - 1
    assert np.abs(spots.max(0) + spots.min(0)).max() < 0.06
    assert np.ptp(spots, axis=0).max() / 2 == pytest.approx(fill, rel=0.06)


@settings(max_examples=20, deadline=None)
@given(st.floats(-3, 3), st.floats(0.2, 3), st.floats(0, 6.3))
def test_rays_meet_a_posed_mesh_where_they_should(x: float, scale: float, yaw: float) -> None:
    solid = make_solid("sphere", np.random.default_rng(0))
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]], np.float32)
    pose = Pose(turn, scale, np.array([x, 1, 0], np.float32))
    tree = Tree(solid.vertices, solid.faces)
    down = np.array([[0, 0, -1]], np.float32)
    eye = np.array([x, 1, 10], np.float32)
    assert float(tree.first(pose, eye, down).depth[0]) == pytest.approx(10 - scale, abs=0.02)
    assert tree.blocked(pose, eye[None], down).all()
    assert not tree.blocked(pose, eye[None], -down).any()


@pytest.mark.parametrize("category", ["bowl", "chair", "rocket", "sphere"])
def test_what_shapes_know_of_themselves(category: str) -> None:
    shape = stock_shape(category, 1)
    v = shape.solid.vertices
    turns = np.random.default_rng(0).normal(size=(50, 3))
    turns /= np.linalg.norm(turns, axis=1, keepdims=True)
    reach, of_hull = (v @ turns.T).max(0), (shape.hull @ turns.T).max(0)
    assert (of_hull <= reach + 1e-6).all()
    assert (reach - of_hull).max() < 0.01
    assert trimesh.Trimesh(v, shape.solid.faces, process=False).center_mass == pytest.approx(shape.middle, abs=0.02)
    # From above: no point of the shape is higher than its height map says.
    down = np.array([0, 0, -1], np.float32)
    spots = np.random.default_rng(1).uniform(-0.7, 0.7, (400, 2)).astype(np.float32)
    top = 3 - shape.tree.distances(np.concatenate([spots, np.full((400, 1), 3, np.float32)], 1), down)
    cells = np.floor((spots / 1.44 + 0.5) * 40).astype(int)
    assert (top <= shape.heights[0][cells[:, 0], cells[:, 1]] + 0.12).all()
    _, normals, _ = shape.knots
    assert ((shape.open[:, 0] >= 0) & (shape.open[:, 0] <= 1 + 1e-5)).all()
    assert (np.linalg.norm(shape.open[:, 1:], axis=1) <= 0.72).all()
    assert len(normals) == len(shape.open)
    assert not shape.tree.blocked(HERE, v + np.float32([0, 0, 2]), np.tile(-down, (len(v), 1))).any()


def test_a_bowl_is_darker_inside_than_out() -> None:
    shape = stock_shape("bowl", 0)
    points, normals, _ = shape.knots
    inside = (np.hypot(points[:, 0], points[:, 1]) < 0.3) & (normals[:, 2] > 0.5)
    outside = (np.hypot(points[:, 0], points[:, 1]) > 0.4) & (normals[:, 2] < -0.2)
    assert shape.open[inside, 0].mean() < 0.9 < shape.open[outside, 0].mean()
