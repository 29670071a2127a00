"""What stands where: draws a scene from its seed and keeps only good pictures. No pixel is made here.

Candidates are judged by a coarse ray cast (48 x 48): every object shows, none fills the picture, and two of them
overlap the way the planner wants (boxes meet, none contains the other).
"""

from pathlib import Path

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray

from pics_data.scenes.camera import Camera, frame
from pics_data.scenes.catalogue import CONTAINERS, SUPPORTS
from pics_data.scenes.ground import Ground, draw_ground
from pics_data.scenes.materials import draw_material, hex_colors
from pics_data.scenes.placing import make_body, place, turned
from pics_data.scenes.scene import Backdrop, Light, Look, Placed, Scene, pair_fits

COARSE = 48  # pixels of the coarse ray cast
ATTEMPTS = 14
MIN_SHARE = 0.02  # of the picture that an object shows at least; the planner asks for 0.0117
MIN_VISIBLE = 0.3  # of an object's silhouette
MAX_BOX = 0.42  # of the picture
COUNTS = {2: 0.42, 3: 0.38, 4: 0.20}
WISHES = {"front": 0.50, "on": 0.19, "in": 0.19, "beside": 0.12}


def draw_scene(seed: int, index: int, meshes: tuple[Path, ...] = ()) -> Scene:
    """The scene `index` of `seed`: a pure function of its arguments. Raises `UserError` for an unreadable mesh."""
    rng = default_rng(SeedSequence([seed, index]))
    best, fewest = None, np.inf
    for _ in range(ATTEMPTS):
        scene = _candidate(rng, meshes)
        faults = _faults(scene)
        if faults < fewest:
            best, fewest = scene, faults
        if not faults:
            break
    assert best is not None
    return best


def _faults(scene: Scene) -> float:
    """What is wrong with a candidate, 0 for nothing."""
    faults = 0.0
    for look in scene.looks:
        faults += look.visible < MIN_SHARE
        faults += look.visible < MIN_VISIBLE * look.area
        faults += look.box[2] * look.box[3] > MAX_BOX
    pairs = [pair_fits(a, b) for k, a in enumerate(scene.looks) for b in scene.looks[:k]]
    return faults + 0.5 * (not any(pairs))


def _candidate(rng: Generator, meshes: tuple[Path, ...]) -> Scene:
    ground = draw_ground(rng)
    count = int(rng.choice(list(COUNTS), p=list(COUNTS.values())))
    wishes = [str(rng.choice(list(WISHES), p=list(WISHES.values()))) for _ in range(count - 1)]
    avoid = ground.colors
    placed: list[Placed] = []
    for k in range(count):
        material = draw_material(rng, avoid)
        avoid = np.concatenate([avoid, material.colors[:1]])
        if k:
            placed.append(place(placed, wishes[k - 1], material, rng, meshes))
        else:
            wanted = {"on": SUPPORTS, "in": CONTAINERS}.get(wishes[0], ())
            body = make_body(rng, material, meshes, wanted)
            placed.append(Placed(body, turned(rng, float(rng.uniform(0.85, 1.15)))))
    return _shoot(tuple(placed), ground, rng)


def _shoot(placed: tuple[Placed, ...], ground: Ground, rng: Generator) -> Scene:
    """Chooses camera, light and backdrop, and looks."""
    points = np.concatenate([p.points for p in placed])
    pitch = float(np.radians(rng.uniform(13, 33)))
    focal = float(rng.uniform(2.4, 3.6))
    offset = (float(rng.uniform(-0.07, 0.07)), float(rng.uniform(0.0, 0.1)))
    camera = frame(points, pitch, focal, float(rng.uniform(0.74, 0.86)), offset)
    looks, hides = _look(placed, camera)
    behind = float(points[:, 1].max())
    return Scene(placed, camera, _light(rng, ground), ground, _backdrop(rng, behind), looks, hides)


def _light(rng: Generator, ground: Ground) -> Light:
    height = np.radians(rng.uniform(36, 62))
    # From the left or the right, and rather from the camera's side, so that what faces us is lit.
    way = float(rng.choice([-1, 1])) * np.radians(rng.uniform(25, 105)) - np.pi / 2
    toward = np.array([np.cos(way) * np.cos(height), np.sin(way) * np.cos(height), np.sin(height)], np.float32)
    warm = float(rng.uniform(0, 1))
    sun = np.array([1.0, 0.97 - 0.06 * warm, 0.92 - 0.16 * warm]) * rng.uniform(0.9, 1.1)
    sky = np.array([0.90 - 0.08 * warm, 0.95, 1.02 + 0.06 * warm]) * rng.uniform(0.36, 0.48)
    bounce = ground.colors.mean(0) * 0.55
    spread = float(rng.uniform(0.04, 0.11))
    return Light(toward, spread, sun.astype(np.float32), sky.astype(np.float32), bounce.astype(np.float32))


def _backdrop(rng: Generator, behind: float) -> Backdrop:
    """A wall a little `behind` the last object, or open sky."""
    if rng.random() < 0.5:
        walls = hex_colors("f1ece2 dfe6ea d8e2d8 efdfd3 c3d0d8 e2d9ea 9fb0bd d8c4a8")
        color = walls[rng.integers(len(walls))]
        return Backdrop(behind + float(rng.uniform(1.2, 3.2)), color, color)
    skies = ("f3e9dc cfd9e4", "dfe9f0 a9c6de", "f2f2f2 d5d9dd", "f6dfc9 b8cbe0", "e5ece4 b7cfc6")
    low, high = hex_colors(skies[rng.integers(len(skies))])
    return Backdrop(0.0, low, high)


def _look(placed: tuple[Placed, ...], camera: Camera) -> tuple[tuple[Look, ...], NDArray[np.float64]]:
    rays = camera.rays(COARSE)
    count = len(placed)
    depth = np.full((count, COARSE * COARSE), np.inf, np.float32)
    for k, thing in enumerate(placed):
        hits = thing.body.tree.first(thing.pose, camera.position, rays)
        depth[k, hits.ray] = hits.depth
    whole = np.isfinite(depth)
    nearest = depth.argmin(0)
    hides = np.zeros((count, count))
    looks = []
    for k, thing in enumerate(placed):
        for j in range(count):
            hides[k, j] = float((whole[k] & whole[j] & (depth[k] < depth[j])).mean())
        spots = np.clip(camera.project(thing.points, 1), 0, 1)
        (left, top), (right, bottom) = spots.min(0), spots.max(0)
        box = (float(left), float(top), float(right - left), float(bottom - top))
        looks.append(Look(box, float(whole[k].mean()), float((whole[k] & (nearest == k)).mean())))
    return tuple(looks), hides
