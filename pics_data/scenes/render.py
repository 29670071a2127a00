"""Scene -> pixels and truth.

Legend: S pixels a side, P = S * S; K objects; E edge pixels; see `samples`. A pixel belongs to what covers at least two
of its four quarters.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pics_data.scenes.background import background
from pics_data.scenes.rays import Array, Bools
from pics_data.scenes.samples import Samples, Seen, cast
from pics_data.scenes.scene import Scene
from pics_data.scenes.shading import LIFT, SELF_LIFT, Surface, shaders, sunlight, surface_of

Bytes = NDArray[np.uint8]
LIGHT_MAX, LIGHT_STEPS = 2.0, 16384


@dataclass(frozen=True, slots=True)
class Rendered:
    """`rgb` [S, S, 3]. Of each of the K objects the `visible` and `whole` silhouettes [K, S, S]. `alone` [S, S, 4]: the
    wanted objects on their own, straight alpha. `depth` [S, S]: along the camera's axis, to what each pixel shows."""

    rgb: Bytes
    visible: Bools
    whole: Bools
    alone: list[Bytes]
    depth: Array
    samples: Samples


def render_scene(scene: Scene, size: int, wanted: tuple[int, ...]) -> Rendered:
    """Renders a picture of `size` x `size` pixels; `alone` holds the objects of `wanted`, in that order."""
    samples = cast(scene, size)
    count, pixels = len(scene.objects), size * size
    winner = np.concatenate([_nearest(samples.middle), _nearest(samples.quarter.reshape(count, -1))])
    color = np.zeros((len(winner), 3), np.float32)
    alone: dict[int, Bytes] = {}
    for k, seen in enumerate(samples.seen):
        mine = winner[seen.sample] == k
        if k not in wanted and not mine.all():
            seen = _part(seen, np.flatnonzero(mine))
            mine = np.ones(len(seen.sample), bool)
        if not len(seen.sample):
            alone[k] = np.zeros((size, size, 4), np.uint8)
            continue
        surface, at = surface_of(scene, k, seen), seen.sample
        if k in wanted:
            free = _own_sunlight(scene, k, surface, samples, at)
            alone[k] = _cut_out(surface.shade_alone + surface.lit * free[:, None], at, samples)
        if not mine.all():  # soft shadows look at all samples they are given: here those that show, `wanted` or not
            shown = np.flatnonzero(mine)
            surface, at = _surface_part(surface, shown), at[shown]
        sun = sunlight(shaders(scene, k), surface, scene.light, samples, at, LIFT)
        sun *= _own_sunlight(scene, k, surface, samples, at)
        color[at] = surface.shade + surface.lit * sun[:, None]
    first, last = winner[:pixels], winner[pixels:].reshape(-1, 4)
    shares = np.stack([samples.counts(first == k, last == k) for k in range(count)])
    owner = shares.argmax(0)
    visible = np.stack([(owner == k) & (shares[k] >= 2) for k in range(count)])
    whole = np.stack(
        [
            samples.counts(np.isfinite(m), np.isfinite(q)) >= 2
            for m, q in zip(samples.middle, samples.quarter, strict=True)
        ]
    )
    image, behind = background(scene, size)
    flat = color[:pixels]
    flat[samples.edge] = color[pixels:].reshape(-1, 4, 3).sum(1) * np.float32(0.25)
    rest = np.float32(1) - shares.sum(0, dtype=np.uint8) * np.float32(0.25)
    rgb = develop(flat + image.reshape(-1, 3) * rest[:, None]).reshape(size, size, 3)
    depth = _depth(scene, samples, visible, last, behind)
    shape = (count, size, size)
    return Rendered(rgb, visible.reshape(shape), whole.reshape(shape), [alone[k] for k in wanted], depth, samples)


def _nearest(depth: Array) -> NDArray[np.int8]:
    """Of depths [K, N]: which object is the nearest, [N]; -1 for none."""
    best = depth.argmin(0).astype(np.int8)
    best[~np.isfinite(depth.min(0))] = -1
    return best


def _own_sunlight(scene: Scene, k: int, surface: Surface, samples: Samples, at: NDArray[np.int64]) -> Array:
    """The part of the sun [M] that object k leaves to itself."""
    if scene.objects[k].body.solid.convex:
        return np.ones(len(at), np.float32)
    return sunlight((scene.objects[k],), surface, scene.light, samples, at, SELF_LIFT)


def _part(seen: Seen, index: NDArray[np.int64]) -> Seen:
    hits = seen.hits
    kept = type(hits)(np.arange(len(index)), hits.depth[index], hits.face[index], np.take(hits.weights, index, axis=0))
    return Seen(seen.sample[index], np.take(seen.rays, index, axis=0), kept, np.take(seen.normals, index, axis=0))


def _surface_part(surface: Surface, index: NDArray[np.int64]) -> Surface:
    names = ("points", "normals", "slope", "shade", "shade_alone", "lit")
    return Surface(*(np.take(getattr(surface, name), index, axis=0) for name in names))


def _depth(scene: Scene, samples: Samples, visible: Bools, last: NDArray[np.int8], behind: Array) -> Array:
    """Depth along the camera's axis [S, S]: of the object that a pixel belongs to, or of what is `behind` all [S, S].

    In edge pixels it is the mean over the quarters that show the owner."""
    size, forward = samples.size, scene.camera.axes[2]
    rays = scene.camera.rays(size)
    cosine = rays[:, 0] * forward[0] + rays[:, 1] * forward[1] + rays[:, 2] * forward[2]
    out = behind.reshape(-1).copy()
    plain = np.ones(size * size, bool)
    plain[samples.edge] = False
    for k, mask in enumerate(visible):
        at = np.flatnonzero(mask & plain)
        out[at] = samples.middle[k, at] * cosine[at]
        edge = np.flatnonzero(mask[samples.edge])
        mine = last[edge] == k
        sums = np.where(mine, samples.quarter[k, edge], 0).sum(1) / mine.sum(1)
        out[samples.edge[edge]] = sums * cosine[samples.edge[edge]]
    return out.reshape(size, size)


def front(rendered: Rendered, chosen: tuple[int, ...]) -> NDArray[np.int8]:
    """Which of the `chosen` objects is in front, [S, S]: its place in `chosen` where several meet, else -1."""
    size, samples = rendered.samples.size, rendered.samples
    whole = rendered.whole[list(chosen)].reshape(len(chosen), size * size)
    visible = rendered.visible[list(chosen)].reshape(len(chosen), size * size)
    out = np.full(size * size, -1, np.int8)
    if len(chosen) >= 2:
        first = _nearest(samples.middle[list(chosen)])
        last = _nearest(samples.quarter[list(chosen)].reshape(len(chosen), -1)).reshape(-1, 4)
        at = np.flatnonzero(whole.sum(0, dtype=np.uint8) >= 2)
        shares = np.stack([samples.counts(first == i, last == i)[at] for i in range(len(chosen))]).astype(np.float32)
        shares += np.float32(0.5) * visible[:, at]  # of equals, the one that the picture shows
        shares[~whole[:, at]] = -1
        out[at] = shares.argmax(0)
    return out.reshape(size, size)


def hides(rendered: Rendered, chosen: tuple[int, ...]) -> Array:
    """[i, j]: the share of j's whole silhouette on which i stands before it, of the `chosen` objects; float32."""
    samples = rendered.samples
    middle, quarter = samples.middle[list(chosen)].copy(), samples.quarter[list(chosen)]
    middle[:, samples.edge] = np.inf  # their quarters stand for them
    out = np.zeros((len(chosen), len(chosen)), np.float32)
    for j in range(len(chosen)):
        area = 4 * np.count_nonzero(np.isfinite(middle[j])) + np.count_nonzero(np.isfinite(quarter[j]))
        for i in range(len(chosen)):
            before = 4 * np.count_nonzero(middle[i] < middle[j]) + np.count_nonzero(quarter[i] < quarter[j])
            there = 4 * np.count_nonzero(np.isinf(middle[j]) & np.isfinite(middle[i]))
            there += np.count_nonzero(np.isinf(quarter[j]) & np.isfinite(quarter[i]))
            out[i, j] = (before - there) / area if area else 0
    return out


def _tone_curve() -> Bytes:
    """Linear light in steps of `LIGHT_MAX` / `LIGHT_STEPS` -> sRGB bytes, highlights rolled off softly."""
    light = np.arange(LIGHT_STEPS + 1) * (LIGHT_MAX / LIGHT_STEPS)
    soft = np.where(light > 0.7, 0.7 + 0.3 * np.tanh((light - 0.7) / 0.45), light)
    curve = np.where(soft <= 0.0031308, 12.92 * soft, 1.055 * np.maximum(soft, 1e-6) ** (1 / 2.4) - 0.055)
    return (np.clip(curve, 0, 1) * 255 + 0.5).astype(np.uint8)


_TONES = _tone_curve()


def develop(color: Array) -> Bytes:
    """Linear light -> sRGB bytes."""
    step = np.clip(color * np.float32(LIGHT_STEPS / LIGHT_MAX) + np.float32(0.5), 0, LIGHT_STEPS)
    return np.take(_TONES, step.astype(np.int32))


def _cut_out(color: Array, sample: NDArray[np.int64], samples: Samples) -> Bytes:
    """Samples [M, 3] of one object alone -> RGBA [S, S, 4] with straight alpha."""
    size, pixels = samples.size, samples.size**2
    out = np.zeros((pixels, 4), np.uint8)
    plain = sample < pixels
    at = sample[plain]
    out[at, :3], out[at, 3] = develop(color[plain]), 255
    number = (sample[~plain] - pixels) // 4
    hit = np.bincount(number, minlength=len(samples.edge))
    on = np.flatnonzero(hit)
    fine = color[~plain]
    sums = np.stack([np.bincount(number, fine[:, c], minlength=len(samples.edge))[on] for c in range(3)], 1)
    edge = samples.edge[on]
    out[edge, :3] = develop((sums / hit[on, None]).astype(np.float32))
    out[edge, 3] = (hit[on] * 255 + 2) // 4
    return out.reshape(size, size, 4)
