"""A pinhole camera for square pictures: world points -> pixels, pixels -> rays."""

from dataclasses import dataclass

import numpy as np

from pics_data.scenes.rays import Array, rotate


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
        x = np.tile(np.arange(left, right, dtype=np.float32) + np.float32(0.5), bottom - top)
        y = np.repeat(np.arange(top, bottom, dtype=np.float32) + np.float32(0.5), right - left)
        return self.through(x, y, size)

    def through(self, x: Array, y: Array, size: int) -> Array:
        """Unit directions [N, 3] through the places `x`, `y` [N] of a picture, in pixels."""
        step = np.float32(2 / size)
        u = (x * step - 1) * np.float32(1 / self.focal)
        v = (y * step - 1) * np.float32(1 / self.focal)
        shrink = 1 / np.sqrt(u * u + v * v + 1)
        out = np.empty((len(u), 3), np.float32)
        right, down, forward = self.axes
        for axis in range(3):
            out[:, axis] = (right[axis] * u + down[axis] * v + forward[axis]) * shrink
        return out


def look_at(target: Array, distance: float, pitch: float, focal: float) -> Camera:
    """A camera at `distance` from `target`, on the side of -y, looking down by `pitch` (radians)."""
    c, s = float(np.cos(pitch)), float(np.sin(pitch))
    axes = np.array([[1.0, 0.0, 0.0], [0.0, -s, -c], [0.0, c, -s]], np.float32)
    return Camera((target - distance * np.array([0.0, c, -s])).astype(np.float32), axes, focal)


def frame(points: Array, pitch: float, focal: float, fill: float, offset: tuple[float, float]) -> Camera:
    """The camera whose picture the `points` [N, 3] fill up to `fill` (0 to 1), their middle moved by `offset`."""
    target = (points.min(0) + points.max(0)) / 2
    distance = 4.0 * float((points.max(0) - points.min(0)).max()) * focal / 2
    for step in range(48):
        camera = look_at(target, distance, pitch, focal)
        spots = np.ascontiguousarray(camera.project(points, 2).T) - 1
        low, high = spots.min(1), spots.max(1)
        miss = (low + high) / 2 - np.array(offset, np.float32)
        size = float((high - low).max()) / (2 * fill)
        if abs(size - 1) < 0.005 and float(np.abs(miss).max()) < 0.005:
            break
        share = 0.8 if step < 12 else 0.4  # not all the way: points near the camera would make it swing
        target = target + (camera.axes[0] * miss[0] + camera.axes[1] * miss[1]) * np.float32(share * distance / focal)
        distance *= size**share
    return camera
