"""Light and backdrop: the mood of a scene."""

import numpy as np
from numpy.random import Generator

from pics_data.scenes.backdrop import PATTERNS
from pics_data.scenes.ground import Ground
from pics_data.scenes.materials import hex_colors
from pics_data.scenes.scene import Backdrop, Light

# Of each mood: how often; the sun's height (degrees), radius (radians), strength and colour; the sky's strength and
# colour.
_MOODS = (
    (0.34, (36, 62), (0.04, 0.09), (0.9, 1.1), "fff6e8 fffaf2", (0.36, 0.48), "eaf2ff f2f6ff"),  # clear
    (0.22, (24, 40), (0.04, 0.08), (0.9, 1.1), "ffd9a8 ffe2bd", (0.34, 0.42), "d8e0f4 e6e2ee"),  # low and warm
    (0.18, (48, 70), (0.2, 0.34), (0.34, 0.5), "f6f6f4 fffaf0", (0.68, 0.8), "e6ebf2 f2f2f0"),  # overcast
    (0.16, (44, 66), (0.1, 0.18), (0.75, 0.95), "ffe6c4 fff0da", (0.4, 0.5), "f6e6d2 ffeedd"),  # a lamp indoors
    (0.10, (30, 52), (0.05, 0.1), (0.75, 0.9), "e4ecff f0f4ff", (0.42, 0.5), "cfdcf6 dce6f8"),  # a cool morning
)


def draw_light(rng: Generator, ground: Ground) -> Light:
    """A sun or lamp, the sky's light, and the light that the `ground` throws back."""
    mood = _MOODS[int(np.searchsorted(np.cumsum([m[0] for m in _MOODS])[:-1], rng.random()))]
    _, heights, spreads, suns, sun_colors, skies, sky_colors = mood
    height = np.radians(rng.uniform(*heights))
    # From the left or the right, and rather from the camera's side, so that what faces us is lit.
    way = float(rng.choice([-1, 1])) * np.radians(rng.uniform(20, 105)) - np.pi / 2
    toward = np.array([np.cos(way) * np.cos(height), np.sin(way) * np.cos(height), np.sin(height)], np.float32)
    sun, sky = (
        (low + (high - low) * np.float32(rng.random())) * np.float32(rng.uniform(*strength))
        for (low, high), strength in ((hex_colors(sun_colors), suns), (hex_colors(sky_colors), skies))
    )
    bounce = ground.colors.mean(0) * np.float32(0.35) * (sun * np.float32(np.sin(height)) + sky)
    return Light(toward, float(rng.uniform(*spreads)), sun, sky, bounce.astype(np.float32))


def draw_backdrop(rng: Generator, behind: float) -> Backdrop:
    """A wall a little `behind` the last object, or open sky."""
    if rng.random() < 0.6:
        walls = hex_colors("f1ece2 dfe6ea d8e2d8 efdfd3 c3d0d8 e2d9ea 9fb0bd d8c4a8 b7c4ae d9b8a6 8fa3ad c9b8c4 e9e2c8")
        color = walls[rng.integers(len(walls))]
        pattern = PATTERNS[rng.integers(len(PATTERNS))]
        return Backdrop(behind + float(rng.uniform(1.2, 3.2)), color, color, pattern, float(rng.uniform(0.35, 0.8)))
    skies = ("f3e9dc cfd9e4", "dfe9f0 a9c6de", "f2f2f2 d5d9dd", "f6dfc9 b8cbe0", "e5ece4 b7cfc6")
    low, high = hex_colors(skies[rng.integers(len(skies))])
    return Backdrop(0.0, low, high)
