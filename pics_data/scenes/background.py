"""Ground and backdrop at every pixel, as if no object hid them, with the shadows that fall on the ground.

Legend: S pixels a side. The camera never rolls, so that a row of pixels sees one distance: y and the share of ground
are [S], only x is [S, S].
"""

import cv2
import numpy as np

from pics_data.scenes.backdrop import behind_all
from pics_data.scenes.ground import TILE_PIXELS, TILE_UNITS, ground_tiles, paint
from pics_data.scenes.rays import Array
from pics_data.scenes.scene import Placed, Scene
from pics_data.scenes.shading import LIFT, ball_around, blocked, border, may_meet, partly, softness

SKY_STEP = 4  # the open sky changes slowly: one ground point for 4 x 4 pixels
SKY_RAYS = 32  # of a ground point
SKY_REACH = 0.9  # world units around an object within which it hides some of the sky
FAR = 8.0  # world units; beyond, nothing shades the ground
END = 60.0  # world units; there the open ground ends


def background(scene: Scene, size: int) -> tuple[Array, Array]:
    """[S, S, 3] float32, linear RGB; and its depth along the camera's axis [S, S], infinite for the open sky."""
    x, y, reach, share = _ground_grid(scene, size)
    light = scene.light
    sun, sky = _ground_sun(scene, x, y, size), _ground_sky(scene, size)
    ground = _ground_color(scene, x, y, reach, size)
    strength = (sun * light.toward[2])[..., None] * light.sun
    strength += sky[..., None] * light.sky
    ground *= strength
    behind = behind_all(scene, size, int(np.count_nonzero(share < 1)))
    if not scene.backdrop.distance:  # far ground fades into the sky
        haze = np.clip((y - 3) / 14, 0, 1)[:, None, None] ** np.float32(0.8)
        ground += (behind[-1:] - ground) * haze
    rows = len(behind)
    ground[:rows] = behind + (ground[:rows] - behind) * share[:rows, None, None]
    return ground, _depth(scene, y, share, size)


def _depth(scene: Scene, y: Array, share: Array, size: int) -> Array:
    """Depth [S, S]: a row has one, as the camera does not roll."""
    camera = scene.camera
    away = y - camera.position[1]
    ground = away * camera.axes[2][1] - camera.position[2] * camera.axes[2][2]
    far = np.full(size, np.inf, np.float32)
    if scene.backdrop.distance:
        rows = camera.axes[2] + camera.axes[1] * (((np.arange(size) + 0.5) * (2 / size) - 1) / camera.focal)[:, None]
        far = ((scene.backdrop.distance - camera.position[1]) / rows[:, 1]).astype(np.float32)
    return np.repeat(np.where(share >= 0.5, ground, far).astype(np.float32), size).reshape(size, size)


def _ground_grid(scene: Scene, size: int) -> tuple[Array, Array, Array, Array]:
    """The ground that pixels see: x [S, S], y [S], distance along the ray [S], share of the row that is ground [S]."""
    camera = scene.camera
    limit = scene.backdrop.distance or END
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


def _ground_color(scene: Scene, x: Array, y: Array, reach: Array, size: int) -> Array:
    """The ground's own colour [S, S, 3], read from its tile; from a blurred copy where a pixel covers more of it."""
    tiles = ground_tiles(scene.ground)
    c, s = np.float32(np.cos(scene.ground.turn)), np.float32(np.sin(scene.ground.turn))
    scale = np.float32(TILE_PIXELS / TILE_UNITS)
    u = np.mod((c * x - s * y[:, None]) * scale, np.float32(TILE_PIXELS))
    v = np.mod((s * x + c * y[:, None]) * scale, np.float32(TILE_PIXELS))
    across = reach * np.float32(2 / (size * scene.camera.focal)) * scale
    steep = np.maximum(scene.camera.position[2] / reach, 0.02)
    level = np.log2(np.maximum(across / np.sqrt(steep), 1))[:, None, None]  # of the blurred copy, per row
    fine = int(np.argmax(level[:, 0, 0] < 1)) if (level < 1).any() else size  # above, the finest tile is not needed
    out = np.empty((size, size, 2), np.float32)
    if fine < size:
        out[fine:] = cv2.remap(tiles[0], u[fine:], v[fine:], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    for k in range(1, len(tiles)):
        first = int(np.argmin(level[:, 0, 0] > k - 1)) if level[-1, 0, 0] <= k - 1 else size
        if not first:
            break  # the rows are ever nearer: none needs a coarser copy
        last = int(np.argmax(level[:, 0, 0] < k + 1)) if (level < k + 1).any() and k + 1 < len(tiles) else 0
        shrink = np.float32(0.5**k)
        near = np.float32(0.5 * 0.5**k - 0.5)
        rows = slice(last, first)
        if last >= first:
            continue
        coarse = cv2.remap(tiles[k], u[rows] * shrink + near, v[rows] * shrink + near, cv2.INTER_LINEAR,
                           borderMode=cv2.BORDER_WRAP)  # fmt: skip
        weight = np.clip(level[rows] - (k - 1), 0, 1)
        mixed = weight[:, 0, 0] < 1
        new = coarse.astype(np.float32)
        new[mixed] = out[rows][mixed] + (new[mixed] - out[rows][mixed]) * weight[mixed]
        out[rows] = new
    return paint(scene.ground, out)


def _ground_sun(scene: Scene, x: Array, y: Array, size: int) -> Array:
    """The part of the sun at each pixel's ground point, [S, S]: by one ray, and by several where shadows end."""
    points = np.zeros((size * size, 3), np.float32)
    points[:, 0], points[:, 1] = x.ravel(), np.repeat(y, size)
    toward = scene.light.toward[None]
    near = np.zeros(size * size, bool)
    inside = np.repeat(y < FAR, size)
    for thing in scene.objects:
        near |= may_meet(thing, points, toward, scene.light.spread)
    index = np.flatnonzero(near & inside)
    out = np.ones(size * size, np.float32)
    if not len(index):
        return out.reshape(size, size)
    start = np.take(points, index, axis=0)
    start[:, 2] = LIFT / 4
    free = ~blocked(scene.objects, start, np.broadcast_to(toward, start.shape))
    share = free.astype(np.float32)
    mixed = np.flatnonzero(border(index, free, size, softness(scene.light, size)))
    if len(mixed):
        share[mixed] = partly(scene.objects, np.take(start, mixed, axis=0), index[mixed], size, scene.light)
    out[index] = share
    return np.asarray(cv2.blur(out.reshape(size, size), (4, 4)))


def _ground_sky(scene: Scene, size: int) -> Array:
    """The part of the sky that each pixel's ground point sees, [S, S]."""
    coarse = -(-size // SKY_STEP)
    x, y, _, _ = _ground_grid(scene, coarse)
    points = np.zeros((coarse * coarse, 3), np.float32)
    points[:, 0], points[:, 1], points[:, 2] = x.ravel(), np.repeat(y, coarse), LIFT
    ways = _sky_directions(SKY_RAYS)
    free = np.ones((len(points), SKY_RAYS), bool)
    for thing in scene.objects:
        _hide(free, points, ways, thing)
    open_sky = (free.sum(1, dtype=np.int32) * np.float32(1 / SKY_RAYS)).reshape(coarse, coarse)
    fine = cv2.resize(open_sky, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(fine, 0, 1))


def _hide(free: Array, points: Array, ways: Array, thing: Placed) -> None:
    """Takes from the `free` directions [N, D] of ground points those that an object hides."""
    middle, radius = ball_around(thing)
    away = (points[:, 0] - np.float32(middle[0])) ** 2 + (points[:, 1] - np.float32(middle[1])) ** 2
    near = np.flatnonzero(away < (radius + SKY_REACH) ** 2)
    point, way = np.nonzero(free[near])
    point = near[point]
    start, rays = np.take(points, point, axis=0), np.take(ways, way, axis=0)
    meet = np.flatnonzero(may_meet(thing, start, rays))
    hidden = thing.body.tree.blocked(thing.pose, np.take(start, meet, axis=0), np.take(rays, meet, axis=0))
    free[point[meet[hidden]], way[meet[hidden]]] = False


def _sky_directions(count: int) -> Array:
    """Directions [count, 3] over the upper half, as dense as a level surface values them."""
    k = np.arange(count) + 0.5
    radius, turn = np.sqrt(k / count), np.pi * (1 + 5**0.5) * k
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), np.sqrt(1 - k / count)], 1).astype(np.float32)
