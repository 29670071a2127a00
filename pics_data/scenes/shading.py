"""Light on surfaces: soft sun shadows, open sky, bounce from the ground, highlights. Linear RGB, float32."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pics_data.scenes.materials import albedo
from pics_data.scenes.rays import Array, Bools, Hits, rotate
from pics_data.scenes.samples import Samples, Seen
from pics_data.scenes.scene import Light, Placed, Scene
from pics_data.scenes.shapes import moments
from pics_data.scenes.solids import dot, sphere_directions

LIFT = 2e-3  # world units that shadow rays start off the surface
SELF_LIFT = 0.012  # more for the own shadow: flat triangles under smooth normals would shade themselves
NUM_OPEN = 32  # directions over the sphere in which it is asked what others hide
SUN_RAYS = 8  # of a sample where the sun is partly hidden; one tells all elsewhere
NEAR = 0.8  # world units; others that are further away hide nothing of the sky


def sun_directions(light: Light, count: int) -> Array:
    """Directions [count, 3] that fill the sun's disc."""
    k = np.arange(count) + 0.5
    radius, turn = light.spread * np.sqrt(k / count), np.pi * (1 + 5**0.5) * k
    side = np.cross(light.toward, [0.0, 0.0, 1.0])
    side /= np.sqrt((side * side).sum())
    over = np.cross(side, light.toward)
    out = light.toward + (radius * np.cos(turn))[:, None] * side + (radius * np.sin(turn))[:, None] * over
    return np.asarray(out / np.sqrt((out * out).sum(1, keepdims=True)), np.float32)


def ball_around(thing: Placed) -> tuple[NDArray[np.float64], float]:
    """The middle [3] and radius of a ball that holds the object."""
    low, high = thing.bounds
    size = np.asarray(high - low, np.float64)
    return np.asarray(low, np.float64) + size / 2, float(np.sqrt((size * size).sum())) * 0.505


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
    middle, radius = ball_around(thing)
    away = np.asarray(middle, np.float32) - origins
    along = np.maximum(dot(away, directions), 0)
    edge = np.float32(radius) + along * np.float32(spread) if spread else np.float32(radius)
    return np.asarray(dot(away, away) - along * along < edge * edge)


def shaders(scene: Scene, k: int) -> tuple[Placed, ...]:
    """The other objects that can stand between object k and the sun."""
    middle, radius = ball_around(scene.objects[k])
    toward = scene.light.toward.astype(np.float64)
    out = []
    for j, other in enumerate(scene.objects):
        center, reach = ball_around(other)
        away = center - middle
        along = float((away * toward).sum())
        aside = float(np.sqrt(max(0.0, float((away * away).sum()) - along * along)))
        if j != k and along > -radius - reach and aside < radius + reach + max(along, 0.0) * scene.light.spread:
            out.append(other)
    return tuple(out)


@dataclass(frozen=True, slots=True)
class Surface:
    """The samples of one object: world `points` and unit `normals` [M, 3], `slope` [M] the cosine towards the sun, and
    its colours [M, 3]: `shade` without the sun, to which `lit` adds where the sun comes through. `shade_alone` is the
    `shade` where no other object is near."""

    points: Array
    normals: Array
    slope: Array
    shade: Array
    shade_alone: Array
    lit: Array


def surface_of(scene: Scene, k: int, seen: Seen) -> Surface:
    """Shades what was seen of object k."""
    thing, light, view, hits = scene.objects[k], scene.light, seen.rays, seen.hits
    body, pose = thing.body, thing.pose
    points = scene.camera.position + view * hits.depth[:, None]
    normals = rotate(pose.turn, seen.normals)
    if not body.solid.closed:
        normals = np.where(_seen_from_behind(thing, hits, view)[:, None], -normals, normals)
    color, shine, gloss = _color(thing, seen, points)
    alone, among = _open(scene, k, hits)
    slope = dot(normals, light.toward[None])
    away = 1 - np.abs(dot(normals, view))
    rim = ((away * away) ** 2 * np.float32(0.1 + shine / 2))[:, None] * light.sky
    shade, shade_alone = (
        (color * light.sky + rim) * sky[:, None] + color * light.bounce * ground[:, None]
        for sky, ground in (among, alone)
    )
    lit = color * np.clip(slope, 0, 1)[:, None]
    if shine:
        half = light.toward - view
        cosine = np.maximum(dot(normals, half), 0) / np.sqrt(dot(half, half))
        spark = np.exp((cosine - 1) * np.float32(gloss)) * np.float32(shine)
        lit += np.where(slope > 0, spark, 0)[:, None]
    lit *= light.sun
    return Surface(points, normals, slope, shade, shade_alone, lit)


def _color(thing: Placed, seen: Seen, points: Array) -> tuple[Array, float, float]:
    """Colours [M, 3], and the strength and exponent of the highlight."""
    body, material = thing.body, thing.body.material
    if body.skin is not None:
        return body.skin.at(seen.hits), material.shine, material.gloss
    return albedo(material, body.solid.wrap, thing.pose.to_own(points), seen.normals), material.shine, material.gloss


def _open(scene: Scene, k: int, hits: Hits) -> list[tuple[Array, Array]]:
    """How much of the sky and of the ground each sample [M] sees, of the object alone and among the others.

    Found at the knots of the faces that were hit and blended over each face: smooth, and few rays. A level free
    surface sees (1, 0), an upright one (1/2, 1/2).
    """
    thing = scene.objects[k]
    places, directions, numbers = thing.shape.knots
    corners = np.take(numbers, hits.face, axis=0)
    used = np.zeros(len(places), bool)
    used[corners.ravel()] = True
    here = np.flatnonzero(used)
    slot = np.cumsum(used) - 1
    points = thing.pose.to_world(np.take(places, here, axis=0))
    normals = rotate(thing.pose.turn, np.take(directions, here, axis=0))
    own = np.take(thing.shape.open, here, axis=0)
    up = rotate(thing.pose.turn, own[:, 1:])[:, 2]
    near_ground = np.clip(points[:, 2] * 3 + 0.35, 0.35, 1)  # right under an object, the ground lies in its shadow
    alone = _halves(own[:, 0], up)
    among = alone
    others = _neighbours(scene, k)
    if others:
        start = points + normals * np.float32(2 * LIFT)
        around = moments(
            normals,
            sphere_directions(NUM_OPEN),
            lambda point, way: ~blocked(others, np.take(start, point, axis=0), way),
        )
        sky, ground = _halves(around[:, 0], around[:, 3])
        free_sky, free_ground = _halves(np.ones(1, np.float32), normals[:, 2] * np.float32(2 / 3))
        least = np.float32(0.02)
        among = (
            alone[0] * np.minimum(sky / np.maximum(free_sky, least), 1),
            alone[1] * np.minimum(ground / np.maximum(free_ground, least), 1),
        )
    w, at = hits.weights, np.take(slot, corners)
    return [(_blend(sky, at, w), _blend(ground * near_ground, at, w)) for sky, ground in (alone, among)]


def _halves(whole: Array, up: Array) -> tuple[Array, Array]:
    """Moments (see `moments`) -> the shares of light from above and from below."""
    sky = np.clip(0.5 * whole + 0.75 * up, 0, 1).astype(np.float32)
    return sky, np.clip(whole - sky, 0, 1).astype(np.float32)


def _blend(values: Array, at: NDArray[np.int64], weights: Array) -> Array:
    return values[at[:, 0]] * weights[:, 0] + values[at[:, 1]] * weights[:, 1] + values[at[:, 2]] * weights[:, 2]


def _neighbours(scene: Scene, k: int) -> tuple[Placed, ...]:
    low, high = scene.objects[k].bounds
    out = []
    for j, other in enumerate(scene.objects):
        a, b = other.bounds
        gap = np.maximum(np.maximum(a - high, low - b), 0)
        if j != k and float((gap * gap).sum()) < NEAR**2 * 0.3:
            out.append(other)
    return tuple(out)


def _seen_from_behind(thing: Placed, hits: Hits, view: Array) -> Bools:
    """Which hits are on the back of their face."""
    three = np.take(thing.body.solid.faces, hits.face, axis=0)
    a, b, c = (np.take(thing.body.solid.vertices, three[:, k], axis=0) for k in range(3))
    return np.asarray(dot(rotate(thing.pose.turn, np.cross(b - a, c - a)), view) > 0)


def sunlight(
    objects: tuple[Placed, ...],
    surface: Surface,
    light: Light,
    samples: Samples,
    sample: NDArray[np.int64],
    lift: float,
) -> Array:
    """The part of the sun [M] that reaches each sample past `objects`.

    One ray tells, but near where the answer changes, `SUN_RAYS` of them do. They start `lift` off the surface.
    """
    out = np.ones(len(sample), np.float32)
    facing = np.flatnonzero(surface.slope > 0)
    if not objects or not len(facing):
        return out
    start = np.take(surface.points, facing, axis=0)
    start += np.take(surface.normals, facing, axis=0) * np.float32(lift)
    free = ~blocked(objects, start, np.broadcast_to(light.toward, start.shape))
    pixel = samples.pixel(sample[facing])
    mixed = np.flatnonzero(border(pixel, free, samples.size, softness(light, samples.size)))
    share = free.astype(np.float32)
    if len(mixed):
        share[mixed] = partly(objects, np.take(start, mixed, axis=0), pixel[mixed], samples.size, light)
        share[mixed] = _smoothed(share, pixel, samples.size)[mixed]
    out[facing] = share
    return out


def partly(objects: tuple[Placed, ...], start: Array, pixel: NDArray[np.int64], size: int, light: Light) -> Array:
    """The part of the sun [N] seen from `start` [N, 3], by `SUN_RAYS` rays each; which ones depends on the `pixel`."""
    sun = sun_directions(light, 4 * SUN_RAYS)
    turn = (pixel // size % 2) * 2 + pixel % size % 2
    ray = np.arange(SUN_RAYS)[:, None]
    which = ray * 4 + (turn + ray) % 4
    free = np.ones(which.shape, bool)
    for thing in objects:
        near = np.flatnonzero(may_meet(thing, start, light.toward[None], light.spread))
        if len(near):
            ways = np.take(sun, which[:, near].ravel(), axis=0)
            origins = np.tile(np.take(start, near, axis=0), (SUN_RAYS, 1))
            free[:, near] &= ~thing.body.tree.blocked(thing.pose, origins, ways).reshape(SUN_RAYS, -1)
    return free.sum(0, dtype=np.int32).astype(np.float32) * np.float32(1 / SUN_RAYS)


def softness(light: Light, size: int) -> int:
    """About how many pixels wide half of the edge of a shadow is."""
    return min(2 + round(light.spread * 0.12 * size), max(2, size // 16))


def _smoothed(share: Array, pixel: NDArray[np.int64], size: int) -> Array:
    """Each sample's mean with those of the pixels around, which asked with other rays."""
    at, shape = _crop(pixel, size)
    count = np.bincount(at, minlength=shape[0] * shape[1]).astype(np.float32).reshape(shape)
    total = np.bincount(at, share, minlength=shape[0] * shape[1]).astype(np.float32).reshape(shape)
    there = count > 0
    mean = cv2.blur(np.where(there, total / np.maximum(count, 1), 0), (4, 4)) / np.maximum(
        cv2.blur(there.astype(np.float32), (4, 4)), np.float32(1 / 16)
    )
    return np.asarray(mean.reshape(-1)[at])


def _crop(pixel: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """The places of pixels in the smallest part of the picture that holds them all, and its shape."""
    rows, columns = np.divmod(pixel, size)
    top, left = int(rows.min()), int(columns.min())
    wide = int(columns.max()) - left + 1
    return (rows - top) * wide + columns - left, (int(rows.max()) - top + 1, wide)


def border(pixel: NDArray[np.int64], free: Bools, size: int, soft: int) -> Bools:
    """Which samples lie within `soft` pixels of samples with another answer."""
    if free.all() or not free.any():
        return np.zeros(len(free), bool)
    at, shape = _crop(pixel, size)
    brush = np.ones((2 * soft + 1, 2 * soft + 1), np.uint8)
    found = np.ones(len(free), bool)
    for answer in (free, ~free):
        image = np.zeros(shape, np.uint8)
        image.reshape(-1)[at[answer]] = 1
        found &= cv2.dilate(image, brush).reshape(-1)[at] > 0
    return found
