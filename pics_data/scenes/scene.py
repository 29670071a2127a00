"""The nouns of a scene: bodies, where they stand, camera, light, and how two objects stand to each other."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pics_data.scenes.camera import Camera
from pics_data.scenes.ground import Ground
from pics_data.scenes.materials import Array, Material
from pics_data.scenes.meshes import Skin
from pics_data.scenes.rays import Pose, Tree
from pics_data.scenes.shapes import Shape
from pics_data.scenes.solids import Solid

FAN = np.stack([np.cos(np.arange(24) * np.pi / 12), np.sin(np.arange(24) * np.pi / 12)], 1)
TOUCH = 0.0008  # part of the picture that one object must hide of another to stand "front" of it


@dataclass(frozen=True, slots=True)
class Body:
    """A solid, its ray tree and what it is made of.

    A user's mesh may bring its own colours, `skin`, in place of the material's, and the normals at its face corners,
    `corners` [F, 3, 3]; without, they are computed when it is rendered. Bodies of scenes know their `shape`.
    """

    solid: Solid
    tree: Tree
    material: Material
    skin: Skin | None = None
    corners: Array | None = None
    shape: Shape | None = None


def body_of(shape: Shape, material: Material) -> Body:
    """A body of this shape."""
    return Body(shape.solid, shape.tree, material, shape.skin, None, shape)


@dataclass(frozen=True)
class Placed:
    """A body in the world, and what keeps it there, by the numbers of other objects of its scene.

    It `rests` on these from below, on the ground if there are none; it is `inside` the room of a container; it `leans`
    on another; or it just stands `near` one that it was placed by. -1 is none.
    """

    body: Body
    pose: Pose
    rests: tuple[int, ...] = ()
    inside: int = -1
    leans: int = -1
    near: int = -1

    @cached_property
    def points(self) -> Array:
        """The vertices in the world, [V, 3]."""
        return self.pose.to_world(self.body.solid.vertices)

    @cached_property
    def columns(self) -> Array:
        """The same, [3, V]: numpy is many times as fast along long rows."""
        return np.ascontiguousarray(self.points.T)

    @property
    def shape(self) -> Shape:
        assert self.body.shape is not None
        return self.body.shape

    @cached_property
    def hull(self) -> Array:
        """The outermost of the vertices in the world, [H, 3]: what bounds and outlines are made of."""
        return self.pose.to_world(self.shape.hull)

    @cached_property
    def bounds(self) -> tuple[Array, Array]:
        """Lowest and highest coordinates, [3] each; they may fall short of the truth by 1 % of the size."""
        flat = np.ascontiguousarray(self.hull.T)
        return flat.min(1), flat.max(1)

    @cached_property
    def outline(self) -> NDArray[np.float64]:
        """How far it reaches from its origin in each direction of `FAN` [24], seen from above."""
        flat = self.hull[:, :2] - self.pose.shift[:2]
        return np.asarray((FAN[:, :1] * flat[:, 0] + FAN[:, 1:] * flat[:, 1]).max(1))

    def moved(self, way: NDArray[np.floating[Any]]) -> "Placed":
        """The same elsewhere, moved by `way` [3]."""
        pose = Pose(self.pose.turn, self.pose.scale, self.pose.shift + np.asarray(way, np.float32))
        out = Placed(self.body, pose, self.rests, self.inside, self.leans, self.near)
        # What is known of the one is known of the other; to find it anew takes ten times as long.
        known = self.__dict__
        if "outline" in known:
            out.__dict__["outline"] = self.outline
        if "bounds" in known:
            out.__dict__["bounds"] = (
                self.bounds[0] + np.asarray(way, np.float32),
                self.bounds[1] + np.asarray(way, np.float32),
            )
        if "columns" in known:
            out.__dict__["columns"] = self.columns + np.asarray(way, np.float32)[:, None]
        return out


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
    """Behind the ground: a wall at y = `distance` of colour `low`, or, at distance 0, a sky from `low` to `high`.

    A wall has a `pattern` of `backdrop.PATTERNS`, which repeats after `pitch` world units.
    """

    distance: float
    low: Array
    high: Array
    pattern: str = "plain"
    pitch: float = 1.0


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
    """How objects i and j stand to each other: "in", "on", "leaning", "front" (one hides some of the other), "beside",
    or "" for none of these."""
    for a, b in ((i, j), (j, i)):
        thing = scene.objects[a]
        if thing.inside == b:
            return "in"
        if b in thing.rests:
            return "on"
        if thing.leans == b:
            return "leaning"
    if scene.hides[i, j] + scene.hides[j, i] > TOUCH:
        return "front"
    near = scene.objects[i].near == j or scene.objects[j].near == i
    return "beside" if near else ""


def pair_fits(a: Look, b: Look) -> bool:
    """The planner's rule for a pair: boxes meet, and none contains the other."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.box, b.box
    meet = min(ax + aw, bx + bw) > max(ax, bx) and min(ay + ah, by + bh) > max(ay, by)
    a_in_b = ax >= bx and ay >= by and ax + aw <= bx + bw and ay + ah <= by + bh
    b_in_a = bx >= ax and by >= ay and bx + bw <= ax + aw and by + bh <= ay + ah
    return meet and not a_in_b and not b_in_a
