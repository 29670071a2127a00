"""Procedural scenes: repeatable to the byte, true to their geometry, and full of pairs."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from pics_common.errors import UserError
from pics_data.records import Photo, Pixels
from pics_data.scenes.camera import frame
from pics_data.scenes.catalogue import CATEGORIES, CONTAINERS, SUPPORTS, make_solid
from pics_data.scenes.layout import draw_scene
from pics_data.scenes.meshes import load_model, mesh_files
from pics_data.scenes.placing import make_body
from pics_data.scenes.rays import Pose, Tree
from pics_data.scenes.scene import Scene
from pics_data.scenes.solids import corner_normals
from pics_data.sources.scenes import SceneSettings, photos, relation_label, render

SETTINGS = SceneSettings(seed=3, size=128)
NUM_RENDERED = 24
NUM_DRAWN = 150
MIN_AREA = 0.0117


@pytest.fixture(scope="module")
def drawn() -> list[Scene]:
    return [draw_scene(SETTINGS.seed, index) for index in range(NUM_DRAWN)]


@pytest.fixture(scope="module")
def planned() -> list[Photo]:
    return list(photos(SETTINGS, NUM_DRAWN))


@pytest.fixture(scope="module")
def rendered(planned: list[Photo]) -> list[tuple[Photo, Pixels]]:
    return [(photo, render(photo, SETTINGS)) for photo in planned[:NUM_RENDERED]]


def digest(pixels: Pixels) -> str:
    parts = [pixels.rgb, *pixels.masks, *pixels.full_masks, *pixels.full_rgba, pixels.front]
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


# The same bytes, whoever asks


def test_same_bytes_in_another_process_with_one_thread(rendered: list[tuple[Photo, Pixels]]) -> None:
    wanted = [5, 2, 9]  # neither their order nor what was rendered before may matter
    program = (
        "import sys, cv2; cv2.setNumThreads(1); sys.path.insert(0, sys.argv[1])\n"
        "from tests.data.test_scenes import SETTINGS, digest\n"
        "from pics_data.sources.scenes import photos, render\n"
        f"found = list(photos(SETTINGS, {max(wanted) + 1}))\n"
        f"print(*[digest(render(found[i], SETTINGS)) for i in {wanted}])\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", program, root], capture_output=True, text=True, check=True, env=environment, cwd=root
    )
    assert result.stdout.split() == [digest(rendered[i][1]) for i in wanted]


def test_chosen_instances_in_any_order_change_nothing_but_the_order(rendered: list[tuple[Photo, Pixels]]) -> None:
    photo, all_of_it = next((p, x) for p, x in rendered if len(p.instances) >= 3)
    chosen = (photo.instances[2], photo.instances[0])
    some = render(replace(photo, instances=chosen), SETTINGS)
    assert (some.rgb == all_of_it.rgb).all(), "the others must stay in the picture"
    for place, index in enumerate((2, 0)):
        assert (some.masks[place] == all_of_it.masks[index]).all()
        assert (some.full_masks[place] == all_of_it.full_masks[index]).all()
        assert (some.full_rgba[place] == all_of_it.full_rgba[index]).all()
    assert set(np.unique(some.front)) <= {-1, 0, 1}
    for few in (photo.instances[:1], ()):
        fewer = render(replace(photo, instances=few), SETTINGS)
        assert (fewer.rgb == all_of_it.rgb).all()
        assert len(fewer.masks) == len(few)
        assert (fewer.front == -1).all()
    swapped = render(replace(photo, instances=chosen[::-1]), SETTINGS)
    decided = (some.front >= 0) & (some.masks[0] | some.masks[1])
    assert (swapped.front[decided] == 1 - some.front[decided]).all()


def test_photos_depend_on_seed_and_number_only(planned: list[Photo]) -> None:
    assert list(photos(SETTINGS, 5)) == planned[:5]
    assert {photo.license for photo in planned} == {"CC0-1.0"}
    other = list(photos(SceneSettings(seed=4, size=128), 5))
    assert all(a.instances != b.instances for a, b in zip(other, planned, strict=False))
    assert len({photo.id for photo in planned} | {photo.id for photo in other}) == NUM_DRAWN + 5


# True to what is seen


def test_pixels_have_the_promised_form(rendered: list[tuple[Photo, Pixels]]) -> None:
    for photo, pixels in rendered:
        shape = (photo.height, photo.width)
        assert pixels.photo_jpeg is None
        assert pixels.rgb.shape == (*shape, 3)
        assert pixels.rgb.dtype == np.uint8
        assert pixels.front.shape == shape
        assert pixels.front.dtype == np.int8
        assert len(pixels.masks) == len(pixels.full_masks) == len(pixels.full_rgba) == len(photo.instances)
        for mask, full, rgba in zip(pixels.masks, pixels.full_masks, pixels.full_rgba, strict=True):
            assert mask.shape == full.shape == shape
            assert mask.dtype == full.dtype == bool
            assert rgba.shape == (*shape, 4)
            assert rgba.dtype == np.uint8


def test_visible_silhouettes_are_disjoint_parts_of_whole_ones(rendered: list[tuple[Photo, Pixels]]) -> None:
    for photo, pixels in rendered:
        assert np.sum(pixels.masks, axis=0).max() <= 1, photo.id
        for mask, full in zip(pixels.masks, pixels.full_masks, strict=True):
            assert mask.any()
            assert not (mask & ~full).any(), photo.id


def test_front_names_the_one_that_is_seen(rendered: list[tuple[Photo, Pixels]]) -> None:
    decided = 0
    for photo, pixels in rendered:
        several = np.sum(pixels.full_masks, axis=0) >= 2
        assert ((pixels.front >= 0) == several).all(), photo.id
        for i, mask in enumerate(pixels.masks):
            assert (pixels.front[several & mask] == i).all(), photo.id
            decided += int((several & mask).sum())
    assert decided > 1000, "hardly any occlusion: the test has nothing to bite on"


def test_alone_objects_have_the_whole_silhouette_and_soft_edges(rendered: list[tuple[Photo, Pixels]]) -> None:
    for photo, pixels in rendered:
        for mask, full, rgba in zip(pixels.masks, pixels.full_masks, pixels.full_rgba, strict=True):
            alpha = rgba[..., 3]
            assert ((alpha >= 128) == full).all(), photo.id
            assert ((alpha > 0) & (alpha < 255)).any()
            inside = cv2.erode(mask.astype(np.uint8), np.ones((3, 3))) > 0
            # Alone, an object loses the shadows of the others and nothing else: never darker than in the picture,
            # but for the few pixels in which a thin part of another shows as well.
            darker = pixels.rgb.astype(int)[inside] - rgba[..., :3].astype(int)[inside]
            assert (darker > 1).any(1).mean() < 0.02, photo.id


def test_planned_boxes_and_areas_match_the_rendering(rendered: list[tuple[Photo, Pixels]]) -> None:
    for photo, pixels in rendered:
        for instance, mask, full in zip(photo.instances, pixels.masks, pixels.full_masks, strict=True):
            rows, columns = np.flatnonzero(full.any(1)), np.flatnonzero(full.any(0))
            true = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            x, y, w, h = instance.box
            assert np.abs(np.array(true) - (x, y, x + w, y + h)).max() <= 2.5, (photo.id, instance)
            assert abs(instance.area - mask.sum()) <= 0.15 * mask.sum() + 40, (photo.id, instance)


# Nothing floats, nothing is pierced


def test_everything_touches_what_carries_it(drawn: list[Scene]) -> None:
    for scene in drawn:
        for thing in scene.objects:
            points = thing.points
            low = points[points[:, 2] < points[:, 2].min() + 1e-4]
            if thing.relation not in ("on", "in"):
                assert abs(float(points[:, 2].min())) < 1e-5
                continue
            parent = scene.objects[thing.parent]
            above = (low + np.array([0, 0, 0.05])).astype(np.float32)
            down = np.broadcast_to(np.array([0, 0, -1], np.float32), above.shape)
            gaps = [
                float(hits.depth[0]) - 0.05
                for start, way in zip(above, down, strict=True)
                if len((hits := parent.body.tree.first(parent.pose, start, way[None])).depth)
            ]
            assert gaps, "it stands on nothing"
            assert abs(min(gaps)) < 2e-3
            assert min(gaps) > -1e-3


def test_nothing_is_pierced(drawn: list[Scene]) -> None:
    for scene in drawn[:60]:
        lift = np.array([0, 0, 1e-3])  # what stands on a surface shares it
        shapes = [
            trimesh.Trimesh(t.points + lift * k, t.body.solid.faces, process=False) for k, t in enumerate(scene.objects)
        ]
        for i, a in enumerate(shapes):
            for j, b in enumerate(shapes):
                near = (a.vertices > b.bounds[0] + 0.004).all(1) & (a.vertices < b.bounds[1] - 0.004).all(1)
                if i != j and near.any():
                    assert not b.contains(a.vertices[near]).any(), (i, j, [t.relation for t in scene.objects])


# Worth training on


def test_scenes_hold_pairs_of_all_relations(planned: list[Photo]) -> None:
    relations: Counter[str] = Counter()
    with_pair = 0
    for photo in planned:
        assert 2 <= len(photo.instances) <= 4
        found = False
        for i, a in enumerate(photo.instances):
            for b in photo.instances[:i]:
                if is_pair(photo, a.box, b.box) and min(a.area, b.area) >= MIN_AREA * photo.width * photo.height:
                    found = True
                    relations[relation_label(replace(photo, instances=(a, b)), SETTINGS)] += 1
        with_pair += found
    assert with_pair >= 0.9 * len(planned)
    assert set(relations) >= {"front", "on", "in", "beside"}
    assert relations["front"] == max(relations.values())
    assert min(relations[name] for name in ("on", "in", "beside")) >= 5


def is_pair(photo: Photo, a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """The published rule, on whole pixels: IoU above 0, neither box in the other."""
    canvas = np.zeros((2, photo.height, photo.width), bool)
    for layer, (x, y, w, h) in zip(canvas, (a, b), strict=True):
        layer[round(y) : round(y + h), round(x) : round(x + w)] = True
    both = int((canvas[0] & canvas[1]).sum())
    return 0 < both < min(int(canvas[0].sum()), int(canvas[1].sum()))


def test_occlusion_comes_in_all_strengths(drawn: list[Scene]) -> None:
    hidden = np.array([1 - look.visible / look.area for scene in drawn for look in scene.looks])
    assert (hidden < 0.02).mean() > 0.2
    assert ((hidden > 0.05) & (hidden < 0.3)).mean() > 0.1
    assert ((hidden > 0.3) & (hidden < 0.7)).mean() > 0.05


def test_objects_stand_off_from_the_ground(rendered: list[tuple[Photo, Pixels]]) -> None:
    clear = 0
    for _, pixels in rendered:
        taken = np.any(pixels.full_masks, axis=0)
        around = cv2.dilate(taken.astype(np.uint8), np.ones((9, 9))).astype(bool) & ~taken
        ground = np.median(pixels.rgb[around], axis=0)
        clear += all(np.abs(np.median(pixels.rgb[m], axis=0) - ground).max() > 15 for m in pixels.masks)
    assert clear >= 0.85 * len(rendered)


# The parts


@pytest.mark.parametrize("category", CATEGORIES)
def test_solids_are_closed_upright_and_of_unit_size(category: str) -> None:
    for seed in range(4):
        solid = make_solid(category, np.random.default_rng(seed))
        shape = trimesh.Trimesh(solid.vertices, solid.faces, process=False)
        assert shape.is_watertight
        assert shape.volume > 0.005
        assert shape.extents.max() == pytest.approx(1, abs=1e-5)
        assert solid.vertices[:, 2].min() == 0
        assert len(solid.faces) < 4000, "ray trees are built for every scene"
        normals = corner_normals(solid.vertices, solid.faces)
        assert np.linalg.norm(normals, axis=2) == pytest.approx(1, abs=1e-4)
        assert (np.einsum("fkd,fd->fk", normals, shape.face_normals) > 0.3).all()
        assert (solid.top > 0) or category not in SUPPORTS
        assert (solid.cavity is not None) == (category in CONTAINERS)


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


# The user's meshes


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


@pytest.mark.parametrize("size", [32, 33, 77, 200])
def test_any_size_renders(size: int) -> None:
    wanted = SceneSettings(seed=2, size=size)
    for photo in photos(wanted, 2):
        pixels = render(photo, wanted)
        assert pixels.rgb.shape == (size, size, 3)
        assert all(mask.any() for mask in pixels.masks)


def test_settings_that_cannot_be_are_named() -> None:
    with pytest.raises(UserError, match="size 0"):
        list(photos(SceneSettings(size=0), 1))
    with pytest.raises(UserError, match="seed -1"):
        list(photos(SceneSettings(seed=-1), 1))


def test_wanted_bodies_are_never_meshes(tmp_path: Path) -> None:
    trimesh.creation.box((1, 1, 1)).export(tmp_path / "own.ply")
    rng = np.random.default_rng(0)
    material = draw_scene(0, 0).objects[0].body.material
    bodies = [make_body(rng, material, mesh_files(str(tmp_path)), CONTAINERS) for _ in range(20)]
    assert all(body.solid.category in CONTAINERS for body in bodies)
