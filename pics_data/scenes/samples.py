"""Where a picture looks: one ray through the middle of each pixel, and four where something ends within the pixel.

Each object is cast as if it stood alone, so that whole and visible silhouettes come from the same rays.

Legend: S pixels a side, P = S * S; K objects; E edge pixels, whose four quarters are cast. A sample is numbered: 0 to
P - 1 are the middles of pixels, P + 4 e + q is quarter q of edge pixel e. M samples of one object.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pics_data.scenes.camera import Camera
from pics_data.scenes.rays import Array, Bools, Hits, blend
from pics_data.scenes.scene import Placed, Scene
from pics_data.scenes.solids import dot

CREASE = 0.93  # cosine between the normals of neighbouring pixels below which an edge runs between them
STEP = 0.06  # world units of depth between neighbouring pixels: an edge as well
_CROSS = np.ones((3, 3), np.uint8)
Longs = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Seen:
    """One object alone: its samples [M], the `rays` [M, 3] and `hits` there, and normals [M, 3] in its own space."""

    sample: Longs
    rays: Array
    hits: Hits
    normals: Array


@dataclass(frozen=True, slots=True)
class Samples:
    """All that a picture's rays meet.

    `edge` [E] are the edge pixels, `middle` [K, P] and `quarter` [K, E, 4] the depth of each object alone along the
    rays, infinite where it is not. `seen` are the objects' samples: quarters in edge pixels, middles in all others.
    """

    size: int
    edge: Longs
    middle: Array
    quarter: Array
    seen: list[Seen]

    def pixel(self, sample: Longs) -> Longs:
        """The pixels that samples lie in."""
        pixels = self.size**2
        if not len(self.edge):
            return sample
        return np.where(sample < pixels, sample, self.edge[np.maximum(sample - pixels, 0) // 4])

    def counts(self, of_middle: Bools, of_quarter: Bools) -> NDArray[np.uint8]:
        """How many of each pixel's four quarters are marked, [P]; middles stand for four."""
        out = of_middle.astype(np.uint8) * np.uint8(4)
        out[self.edge] = of_quarter.view(np.uint8).sum(1, dtype=np.uint8)
        return out


def cast(scene: Scene, size: int) -> Samples:
    """Casts a picture of `size` x `size` pixels."""
    camera, count, pixels = scene.camera, len(scene.objects), size * size
    rays = camera.rays(size)
    middle = np.full((count, pixels), np.inf, np.float32)
    firsts: list[tuple[Longs, Hits, Array]] = []
    windows = []
    edge = np.zeros((size, size), bool)
    normals = np.zeros((pixels, 3), np.float32)
    nearest = np.full(pixels, np.inf, np.float32)
    for k, thing in enumerate(scene.objects):
        left, top, right, bottom = window = _window(camera, thing, size)
        windows.append(window)
        inside = (np.arange(top, bottom)[:, None] * size + np.arange(left, right)).ravel()
        hits = thing.body.tree.first(thing.pose, camera.position, np.take(rays, inside, axis=0))
        at = inside[hits.ray]
        own = _normals(thing, hits)
        middle[k, at] = hits.depth
        firsts.append((at, hits, own))
        whole = np.isfinite(middle[k]).view(np.uint8).reshape(size, size)[top:bottom, left:right]
        ring = cv2.copyMakeBorder(whole, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        inner = cv2.erode(ring, _CROSS)[1:-1, 1:-1]
        edge[top:bottom, left:right] |= (cv2.dilate(ring, _CROSS)[1:-1, 1:-1] != 0) & (inner == 0)
        closer = hits.depth < nearest[at]
        near = at[closer]
        nearest[near] = hits.depth[closer]
        normals[near] = own[closer]
    edge |= _creases(nearest.reshape(size, size), normals.reshape(size, size, 3))
    found = np.flatnonzero(edge)
    fine = _quarter_rays(camera, found, size)
    quarter = np.full((count, len(found), 4), np.inf, np.float32)
    seen = []
    for k, (thing, (at, hits, own)) in enumerate(zip(scene.objects, firsts, strict=True)):
        left, top, right, bottom = windows[k]
        y, x = np.divmod(found, size)
        here = np.flatnonzero((x >= left) & (x < right) & (y >= top) & (y < bottom))
        which = (here[:, None] * 4 + np.arange(4)).ravel()
        more = thing.body.tree.first(thing.pose, camera.position, np.take(fine, which, axis=0))
        which = which[more.ray]
        quarter[k].reshape(-1)[which] = more.depth
        plain = np.flatnonzero(~edge.reshape(-1)[at])
        both = Hits(
            np.arange(len(plain) + len(which)),
            np.concatenate([hits.depth[plain], more.depth]),
            np.concatenate([hits.face[plain], more.face]),
            np.concatenate([hits.weights[plain], more.weights]),
        )
        ways = np.concatenate([np.take(rays, at[plain], axis=0), np.take(fine, which, axis=0)])
        seen.append(
            Seen(
                np.concatenate([at[plain], pixels + which]),
                ways,
                both,
                np.concatenate([own[plain], _normals(thing, more)]),
            )
        )
    return Samples(size, found, middle, quarter, seen)


def _window(camera: Camera, thing: Placed, size: int) -> tuple[int, int, int, int]:
    """The pixels that can show an object: left, top, right, bottom."""
    spots = camera.project(thing.hull, size).T
    margin = 2 + 0.01 * (spots.max(1) - spots.min(1)).max()  # the outermost points may miss 1 %
    low = np.clip(np.floor(spots.min(1) - margin), 0, size - 2).astype(int)
    high = np.clip(np.ceil(spots.max(1) + margin), low + 2, size).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _normals(thing: Placed, hits: Hits) -> Array:
    """Unit normals [M, 3] in the object's own space."""
    own = blend(thing.shape.corners, hits)
    own /= np.maximum(np.sqrt(dot(own, own)), np.float32(1e-9))[:, None]
    return own


def _creases(depth: Array, normals: Array) -> Bools:
    """Pixels [S, S] at which the nearest surface bends sharply or steps back; what is next to nothing counts not."""
    out = np.zeros(depth.shape, bool)
    some = np.isfinite(depth)
    far = np.where(some, depth, 0)
    x, y, z = (np.ascontiguousarray(normals[..., k]) for k in range(3))
    for a, b in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        bend = x[a] * x[b] + y[a] * y[b] + z[a] * z[b] < CREASE
        both = some[a] & some[b] & (bend | (np.abs(far[a] - far[b]) > STEP))
        out[a] |= both
        out[b] |= both
    return out


def _quarter_rays(camera: Camera, pixels: Longs, size: int) -> Array:
    """Unit directions [4 E, 3] through the middles of the quarters of pixels [E]."""
    y, x = np.divmod(pixels, size)
    offset = np.array([0.25, 0.75])
    across = (x[:, None] + np.tile(offset, 2)).ravel()
    down = (y[:, None] + np.repeat(offset, 2)).ravel()
    return camera.through(across.astype(np.float32), down.astype(np.float32), size)
