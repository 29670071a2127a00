"""Photographs one thing alone: cameras around it, rays through the pixels, colours and soft edges out.

World: z is up, and a camera of azimuth 0 stands on the side of -y and looks along +y. Legend: n pixels a side, M hits.
A pixel is one ray; where an outline passes, `EDGE_RAYS` of them: hits that are far apart, or a hit beside none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pics_data.scenes.camera import Camera
from pics_data.scenes.rays import Array, Hits, Pose, Tree
from pics_data.scenes.solids import Ints
from pics_data.views import Picture, ViewCamera

FILL = 0.8  # of the picture that the largest view of an object takes up
EDGE_RAYS = 8
EDGE_COLORS = 3  # of the rays that hit, so many give the pixel its colour
STEP = 0.02  # of the object's size: a jump in depth that is an outline within the object
Floats = NDArray[np.floating[Any]]
# Where in a pixel its rays pass: each of eight rows and columns once, and any few in a row are far apart.
_ACROSS = ((np.array([0, 4, 2, 6, 1, 5, 3, 7]) + 0.5) / EDGE_RAYS).astype(np.float32)
_DOWN = ((np.array([2, 5, 7, 0, 6, 3, 1, 4]) + 0.5) / EDGE_RAYS).astype(np.float32)


@dataclass(frozen=True)
class Subject:
    """What is photographed: its vertices `points` [V, 3] in the world and its `faces` [F, 3], the ray tree over them at
    a pose, and its colours.

    `shade` takes hits, where they are [M, 3] and the unit directions [M, 3] of their rays, and returns sRGB colours
    [M, 3] in 0 to 255, float32.
    """

    points: Array
    faces: Ints
    tree: Tree
    shade: Callable[[Hits, Array, Array], Array]
    pose: Pose = field(default_factory=lambda: Pose(np.eye(3, dtype=np.float32), 1.0, np.zeros(3, np.float32)))

    @cached_property
    def size(self) -> float:
        """Its longest side."""
        low, high = bounds(self.points)
        return float((high - low).max())


def bounds(points: Array) -> tuple[Array, Array]:
    """The lowest and the highest coordinates [D] of points [N, D]."""
    columns = np.ascontiguousarray(points.T)  # numpy is many times as fast along long rows
    return columns.min(1), columns.max(1)


def middle_of(points: Array) -> Array:
    """The middle [D] of the box around points [N, D]."""
    low, high = bounds(points)
    return np.asarray((low + high) / 2, np.float32)


def orbit(target: Array, distance: float, azimuth: float, elevation: float, focal: float) -> Camera:
    """The camera that looks at `target` [3] from `distance`, at `azimuth` and `elevation` in degrees."""
    a, e = np.radians(azimuth), np.radians(elevation)
    forward = np.array([-np.sin(a) * np.cos(e), np.cos(a) * np.cos(e), -np.sin(e)])
    right = np.array([np.cos(a), np.sin(a), 0.0])
    axes = np.stack([right, np.cross(forward, right), forward]).astype(np.float32)
    return Camera((target - distance * forward).astype(np.float32), axes, focal)


def cameras_around(
    points: Array, views: Sequence[ViewCamera], own: ViewCamera, distance: float, middle: Array | None = None
) -> list[Camera]:
    """A camera for each of `views`; all have one focal length, so that the object keeps its size when it turns.

    `own` is where the cut-out was taken from: its azimuth and elevation are in the world, its distance is not used.
    `distance` is how far that was, in world units. Of the views and the cut-out's own, the one in which `points` reach
    furthest fills `FILL` of the picture.
    """
    target = middle_of(points) if middle is None else middle
    around = []
    for view in (ViewCamera(0, 0), *views):
        climb = float(np.clip(own.elevation + view.elevation, -89, 89))
        around.append(orbit(target, distance * view.distance, own.azimuth + view.azimuth, climb, 1.0))
    reach = max(float(np.abs(camera.project(points, 2) - 1).max()) for camera in around)
    return [replace(camera, focal=FILL / max(reach, 1e-6)) for camera in around[1:]]


def photograph(subject: Subject, camera: Camera, size: int) -> Picture:
    """The picture [size, size, 4] of a subject alone, with straight alpha."""
    first, last = bounds(camera.project(subject.points, size))
    low = np.clip(np.floor(first).astype(int) - 1, 0, size - 1)
    high = np.clip(np.ceil(last).astype(int) + 1, low + 1, size)
    left, top, wide, tall = int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])
    rays = camera.rays(size, left, top, left + wide, top + tall)
    hits = subject.tree.first(subject.pose, camera.position, rays)

    depth = np.full(tall * wide, np.inf, np.float32)
    depth[hits.ray] = hits.depth
    edge = _outlines(depth.reshape(tall, wide), STEP * subject.size).ravel()
    inner = np.flatnonzero(~edge[hits.ray])
    inside = _chosen(hits, inner)

    out = np.zeros((tall * wide, 4), np.float32)
    out[inside.ray, :3] = _shaded(subject, camera, inside, rays)
    out[inside.ray, 3] = 255
    _soften(out, np.flatnonzero(edge), subject, camera, (size, left, top, wide))
    picture = np.zeros((size, size, 4), np.uint8)
    picture[top : top + tall, left : left + wide] = np.clip(out + 0.5, 0, 255).astype(np.uint8).reshape(tall, wide, 4)
    return picture


def _outlines(depth: Array, step: float) -> NDArray[np.bool_]:
    """Pixels [h, w] where depth jumps by more than `step`, on either side; nothing is infinitely far.

    A slope, however steep, is no jump: what counts is the morphological Laplacian.
    """
    far = np.minimum(depth, np.float32(1e6))
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return np.asarray(np.abs(cv2.dilate(far, cross) + cv2.erode(far, cross) - 2 * far) > step)


def _soften(
    out: Array, edge: NDArray[np.int64], subject: Subject, camera: Camera, window: tuple[int, int, int, int]
) -> None:
    """Fills the pixels `edge` of `out` [h * w, 4] from several rays each."""
    if not len(edge):
        return
    size, left, top, wide = window
    x = (edge % wide + left).astype(np.float32)[:, None] + _ACROSS
    y = (edge // wide + top).astype(np.float32)[:, None] + _DOWN
    rays = camera.through(x.ravel(), y.ravel(), size)
    hits = subject.tree.first(subject.pose, camera.position, rays)
    pixel = hits.ray // EDGE_RAYS
    count = np.bincount(pixel, minlength=len(edge))
    out[edge, 3] = count * (255 / EDGE_RAYS)

    rank = np.arange(len(pixel)) - np.repeat(np.cumsum(count) - count, count)
    few = np.flatnonzero(rank < EDGE_COLORS)
    colored = _chosen(hits, few)
    colors = _shaded(subject, camera, colored, rays)
    for channel in range(3):
        sums = np.bincount(pixel[few], colors[:, channel], minlength=len(edge))
        out[edge, channel] = sums / np.clip(count, 1, EDGE_COLORS)


def _chosen(hits: Hits, places: NDArray[np.int64]) -> Hits:
    return Hits(hits.ray[places], hits.depth[places], hits.face[places], np.take(hits.weights, places, axis=0))


def _shaded(subject: Subject, camera: Camera, hits: Hits, rays: Array) -> Array:
    """Colours [M, 3] at the hits of `rays` [N, 3]."""
    if not len(hits.ray):
        return np.zeros((0, 3), np.float32)
    directions = np.take(rays, hits.ray, axis=0)
    return subject.shade(hits, camera.position + directions * hits.depth[:, None], directions)
