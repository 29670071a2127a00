"""What objects are made of: a procedural colour at every point of a solid, and how it shines.

Colours are linear RGB in [0, 1], float32. Points [N, 3] are in the solid's own space (largest extent 1).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Array = NDArray[np.float32]

KINDS = (
    "plain",
    "stripes",
    "bands",
    "checks",
    "dots",
    "gradient",
    "marble",
    "wood",
    "speckle",
    "two-tone",
    "swirl",
    "zigzag",
)
_WEIGHTS = np.array([3, 2, 2, 1.6, 2, 1.4, 2, 1.6, 1.6, 1.6, 1.2, 1.4])
_PALETTES = (
    "e63946 f1faee a8dadc 457b9d 1d3557",
    "264653 2a9d8f e9c46a f4a261 e76f51",
    "ffbe0b fb5607 ff006e 8338ec 3a86ff",
    "606c38 283618 fefae0 dda15e bc6c25",
    "8ecae6 219ebc 023047 ffb703 fb8500",
    "cdb4db ffc8dd ffafcc bde0fe a2d2ff",
    "003049 d62828 f77f00 fcbf49 eae2b7",
    "2b2d42 8d99ae edf2f4 ef233c d90429",
    "0081a7 00afb9 fdfcdc fed9b7 f07167",
    "5f0f40 9a031e fb8b24 e36414 0f4c5c",
    "386641 6a994e a7c957 f2e8cf bc4749",
    "22223b 4a4e69 9a8c98 c9ada7 f2e9e4",
    "ef476f ffd166 06d6a0 118ab2 073b4c",
    "f6bd60 f7ede2 f5cac3 84a59d f28482",
)
# A kind, then colours to choose from.
_NATURAL = {
    "apple": "gradient | d8402f b8261e | 9cc04a 6f9a2e | e0b040 c8442c",
    "orange": "speckle | f08a24 e87a14 | f59a30 e88a1c",
    "lemon": "plain | f4d836 e8c820",
    "tomato": "plain | d93a2b b82a1e",
    "carrot": "bands | ee7d22 d96a14",
    "banana": "plain | f2d13a e0b81c",
    "pumpkin": "stripes | e8892a d07418",
    "pear": "gradient | b8c24a d8cf5a",
    "egg": "speckle | ead9c0 d8bf9c | f2ebe0 e2d4c0",
    "pebble": "speckle | 9a9a96 7c7c78 | b8ab98 988a76",
    "rock": "marble | 8c8880 6a665e | a49684 7c6f60",
    "cactus": "stripes | 4f8a4a 3a6b38",
    "tree": "gradient | 6b4a2c 5c9440 | 6b4a2c 3f7a4a",
    "snowman": "plain | f2f4f6 e0e4ea",
    "plank": "wood | c89f6a 9c7142 | 8a5a2b 5c3a1a | d9b98a b58d5a",
    "stick": "wood | 8a5a2b 5c3a1a | a8683a 6f3f20",
    "table": "wood | c89f6a 9c7142 | 8a5a2b 5c3a1a | e4dccb cfc4ae",
    "bench": "wood | c89f6a 9c7142 | a8683a 6f3f20",
    "basket": "bands | c8a063 a87f44 | b08a56 8a6636",
    "crate": "wood | c89f6a 9c7142 | d9b98a b58d5a",
    "flower": "gradient | 4a8a3a e8507a | 4a8a3a f2c12e | 3f7a3a d86ae0",
    "candle": "plain | f4ead4 e6d5b0 | c2403a a83030",
}


@dataclass(frozen=True, slots=True)
class Material:
    """A pattern of `KINDS` in `colors` [K, 3], laid with `turn` and `count` repeats; `waves` drive its noise.

    `shine` is the strength of the highlight, `gloss` its exponent.
    """

    kind: str
    colors: Array
    count: int
    turn: float
    waves: Array
    shine: float
    gloss: float


def to_linear(srgb: NDArray[np.float64] | Array) -> Array:
    """sRGB in [0, 1] -> linear RGB."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def hex_colors(words: str) -> Array:
    """ "e63946 f1faee" -> linear RGB [K, 3]."""
    return to_linear(np.array([[int(w[i : i + 2], 16) / 255 for i in (0, 2, 4)] for w in words.split()]))


def draw_material(rng: Generator, avoid: Array, category: str = "") -> Material:
    """A random material whose main colour stands off from each colour of `avoid` [K, 3] (ground, other objects).

    What has colours of its own by nature, such as fruit, mostly gets one of these.
    """
    if category in _NATURAL and rng.random() < 0.75:
        kind, *choices = _NATURAL[category].split(" | ")
        colors = hex_colors(choices[rng.integers(len(choices))])
        return _material(rng, kind, np.concatenate([colors, colors[:1]]))
    for _ in range(8):
        colors = rng.permutation(_PALETTE_COLORS[rng.integers(len(_PALETTES))])[:3]
        if _distance(colors[:1], avoid) > 0.28:
            break
    kind = KINDS[int(np.searchsorted(_CUMULATED, rng.random()))]
    if kind == "wood":
        colors = hex_colors(("8a5a2b 5c3a1a", "c89f6a 9c7142", "a8683a 6f3f20", "d9b98a b58d5a")[rng.integers(4)])
        colors = np.concatenate([colors, colors[:1]])
    elif kind == "marble" and rng.random() < 0.6:
        colors = hex_colors(("f4f1ec 8d8f96 f4f1ec", "2e3338 d8d3c8 2e3338", "5c8374 dfe8e0 5c8374")[rng.integers(3)])
    return _material(rng, kind, colors)


def _material(rng: Generator, kind: str, colors: Array) -> Material:
    waves = np.concatenate([rng.normal(size=(8, 3)), rng.uniform(0, 2 * np.pi, (8, 1))], 1)
    waves[:, :3] *= rng.uniform(2.5, 9.0, (8, 1))
    shiny = rng.random()
    shine, gloss = (0.0, 8.0) if shiny < 0.3 else ((0.12, 18.0) if shiny < 0.6 else (0.4, 70.0))
    turn = float(rng.choice([0.0, np.pi / 2, np.pi / 4, rng.uniform(0, np.pi)]))
    return Material(kind, colors, int(rng.integers(3, 9)), turn, waves.astype(np.float32), shine, gloss)


_PALETTE_COLORS = tuple(hex_colors(words) for words in _PALETTES)
_CUMULATED = np.cumsum(_WEIGHTS / _WEIGHTS.sum())[:-1]


def _distance(colors: Array, others: Array) -> float:
    """Smallest difference, in roughly perceptual units (square root of linear light)."""
    return float(np.sqrt(((np.sqrt(colors)[:, None] - np.sqrt(others)[None]) ** 2).sum(-1)).min())


def noise(points: Array, waves: Array) -> Array:
    """A smooth field in about [-1, 1] at `points` [N, 3]: a sum of warped waves."""
    x, y, z = points.T
    total = np.zeros(len(points), np.float32)
    warp = np.zeros(len(points), np.float32)
    for a, b, c, phase in waves:
        warp = np.sin(a * x + b * y + c * z + phase + warp)
        total += warp
        warp = warp * np.float32(1.2)
    return total * np.float32(1 / 3.2)


def albedo(material: Material, wrap: str, points: Array, normals: Array) -> Array:
    """Colours [N, 3] at `points` of a solid's surface with unit `normals`."""
    colors, kind = material.colors, material.kind
    if kind == "plain":
        return np.broadcast_to(colors[0], points.shape)
    if kind == "gradient":
        share = np.clip(0.25 * points[:, 0] + 0.1 * points[:, 1] + points[:, 2], 0, 1)
        return _mix(colors[0], colors[1], share)
    if kind == "two-tone":
        edge = 0.25 + 0.06 * material.count + 0.02 * noise(points, material.waves) * (material.turn > 1)
        return _mix(colors[0], colors[1], _step(points[:, 2] - edge, 0.006))
    if kind == "marble":
        vein = np.abs(noise(points, material.waves))
        return _mix(colors[1], colors[0], np.clip(vein * 3.2, 0, 1) ** np.float32(0.7))
    if kind == "wood":
        ring = (
            np.hypot(points[:, 0] * 1.0 + 0.9, points[:, 1] * 0.35 + 0.2) * 26
            + noise(points, material.waves * 0.5) * 1.1
        )
        grain = 0.5 + 0.5 * np.sin(ring)
        return _mix(colors[0], colors[1], grain * grain * np.float32(0.85))
    if kind == "speckle":
        field = noise(points, material.waves * np.float32(4.5))
        base = _mix(colors[0], colors[1], _step(field - 0.45, 0.05))
        return np.where((field < -0.6)[:, None], colors[2], base)
    if kind == "swirl":
        angle = np.arctan2(points[:, 1], points[:, 0])
        wave = np.sin(angle * max(2, material.count // 2) + points[:, 2] * 9 * (1 if material.turn < 1 else -1))
        return _mix(colors[0], colors[1], _step(wave, 0.12))
    a, b = _flat(wrap, points, normals)
    return _pattern(material, a, b)


def _pattern(material: Material, a: Array, b: Array) -> Array:
    """Patterns of the plane, laid on the surface coordinates `a` and `b`."""
    colors, kind, count = material.colors, material.kind, material.count
    if kind == "bands":
        return _mix(colors[0], colors[1], _step(np.sin(b * np.float32(2 * np.pi * (count + 1))), 0.2))
    if kind == "stripes":
        c, s = (1, 0) if material.turn < 0.5 else (1, 0.5)
        return _mix(colors[0], colors[1], _step(np.sin((c * a + s * b) * np.float32(2 * np.pi * (count + 1))), 0.2))
    if kind == "zigzag":
        tooth = np.abs(np.mod(a * (count + 1), 1) - 0.5) * 1.2
        return _mix(colors[0], colors[1], _step(np.sin((b * (count + 1) * 0.8 + tooth) * np.float32(2 * np.pi)), 0.2))
    if kind == "checks":
        both = np.sin(a * np.float32(2 * np.pi * count)) * np.sin(b * np.float32(2 * np.pi * count))
        return _mix(colors[0], colors[1], _step(both, 0.08))
    rows = b * np.float32(count * 1.3)
    row = np.floor(rows)
    across = a * np.float32(count * 1.3 if count < 6 else count) + np.float32(0.5) * np.mod(row, 2)
    distance = np.hypot(across - np.floor(across) - 0.5, rows - row - 0.5)
    return _mix(colors[1], colors[0], _step(distance - 0.3, 0.04))


def _flat(wrap: str, points: Array, normals: Array) -> tuple[Array, Array]:
    """Coordinates (a, b) on the surface, about 1 per unit of length; around the axis `a` grows by a whole number."""
    x, y, z = points.T
    if wrap == "boxy":
        nx, ny, nz = np.abs(normals).T
        flat_top = (nz > nx) & (nz > ny)
        a = np.where(flat_top | (ny >= nx), x, y)
        return a, np.where(flat_top, y, z)
    a = np.arctan2(y, x) * np.float32(2 / (2 * np.pi))
    if wrap == "ball":
        return a, z
    lid = np.abs(normals[:, 2]) > 0.92
    return np.where(lid, x, a), np.where(lid, y, z)


def _step(value: Array, width: float) -> Array:
    """0 below, 1 above zero, with a soft edge of `width`."""
    return np.clip(value * np.float32(0.5 / width) + np.float32(0.5), 0, 1)


def _mix(low: Array, high: Array, share: NDArray[np.floating[Any]]) -> Array:
    return low + (high - low) * share.astype(np.float32)[:, None]
