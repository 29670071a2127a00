"""What stands behind the ground: a wall with its skirting board and its pattern, or the sky."""

import numpy as np

from pics_data.scenes.rays import Array
from pics_data.scenes.scene import Backdrop, Scene

PATTERNS = ("plain", "plain", "stripes", "panels", "bricks", "dots", "tiles")


def behind_all(scene: Scene, size: int, rows: int) -> Array:
    """The upper `rows` of a picture of `size` pixels a side, [rows, size, 3] linear RGB; at least one row."""
    rows = max(rows, 1)
    backdrop, camera = scene.backdrop, scene.camera
    down = ((np.arange(rows) + 0.5) * (2 / size) - 1) / camera.focal
    ways = camera.axes[2] + camera.axes[1] * down[:, None]
    if not backdrop.distance:
        share = np.clip(ways[:, 2:] / np.hypot(ways[:, 1:2], ways[:, 2:]) * 2.5 + 0.1, 0, 1)
        sky = backdrop.low + (backdrop.high - backdrop.low) * share
        return np.repeat(sky.astype(np.float32)[:, None], size, axis=1)
    along = (backdrop.distance - camera.position[1]) / ways[:, 1:2]
    z = (camera.position[2] + ways[:, 2:] * along).astype(np.float32)
    columns = (((np.arange(size) + 0.5) * (2 / size) - 1) / camera.focal).astype(np.float32)
    x = camera.position[0] + along.astype(np.float32) * columns
    light = scene.light
    facing = 0.35 + 0.5 * max(0.0, -float(light.toward[1]))
    corner = 0.74 + 0.26 * np.clip(z / 0.9, 0, 1) ** 0.7
    board = np.where(z < 0.16, 1.06, 1.0) * np.where(np.abs(z - 0.165) < 0.014, 0.82, 1.0)
    pattern = np.where(z < 0.18, np.float32(1), _pattern(backdrop, x, z))
    side = 1 + 0.05 * np.clip(x * np.float32(np.sign(light.toward[0])), -2, 2)  # brighter towards the light
    shade = (corner * board * pattern * side).astype(np.float32)
    return np.asarray(backdrop.low * (light.sun * facing + light.sky) * shade[..., None], np.float32)


def _pattern(backdrop: Backdrop, x: Array, z: Array) -> Array:
    """How light the wallpaper is at places on the wall, about 0.85 to 1.05; x [R, S], z [R, 1]."""
    kind, pitch = backdrop.pattern, np.float32(backdrop.pitch)
    u, v = x / pitch, z / pitch + 0 * x
    if kind == "stripes":
        return 1 - np.float32(0.1) * _smooth(np.sin(u * np.float32(2 * np.pi)) * 3)
    if kind == "panels":
        return 1 - np.float32(0.14) * _line(u * np.float32(0.5), 0.03)
    if kind == "bricks":
        row = np.floor(v * 2)
        shift = u + np.float32(0.5) * np.mod(row, 2)
        tone = np.mod(np.sin(row * 12.99 + np.floor(shift) * 78.2) * 437.5, 1).astype(np.float32)
        joint = np.maximum(_line(v * 2, 0.06), _line(shift, 0.03))
        return 1 - np.float32(0.1) * tone + np.float32(0.08) * joint
    if kind == "tiles":
        return 1 - np.float32(0.12) * np.maximum(_line(u, 0.03), _line(v, 0.03))
    if kind == "dots":
        row = np.floor(v * 2)
        a, b = np.mod(u * 2 + np.float32(0.5) * np.mod(row, 2), 1) - 0.5, np.mod(v * 2, 1) - 0.5
        return 1 - np.float32(0.12) * _smooth((0.2 - np.hypot(a, b)) * 14)
    return np.ones_like(u)


def _smooth(value: Array) -> Array:
    return np.clip(value + np.float32(0.5), 0, 1)


def _line(place: Array, width: float) -> Array:
    """1 on lines at whole numbers, of half `width`, softly ending."""
    off = np.abs(np.mod(place + np.float32(0.5), 1) - np.float32(0.5))
    return _smooth((np.float32(width) - off) * np.float32(0.5 / width))
