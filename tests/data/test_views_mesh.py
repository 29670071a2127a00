"""Views of known meshes: true to their geometry, their textures and their cameras."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray
from PIL import Image

from pics_common.errors import UserError
from pics_data.records import RejectError
from pics_data.scenes.meshes import load_model
from pics_data.scenes.rays import Hits, Tree
from pics_data.scenes.solids import Ints
from pics_data.sources.scenes import SceneSettings, photos, render
from pics_data.views import Cutout, ViewCamera, draw_cameras
from pics_data.views.mesh import of_folder, of_scenes, views_of_file
from pics_data.views.raycast import FILL, Subject, cameras_around, photograph
from tests.data.test_views_inflate import normalised

FRONT = ViewCamera(0, 0)


@pytest.fixture
def ball(tmp_path: Path) -> Path:
    path = tmp_path / "ball.ply"
    trimesh.creation.icosphere(subdivisions=4).export(path)
    return path


def textured_cube(folder: Path) -> Path:
    """A cube with a colour for each side, by a texture of six fields beside the file; y is up, z faces the viewer."""
    fields = np.zeros((8, 48, 3), np.uint8)
    colours = {"front": (255, 0, 0), "right": (0, 255, 0), "back": (0, 0, 255), "left": (255, 255, 0),
               "top": (255, 0, 255), "bottom": (0, 255, 255)}  # fmt: skip
    corners = {
        "front": [(-1, -1, 1), (1, -1, 1), (1, 1, 1), (-1, 1, 1)],
        "right": [(1, -1, 1), (1, -1, -1), (1, 1, -1), (1, 1, 1)],
        "back": [(1, -1, -1), (-1, -1, -1), (-1, 1, -1), (1, 1, -1)],
        "left": [(-1, -1, -1), (-1, -1, 1), (-1, 1, 1), (-1, 1, -1)],
        "top": [(-1, 1, 1), (1, 1, 1), (1, 1, -1), (-1, 1, -1)],
        "bottom": [(-1, -1, -1), (1, -1, -1), (1, -1, 1), (-1, -1, 1)],
    }
    lines = ["mtllib cube.mtl", "usemtl skin"]
    for k, (side, points) in enumerate(corners.items()):
        fields[:, 8 * k : 8 * k + 8] = colours[side]
        lines += [f"v {x} {y} {z}" for x, y, z in points]
        lines += [f"vt {(8 * k + u) / 48} {v}" for u, v in ((2, 0.2), (6, 0.2), (6, 0.8), (2, 0.8))]
        a, b, c, d = (f"{4 * k + i}/{4 * k + i}" for i in (1, 2, 3, 4))
        lines += [f"f {a} {b} {c}", f"f {a} {c} {d}"]
    Image.fromarray(fields).save(folder / "skin.png")
    (folder / "cube.mtl").write_text("newmtl skin\nmap_Kd skin.png\n")
    (folder / "cube.obj").write_text("\n".join(lines) + "\n")
    return folder / "cube.obj"


def colour_at_middle(view: NDArray[np.uint8]) -> tuple[bool, ...]:
    """Which of red, green and blue are there."""
    middle = view.shape[0] // 2
    assert view[middle, middle, 3] == 255
    return tuple(bool(value > 90) for value in view[middle, middle, :3])


def test_each_camera_sees_the_side_it_should(tmp_path: Path) -> None:
    cube = textured_cube(tmp_path)
    cameras = [FRONT, ViewCamera(90, 0), ViewCamera(180, 0), ViewCamera(270, 0), ViewCamera(0, 85), ViewCamera(0, -85)]
    views = views_of_file(cube, cameras, 96)
    seen = [colour_at_middle(view) for view in views]
    red, green, blue, yellow = (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)
    assert seen == [tuple(map(bool, c)) for c in (red, green, blue, yellow, (1, 0, 1), (0, 1, 1))]


def test_a_balls_outline_is_a_circle_to_a_part_of_a_pixel(ball: Path) -> None:
    size = 200
    (view,) = views_of_file(ball, [FRONT], size)
    area = view[..., 3].astype(np.float64).sum() / 255
    radius = FILL * size / 2  # it fills so much of the picture
    assert area == pytest.approx(np.pi * radius**2, rel=0.01)
    y, x = np.mgrid[:size, :size] + 0.5
    inside = np.clip(radius - np.hypot(x - size / 2, y - size / 2) + 0.5, 0, 1)
    assert np.abs(view[..., 3] / 255 - inside).mean() < 0.004
    soft = (view[..., 3] > 0) & (view[..., 3] < 255)
    assert 0.5 * 2 * np.pi * radius < soft.sum() < 3 * 2 * np.pi * radius, "the edge is soft, and nothing else"


def test_shading_is_smooth_over_faces(ball: Path) -> None:
    (view,) = views_of_file(ball, [FRONT], 200)
    inside = cv2.erode((view[..., 3] == 255).view(np.uint8), np.ones((9, 9))) > 0
    grey = view[..., 0].astype(np.float32)
    assert np.ptp(grey[inside]) > 40, "it is lit from a side"
    steps = np.abs(cv2.Laplacian(grey, cv2.CV_32F))[inside]
    assert steps.max() <= 6, "no facets"


def brute_force(vertices: NDArray[np.float64], faces: Ints, origin: NDArray, ray: NDArray) -> float:
    """The nearest hit of one ray by Möller and Trumbore's formula over all triangles; infinite for none."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    e1, e2 = b - a, c - a
    p = np.cross(ray, e2)
    det = (e1 * p).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = origin - a
        u = (s * p).sum(1) / det
        q = np.cross(s, e1)
        v = (q * ray).sum(1) / det
        t = (e2 * q).sum(1) / det
    hit = (np.abs(det) > 1e-12) & (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
    return float(t[hit].min()) if hit.any() else float("inf")


def test_pixels_agree_with_rays_cast_one_by_one() -> None:
    mesh = trimesh.creation.torus(1.0, 0.35, major_sections=24, minor_sections=12)
    mesh.apply_transform(trimesh.transformations.rotation_matrix(0.9, [1, 0.3, 0]))
    points, faces = mesh.vertices.astype(np.float32), np.ascontiguousarray(mesh.faces, np.int32)
    distance_of = np.zeros(64 * 64)

    def shade(hits: Hits, places: NDArray, directions: NDArray) -> NDArray:
        del directions
        far = np.sqrt(((places - camera.position) ** 2).sum(1))
        return np.repeat(far[:, None] * 40, 3, axis=1).astype(np.float32)

    subject = Subject(points, faces, Tree(points, faces), shade)
    (camera,) = cameras_around(points, [ViewCamera(35, 20)], FRONT, 5.0)
    picture = photograph(subject, camera, 64)
    rays = camera.rays(64).astype(np.float64)
    for k, ray in enumerate(rays):
        distance_of[k] = brute_force(mesh.vertices, mesh.faces, camera.position.astype(np.float64), ray)
    alpha = picture[..., 3].ravel()
    hit = np.isfinite(distance_of)
    assert hit[alpha == 255].all()
    assert not hit[alpha == 0].any()
    sure = alpha == 255
    inner = sure & (cv2.erode(sure.reshape(64, 64).view(np.uint8), np.ones((5, 5))) > 0).ravel()
    assert np.abs(picture[..., 0].ravel()[inner] - distance_of[inner] * 40).max() <= 12
    assert np.median(np.abs(picture[..., 0].ravel()[inner] - distance_of[inner] * 40)) <= 1


def test_scenes_own_objects_are_seen_as_the_scene_shows_them() -> None:
    scenes = SceneSettings(seed=5, size=192)
    generate = of_scenes(scenes)
    for photo in list(photos(scenes, 6)):
        pixels = render(photo, scenes)
        for k, item in enumerate(photo.instances):
            whole = pixels.full_rgba[k]
            if whole[0, :, 3].any() or whole[-1, :, 3].any() or whole[:, 0, 3].any() or whole[:, -1, 3].any():
                continue
            cutout = Cutout("s", k, np.zeros((192, 192, 4), np.uint8), item.category, photo.id, item.id)
            (views,) = generate([cutout], [[FRONT]])
            assert isinstance(views, list)
            found, wanted = normalised(views[0]), normalised(whole)
            both, either = np.minimum(found, wanted)[..., 3].sum(), np.maximum(found, wanted)[..., 3].sum()
            assert both > 0.8 * either, (photo.id, item.category)  # thin legs among them
            core = cv2.erode((wanted[..., 3] > 250).view(np.uint8), np.ones((9, 9))) > 0
            if core.any():  # the light is simpler, the material is the same
                assert np.abs(found - wanted)[core].mean() < 45, (photo.id, item.category)


def test_a_folders_meshes_are_found_by_sample_and_object(tmp_path: Path, ball: Path) -> None:
    folder = tmp_path / "meshes"
    folder.mkdir()
    (folder / "coco-1-2.obj1.ply").write_bytes(ball.read_bytes())
    (folder / "coco-1-2.obj2.ply").write_bytes(b"ply nonsense")
    cutouts = [Cutout("coco-1-2", k, np.zeros((40, 40, 4), np.uint8)) for k in range(3)]
    none, good, broken = of_folder(str(folder))(cutouts, [[FRONT, ViewCamera(30, 0)]] * 3)
    assert isinstance(none, RejectError)
    assert none.reason == "no mesh"
    assert "coco-1-2.obj0" in none.detail
    assert isinstance(good, list)
    assert [view.shape for view in good] == [(40, 40, 4)] * 2
    assert isinstance(broken, RejectError)
    assert "coco-1-2.obj2.ply" in broken.detail


def test_cameras_are_spread_around_and_a_function_of_the_seed() -> None:
    for seed in range(40):
        cameras = draw_cameras(4, (seed, 1))
        assert cameras == draw_cameras(4, (seed, 1))
        assert cameras != draw_cameras(4, (seed, 0))
        azimuths = [camera.azimuth for camera in cameras]
        assert all(72 * (k - 0.25) <= azimuth <= 72 * (k + 0.25) for k, azimuth in enumerate(azimuths, 1))
        assert all(-10 <= camera.elevation <= 30 for camera in cameras)


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


BAD = {
    "no_faces.obj": ("v 0 0 0\nv 1 0 0\nv 0 1 0\n", "holds no triangles"),
    "nan.obj": ("v 0 0 0\nv nan 0 0\nv 0 1 0\nf 1 2 3\n", "no numbers"),
    "flat.obj": ("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "no area"),
    "point.obj": ("v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n", "one point"),
    "lost.obj": ("mtllib lost.mtl\nusemtl a\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "lost.mtl is missing"),
    "junk.glb": ("glTF nonsense", "cannot be read"),
    "empty.ply": ("", "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mesh_of_no_use_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    text, words = BAD[name]
    with pytest.raises(UserError, match=words) as error:
        load_model(write(tmp_path, name, text))
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_texture_that_is_not_there_is_named(tmp_path: Path) -> None:
    cube = textured_cube(tmp_path)
    (tmp_path / "skin.png").unlink()
    with pytest.raises(UserError, match=r"cube\.obj: .*skin\.png is missing"):
        load_model(cube)


def test_a_mesh_of_too_many_triangles_is_refused(tmp_path: Path) -> None:
    trimesh.creation.icosphere(subdivisions=8).export(tmp_path / "big.ply")
    with pytest.raises(UserError, match=r"big\.ply: 1,310,720 triangles; expected at most"):
        load_model(tmp_path / "big.ply")


def test_every_real_mesh_loads_and_shows(shared_data: Path) -> None:
    files = [path for path in sorted((shared_data / "meshes").rglob("*")) if path.suffix in (".obj", ".glb", ".ply")]
    assert len(files) == 25
    for path in files:
        for view in views_of_file(path, [ViewCamera(40, 20), ViewCamera(200, 0)], 96):
            share = (view[..., 3] > 127).mean()
            assert 0.01 < share < FILL**2 + 0.02, path.name
            shown = view[view[..., 3] > 250]
            assert len(np.unique(shown, axis=0)) > 20, f"{path.name}: shading or texture is lost"
