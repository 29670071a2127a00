"""Puts bodies on the ground, on each other, in each other and against each other, so that nothing floats and nothing is
pierced. Each way of placing returns the new body, or None where it found no room."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pics_data.scenes.catalogue import FREE, ROLLING, SHEETS, STICKS
from pics_data.scenes.contact import CLEARANCE, approach, crosses, travel
from pics_data.scenes.materials import draw_material
from pics_data.scenes.piling import settle
from pics_data.scenes.rays import Array, Pose
from pics_data.scenes.scene import FAN, Body, Placed, body_of
from pics_data.scenes.shapes import VARIANTS, file_shape, stock_shape

MESH_SHARE = 0.6  # of the free choices, where the user gave meshes; supports and containers are always embedded
APART = 0.012  # world units that bodies which do not touch keep from each other, at least


@dataclass(slots=True)
class Arrangement:
    """The bodies placed so far; new ones are drawn from `rng`, of colours that stand off from those of `avoid`."""

    rng: Generator
    meshes: tuple[Path, ...]
    avoid: Array
    placed: list[Placed] = field(default_factory=list)

    def body(self, wanted: tuple[str, ...] = ()) -> Body:
        """A new body: of one of the `wanted` categories, or, if none is named, of any, the user's meshes among them."""
        rng = self.rng
        if self.meshes and not wanted and rng.random() < MESH_SHARE:
            shape = file_shape(self.meshes[rng.integers(len(self.meshes))])
        else:
            choices = wanted or FREE
            shape = stock_shape(choices[rng.integers(len(choices))], int(rng.integers(VARIANTS)))
        return body_of(shape, draw_material(rng, self.avoid, shape.solid.category))

    def add(self, thing: Placed | None) -> int | None:
        """Takes a body in; returns its number, or None for none."""
        if thing is None:
            return None
        self.placed.append(thing)
        self.avoid = np.concatenate([self.avoid, thing.body.material.colors[:1]])
        return len(self.placed) - 1

    def free(self, thing: Placed, *but: int) -> bool:
        """Whether it keeps apart from all, except that it may come near those of `but`, and must not cross them."""
        return not any(
            crosses(thing, other) if k in but else not _apart(thing, other) and _too_near(thing, other)
            for k, other in enumerate(self.placed)
        )

    def top_free(self, k: int) -> bool:
        return not any(k in p.rests or p.leans == k for p in self.placed)


def stand(made: Arrangement, scale: float, wanted: tuple[str, ...] = ()) -> Placed:
    """The first body, in the middle of the ground."""
    return Placed(made.body(wanted), turned(made.rng, scale))


def turned(rng: Generator, scale: float, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Pose:
    """A pose with a random turn about the vertical."""
    return Pose(_yaw(rng.uniform(-np.pi, np.pi)), scale, np.array([x, y, z], np.float32))


def _yaw(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)


def stand_by(made: Arrangement, way: str, scale: float, wanted: tuple[str, ...] = ()) -> Placed | None:
    """On the ground, "beside" or in "front" of another that stands there: near it, touching none. Of a few such places
    the one that keeps the whole together."""
    rng, placed = made.rng, made.placed
    standing = [k for k, p in enumerate(placed) if not p.rests and p.inside < 0 and p.leans < 0]
    new = Placed(made.body(wanted), turned(rng, scale))
    middle = np.mean([placed[k].pose.shift[:2] for k in standing], axis=0)
    best, least = None, np.inf
    tries = 4 + len(placed)
    for attempt in range(2 * tries):
        if attempt >= tries and best is not None:
            break
        parent = standing[rng.integers(len(standing))]
        if way == "beside":
            angle = float(rng.choice([0.0, np.pi])) + rng.normal(0, 0.4)
        else:
            angle = -np.pi / 2 + float(rng.choice([-1, 1])) * (0.1 + 0.9 * rng.random() ** 1.6)
        gap = rng.uniform(0.015, 0.07 if way == "beside" else 0.16) * (1 + 0.3 * (attempt // 4))
        step = np.array([np.cos(angle), np.sin(angle)])
        spot = placed[parent].pose.shift[:2] + step * _nearest(new.outline, placed[parent].outline, step, gap)
        far = abs(spot[0] - middle[0]) + 0.35 * abs(spot[1] - middle[1])
        if far >= least:
            continue
        here = replace(new.moved(np.array([*spot, 0.0]) - new.pose.shift), near=parent)
        if made.free(here):
            best, least = here, far
        if len(placed) < 3 and best is not None:
            break
    return best


def put_on(made: Arrangement, below: int, scale: float, wanted: tuple[str, ...] = ()) -> Placed | None:
    """On a flat top, `scale` times as large as what carries it: wholly within the top, or, where it lies flat itself,
    with its middle well within."""
    rng, under = made.rng, made.placed[below]
    solid, size = under.body.solid, under.pose.scale
    top = solid.top * size
    if top < 0.1:
        return None
    shared = len([p for p in made.placed if below in p.rests])
    for _ in range(8):
        body = made.body(wanted)
        assert body.shape is not None
        own, base = body.solid, body.shape.base
        lies = base * scale * size > 0.4 * top and solid.level == solid.height
        most = 1.5 * top / max(base, 0.01) if lies else 0.97 * top / max(own.foot, 0.01)
        fitted = min(scale * size, most, 2.0 * top / own.radius)
        if fitted < 0.3 or fitted < 0.5 * scale * size:
            continue
        room = max(0.0, top - own.foot * fitted) if not lies else 0.35 * top
        far = room * (np.sqrt(rng.random()) if shared or solid.category in _BROAD else 0.6 * rng.random())
        turn = _yaw(rng.normal(0, 0.12)) if lies and rng.random() < 0.5 else _yaw(rng.uniform(-np.pi, np.pi))
        pose = Pose(turn, fitted, np.zeros(3, np.float32))
        if lies and own.wrap == solid.wrap == "boxy":  # laid in line
            pose = replace(pose, turn=np.asarray(_matmul(under.pose.turn, _yaw(rng.normal(0, 0.15))), np.float32))
        way = rng.uniform(0, 2 * np.pi)
        x, y, z = (float(v) for v in under.pose.shift)
        spot = np.array([x + far * np.cos(way), y + far * np.sin(way), z + solid.level * size + CLEARANCE])
        here = Placed(body, replace(pose, shift=spot.astype(np.float32)), rests=(below,))
        if made.free(here, below):
            return here
    return None


_BROAD = ("table", "bench", "tray", "plank")


def bridge(made: Arrangement, scale: float) -> list[Placed] | None:
    """Two equal blocks with a plank across, by the ones that stand there, or in the middle of the ground."""
    rng = made.rng
    first = made.body(("box", "cube", "brick", "cylinder", "puck", "book"))
    angle = rng.uniform(-0.5, 0.5)
    along = np.array([np.cos(angle), np.sin(angle), 0.0])
    block = Placed(first, Pose(_yaw(angle), scale * 0.55, np.zeros(3, np.float32)))
    if made.placed:
        away = max(float(p.bounds[1][1]) for p in made.placed) + 0.35 + 0.3 * scale
        block = block.moved(np.array([rng.uniform(-0.3, 0.3), away, 0.0]))
    half = rng.uniform(0.32, 0.4) * scale * 1.25
    blocks = [block.moved(along * half), block.moved(-along * half)]
    plank = made.body(("plank",))
    number = len(made.placed)
    middle = block.pose.shift.copy()
    middle[2] = block.body.solid.level * block.pose.scale + CLEARANCE
    across = Placed(plank, Pose(_yaw(angle + np.pi / 2), scale * 1.25, middle), rests=(number, number + 1))
    if crosses(*blocks) or not all(made.free(p) for p in (*blocks, across)) or not _apart(*blocks):
        return None
    return [*blocks, across]


def put_in(made: Arrangement, around: int, scale: float, wanted: tuple[str, ...] = ()) -> Placed | None:
    """In a container, `scale` times as large as it: on its floor, or on what lies in it."""
    rng, box = made.rng, made.placed[around]
    cavity = box.body.solid.cavity
    if cavity is None:
        return None
    contents = [(k, p) for k, p in enumerate(made.placed) if p.inside == around]
    round_floor = box.body.solid.category == "bowl"
    for _ in range(6):
        body = made.body(wanted or (ROLLING if rng.random() < (0.85 if round_floor or contents else 0.4) else ()))
        most = 0.95 * cavity.rim_radius / body.solid.radius
        if body.solid.category not in ROLLING:
            most = min(most, 0.92 * cavity.radius / max(body.solid.foot, 0.01))
        if most < 0.5 * scale:
            continue
        new = Placed(body, turned(rng, min(scale, most) * box.pose.scale))
        found = settle(new, box, contents, around, rng)
        if found is not None and made.free(found, around, *(k for k, _ in contents)):
            return found
        scale *= 0.9
    return None


def put_stick_in(made: Arrangement, around: int) -> Placed | None:
    """A stick in a vessel: its foot on the floor, its shaft on the rim or on the wall."""
    rng, box = made.rng, made.placed[around]
    cavity, size = box.body.solid.cavity, box.pose.scale
    if cavity is None:
        return None
    inside = [k for k, p in enumerate(made.placed) if p.inside == around]
    deep = (cavity.rim - cavity.floor) * size
    for _ in range(6):
        body = made.body(STICKS)
        scale = deep * float(rng.uniform(1.5, 1.95))
        way = rng.uniform(0, 2 * np.pi)
        toward = np.array([np.cos(way), np.sin(way), 0.0])
        widest = float(np.arctan(1.5 * cavity.radius * size / deep))
        turn = _leaning(toward, float(rng.uniform(0.4, 0.95)) * widest, "long", rng.uniform(0, 2 * np.pi))
        new = Placed(body, Pose(turn, scale, np.zeros(3, np.float32)))
        low = new.points[new.points[:, 2].argmin()]
        foot = box.pose.shift + np.array([0, 0, cavity.floor * size + CLEARANCE]) - toward * 0.7 * cavity.radius * size
        found = approach(new.moved(foot - low), [box, *(made.placed[k] for k in inside)], toward.astype(np.float32))
        if found is None:
            continue
        here, touched = found
        thing = Placed(body, here.pose, rests=(around,), inside=around)
        if touched[0] and made.free(thing, around, *inside):
            return thing
    return None


def lean(made: Arrangement, on: int, wanted: tuple[str, ...] = ()) -> Placed | None:
    """Against another that stands on the ground: tilted, its foot on the ground, its upper half on the other."""
    rng, wall = made.rng, made.placed[on]
    height = wall.body.solid.height * wall.pose.scale
    for _ in range(5):
        body = made.body(wanted or (*SHEETS, *SHEETS, "stick", "pencil", "bottle"))
        sheet = body.solid.category in SHEETS
        length = float(np.ptp(body.solid.vertices[:, 1])) if sheet else body.solid.height
        scale = min(height * float(rng.uniform(0.75, 1.35)), 1.15) / length
        if scale < 0.35:
            continue
        toward = _toward(wall, rng)
        thick = float(np.ptp(body.solid.vertices[:, 2 if sheet else 0]))
        tilt = float(np.arctan(thick / length) + np.radians(rng.uniform(4, 17)))
        new = Placed(
            body,
            Pose(
                _leaning(toward, tilt, "flat" if sheet else "long", rng.uniform(0, 2 * np.pi)),
                scale,
                np.zeros(3, np.float32),
            ),
        )
        side = np.array([-toward[1], toward[0], 0.0]) * rng.uniform(-0.12, 0.12) * wall.pose.scale
        start = wall.pose.shift + side - toward * 2.5
        start[2] = 0
        new = new.moved(start - np.array([*_middle(new)[:2], float(new.points[:, 2].min())]))
        way = toward.astype(np.float32)
        ahead = _middle(new) - new.points[int(new.points[:, 2].argmin())]
        if float((ahead * toward).sum()) < 0.02 * scale:
            continue  # it would fall back
        _, where = travel(new, wall, way)
        found = approach(new, [wall], way)
        if found is None or where[2] < 0.95 * _middle(new)[2]:
            continue
        here = replace(found[0], leans=on)
        if made.free(here, on):
            return here
    return None


def _toward(wall: Placed, rng: Generator) -> NDArray[np.float64]:
    """A level direction towards what is leant on: square to one of its sides, and never from behind."""
    if wall.body.solid.wrap == "boxy":
        turn = float(np.arctan2(wall.pose.turn[1, 0], wall.pose.turn[0, 0]))
        angles = [turn + k * np.pi / 2 for k in range(4)]
        angle = float(rng.choice([a for a in angles if np.sin(a) > -0.3]))
    else:
        angle = float(rng.uniform(-0.2, np.pi + 0.2))
    return np.array([np.cos(angle), np.sin(angle), 0.0])


def _leaning(toward: NDArray[np.float64], tilt: float, kind: str, roll: float) -> Array:
    """The turn of a body that is tilted by `tilt` (radians) towards `toward`. "flat": its own y goes up and its own z,
    its thickness, towards; "long": its own z goes up, rolled by `roll`."""
    up = np.array([0.0, 0.0, 1.0])
    rise, face = np.cos(tilt) * up + np.sin(tilt) * toward, np.cos(tilt) * toward - np.sin(tilt) * up
    other = np.cross(rise, face)
    if kind == "flat":
        return np.stack([other, rise, face], 1).astype(np.float32)
    a = np.cos(roll) * face + np.sin(roll) * other
    return np.stack([a, np.cross(rise, a), rise], 1).astype(np.float32)


def _middle(thing: Placed) -> NDArray[np.float64]:
    return np.asarray(thing.pose.to_world(thing.shape.middle[None])[0], np.float64)


def _matmul(a: Array, b: Array) -> NDArray[np.float64]:
    """Two rotations; written out, as BLAS may round by its number of threads."""
    return np.asarray((a[:, :, None].astype(np.float64) * b[None].astype(np.float64)).sum(1))


def _nearest(a: NDArray[np.float64], b: NDArray[np.float64], step: NDArray[np.float64], gap: float) -> float:
    """How far along `step` from b's origin a's must lie, so that some line of the fan keeps them `gap` apart."""
    along = FAN[:, 0] * step[0] + FAN[:, 1] * step[1]
    useful = along > 0.3
    return float(((b + np.roll(a, 12) + gap)[useful] / along[useful]).min())


def _apart(a: Placed, b: Placed) -> bool:
    """Whether a level plane or an upright plane of the fan keeps the two bodies apart."""
    if max(float(a.bounds[0][2] - b.bounds[1][2]), float(b.bounds[0][2] - a.bounds[1][2])) > APART:
        return True
    x, y, _ = b.pose.shift - a.pose.shift
    across = FAN[:, 0] * x + FAN[:, 1] * y - a.outline
    return bool((across[:12] - b.outline[12:]).max() > APART or (across[12:] - b.outline[:12]).max() > APART)


def _too_near(a: Placed, b: Placed) -> bool:
    """Whether bodies that no plane keeps apart cross, or would if one moved a little."""
    ways = np.array([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]) * APART
    return any(crosses(a.moved(way), b) for way in ways)
