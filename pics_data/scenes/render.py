"""Scene -> pixels and truth.

Legend: S pixels a side; every pixel has 2 x 2 samples, so W = 2 S samples a side; K objects, M samples of one object.
Each object is cast and shaded as if it stood alone, then the nearest wins at each sample: hence whole and visible
silhouettes come from the same rays. A pixel belongs to what covers at least two of its four samples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pics_data.scenes.background import background
from pics_data.scenes.rays import Array, Bools
from pics_data.scenes.scene import Scene
from pics_data.scenes.shading import LIFT, SELF_LIFT, sun_directions, sunlight, surface_of

Bytes = NDArray[np.uint8]
LIGHT_MAX, LIGHT_STEPS = 2.0, 16384


@dataclass(frozen=True, slots=True)
class Rendered:
    """`rgb` [S, S, 3]. Of each of the K objects: `visible` and `whole` silhouettes [K, S, S], and its `depth`
    [K, W * W], infinite where it is not. `alone` [S, S, 4]: the wanted objects on their own, straight alpha."""

    rgb: Bytes
    visible: Bools
    whole: Bools
    depth: Array
    alone: list[Bytes]


def render_scene(scene: Scene, size: int, wanted: tuple[int, ...]) -> Rendered:
    """Renders a picture of `size` x `size` pixels; `alone` holds the objects of `wanted`, in that order."""
    width, count = 2 * size, len(scene.objects)
    depth = np.full((count, width * width), np.inf, np.float32)
    nearest = np.full(width * width, np.inf, np.float32)
    winner = np.full(width * width, -1, np.int8)
    color = np.zeros((width * width, 3), np.float32)
    sun = sun_directions(scene.light, 8)
    alone: dict[int, Bytes] = {}
    for k, thing in enumerate(scene.objects):
        left, top, right, bottom = _window(scene.camera.project(thing.points, width), width)
        rays = scene.camera.rays(width, left, top, right, bottom)
        hits = thing.body.tree.first(thing.pose, scene.camera.position, rays)
        sample = (hits.ray // (right - left) + top) * width + hits.ray % (right - left) + left
        depth[k, sample] = hits.depth
        others = tuple(o for j, o in enumerate(scene.objects) if j != k)
        surface = surface_of(thing, others, hits, rays, scene.light, scene.camera.position)
        free = np.ones(len(sample), np.float32)
        if not thing.body.solid.convex:
            free = sunlight((thing,), surface, sun, sample, width, SELF_LIFT)
        if k in wanted:
            alone[k] = _cut_out(surface.shade_alone + surface.lit * free[:, None], sample, size)
        seen = hits.depth < nearest[sample]
        at = sample[seen]
        nearest[at], winner[at] = hits.depth[seen], k
        free *= sunlight(others, surface, sun, sample, width, LIFT)
        color[at] = (surface.shade + surface.lit * free[:, None])[seen]
    shares = np.stack([_samples(winner == k, size) for k in range(count)])
    first = shares.argmax(0)
    visible = np.stack([(first == k) & (shares[k] >= 2) for k in range(count)])
    whole = np.stack([_samples(np.isfinite(depth[k]), size) >= 2 for k in range(count)])
    rest = np.float32(1) - shares.sum(0).astype(np.float32) / 4
    rgb = _develop(_average(color, size) + background(scene, size) * rest[..., None])
    return Rendered(rgb, visible, whole, depth, [alone[k] for k in wanted])


def front(rendered: Rendered, chosen: tuple[int, ...]) -> NDArray[np.int8]:
    """Which of the `chosen` objects is in front, [S, S]: its place in `chosen` where several meet, else -1."""
    whole, visible = rendered.whole[list(chosen)], rendered.visible[list(chosen)]
    out = np.full(whole.shape[1:], -1, np.int8)
    if len(chosen) < 2:
        return out
    y, x = np.nonzero(whole.sum(0) >= 2)
    width = 2 * whole.shape[1]
    corner = 2 * y * width + 2 * x
    four = np.stack([corner, corner + 1, corner + width, corner + width + 1])
    depth = rendered.depth[list(chosen)][:, four]
    first = np.where(np.isfinite(depth.min(0)), depth.argmin(0), -1)
    shares = np.stack([(first == i).sum(0) for i in range(len(chosen))]).astype(np.float32)
    shares += 0.5 * visible[:, y, x]  # of equals, the one that the picture shows
    shares[~whole[:, y, x]] = -1
    out[y, x] = shares.argmax(0)
    return out


def _window(spots: Array, width: int) -> tuple[int, int, int, int]:
    """The samples that can hit an object whose vertices fall on `spots`: left, top, right, bottom."""
    low = np.clip(np.floor(spots.min(0)) - 1, 0, width - 2).astype(int)
    high = np.clip(np.ceil(spots.max(0)) + 1, low + 2, width).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _samples(which: Bools, size: int) -> Bytes:
    """Samples [W * W] -> how many of each pixel's four, [S, S]."""
    four = which.reshape(size, 2, size, 2).view(np.uint8)
    return four[:, 0, :, 0] + four[:, 0, :, 1] + four[:, 1, :, 0] + four[:, 1, :, 1]


def _average(color: Array, size: int) -> Array:
    four = color.reshape(size, 2, size, 2, 3)
    return (four[:, 0, :, 0] + four[:, 0, :, 1] + four[:, 1, :, 0] + four[:, 1, :, 1]) * np.float32(0.25)


def _tone_curve() -> Bytes:
    """Linear light in steps of `LIGHT_MAX` / `LIGHT_STEPS` -> sRGB bytes, highlights rolled off softly."""
    light = np.arange(LIGHT_STEPS + 1) * (LIGHT_MAX / LIGHT_STEPS)
    soft = np.where(light > 0.7, 0.7 + 0.3 * np.tanh((light - 0.7) / 0.45), light)
    curve = np.where(soft <= 0.0031308, 12.92 * soft, 1.055 * np.maximum(soft, 1e-6) ** (1 / 2.4) - 0.055)
    return (np.clip(curve, 0, 1) * 255 + 0.5).astype(np.uint8)


_TONES = _tone_curve()


def _develop(color: Array) -> Bytes:
    """Linear light -> sRGB bytes."""
    step = np.clip(color * np.float32(LIGHT_STEPS / LIGHT_MAX) + np.float32(0.5), 0, LIGHT_STEPS)
    return np.take(_TONES, step.astype(np.int32))


def _cut_out(color: Array, sample: NDArray[np.int64], size: int) -> Bytes:
    """Samples [M, 3] of one object alone -> RGBA with straight alpha."""
    pixel = sample // (2 * size) // 2 * size + sample % (2 * size) // 2
    hit = np.bincount(pixel, minlength=size * size)
    out = np.zeros((size * size, 4), np.uint8)
    on = np.flatnonzero(hit)
    sums = np.stack([np.bincount(pixel, color[:, c], minlength=size * size)[on] for c in range(3)], 1)
    out[on, :3] = _develop((sums / hit[on, None]).astype(np.float32))
    out[on, 3] = (hit[on] * 255 + 2) // 4
    return out.reshape(size, size, 4)
