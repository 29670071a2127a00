"""A seed becomes a scene: draws what stands where and keeps only good pictures. No pixel is made here.

Candidates are judged by a coarse ray cast (64 x 64): every object shows, none fills the picture, and two of them
overlap the way the planner wants (boxes meet, none contains the other). What hardly shows is taken out again.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray

from pics_data.scenes.arranging import DIFFICULTIES, KINDS, Kind
from pics_data.scenes.camera import Camera, frame
from pics_data.scenes.ground import draw_ground
from pics_data.scenes.mood import draw_backdrop, draw_light
from pics_data.scenes.placing import Arrangement
from pics_data.scenes.rays import Array
from pics_data.scenes.scene import Look, Placed, Scene, pair_fits

COARSE = 64  # pixels of the coarse ray cast
ATTEMPTS = 8


def draw_scene(seed: int, index: int, meshes: tuple[Path, ...] = (), difficulty: str = "mixed") -> Scene:
    """The scene `index` of `seed`: a pure function of its arguments. Raises `UserError` for an unreadable mesh."""
    rng = default_rng(SeedSequence([seed, index, list(DIFFICULTIES).index(difficulty)]))
    shares = DIFFICULTIES[difficulty]
    kind = KINDS[list(shares)[int(rng.choice(len(shares), p=list(shares.values())))]]
    best, fewest = None, np.inf
    for _ in range(ATTEMPTS):
        ground = draw_ground(rng)
        made = Arrangement(rng, meshes, ground.colors)
        kind.arrange(made, int(rng.integers(kind.counts[0], kind.counts[1] + 1)))
        view, faults = _best_view(tuple(made.placed), kind, rng)
        if faults < fewest:
            best, fewest = (view, ground), faults
        if not faults:
            break
    assert best is not None
    (placed, camera, looks, depth), ground = best
    behind = max(float(p.bounds[1][1]) for p in placed)
    light = draw_light(rng, ground)
    return Scene(placed, camera, light, ground, draw_backdrop(rng, behind), looks, _hides(depth))


View = tuple[tuple[Placed, ...], Camera, tuple[Look, ...], Array]  # the last is depth as of `_look`


def _best_view(placed: tuple[Placed, ...], kind: Kind, rng: Generator) -> tuple[View, float]:
    """Chooses a camera and looks; takes out, one by one, what hardly shows and carries nothing, and says what is then
    wrong, 0 for nothing."""
    pitch = float(np.radians(rng.uniform(*kind.pitch)))
    focal, fill = float(rng.uniform(2.4, 3.6)), float(rng.uniform(*kind.fill))
    room = min(0.08, 0.97 - fill)
    offset = (float(rng.uniform(-room, room)), float(rng.uniform(0.0, room)))
    while True:
        camera = frame(np.concatenate([p.hull for p in placed]), pitch, focal, fill, offset)
        looks, depth = _look(placed, camera)
        bad = [_faults(look, kind) for look in looks]
        idle = [k for k in range(len(placed)) if bad[k] and not _holds_others(placed, k)]
        if not idle or len(placed) <= kind.counts[0]:
            break
        placed = _without(placed, max(idle, key=lambda k: (placed[k].inside < 0, bad[k])))
    pairs = any(pair_fits(a, b) for k, a in enumerate(looks) for b in looks[:k])
    short = max(0, kind.counts[0] - len(placed)) + (kind.holds and all(p.inside < 0 for p in placed))
    return (placed, camera, looks, depth), sum(bad) + 0.5 * (not pairs) + short


def _faults(look: Look, kind: Kind) -> float:
    hidden = look.visible < kind.visible * look.area
    return (look.visible < kind.share) + hidden + (look.box[2] * look.box[3] > kind.box)


def _holds_others(placed: tuple[Placed, ...], k: int) -> bool:
    return any(k in p.rests or k in (p.inside, p.leans) for p in placed)


def _without(placed: tuple[Placed, ...], gone: int) -> tuple[Placed, ...]:
    """The scene without one object, on which no other depends."""

    def number(k: int) -> int:
        return -1 if k == gone else k - (k > gone)

    return tuple(
        replace(
            p, rests=tuple(map(number, p.rests)), inside=number(p.inside), leans=number(p.leans), near=number(p.near)
        )
        for k, p in enumerate(placed)
        if k != gone
    )


def _look(placed: tuple[Placed, ...], camera: Camera) -> tuple[tuple[Look, ...], Array]:
    """How each object shows, and the depth of each alone [K, COARSE^2], infinite where it is not."""
    count = len(placed)
    depth = np.full((count, COARSE * COARSE), np.inf, np.float32)
    boxes = []
    for k, thing in enumerate(placed):
        spots = np.clip(camera.project(thing.hull, COARSE).T, 0, COARSE)
        low, high = spots.min(1), spots.max(1)
        left, top = (int(v) for v in np.floor(low))
        right, bottom = (min(int(v) + 1, COARSE) for v in high)
        boxes.append([float(v) / COARSE for v in (*low, *(high - low))])
        if right <= left or bottom <= top:
            continue
        rays = camera.rays(COARSE, left, top, right, bottom)
        hits = thing.body.tree.first(thing.pose, camera.position, rays)
        wide = right - left
        depth[k, (hits.ray // wide + top) * COARSE + hits.ray % wide + left] = hits.depth
    whole = np.isfinite(depth)
    areas = np.count_nonzero(whole, axis=1) / COARSE**2
    seen = np.bincount(depth.argmin(0)[whole.any(0)], minlength=count) / COARSE**2
    looks = [Look((x, y, w, h), float(areas[k]), float(seen[k])) for k, (x, y, w, h) in enumerate(boxes)]
    return tuple(looks), depth


def _hides(depth: Array) -> NDArray[np.float64]:
    """The part of the picture [K, K] where one object stands before another."""
    whole = np.isfinite(depth)
    before = (depth[:, None] < depth[None]) & whole[None]
    return np.asarray(np.count_nonzero(before, axis=2) / depth.shape[1])
