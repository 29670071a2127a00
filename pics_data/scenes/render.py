"""Scene -> pixels and truth.

Legend: S pixels a side; every pixel has 2 x 2 samples, so W = 2 S samples a side. The ground is shaded as if no object
hid it and each object as if it stood alone, then the nearest wins at each sample: hence whole and visible silhouettes
come from the same rays. A pixel belongs to what covers at least two of its four samples.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pics_data.scenes.ground import TILE_PIXELS, TILE_UNITS, ground_tile
from pics_data.scenes.layout import Scene
from pics_data.scenes.rays import Array, Bools
from pics_data.scenes.shading import SELF_LIFT, Surface, blocked, openness, sphere_directions, sun_directions, sunlight


@dataclass(frozen=True, slots=True)
class Rendered:
    """`rgb` [S, S, 3] uint8. Of each of the K objects: `visible` and `whole` [K, S, S] bool, `rgba` [K] of [S, S, 4]
    uint8 (alone, straight alpha), and `ahead` [K, K, S, S] uint8: samples of a pixel where i is in front of j."""

    rgb: NDArray[np.uint8]
    visible: Bools
    whole: Bools
    rgba: list[NDArray[np.uint8]]
    depth: Array  # [K, W * W], infinite where the object is not


def render_scene(scene: Scene, size: int, wanted: tuple[int, ...]) -> Rendered:
    """Renders a picture of `size` x `size`; `rgba` is made for the objects of `wanted` only (in that order)."""
    width, count = 2 * size, len(scene.objects)
    depth = np.full((count, width * width), np.inf, np.float32)
    sun = sun_directions(scene.light, 8)
    color = _background(scene, size)
    nearest = np.full(width * width, np.inf, np.float32)
    rgba: dict[int, NDArray[np.uint8]] = {}
    for k, thing in enumerate(scene.objects):
        left, top, right, bottom = _window(scene.camera.project(thing.points, width), width)
        rays = scene.camera.rays(width, left, top, right, bottom)
        hits = thing.body.tree.first(thing.pose, scene.camera.position, rays)
        rows, columns = hits.ray // (right - left) + top, hits.ray % (right - left) + left
        sample = rows * width + columns
        depth[k, sample] = hits.depth
        if not len(sample):
            continue
        surface = Surface(thing, scene.objects, hits, rays, scene.light, scene.camera.position)
        alone = np.ones(len(sample), np.float32)
        if not thing.body.solid.convex:
            alone = sunlight((thing,), surface, sun, sample, width, lift=SELF_LIFT)
        if k in wanted:
            rgba[k] = _cut_out(surface.shade + surface.lit * alone[:, None], sample, size)
        others = tuple(o for j, o in enumerate(scene.objects) if j != k)
        past = sunlight(others, surface, sun, sample, width, lift=0.002)
        seen = hits.depth < nearest[sample]
        nearest[sample[seen]] = hits.depth[seen]
        color[sample[seen]] = (surface.shade + surface.lit * (alone * past)[:, None])[seen]
    winner = np.where(np.isfinite(depth.min(0)), depth.argmin(0), count)
    shares = np.stack([_count(winner == k, size) for k in range(count)])
    first = shares.argmax(0)
    visible = np.stack([(first == k) & (shares[k] >= 2) for k in range(count)])
    whole = np.stack([_count(np.isfinite(depth[k]), size) >= 2 for k in range(count)])
    return Rendered(_develop(_average(color, size)), visible, whole, [rgba[k] for k in wanted if k in rgba], depth)


def front(rendered: Rendered, chosen: tuple[int, ...]) -> NDArray[np.int8]:
    """Which of the `chosen` objects is in front, [S, S] int8: its place in `chosen` where several meet, else -1."""
    size = rendered.rgb.shape[0]
    depth = rendered.depth[list(chosen)]
    winner = np.where(np.isfinite(depth.min(0)), depth.argmin(0), len(chosen))
    shares = np.stack([_count(winner == i, size) for i in range(len(chosen))]).astype(np.float32)
    shares += 0.5 * rendered.visible[list(chosen)]  # of equals, the one that the picture shows
    whole = rendered.whole[list(chosen)]
    shares[~whole] = -1
    return np.where(whole.sum(0) >= 2, shares.argmax(0), -1).astype(np.int8)


def _window(spots: Array, width: int) -> tuple[int, int, int, int]:
    low = np.clip(np.floor(spots.min(0)) - 1, 0, width - 2).astype(int)
    high = np.clip(np.ceil(spots.max(0)) + 1, low + 2, width).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _count(samples: Bools, size: int) -> NDArray[np.uint8]:
    """Samples [W * W] -> how many of each pixel's four, [S, S]."""
    four = samples.reshape(size, 2, size, 2).view(np.uint8)
    return four[:, 0, :, 0] + four[:, 0, :, 1] + four[:, 1, :, 0] + four[:, 1, :, 1]


def _average(color: Array, size: int) -> Array:
    four = color.reshape(size, 2, size, 2, 3)
    return (four[:, 0, :, 0] + four[:, 0, :, 1] + four[:, 1, :, 0] + four[:, 1, :, 1]) * np.float32(0.25)


def _develop(color: Array) -> NDArray[np.uint8]:
    """Linear light -> sRGB bytes, highlights rolled off softly."""
    soft = np.where(color > 0.7, 0.7 + 0.3 * np.tanh((color - 0.7) / 0.45), color)
    curve = np.where(soft <= 0.0031308, 12.92 * soft, 1.055 * np.maximum(soft, 1e-6) ** np.float32(1 / 2.4) - 0.055)
    return (np.clip(curve, 0, 1) * 255 + 0.5).astype(np.uint8)


def _cut_out(color: Array, sample: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """Samples of one object alone -> RGBA with straight alpha."""
    pixel = sample // (2 * size) // 2 * size + sample % (2 * size) // 2
    hit = np.bincount(pixel, minlength=size * size)
    out = np.zeros((size * size, 4), np.uint8)
    on = np.flatnonzero(hit)
    sums = np.stack([np.bincount(pixel, color[:, c], minlength=size * size)[on] for c in range(3)], 1)
    out[on, :3] = _develop((sums / hit[on, None]).astype(np.float32))
    out[on, 3] = (hit[on] * 255 + 2) // 4
    return out.reshape(size, size, 4)


def _background(scene: Scene, size: int) -> Array:
    """Ground and backdrop at every sample, [W * W, 3], as if no object hid them, with their shadows."""
    width = 2 * size
    eye, backdrop = scene.camera.position, scene.backdrop
    rays = scene.camera.rays(width)
    down = rays[:, 2] < -1e-4
    reach = np.where(down, -eye[2] / np.where(down, rays[:, 2], -1), np.float32(1e6))
    x, y = eye[0] + rays[:, 0] * reach, eye[1] + rays[:, 1] * reach
    limit = backdrop.distance or 40.0
    on_ground = down & (y < limit)
    color = np.empty((width * width, 3), np.float32)
    color[:] = _behind(scene, rays)
    tile = _lookup(scene, np.where(on_ground, x, 0), np.where(on_ground, y, 0), np.where(on_ground, reach, 1), width)
    light = cv2.resize(_ground_light(scene, size), (width, width), interpolation=cv2.INTER_LINEAR).reshape(-1, 3)
    ground = tile * light
    if not backdrop.distance:  # far ground fades into the sky
        haze = np.clip((y - 3) / 14, 0, 1)[:, None] ** np.float32(0.8)
        ground = ground + (color - ground) * haze
    color[on_ground] = ground[on_ground]
    return color


def _behind(scene: Scene, rays: Array) -> Array:
    backdrop, light = scene.backdrop, scene.light
    if not backdrop.distance:
        share = np.clip(rays[:, 2] * 2.5 + 0.1, 0, 1)[:, None]
        return backdrop.low + (backdrop.high - backdrop.low) * share
    eye = scene.camera.position
    z = eye[2] + rays[:, 2] * (backdrop.distance - eye[1]) / rays[:, 1]
    facing = max(0.0, -float(light.toward[1]))
    bright = light.sun * facing + light.sky * 0.75
    corner = 0.72 + 0.28 * np.clip(z / 0.8, 0, 1)
    skirting = np.where(z < 0.16, np.float32(0.9), np.float32(1.0)) * np.where(np.abs(z - 0.165) < 0.012, 0.8, 1.0)
    return backdrop.low * bright * (corner * skirting)[:, None].astype(np.float32)


def _lookup(scene: Scene, x: Array, y: Array, reach: Array, width: int) -> Array:
    """The ground's own colour at (x, y), read from its tile; coarser where a sample covers more of it."""
    tile = ground_tile(scene.ground)
    c, s = np.float32(np.cos(scene.ground.turn)), np.float32(np.sin(scene.ground.turn))
    scale = np.float32(TILE_PIXELS / TILE_UNITS)
    u = np.mod((c * x - s * y) * scale, TILE_PIXELS).astype(np.float32).reshape(width, width)
    v = np.mod((s * x + c * y) * scale, TILE_PIXELS).astype(np.float32).reshape(width, width)
    fine = cv2.remap(tile, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    blurred = cv2.resize(tile, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
    coarse = cv2.remap(blurred, u / 8 - 0.4375, v / 8 - 0.4375, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    steep = scene.camera.position[2] / reach
    cover = reach * np.float32(2 / (width * scene.camera.focal)) * scale / np.maximum(steep, 0.05)
    share = np.clip((cover - 1.5) / 6, 0, 1)[:, None]
    fine, coarse = fine.reshape(-1, 3), coarse.reshape(-1, 3)
    return np.asarray(fine + (coarse - fine) * share)


def _ground_light(scene: Scene, size: int) -> Array:
    """Sun and sky that reach the ground at each pixel, [S, S, 3]."""
    light = scene.light
    sun = _ground_sun(scene, size)
    sky = _ground_sky(scene, size // 4)
    sky = cv2.resize(sky, (size, size), interpolation=cv2.INTER_CUBIC)
    return (sun * light.toward[2])[..., None] * light.sun + np.clip(sky, 0, 1)[..., None] * light.sky


def _ground_points(scene: Scene, size: int) -> tuple[Array, NDArray[np.int64]]:
    """Points of the ground that pixels show, [N, 3], and which pixels these are; only near the objects."""
    eye, rays = scene.camera.position, scene.camera.rays(size)
    down = rays[:, 2] < -1e-3
    points = eye + rays * (-eye[2] / np.where(down, rays[:, 2], -1))[:, None]
    points[:, 2] = 0
    near = down & (np.abs(points[:, 0]) < 8) & (points[:, 1] < (scene.backdrop.distance or 8.0))
    return points, np.flatnonzero(near)


def _ground_sun(scene: Scene, size: int) -> Array:
    """The part of the sun at each pixel's ground point: 4 rays of 64, which ones by its place in a 4 x 4 grid, then
    the mean over that grid: a smooth half-shadow."""
    points, near = _ground_points(scene, size)
    sun = sun_directions(scene.light, 64)
    turn = (near // size % 4) * 4 + near % size % 4
    free = np.zeros(len(near), np.float32)
    for k in range(4):
        free += ~blocked(scene.objects, points[near], sun[k * 16 + (turn * 7 + k * 5) % 16])
    out = np.ones(size * size, np.float32)
    out[near] = free / 4
    return cv2.blur(out.reshape(size, size), (4, 4))


def _ground_sky(scene: Scene, size: int) -> Array:
    """The part of the sky at each ground point, coarse."""
    points, near = _ground_points(scene, size)
    up = np.broadcast_to(np.array([0, 0, 1], np.float32), (len(near), 3))
    directions = sphere_directions(64)
    sky, _ = openness(scene.objects, points[near], up, directions[directions[:, 2] > 0])
    out = np.ones(size * size, np.float32)
    out[near] = sky * 0.5  # half of the sphere's directions were given
    return out.reshape(size, size)
