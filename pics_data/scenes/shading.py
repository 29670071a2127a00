"""Light on surfaces: soft sun shadows, open sky, bounce from the ground, highlights. Linear RGB, float32."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pics_data.scenes.materials import albedo
from pics_data.scenes.rays import Array, Bools, Hits, blend, rotate
from pics_data.scenes.scene import Light, Placed
from pics_data.scenes.solids import corner_normals, dot

LIFT = 2e-3  # world units that shadow rays start off the surface
NUM_OPEN = 48  # directions over the sphere in which openness is sampled
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


def blocked(objects: tuple[Placed, ...], origins: Array, directions: Array) -> Bools:
    """Which rays meet any of the objects."""
    out = np.zeros(len(origins), bool)
    for thing in objects:
        near = np.flatnonzero(~out & may_meet(thing, origins, directions))
        if len(near):
            out[near] = thing.body.tree.blocked(
                thing.pose, np.take(origins, near, axis=0), np.take(directions, near, axis=0)
            )
    return out


def may_meet(thing: Placed, origins: Array, directions: Array, spread: float = 0.0) -> Bools:
    """Rays [N, 3] that pass the ball around the object, or would if they turned by up to `spread` (radians)."""
    solid, pose = thing.body.solid, thing.pose
    middle = pose.shift + np.array([0, 0, solid.height / 2 * pose.scale], np.float32)
    radius = np.float32(np.hypot(solid.radius, solid.height / 2) * pose.scale)
    away = middle - origins
    along = np.maximum(dot(away, directions), 0)
    edge = radius + along * np.float32(spread) if spread else radius
    return np.asarray(dot(away, away) - along * along < edge * edge)


@dataclass(frozen=True, slots=True)
class Openness:
    """How much of the `sky` and of the `ground` each of N points sees, cosine-weighted: a free level surface (1, 0)."""

    sky: Array
    ground: Array


def openness(points: Array, normals: Array, *groups: tuple[Placed, ...]) -> list[Openness]:
    """Openness of surface `points` [N, 3] past the first of the `groups` of objects, past the first two, and so on."""
    directions = sphere_directions(NUM_OPEN)
    n, d = normals[:, None], directions[None]
    cosines = n[..., 0] * d[..., 0] + n[..., 1] * d[..., 1] + n[..., 2] * d[..., 2]
    point, way = np.nonzero(cosines > 0)
    rays = np.take(directions, way, axis=0)
    start = np.take(points + np.float32(2 * LIFT) * normals, point, axis=0)
    # The mean of max(cosine, 0) over the sphere is 1/4.
    weights = cosines[point, way] * np.float32(4 / NUM_OPEN)
    up = rays[:, 2] > 0
    out = []
    for group in groups:
        weights = weights * ~blocked(group, start, rays)
        sky, ground = (np.bincount(point, weights * half, minlength=len(points)) for half in (up, ~up))
        out.append(Openness(sky.astype(np.float32), ground.astype(np.float32)))
    return out


@dataclass(frozen=True, slots=True)
class Surface:
    """The hits of one object: world `points` and unit `normals` [M, 3], `slope` [M] the cosine towards the sun, and
    its colours [M, 3]: `shade` without the sun, to which `lit` adds where the sun comes through. `shade_alone` is the
    `shade` where no other object is near."""

    points: Array
    normals: Array
    slope: Array
    shade: Array
    shade_alone: Array
    lit: Array


def surface_of(thing: Placed, others: tuple[Placed, ...], hits: Hits, rays: Array, light: Light, eye: Array) -> Surface:
    """Shades the `hits` of `rays` from `eye` on the object `thing`, among `others`."""
    body, pose = thing.body, thing.pose
    corners = corner_normals(body.solid.vertices, body.solid.faces) if body.corners is None else body.corners
    view = np.take(rays, hits.ray, axis=0)
    points = eye + view * hits.depth[:, None]
    own = blend(corners, hits)
    own /= np.maximum(np.sqrt(dot(own, own)), 1e-9)[:, None]
    if body.skin is not None:
        color = body.skin.at(hits)
    else:
        color = albedo(body.material, body.solid.wrap, pose.to_own(points), own)
    normals = rotate(pose.turn, own)
    if not body.solid.closed:
        normals = np.where(_seen_from_behind(thing, hits, view)[:, None], -normals, normals)
    alone, among = _open(thing, others, corners, hits)
    slope = dot(normals, light.toward[None])
    material = body.material
    away = 1 - np.abs(dot(normals, view))
    rim = ((away * away) ** 2 * np.float32(0.1 + material.shine / 2))[:, None] * light.sky
    shade, shade_alone = (
        (color * light.sky + rim) * seen.sky[:, None] + color * light.bounce * seen.ground[:, None]
        for seen in (among, alone)
    )
    lit = color * np.clip(slope, 0, 1)[:, None]
    if material.shine:
        half = light.toward - view
        cosine = np.maximum(dot(normals, half), 0) / np.sqrt(dot(half, half))
        spark = np.exp((cosine - 1) * np.float32(material.gloss)) * np.float32(material.shine)
        lit += np.where(slope > 0, spark, 0)[:, None]
    lit *= light.sun
    return Surface(points, normals, slope, shade, shade_alone, lit)


def _open(thing: Placed, others: tuple[Placed, ...], corners: Array, hits: Hits) -> list[Openness]:
    """Openness at the hits [M], of the object alone and among the others.

    Found at the corners of the faces that were hit and blended over each face: smooth, and few rays.
    """
    faces = thing.body.solid.faces
    seen, inverse = np.unique(hits.face, return_inverse=True)
    # A vertex at a crease counts once for each of its normals.
    normals = corners[seen].reshape(-1, 3)
    keys = np.concatenate([faces[seen].reshape(-1, 1), np.round(normals * 8)], 1)
    _, index, back = np.unique(_row_numbers(keys), return_index=True, return_inverse=True)
    points = thing.pose.to_world(thing.body.solid.vertices[faces[seen].ravel()[index]])
    itself = () if thing.body.solid.convex else (thing,)
    found = openness(points, rotate(thing.pose.turn, normals[index]), itself, others)
    near_ground = np.clip(points[:, 2] * 3 + 0.35, 0.35, 1)  # right under an object, the ground lies in its shadow
    at = back.ravel().reshape(-1, 3)[inverse.ravel()]
    w = hits.weights
    return [Openness(dot(each.sky[at], w), dot((each.ground * near_ground)[at], w)) for each in found]


def _seen_from_behind(thing: Placed, hits: Hits, view: Array) -> Bools:
    """Which hits are on the back of their face."""
    three = np.take(thing.body.solid.faces, hits.face, axis=0)
    a, b, c = (np.take(thing.body.solid.vertices, three[:, k], axis=0) for k in range(3))
    return np.asarray(dot(rotate(thing.pose.turn, np.cross(b - a, c - a)), view) > 0)


def _row_numbers(keys: NDArray[np.float64]) -> NDArray[np.int64]:
    """One integer for each row (vertex, and normal in steps of 1/8)."""
    whole = keys.astype(np.int64)
    out: NDArray[np.int64] = ((whole[:, 0] * 32 + whole[:, 1] + 8) * 32 + whole[:, 2] + 8) * 32 + whole[:, 3] + 8
    return out


def sunlight(
    objects: tuple[Placed, ...], surface: Surface, sun: Array, sample: NDArray[np.int64], width: int, lift: float
) -> Array:
    """The part of the sun [M] that reaches each hit past `objects`. The four samples of a pixel share out `sun` [8, 3].

    `sample` are the hits' places in the picture of `width` samples a row, `lift` how far off the surface rays start.
    """
    turn = (sample // width % 2) * 2 + sample % width % 2
    out = np.ones(len(sample), np.float32)
    facing = np.flatnonzero(surface.slope > 0)
    start = surface.points[facing] + surface.normals[facing] * np.float32(lift)
    each = len(sun) // 4
    free = np.zeros(len(facing), np.float32)
    for k in range(each):
        free += ~blocked(objects, start, sun[turn[facing] * each + k])
    out[facing] = free / np.float32(each)
    return out
