"""Views of a known mesh: a scene's own object, or a mesh that someone gives for the object, such as a reconstruction's.

Meshes of a folder are found by name: `<key>.obj<k>.glb` (or .gltf, .obj, .ply, .off, .stl) for object k of sample
`<key>`. Their front faces the viewer, as glTF has it: y up, z towards the camera of the cut-out.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pics_common.errors import UserError
from pics_data.records import RejectError
from pics_data.scenes import MESH_SUFFIXES
from pics_data.scenes.materials import Material, albedo
from pics_data.scenes.meshes import load_model, mesh_files
from pics_data.scenes.rays import Array, Hits, Pose, blend, rotate
from pics_data.scenes.render import develop
from pics_data.scenes.scene import Body, Placed
from pics_data.scenes.solids import corner_normals, dot
from pics_data.views import Cutout, Generator, Picture, ViewCamera
from pics_data.views.light import Lamp, lit, openness
from pics_data.views.raycast import Subject, cameras_around, middle_of, photograph

if TYPE_CHECKING:
    from pics_data.sources.scenes import SceneSettings

DISTANCE = 4.0  # of a mesh's camera, in its size
GREY = Material("plain", np.full((1, 3), 0.55, np.float32), 1, 0.0, np.zeros((8, 4), np.float32), 0.0, 8.0)
STUDIO = Lamp(
    toward=(np.array([-0.45, -0.65, 0.62]) / np.linalg.norm([-0.45, -0.65, 0.62])).astype(np.float32),
    key=np.array([0.72, 0.70, 0.66], np.float32),
    sky=np.array([0.46, 0.48, 0.52], np.float32),
    bounce=np.array([0.30, 0.29, 0.27], np.float32),
)


def of_folder(folder: str) -> Generator:
    """The generator for the meshes of a folder. Raises `UserError` if it is none, or holds no mesh."""
    files = {path.stem: path for path in mesh_files(folder)}

    def generate(
        cutouts: Sequence[Cutout], cameras: Sequence[Sequence[ViewCamera]]
    ) -> Iterator[list[Picture] | RejectError]:
        for cutout, views in zip(cutouts, cameras, strict=True):
            name = f"{cutout.key}.obj{cutout.index}"
            if name not in files:
                yield RejectError("no mesh", f"{folder} holds no {name}{{{','.join(MESH_SUFFIXES)}}}")
                continue
            try:
                yield views_of_file(files[name], views, cutout.rgba.shape[0])
            except UserError as error:
                yield RejectError("unusable mesh", str(error))

    return generate


def of_scenes(settings: "SceneSettings") -> Generator:
    """The generator for the objects of rendered scenes: what the same camera would see, were the object alone."""

    def generate(
        cutouts: Sequence[Cutout], cameras: Sequence[Sequence[ViewCamera]]
    ) -> Iterator[list[Picture] | RejectError]:
        from pics_data.sources.scenes import scene_of

        for cutout, views in zip(cutouts, cameras, strict=True):
            scene = scene_of(cutout.photo_id, settings)
            light = scene.light
            thing = scene.objects[int(cutout.instance_id)]
            lamp = Lamp(light.toward, light.sun, light.sky, light.bounce)
            yield views_of_placed(thing, scene.camera.position, lamp, views, cutout.rgba.shape[0])

    return generate


def views_of_file(path: Path, views: Sequence[ViewCamera], size: int) -> list[Picture]:
    """The mesh of a file from each of `views`, [size, size, 4]. Raises `UserError` as `load_model` does."""
    model = load_model(path)
    body = Body(model.solid, model.tree, GREY, model.skin, model.corners)
    here = Placed(body, Pose(np.eye(3, dtype=np.float32), 1.0, np.zeros(3, np.float32)))
    eye = middle_of(here.points) - np.array([0, DISTANCE, 0], np.float32)
    return views_of_placed(here, eye, STUDIO, views, size)


def views_of_placed(thing: Placed, eye: Array, lamp: Lamp, views: Sequence[ViewCamera], size: int) -> list[Picture]:
    """A thing in its world under a lamp, from each of `views`, which are relative to a camera at `eye` [3]."""
    points = thing.points
    away = eye - middle_of(points)
    distance = float(np.sqrt((away * away).sum()))
    azimuth = float(np.degrees(np.arctan2(away[0], -away[1])))
    own = ViewCamera(azimuth, float(np.degrees(np.arcsin(away[2] / distance))))
    subject = Subject(points, thing.body.solid.faces, thing.body.tree, _shading(thing, lamp), thing.pose)
    return [photograph(subject, camera, size) for camera in cameras_around(points, views, own, distance)]


def _shading(thing: Placed, lamp: Lamp) -> "partial[Array]":
    body = thing.body
    solid = body.solid
    corners = corner_normals(solid.vertices, solid.faces) if body.corners is None else body.corners
    free = np.ones((len(solid.faces), 3), np.float32)
    if not solid.convex:
        free = openness(solid.vertices, solid.faces, corners, body.tree)
    columns = [corners, free[..., None]]
    if body.skin is not None and not body.skin.images:
        columns.append(body.skin.colors)
    return partial(_shade, thing, lamp, np.concatenate(columns, axis=2))


def _shade(thing: Placed, lamp: Lamp, corners: Array, hits: Hits, points: Array, directions: Array) -> Array:
    """See `Subject`. What is known at `corners` [F, 3, C]: normals, openness, and the colours of a skin without
    textures."""
    body, pose = thing.body, thing.pose
    known = blend(corners, hits)  # all at once: to look up the faces is most of the work
    own, free = known[:, :3], known[:, 3]
    own /= np.maximum(np.sqrt(dot(own, own)), 1e-9)[:, None]
    if known.shape[1] > 4:
        color = known[:, 4:]
    elif body.skin is not None:
        color = body.skin.at(hits)
    else:
        color = albedo(body.material, body.solid.wrap, pose.to_own(points), own)
    normals = rotate(pose.turn, own)
    if not body.solid.closed:  # the back of an open surface is lit as its front would be
        normals[dot(normals, directions) > 0] *= -1
    return develop(lit(color, normals, free, lamp)).astype(np.float32)
