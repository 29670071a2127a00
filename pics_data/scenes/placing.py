"""Puts bodies on the ground, on each other and in each other, so that nothing floats and nothing is pierced."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pics_data.scenes.catalogue import CATEGORIES, make_solid
from pics_data.scenes.materials import Material
from pics_data.scenes.meshes import load_model
from pics_data.scenes.rays import Pose, Tree
from pics_data.scenes.scene import Body, Placed
from pics_data.scenes.solids import Cavity, Solid

MESH_SHARE = 0.6  # of the free choices, where the user gave meshes; supports and containers are always embedded
_FAN = np.stack([np.cos(np.arange(24) * np.pi / 12), np.sin(np.arange(24) * np.pi / 12)], 1)


def make_body(rng: Generator, material: Material, meshes: tuple[Path, ...], wanted: tuple[str, ...] = ()) -> Body:
    """A new body: of one of the `wanted` categories, or, if none is named, of any, the user's meshes among them."""
    if meshes and not wanted and rng.random() < MESH_SHARE:
        model = load_model(meshes[rng.integers(len(meshes))])
        return Body(model.solid, model.tree, material, model.skin, model.corners)
    solid = make_solid(str(rng.choice(wanted or tuple(CATEGORIES))), rng)
    return Body(solid, Tree(solid.vertices, solid.faces), material)


def turned(rng: Generator, scale: float, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Pose:
    """A pose with a random turn about the vertical."""
    yaw = rng.uniform(-np.pi, np.pi)
    c, s = np.cos(yaw), np.sin(yaw)
    return Pose(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32), scale, np.array([x, y, z], np.float32))


def place(placed: list[Placed], wish: str, material: Material, rng: Generator, meshes: tuple[Path, ...]) -> Placed:
    """A new body by one of those `placed`, as `wish` says ("front", "beside", "on", "in"), or in front if it cannot."""
    taken = {p.parent for p in placed if p.relation in ("on", "in")}
    free = [k for k in range(len(placed)) if k not in taken]
    found = None
    if wish == "on":
        supports = [k for k in free if placed[k].body.solid.top > 0.15]
        found = _put_on(placed, supports[-1], material, rng, meshes) if supports else None
    elif wish == "in":
        containers = [k for k in free if placed[k].body.solid.cavity is not None]
        found = _put_in(placed, containers[-1], material, rng, meshes) if containers else None
    return found or _put_by(placed, "beside" if wish == "beside" else "front", material, rng, meshes)


def _put_on(
    placed: list[Placed], parent: int, material: Material, rng: Generator, meshes: tuple[Path, ...]
) -> Placed | None:
    """On a flat top: what touches it lies within it."""
    below = placed[parent]
    size, top = below.pose.scale, below.body.solid.top * below.pose.scale
    for _ in range(6):
        body = make_body(rng, material, meshes)
        solid = body.solid
        scale = min(float(rng.uniform(0.65, 1.1)) * size, 0.97 * top / max(solid.foot, 0.01), 2.2 * top / solid.radius)
        if scale < 0.45 * size:
            continue
        way, far = rng.uniform(0, 2 * np.pi), 0.6 * max(0.0, top - solid.foot * scale) * rng.random()
        x, y, z = (float(v) for v in below.pose.shift)
        up = z + below.body.solid.height * size
        pose = turned(rng, scale, x + far * float(np.cos(way)), y + far * float(np.sin(way)), up)
        return Placed(body, pose, parent, "on")
    return None


def _put_in(
    placed: list[Placed], parent: int, material: Material, rng: Generator, meshes: tuple[Path, ...]
) -> Placed | None:
    """On the floor of a container: as large as fits, and only what then looks out over the rim."""
    around = placed[parent]
    cavity, size = around.body.solid.cavity, around.pose.scale
    assert cavity is not None
    for _ in range(10):
        body = make_body(rng, material, meshes)
        share = _fit(body.solid, cavity)
        if share * body.solid.height < 1.4 * (cavity.rim - cavity.floor):
            continue
        x, y, z = (float(v) for v in around.pose.shift)
        return Placed(body, turned(rng, share * size, x, y, z + cavity.floor * size), parent, "in")
    return None


def _fit(solid: Solid, cavity: Cavity) -> float:
    """The largest scale, up to 1.1, at which a solid stands in a cavity without touching its wall."""
    radius, height = np.hypot(solid.vertices[:, 0], solid.vertices[:, 1]), solid.vertices[:, 2]
    deep = cavity.rim - cavity.floor
    for scale in np.linspace(1.1, 0.3, 17):
        up = np.minimum(height * scale / deep, 1)
        room = np.where(up < 1, cavity.radius + (cavity.rim_radius - cavity.radius) * up, 0.62)
        if (radius * scale < 0.97 * room).all():
            return float(scale)
    return 0.0


def _put_by(placed: list[Placed], wish: str, material: Material, rng: Generator, meshes: tuple[Path, ...]) -> Placed:
    """On the ground, beside or in front of another that stands there: near it, touching none."""
    parent = int(rng.choice([k for k, p in enumerate(placed) if p.relation not in ("on", "in")]))
    body = make_body(rng, material, meshes)
    pose = turned(rng, float(rng.uniform(0.75, 1.1)) * (0.95 if wish == "front" else 1.0))
    own = _extent(Placed(body, pose))
    others = [(_extent(p), np.asarray(p.pose.shift[:2], np.float64)) for p in placed]
    nearest, at = others[parent]
    for attempt in range(16):
        if wish == "beside":
            way = float(rng.choice([0.0, np.pi])) + rng.normal(0, 0.25)
        else:
            way = -np.pi / 2 + float(rng.choice([-1, 1])) * (0.1 + 0.9 * rng.random() ** 1.6)
        gap = rng.uniform(0.015, 0.1 if wish == "beside" else 0.18) * (1 + 0.3 * attempt)
        step = np.array([np.cos(way), np.sin(way)])
        spot = at + step * _nearest(own, nearest, step, gap)
        if all(_apart(own, spot, extent, where) for extent, where in others):
            break
    return Placed(body, replace(pose, shift=np.array([spot[0], spot[1], 0], np.float32)), parent, wish)


def _extent(thing: Placed) -> NDArray[np.float64]:
    """How far it reaches from its origin in each direction of the fan [24], seen from above."""
    flat = thing.points[:, :2] - thing.pose.shift[:2]
    return np.array([float((flat[:, 0] * np.float32(x) + flat[:, 1] * np.float32(y)).max()) for x, y in _FAN])


def _nearest(a: NDArray[np.float64], b: NDArray[np.float64], step: NDArray[np.float64], gap: float) -> float:
    """How far along `step` from b's origin a's must lie, so that some line of the fan keeps them `gap` apart."""
    along = _FAN @ step
    useful = along > 0.3
    return float(((b + np.roll(a, 12) + gap)[useful] / along[useful]).min())


def _apart(a: NDArray[np.float64], at: NDArray[np.float64], b: NDArray[np.float64], bt: NDArray[np.float64]) -> bool:
    """Whether some line of the fan keeps the two outlines a little apart."""
    across = _FAN @ (bt - at)
    return bool((across - a - np.roll(b, 12) > 0.01).any())
