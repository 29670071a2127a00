"""Light on surfaces: soft sun shadows, open sky, bounce from the ground, highlights. Linear RGB, float32."""

import numpy as np
from numpy.typing import NDArray

from pics_data.scenes.layout import Light, Placed
from pics_data.scenes.materials import albedo
from pics_data.scenes.rays import Array, Bools, Hits, rotate
from pics_data.scenes.solids import corner_normals

LIFT = 2e-3  # world units that shadow rays start off the surface
SELF_LIFT = 0.012  # more for the own shadow: flat triangles under smooth normals would shade themselves


def sphere_directions(count: int) -> Array:
    """Evenly spread unit directions [count, 3] (a Fibonacci spiral)."""
    k = np.arange(count) + 0.5
    z = 1 - 2 * k / count
    turn = np.pi * (1 + 5**0.5) * k
    radius = np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), z], 1).astype(np.float32)


def sun_directions(light: Light, count: int) -> Array:
    """Directions [count, 3] that fill the sun's disc."""
    k = np.arange(count) + 0.5
    radius, turn = light.spread * np.sqrt(k / count), np.pi * (1 + 5**0.5) * k
    side = np.cross(light.toward, [0.0, 0.0, 1.0])
    side /= np.sqrt((side * side).sum())
    over = np.cross(side, light.toward)
    out = light.toward + (radius * np.cos(turn))[:, None] * side + (radius * np.sin(turn))[:, None] * over
    return np.asarray(out / np.sqrt((out * out).sum(1, keepdims=True)), np.float32)


def blocked(objects: tuple[Placed, ...], origins: Array, directions: Array, reach: float = 1e30) -> Bools:
    """Which rays meet any of the objects."""
    out = np.zeros(len(origins), bool)
    for thing in objects:
        near = np.flatnonzero(~out & _may_meet(thing, origins, directions))
        if len(near):
            out[near] = thing.body.tree.blocked(thing.pose, origins[near], directions[near], reach)
    return out


def _may_meet(thing: Placed, origins: Array, directions: Array) -> Bools:
    """Rays that pass the ball around the object."""
    solid, pose = thing.body.solid, thing.pose
    middle = pose.shift + np.array([0, 0, solid.height / 2 * pose.scale], np.float32)
    radius = float(np.hypot(solid.radius, solid.height / 2)) * pose.scale
    away = middle - origins
    along = np.einsum("ni,ni->n", away, directions)
    gap = np.einsum("ni,ni->n", away, away) - np.maximum(along, 0) ** 2
    return np.asarray(gap < radius * radius)


def openness(objects: tuple[Placed, ...], points: Array, normals: Array, directions: Array) -> tuple[Array, Array]:
    """How much sky and how much ground each point sees, cosine-weighted; a free level surface gets (1, 0)."""
    num = len(directions)
    cosines = np.maximum(sum(normals[:, a, None] * directions[None, :, a] for a in range(3)), 0)
    point, way = np.nonzero(cosines > 0)
    rays = directions[way]
    free = ~blocked(objects, points[point] + LIFT * 2 * normals[point], rays)
    weights = cosines[point, way] * free
    up = rays[:, 2] > 0
    scale = 4.0 / num  # the mean of max(cos, 0) over the sphere is 1/4
    sky = np.bincount(point, weights * up, minlength=len(points)) * scale
    ground = np.bincount(point, weights * ~up, minlength=len(points)) * scale
    return sky.astype(np.float32), ground.astype(np.float32)


class Surface:
    """One object's hits and its colours there: `lit` [M, 3] adds to `shade` [M, 3] where the sun comes through."""

    def __init__(self, thing: Placed, everything: tuple[Placed, ...], hits: Hits, rays: Array, light: Light,
                 origin: Array) -> None:  # fmt: skip
        solid, pose = thing.body.solid, thing.pose
        corners = corner_normals(solid.vertices, solid.faces)
        view = rays[hits.ray]
        self.points = origin + view * hits.depth[:, None]
        own = np.einsum("nk,nkd->nd", hits.weights, corners[hits.face])
        own /= np.maximum(np.sqrt(np.einsum("nd,nd->n", own, own)), 1e-9)[:, None]
        normals = rotate(pose.turn, own)
        color = albedo(thing.body.material, solid.wrap, pose.to_own(self.points), own)
        sky, ground = self._open(thing, everything, corners, hits)
        self.normals = normals
        self.slope = np.einsum("nd,d->n", normals, light.toward)
        ambient = sky[:, None] * light.sky + ground[:, None] * light.bounce
        half = light.toward - view
        half /= np.sqrt(np.einsum("nd,nd->n", half, half))[:, None]
        spark = np.maximum(np.einsum("nd,nd->n", normals, half), 0) ** np.float32(thing.body.material.gloss)
        facing = np.abs(np.einsum("nd,nd->n", normals, view))
        rim = (1 - facing) ** 4 * np.float32(0.1 + 0.5 * thing.body.material.shine)
        self.shade = color * ambient + (rim * sky)[:, None] * light.sky
        sun = np.clip(self.slope, 0, 1)
        self.lit = (color * sun[:, None] + (thing.body.material.shine * spark * (sun > 0))[:, None]) * light.sun

    @staticmethod
    def _open(thing: Placed, everything: tuple[Placed, ...], corners: Array, hits: Hits) -> tuple[Array, Array]:
        """Openness at the corners of the faces that were hit, blended over each face."""
        faces = thing.body.solid.faces
        seen, inverse = np.unique(hits.face, return_inverse=True)
        # A vertex at a crease counts once for each of its normals.
        keys = np.concatenate([faces[seen].reshape(-1, 1), np.round(corners[seen].reshape(-1, 3) * 8)], 1)
        _, index, back = np.unique(_rows(keys), return_index=True, return_inverse=True)
        vertices = thing.body.solid.vertices[faces[seen].ravel()[index]]
        points = thing.pose.to_world(vertices)
        normals = rotate(thing.pose.turn, np.ascontiguousarray(corners[seen].reshape(-1, 3)[index]))
        sky, ground = openness(everything, points, normals, sphere_directions(40))
        low = np.clip(points[:, 2] * 3 + 0.35, 0.35, 1)  # the ground right under an object lies in its shadow
        at = back.ravel().reshape(-1, 3)[inverse.ravel()]
        weights = hits.weights
        return (sky[at] * weights).sum(1), ((ground * low)[at] * weights).sum(1)


def _rows(keys: NDArray[np.float64]) -> NDArray[np.int64]:
    """One integer for each row (vertex, and normal in steps of 1/8)."""
    whole = keys.astype(np.int64)
    out: NDArray[np.int64] = ((whole[:, 0] * 32 + whole[:, 1] + 8) * 32 + whole[:, 2] + 8) * 32 + whole[:, 3] + 8
    return out


def sunlight(objects: tuple[Placed, ...], surface: Surface, sun: Array, ray: NDArray[np.int64], width: int, *,
             lift: float) -> Array:  # fmt: skip
    """The part of the sun that reaches each hit past `objects`; the four samples of a pixel take turns in `sun`."""
    turn = (ray // width % 2) * 2 + ray % width % 2
    out = np.ones(len(ray), np.float32)
    facing = np.flatnonzero(surface.slope > 0)
    start = surface.points[facing] + surface.normals[facing] * np.float32(lift)
    per_sample = len(sun) // 4
    total = np.zeros(len(facing), np.float32)
    for k in range(per_sample):
        total += ~blocked(objects, start, sun[turn[facing] * per_sample + k])
    out[facing] = total / np.float32(per_sample)
    return out
