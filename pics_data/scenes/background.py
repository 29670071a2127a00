"""Ground and backdrop at every pixel, as if no object hid them, with the shadows that fall on the ground.

Legend: S pixels a side. The camera never rolls, so that a row of pixels sees one distance: y and the share of ground
are [S], only x is [S, S].
"""

import cv2
import numpy as np

from pics_data.scenes.ground import TILE_PIXELS, TILE_UNITS, ground_tile, paint
from pics_data.scenes.rays import Array
from pics_data.scenes.scene import Scene
from pics_data.scenes.shading import blocked, may_meet, openness, sun_directions

SKY_STEP = 4  # the open sky changes slowly: one ground point for 4 x 4 pixels
FAR = 8.0  # world units; beyond, nothing shades the ground
_COARSER = 4  # blurred copies of the tile, each half as fine


def background(scene: Scene, size: int) -> Array:
    """[S, S, 3] float32, linear RGB."""
    x, y, reach, share = _ground_grid(scene, size)
    tile = _ground_color(scene, x, y, reach, size)
    light = scene.light
    sun, sky = _ground_sun(scene, x, y, size), _ground_sky(scene, size)
    ground = tile * ((sun * light.toward[2])[..., None] * light.sun + sky[..., None] * light.sky)
    behind = _behind(scene, size)
    if not scene.backdrop.distance:  # far ground fades into the sky
        haze = np.clip((y - 3) / 14, 0, 1)[:, None, None] ** np.float32(0.8)
        ground += (behind - ground) * haze
    return np.asarray(behind + (ground - behind) * share[:, None, None], np.float32)


def _ground_grid(scene: Scene, size: int) -> tuple[Array, Array, Array, Array]:
    """The ground that pixels see: x [S, S], y [S], distance along the ray [S], share of the row that is ground [S]."""
    camera = scene.camera
    limit = scene.backdrop.distance or 60.0
    edges = camera.axes[2] + camera.axes[1] * ((np.arange(2 * size + 1) / size - 1) / camera.focal)[:, None]
    down = edges[:, 2] < -1e-3
    along = np.where(down, -camera.position[2] / np.where(down, edges[:, 2], -1), 1e4)
    y_edges = camera.position[1] + edges[:, 1] * along
    top, low = y_edges[:-2:2], y_edges[2::2]
    share = np.clip((limit - low) / np.maximum(top - low, 1e-6), 0, 1)
    reach = np.minimum(along[1::2], (limit - camera.position[1]) / edges[1::2, 1])
    y = np.minimum(y_edges[1::2], limit)
    columns = (np.arange(size) + 0.5) * (2 / size) - 1
    x = camera.position[0] + reach[:, None] * columns / camera.focal
    return x.astype(np.float32), y.astype(np.float32), reach.astype(np.float32), share.astype(np.float32)


def _behind(scene: Scene, size: int) -> Array:
    """The wall with its skirting board, or the sky: the same along a row, [S, 1, 3]."""
    backdrop, light, camera = scene.backdrop, scene.light, scene.camera
    rows = camera.axes[2] + camera.axes[1] * (((np.arange(size) + 0.5) * (2 / size) - 1) / camera.focal)[:, None]
    if not backdrop.distance:
        share = np.clip(rows[:, 2:] / np.hypot(rows[:, 1:2], rows[:, 2:]) * 2.5 + 0.1, 0, 1)
        return np.asarray(backdrop.low + (backdrop.high - backdrop.low) * share, np.float32)[:, None]
    z = camera.position[2] + rows[:, 2:] * (backdrop.distance - camera.position[1]) / rows[:, 1:2]
    facing = 0.35 + 0.5 * max(0.0, -float(light.toward[1]))
    corner = 0.74 + 0.26 * np.clip(z / 0.9, 0, 1) ** 0.7
    board = np.where(z < 0.16, 1.06, 1.0) * np.where(np.abs(z - 0.165) < 0.014, 0.82, 1.0)
    return np.asarray(backdrop.low * (light.sun * facing + light.sky) * corner * board, np.float32)[:, None]


def _ground_color(scene: Scene, x: Array, y: Array, reach: Array, size: int) -> Array:
    """The ground's own colour [S, S, 3], read from its tile; from a blurred copy where a pixel covers more of it."""
    tile = ground_tile(scene.ground)
    c, s = np.float32(np.cos(scene.ground.turn)), np.float32(np.sin(scene.ground.turn))
    scale = np.float32(TILE_PIXELS / TILE_UNITS)
    u = np.mod((c * x - s * y[:, None]) * scale, np.float32(TILE_PIXELS))
    v = np.mod((s * x + c * y[:, None]) * scale, np.float32(TILE_PIXELS))
    across = reach * np.float32(2 / (size * scene.camera.focal)) * scale
    steep = np.maximum(scene.camera.position[2] / reach, 0.02)
    level = np.log2(np.maximum(across / np.sqrt(steep), 1))[:, None, None]  # of the blurred copy, per row
    out: Array = cv2.remap(tile, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    for k in range(1, _COARSER + 1):
        first = int(np.argmin(level[:, 0, 0] > k - 1)) if level[-1, 0, 0] <= k - 1 else size
        if not first:
            break  # the rows are ever nearer: none needs a coarser copy
        tile = cv2.resize(tile, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        shrink = np.float32(0.5**k)
        near = np.float32(0.5 * 0.5**k - 0.5)
        coarse = cv2.remap(tile, u[:first] * shrink + near, v[:first] * shrink + near, cv2.INTER_LINEAR,
                           borderMode=cv2.BORDER_WRAP)  # fmt: skip
        out[:first] += (coarse - out[:first]) * np.clip(level[:first] - (k - 1), 0, 1)
    return paint(scene.ground, out)


def _ground_sun(scene: Scene, x: Array, y: Array, size: int) -> Array:
    """The part of the sun at each pixel's ground point, [S, S]: 4 rays of 64, which ones by its place in a 4 x 4 grid,
    then the mean over that grid: a smooth half-shadow."""
    points = np.zeros((size * size, 3), np.float32)
    points[:, 0], points[:, 1] = x.ravel(), np.repeat(y, size)
    near = np.repeat(y < FAR, size)
    toward = np.broadcast_to(scene.light.toward, (1, 3))
    near &= np.any([may_meet(o, points, toward, scene.light.spread) for o in scene.objects], axis=0)
    index = np.flatnonzero(near)
    sun = sun_directions(scene.light, 64)
    turn = (index // size % 4) * 4 + index % size % 4
    free = np.zeros(len(index), np.float32)
    start = points[index]
    for k in range(4):
        free += ~blocked(scene.objects, start, sun[k * 16 + (turn * 7 + k * 5) % 16])
    out = np.ones(size * size, np.float32)
    out[index] = free / 4
    return np.asarray(cv2.blur(out.reshape(size, size), (4, 4)))


def _ground_sky(scene: Scene, size: int) -> Array:
    """The part of the sky that each pixel's ground point sees, [S, S]."""
    coarse = -(-size // SKY_STEP)
    x, y, _, _ = _ground_grid(scene, coarse)
    points = np.zeros((coarse * coarse, 3), np.float32)
    points[:, 0], points[:, 1] = x.ravel(), np.repeat(y, coarse)
    middle = np.mean([o.pose.shift for o in scene.objects], axis=0)
    near = np.flatnonzero(((points - middle) ** 2).sum(1) < 3.2**2)
    up = np.zeros((len(near), 3), np.float32)
    up[:, 2] = 1
    out = np.ones(coarse * coarse, np.float32)
    out[near] = openness(points[near], up, scene.objects)[0].sky
    fine = cv2.resize(out.reshape(coarse, coarse), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(fine, 0, 1))
