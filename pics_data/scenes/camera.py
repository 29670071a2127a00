"""A pinhole camera for square pictures: world points -> pixels, pixels -> rays."""

from dataclasses import dataclass

import numpy as np

from pics_data.scenes.rays import Array, rotate
from pics_data.scenes.solids import dot


@dataclass(frozen=True, slots=True)
class Camera:
    """At `position` [3]; the rows of `axes` [3, 3] are right, down and forward. `focal` is in half picture widths."""

    position: Array
    axes: Array
    focal: float

    def project(self, points: Array, size: int) -> Array:
        """World points [N, 3] -> pixel coordinates [N, 2] in a picture of `size` x `size`; pixel (0, 0) is [0, 1]^2."""
        own = rotate(self.axes, points - self.position)
        return (own[:, :2] / own[:, 2:] * np.float32(self.focal) + 1) * np.float32(size / 2)

    def rays(self, size: int, left: int = 0, top: int = 0, right: int = -1, bottom: int = -1) -> Array:
        """Unit directions [rows * columns, 3] through the centres of pixels left..right, top..bottom (exclusive)."""
        right, bottom = (size if right < 0 else right), (size if bottom < 0 else bottom)
        x = (np.arange(left, right, dtype=np.float32) + 0.5) * np.float32(2 / size) - 1
        y = (np.arange(top, bottom, dtype=np.float32) + 0.5) * np.float32(2 / size) - 1
        own = np.empty((len(y), len(x), 3), np.float32)
        own[..., 0], own[..., 1], own[..., 2] = x / np.float32(self.focal), y[:, None] / np.float32(self.focal), 1
        flat = own.reshape(-1, 3)
        flat /= np.sqrt(dot(flat, flat))[:, None]
        return rotate(self.axes.T, flat)


def look_at(target: Array, distance: float, pitch: float, focal: float) -> Camera:
    """A camera at `distance` from `target`, on the side of -y, looking down by `pitch` (radians)."""
    c, s = float(np.cos(pitch)), float(np.sin(pitch))
    axes = np.array([[1.0, 0.0, 0.0], [0.0, -s, -c], [0.0, c, -s]], np.float32)
    return Camera((target - distance * np.array([0.0, c, -s])).astype(np.float32), axes, focal)


def frame(points: Array, pitch: float, focal: float, fill: float, offset: tuple[float, float]) -> Camera:
    """The camera whose picture the `points` [N, 3] fill up to `fill` (0 to 1), their middle moved by `offset`."""
    target = (points.min(0) + points.max(0)) / 2
    distance = 4.0 * float((points.max(0) - points.min(0)).max()) * focal / 2
    for _ in range(6):
        camera = look_at(target, distance, pitch, focal)
        spots = np.ascontiguousarray(camera.project(points, 2).T) - 1
        low, high = spots.min(1), spots.max(1)
        miss = (low + high) / 2 - np.array(offset, np.float32)
        target = target + (camera.axes[0] * miss[0] + camera.axes[1] * miss[1]) * np.float32(distance / focal)
        distance *= float((high - low).max()) / (2 * fill)
    return look_at(target, distance, pitch, focal)
