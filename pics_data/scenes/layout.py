"""What stands where: draws a scene from its seed and keeps only good pictures. No pixel is made here.

Candidates are judged by a coarse ray cast (48 x 48): every object shows, none fills the picture, and, nearly always,
two of them overlap the way the planner wants (boxes meet, none contains the other).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray

from pics_data.scenes.camera import Camera, frame
from pics_data.scenes.catalogue import CATEGORIES, CONTAINERS, SUPPORTS, make_solid
from pics_data.scenes.ground import Ground, draw_ground
from pics_data.scenes.materials import Array, Material, draw_material, hex_colors
from pics_data.scenes.rays import Pose, Tree
from pics_data.scenes.solids import Solid

COARSE = 48  # pixels of the coarse ray cast
ATTEMPTS = 14
MIN_SHARE = 0.016  # of the picture that an object shows at least; the planner asks for 0.0117
MIN_VISIBLE = 0.3  # of an object's silhouette
MAX_BOX = 0.42  # of the picture
_FAN = np.stack([np.cos(np.arange(24) * np.pi / 12), np.sin(np.arange(24) * np.pi / 12)], 1)


@dataclass(frozen=True, slots=True)
class Body:
    """A solid with its ray tree and its skin."""

    solid: Solid
    tree: Tree
    material: Material


@dataclass(frozen=True, slots=True)
class Placed:
    """A body in the world. `parent` is the object that it was placed by, as `relation`: beside, front, on or in."""

    body: Body
    pose: Pose
    parent: int = -1
    relation: str = ""

    @property
    def points(self) -> Array:
        return self.pose.to_world(self.body.solid.vertices)


@dataclass(frozen=True, slots=True)
class Light:
    """`toward` is the unit direction to the sun, `spread` its angular radius; colours are linear."""

    toward: Array
    spread: float
    sun: Array
    sky: Array
    bounce: Array


@dataclass(frozen=True, slots=True)
class Backdrop:
    """Behind the ground: a wall at y = `distance` of color `low`, or, at distance 0, a sky from `low` to `high`."""

    distance: float
    low: Array
    high: Array


@dataclass(frozen=True, slots=True)
class Look:
    """One object as the coarse ray cast sees it: `box` (x, y, w, h) and `area` as parts of the picture."""

    box: tuple[float, float, float, float]
    area: float
    visible: float


@dataclass(frozen=True, slots=True)
class Scene:
    """All of a picture but its pixels. `overlaps[i, j]` is the part of the picture where i hides j."""

    objects: tuple[Placed, ...]
    camera: Camera
    light: Light
    ground: Ground
    backdrop: Backdrop
    looks: tuple[Look, ...]
    overlaps: NDArray[np.float64]


def draw_scene(seed: int, index: int) -> Scene:
    """The scene `index` of `seed`: a pure function of its arguments."""
    rng = default_rng(SeedSequence([seed, index]))
    best, best_faults = None, 99.0
    for _ in range(ATTEMPTS):
        scene = _candidate(rng)
        faults = _faults(scene)
        if faults < best_faults:
            best, best_faults = scene, faults
        if faults == 0:
            break
    assert best is not None
    return best


def label(scene: Scene, i: int, j: int) -> str:
    """How objects i and j stand to each other: "on", "in", "front" (one hides a part of the other), "beside", or ""."""
    for a, b in ((i, j), (j, i)):
        if scene.objects[a].parent == b and scene.objects[a].relation in ("on", "in"):
            return scene.objects[a].relation
    if scene.overlaps[i, j] + scene.overlaps[j, i] > 0.0008:
        return "front"
    direct = scene.objects[i].parent == j or scene.objects[j].parent == i
    return "beside" if direct else ""


def pair_fits(a: Look, b: Look) -> bool:
    """The planner's rule for a pair: boxes meet, and none contains the other."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.box, b.box
    meet = min(ax + aw, bx + bw) > max(ax, bx) and min(ay + ah, by + bh) > max(ay, by)
    a_in_b = ax >= bx and ay >= by and ax + aw <= bx + bw and ay + ah <= by + bh
    b_in_a = bx >= ax and by >= ay and bx + bw <= ax + aw and by + bh <= ay + ah
    return meet and not a_in_b and not b_in_a


def _faults(scene: Scene) -> float:
    looks = scene.looks
    faults = 0.0
    for look in looks:
        faults += look.visible < MIN_SHARE
        faults += look.visible < MIN_VISIBLE * look.area
        faults += look.box[2] * look.box[3] > MAX_BOX
    pairs = [pair_fits(a, b) for k, a in enumerate(looks) for b in looks[:k]]
    return faults + 0.5 * (not any(pairs))


def _candidate(rng: Generator) -> Scene:
    ground = draw_ground(rng)
    count = int(rng.choice([2, 3, 4], p=[0.4, 0.38, 0.22]))
    plan = [str(rng.choice(["front", "on", "in", "beside"], p=[0.46, 0.2, 0.2, 0.14])) for _ in range(count - 1)]
    avoid = ground.colors
    placed: list[Placed] = []
    for k in range(count):
        material = draw_material(rng, avoid)
        avoid = np.concatenate([avoid, material.colors[:1]])
        if k == 0:
            wanted = {"on": SUPPORTS, "in": CONTAINERS}.get(plan[0], tuple(CATEGORIES))
            body = _body(str(rng.choice(wanted)), material, rng)
            placed.append(Placed(body, _pose(rng, float(rng.uniform(0.85, 1.15)), (0.0, 0.0, 0.0))))
        else:
            placed.append(_place(placed, plan[k - 1], material, rng))
    return _shoot(tuple(placed), ground, rng)


def _body(category: str, material: Material, rng: Generator) -> Body:
    solid = make_solid(category, rng)
    return Body(solid, Tree(solid.vertices, solid.faces), material)


def _pose(rng: Generator, scale: float, shift: tuple[float, float, float]) -> Pose:
    yaw = rng.uniform(-np.pi, np.pi)
    c, s = np.cos(yaw), np.sin(yaw)
    return Pose(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32), scale, np.array(shift, np.float32))


def _place(placed: list[Placed], relation: str, material: Material, rng: Generator) -> Placed:
    taken = {p.parent for p in placed if p.relation in ("on", "in")}
    free = [k for k, p in enumerate(placed) if k not in taken]
    supports = [k for k in free if placed[k].body.solid.top > 0.15]
    containers = [k for k in free if placed[k].body.solid.cavity is not None]
    if relation == "on" and supports:
        found = _put_on(placed, supports[-1], material, rng)
        if found is not None:
            return found
    if relation == "in" and containers:
        found = _put_in(placed, containers[-1], material, rng)
        if found is not None:
            return found
    return _put_by(placed, "beside" if relation == "beside" else "front", material, rng)


def _put_on(placed: list[Placed], parent: int, material: Material, rng: Generator) -> Placed | None:
    below = placed[parent]
    size, top = below.pose.scale, below.body.solid.top * below.pose.scale
    for _ in range(6):
        body = _body(str(rng.choice(list(CATEGORIES))), material, rng)
        solid = body.solid
        scale = min(float(rng.uniform(0.6, 1.05)) * size, 0.97 * top / solid.foot, 2.0 * top / solid.radius)
        if scale < 0.45 * size:
            continue
        slack = max(0.0, 0.6 * (top - solid.foot * scale))
        way, far = rng.uniform(0, 2 * np.pi), slack * rng.random()
        x, y, z = (float(v) for v in below.pose.shift)
        z += below.body.solid.height * size
        pose = _pose(rng, scale, (x + far * float(np.cos(way)), y + far * float(np.sin(way)), z))
        return Placed(body, pose, parent, "on")
    return None


def _put_in(placed: list[Placed], parent: int, material: Material, rng: Generator) -> Placed | None:
    around = placed[parent]
    cavity, size = around.body.solid.cavity, around.pose.scale
    assert cavity is not None
    depth = (cavity.rim - cavity.floor) * size
    for _ in range(10):
        body = _body(str(rng.choice(list(CATEGORIES))), material, rng)
        scale = 0.96 * cavity.radius * size / body.solid.radius
        if scale * body.solid.height < 1.5 * depth or scale > 1.1 * size:
            continue
        x, y, z = (float(v) for v in around.pose.shift)
        return Placed(body, _pose(rng, scale, (x, y, z + cavity.floor * size)), parent, "in")
    return None


def _put_by(placed: list[Placed], relation: str, material: Material, rng: Generator) -> Placed:
    """On the ground, beside or in front of another that stands there: as near as it goes without touching."""
    standing = [k for k, p in enumerate(placed) if p.relation not in ("on", "in")]
    parent = int(rng.choice(standing))
    body = _body(str(rng.choice(list(CATEGORIES))), material, rng)
    scale = float(rng.uniform(0.75, 1.1)) * (0.85 if relation == "front" else 1.0)
    pose = _pose(rng, scale, (0.0, 0.0, 0.0))
    own = _extent(Placed(body, pose))
    others = [(_extent(p), p.pose.shift[:2]) for p in placed]
    at = placed[parent].pose.shift[:2]
    for attempt in range(16):
        if relation == "beside":
            way = float(rng.choice([0.0, np.pi])) + rng.normal(0, 0.25)
        else:
            way = -np.pi / 2 + float(rng.choice([-1, 1])) * rng.uniform(0.15, 1.1)
        gap = rng.uniform(0.02, 0.12 if relation == "beside" else 0.4) * (1 + 0.25 * attempt)
        step = np.array([np.cos(way), np.sin(way)])
        reach = _reach(_extent(placed[parent]), step) + _reach(own, -step) + gap
        spot = at + step * reach
        if all(_apart(own, spot, extent, place) for extent, place in others):
            break
    return Placed(body, replace(pose, shift=np.array([spot[0], spot[1], 0], np.float32)), parent, relation)


def _extent(thing: Placed) -> NDArray[np.float64]:
    """How far it reaches from its origin in each direction of the fan, seen from above."""
    flat = thing.points[:, :2] - thing.pose.shift[:2]
    return np.stack([flat[:, 0] * x + flat[:, 1] * y for x, y in _FAN]).max(1)


def _reach(extent: NDArray[np.float64], step: NDArray[np.float64]) -> float:
    """Extent in the direction `step`, no less than true (the nearest two directions of the fan, a little more)."""
    near = np.sort(extent[np.argsort(-(_FAN @ step))[:2]])[1]
    return float(near) * 1.01


def _apart(a: NDArray[np.float64], at: NDArray[np.float64], b: NDArray[np.float64], bt: Array) -> bool:
    """Whether a line of the fan's directions separates the two outlines by a little."""
    across = _FAN @ (bt - at)
    return bool((across - a - np.roll(b, 12) > 0.01).any())


def _shoot(placed: tuple[Placed, ...], ground: Ground, rng: Generator) -> Scene:
    """Chooses camera and light, and looks."""
    points = np.concatenate([p.points[::2] for p in placed])
    pitch = float(np.radians(rng.uniform(14, 34)))
    focal = float(rng.uniform(2.4, 3.6))
    offset = (float(rng.uniform(-0.08, 0.08)), float(rng.uniform(0.0, 0.12)))
    camera = frame(points, pitch, focal, float(rng.uniform(0.72, 0.84)), offset)
    looks, overlaps = _look(placed, camera)
    return Scene(placed, camera, _light(rng, ground), ground, _backdrop(rng), looks, overlaps)


def _light(rng: Generator, ground: Ground) -> Light:
    height = np.radians(rng.uniform(36, 62))
    # From the left or the right, and rather from the camera's side, so that what faces us is lit.
    way = float(rng.choice([-1, 1])) * np.radians(rng.uniform(25, 105)) - np.pi / 2
    toward = np.array([np.cos(way) * np.cos(height), np.sin(way) * np.cos(height), np.sin(height)], np.float32)
    warm = float(rng.uniform(0, 1))
    sun = np.array([1.0, 0.97 - 0.06 * warm, 0.92 - 0.16 * warm], np.float32) * np.float32(rng.uniform(0.85, 1.05))
    sky = np.array([0.90 - 0.08 * warm, 0.95, 1.02 + 0.06 * warm], np.float32) * np.float32(rng.uniform(0.34, 0.46))
    bounce = ground.colors.mean(0) * np.float32(0.55)
    return Light(toward, float(rng.uniform(0.04, 0.11)), sun, sky, bounce.astype(np.float32))


def _backdrop(rng: Generator) -> Backdrop:
    if rng.random() < 0.5:
        walls = "e9e4da d8dee2 cfd8cf e6d5c9 b9c4cc d9cfe0 8a97a3 c7b299"
        color = hex_colors(walls)[rng.integers(8)]
        return Backdrop(float(rng.uniform(2.2, 4.0)), color, color)
    skies = ("f3e9dc cfd9e4", "dfe9f0 a9c6de", "f2f2f2 d5d9dd", "f6dfc9 b8cbe0", "e5ece4 b7cfc6")
    low, high = hex_colors(skies[rng.integers(len(skies))])
    return Backdrop(0.0, low, high)


def _look(placed: tuple[Placed, ...], camera: Camera) -> tuple[tuple[Look, ...], NDArray[np.float64]]:
    rays = camera.rays(COARSE)
    depth = np.full((len(placed), COARSE * COARSE), np.inf, np.float32)
    for k, thing in enumerate(placed):
        hits = thing.body.tree.first(thing.pose, camera.position, rays)
        depth[k, hits.ray] = hits.depth
    whole = np.isfinite(depth)
    nearest = depth.argmin(0)
    overlaps = np.zeros((len(placed), len(placed)))
    looks = []
    for k, thing in enumerate(placed):
        for j in range(len(placed)):
            overlaps[k, j] = float((whole[k] & whole[j] & (depth[k] < depth[j])).mean())
        spots = np.clip(camera.project(thing.points, 1), 0, 1)
        (left, top), (right, bottom) = spots.min(0), spots.max(0)
        box = (float(left), float(top), float(right - left), float(bottom - top))
        looks.append(Look(box, float(whole[k].mean()), float((whole[k] & (nearest == k)).mean())))
    return tuple(looks), overlaps
