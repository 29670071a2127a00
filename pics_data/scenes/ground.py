"""What the objects stand on: a square tile of colour that repeats over the ground plane."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from pics_data.scenes.materials import Array, hex_colors

TILE_PIXELS = 512
TILE_UNITS = 4.0  # world units that a tile covers
VARIANTS = 6  # patterns of each kind; colours and directions vary freely
LIGHT_STEPS = 180  # of a tile's lightness that are 1
_COARSER = 4  # blurred copies of the tile, each half as fine

KINDS = ("planks", "tiles", "marble", "carpet", "grass", "concrete", "checks", "terrazzo", "cloth", "sand", "paper")
_COLORS = {
    "planks": ("b98a5a 8e6138", "d8bd94 b8935f", "7a5236 573620", "c9c0b4 a49a8c"),
    "tiles": ("e4e1da b9b4aa", "9fb7bd 7d969c", "d9c9b4 b39f86", "6f7f8a 56646e"),
    "marble": ("efece6 a9a8a8", "d9d3c7 8f8a80", "4a4f55 8c9097"),
    "carpet": ("8c8f9c 70737f", "b7a68f 988770", "7d8f82 637568", "a08a94 84707a"),
    "grass": ("6d9a4a 49712f", "86a85a 5d7f3a"),
    "concrete": ("b5b3ae 94928d", "8f9296 75787c"),
    "checks": ("ece7dd 4c4a4a", "e9dcc6 a97c50", "dfe6e6 6d8a92"),
    "terrazzo": ("e8e4dc 8c6f5c", "d7dcd9 4f6d6b", "c9c3bd 7a4b45"),
    "cloth": ("cfd8dc 9fb0b8", "e6d8c8 c9b59c", "93a8b8 73899a", "c6b0b0 a78f8f"),
    "sand": ("dcc59a c2a674", "cbb592 a98f68"),
    "paper": ("dfe3e6 d3d8dc", "efe3d0 e6d7bf", "c7d3cf b9c7c2", "d6cfe0 cac1d6", "f0d9d3 e7cbc4"),
}


@dataclass(frozen=True, slots=True)
class Ground:
    """A floor of `KINDS` in two `colors` [2, 3] (linear); `seed` fixes its pattern, `turn` its direction."""

    kind: str
    colors: Array
    seed: int
    turn: float


def draw_ground(rng: Generator) -> Ground:
    """A random ground."""
    kind = str(rng.choice(KINDS))
    choices = _COLORS[kind]
    turn = float(rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.25))
    return Ground(kind, hex_colors(choices[rng.integers(len(choices))]), int(rng.integers(VARIANTS)), turn)


def ground_tiles(ground: Ground) -> tuple[NDArray[np.uint8], ...]:
    """The repeating tile, [TILE_PIXELS, TILE_PIXELS, 2]: which share of the first colour, in steps of 1 / 255, and how
    light, in steps of 1 / `LIGHT_STEPS`; then copies of it, each blurred to half as many pixels."""
    return _pattern_tiles(ground.kind, ground.seed)


@lru_cache(maxsize=len(KINDS) * VARIANTS)
def _pattern_tiles(kind: str, seed: int) -> tuple[NDArray[np.uint8], ...]:
    share, light = _TILES[kind](default_rng(seed))
    tile = np.stack([np.clip(share, 0, 1) * 255, light * LIGHT_STEPS], axis=2, dtype=np.float32)
    tiles = [tile]
    for _ in range(_COARSER):
        tiles.append(cv2.resize(tiles[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return tuple(np.clip(t + np.float32(0.5), 0, 255).astype(np.uint8) for t in tiles)


def paint(ground: Ground, tile: Array) -> Array:
    """Tile values [..., 2] -> linear RGB [..., 3]."""
    low, step = ground.colors[1], (ground.colors[0] - ground.colors[1]) * np.float32(1 / 255)
    share, light = tile[..., 0], tile[..., 1] * np.float32(1 / LIGHT_STEPS)
    out = np.empty((*share.shape, 3), np.float32)
    for c in range(3):
        out[..., c] = np.minimum((low[c] + step[c] * share) * light, 1)
    return out


def _cloud(rng: Generator, cells: int, octaves: int, stretch: tuple[int, int] = (1, 1)) -> Array:
    """Repeating noise in [0, 1]: lattices of random values, each twice as fine and half as strong as the last."""
    total = np.zeros((1, 1), np.float32)
    for octave in range(octaves):
        rows, columns = (min(cells * 2**octave * s, TILE_PIXELS) for s in stretch)
        lattice = rng.random((rows, columns), np.float32) * np.float32(0.5**octave)
        total = _finer(total, rows, columns) + lattice if octave else lattice
    total = _finer(total, TILE_PIXELS, TILE_PIXELS)
    low, high = float(total.min()), float(total.max())
    return (total - np.float32(low)) * np.float32(1 / (high - low))


def _finer(image: Array, rows: int, columns: int) -> Array:
    """Smooth enlargement by whole factors, as if the image repeated."""
    if image.shape == (rows, columns):
        return image
    ring = np.pad(image, 2, "wrap")
    high, wide = rows // image.shape[0], columns // image.shape[1]
    fine = cv2.resize(ring, (ring.shape[1] * wide, ring.shape[0] * high), interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine[2 * high : 2 * high + rows, 2 * wide : 2 * wide + columns])


def _ones() -> Array:
    return np.ones((TILE_PIXELS, TILE_PIXELS), np.float32)


def _planks(rng: Generator) -> tuple[Array, Array]:
    rows = 8
    width = TILE_PIXELS // rows
    share = _cloud(rng, 4, 5, (8, 1)) * 0.6
    light = _ones()
    for row in range(rows):
        band = slice(row * width, (row + 1) * width)
        share[band] = np.roll(share[band], int(rng.integers(TILE_PIXELS)), 1)
        cut = int(rng.integers(TILE_PIXELS))
        share[band] += rng.uniform(0, 0.4)
        ends = np.roll(np.arange(TILE_PIXELS), cut)
        share[band, ends[: TILE_PIXELS // 2]] += np.float32(rng.uniform(-0.15, 0.15))
        light[band, ends[[0, 1, TILE_PIXELS // 2]]] = 0.55
        light[row * width] = light[row * width + 1] = 0.55
    return share, light


def _tiles(rng: Generator) -> tuple[Array, Array]:
    count = int(rng.choice([4, 8]))
    width = TILE_PIXELS // count
    tone = np.kron(rng.random((count, count)), np.ones((width, width))).astype(np.float32)
    share = 0.55 + 0.25 * tone + 0.2 * _cloud(rng, 8, 4)
    joint = np.minimum(np.arange(TILE_PIXELS) % width, width - np.arange(TILE_PIXELS) % width) < 3
    share[joint] = 0.0
    share[:, joint] = 0.0
    return share, _ones()


def _marble(rng: Generator) -> tuple[Array, Array]:
    veins = np.abs(_cloud(rng, 2, 6) - 0.5) * 9
    return np.clip(veins, 0, 1) ** np.float32(0.6) * (0.75 + 0.25 * _cloud(rng, 4, 4)), _ones()


def _carpet(rng: Generator) -> tuple[Array, Array]:
    return 0.3 * _cloud(rng, 8, 3) + 0.7 * _cloud(rng, 128, 3), 0.85 + 0.3 * _cloud(rng, 256, 1)


def _grass(rng: Generator) -> tuple[Array, Array]:
    blades = np.maximum(_cloud(rng, 32, 3, (1, 4)), _cloud(rng, 32, 3, (4, 1)))
    return blades * 0.8 + 0.2 * _cloud(rng, 4, 3), 0.7 + 0.5 * _cloud(rng, 128, 2)


def _concrete(rng: Generator) -> tuple[Array, Array]:
    return 0.7 * _cloud(rng, 2, 7) + 0.3 * _cloud(rng, 128, 2), _ones()


def _checks(rng: Generator) -> tuple[Array, Array]:
    count = int(rng.choice([4, 8]))
    width = TILE_PIXELS // count
    board = np.indices((count, count)).sum(0) % 2
    share = np.kron(board, np.ones((width, width))).astype(np.float32)
    return share, 0.9 + 0.1 * _cloud(rng, 4, 6)


def _terrazzo(rng: Generator) -> tuple[Array, Array]:
    chips = _cloud(rng, 32, 2)
    share = np.clip((0.68 - chips) * 14, 0, 1)
    return np.maximum(share, np.clip((_cloud(rng, 64, 1) - 0.2) * 8, 0, 1) * 0.8 * (share > 0.5)), _ones()


def _cloth(rng: Generator) -> tuple[Array, Array]:
    thread = 0.5 + 0.5 * np.sin(np.arange(TILE_PIXELS, dtype=np.float32) * np.float32(2 * np.pi / 8))
    weave = thread[:, None] * 0.5 + thread[None] * 0.5
    stripe = (np.arange(TILE_PIXELS) // 64 % 2).astype(np.float32)
    plaid = (stripe[:, None] + stripe[None]) * 0.5 * float(rng.integers(2))
    return 0.35 * weave + 0.5 * (1 - plaid) + 0.15 * _cloud(rng, 64, 2), _ones()


def _sand(rng: Generator) -> tuple[Array, Array]:
    return 0.6 * _cloud(rng, 4, 4, (2, 1)) + 0.4 * _cloud(rng, 256, 1), _ones()


def _paper(rng: Generator) -> tuple[Array, Array]:
    return 0.5 + 0.5 * _cloud(rng, 2, 4), _ones()


_TILES = {
    "planks": _planks,
    "tiles": _tiles,
    "marble": _marble,
    "carpet": _carpet,
    "grass": _grass,
    "concrete": _concrete,
    "checks": _checks,
    "terrazzo": _terrazzo,
    "cloth": _cloth,
    "sand": _sand,
    "paper": _paper,
}
