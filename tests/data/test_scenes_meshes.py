"""Scenes of the user's own meshes."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import trimesh

from pics_common.errors import UserError
from pics_data.scenes.catalogue import CONTAINERS
from pics_data.scenes.meshes import load_model, mesh_files
from pics_data.scenes.placing import Arrangement
from pics_data.sources.scenes import SceneSettings, photos, render


def test_user_meshes_are_used_about_half_of_the_time(tmp_path: Path) -> None:
    trimesh.creation.annulus(0.2, 0.5, 0.3).export(tmp_path / "ring.ply")
    (tmp_path / "deep").mkdir()
    painted = trimesh.creation.box((1, 2, 3))
    painted.visual.vertex_colors = np.tile([255, 0, 0, 255], (8, 1))
    painted.export(tmp_path / "deep" / "slab.glb")
    wanted = SceneSettings(seed=1, size=64, meshes=str(tmp_path))
    found = list(photos(wanted, 30))
    names = Counter(instance.category for photo in found for instance in photo.instances)
    assert 0.3 < (names["ring"] + names["slab"]) / names.total() < 0.7
    photo = next(p for p in found if any(i.category == "slab" for i in p.instances))
    k = next(k for k, i in enumerate(photo.instances) if i.category == "slab")
    rgba = render(photo, wanted).full_rgba[k]
    r, g, b = (float(rgba[..., c][rgba[..., 3] == 255].mean()) for c in range(3))
    assert r > 100
    assert g < 60
    assert b < 60


def test_real_meshes_all_load_and_render(shared_data: Path) -> None:
    files = mesh_files(str(shared_data / "meshes"))
    assert len(files) >= 25
    for path in files:
        model = load_model(path)
        assert model.solid.vertices[:, 2].min() == 0
        assert np.ptp(model.solid.vertices, axis=0).max() == pytest.approx(1, abs=1e-4)
        assert (model.skin is None) == (path.parent.name == "untextured"), path
    wanted = SceneSettings(seed=0, size=64, meshes=str(shared_data / "meshes"))
    for photo in photos(wanted, 12):
        pixels = render(photo, wanted)
        assert all(mask.any() for mask in pixels.masks)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("broken.glb", b"glTF but not really"),
        ("empty.obj", b"# nothing\n"),
        ("flat.ply", b""),
        ("point.off", b"OFF\n3 1 0\n0 0 0\n0 0 0\n0 0 0\n3 0 1 2\n"),
        ("line.obj", b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n"),
        ("lost.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n"),
    ],
)
def test_an_unreadable_mesh_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        list(photos(SceneSettings(meshes=str(tmp_path)), 20))


def test_a_folder_without_meshes_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no mesh"):
        list(photos(SceneSettings(meshes=str(tmp_path)), 1))
    with pytest.raises(UserError, match="does not exist"):
        list(photos(SceneSettings(meshes=str(tmp_path / "nowhere")), 1))


def test_wanted_bodies_are_never_meshes(tmp_path: Path) -> None:
    trimesh.creation.box((1, 1, 1)).export(tmp_path / "own.ply")
    made = Arrangement(np.random.default_rng(0), mesh_files(str(tmp_path)), np.ones((1, 3), np.float32))
    assert all(made.body(CONTAINERS).solid.category in CONTAINERS for _ in range(20))
    assert any(made.body().solid.category == "own" for _ in range(20))
