"""The nouns of a scene: bodies, where they stand, camera, light, and how two objects stand to each other."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pics_data.scenes.camera import Camera
from pics_data.scenes.ground import Ground
from pics_data.scenes.materials import Array, Material
from pics_data.scenes.meshes import Skin
from pics_data.scenes.rays import Pose, Tree
from pics_data.scenes.solids import Solid

TOUCH = 0.0008  # part of the picture that one object must hide of another to stand "front" of it


@dataclass(frozen=True, slots=True)
class Body:
    """A solid, its ray tree and what it is made of.

    A user's mesh may bring its own colours, `skin`, in place of the material's, and the normals at its face corners,
    `corners` [F, 3, 3]; embedded solids have them computed only when they are rendered.
    """

    solid: Solid
    tree: Tree
    material: Material
    skin: Skin | None = None
    corners: Array | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """A body in the world. `parent` is the object that it was placed by, as `relation`: beside, front, on or in."""

    body: Body
    pose: Pose
    parent: int = -1
    relation: str = ""

    @property
    def points(self) -> Array:
        """The vertices in the world, [V, 3]."""
        return self.pose.to_world(self.body.solid.vertices)


@dataclass(frozen=True, slots=True)
class Light:
    """`toward` is the unit direction to the sun, `spread` its angular radius (radians); colours are linear RGB."""

    toward: Array
    spread: float
    sun: Array
    sky: Array
    bounce: Array


@dataclass(frozen=True, slots=True)
class Backdrop:
    """Behind the ground: a wall at y = `distance` of colour `low`, or, at distance 0, a sky from `low` to `high`."""

    distance: float
    low: Array
    high: Array


@dataclass(frozen=True, slots=True)
class Look:
    """One object in the picture: `box` (x, y, width, height) of all of it, `area` of all of it and `visible` area,
    as parts of the picture's width and area."""

    box: tuple[float, float, float, float]
    area: float
    visible: float


@dataclass(frozen=True, slots=True)
class Scene:
    """All of a picture but its pixels. `hides[i, j]` is the part of the picture where i stands before j."""

    objects: tuple[Placed, ...]
    camera: Camera
    light: Light
    ground: Ground
    backdrop: Backdrop
    looks: tuple[Look, ...]
    hides: NDArray[np.float64]


def relation(scene: Scene, i: int, j: int) -> str:
    """How objects i and j stand to each other: "on", "in", "front" (one hides some of the other), "beside", or ""."""
    for a, b in ((i, j), (j, i)):
        if scene.objects[a].parent == b and scene.objects[a].relation in ("on", "in"):
            return scene.objects[a].relation
    if scene.hides[i, j] + scene.hides[j, i] > TOUCH:
        return "front"
    near = scene.objects[i].parent == j or scene.objects[j].parent == i
    return "beside" if near else ""


def pair_fits(a: Look, b: Look) -> bool:
    """The planner's rule for a pair: boxes meet, and none contains the other."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.box, b.box
    meet = min(ax + aw, bx + bw) > max(ax, bx) and min(ay + ah, by + bh) > max(ay, by)
    a_in_b = ax >= bx and ay >= by and ax + aw <= bx + bw and ay + ah <= by + bh
    b_in_a = bx >= ax and by >= ay and bx + bw <= ax + aw and by + bh <= ay + ah
    return meet and not a_in_b and not b_in_a
