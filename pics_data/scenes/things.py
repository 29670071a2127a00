"""Solids put together from several closed parts: furniture, fruit, toys. A category name and a generator -> a solid."""

import numpy as np
from numpy.random import Generator

from pics_data.scenes.profiles import edged, polygon, smooth
from pics_data.scenes.solids import Array, Ints, Solid, ball, bend, join, lathe, moved, rounded_box, sweep

Mesh = tuple[Array, Ints]


def make_furniture(category: str, rng: Generator) -> Solid:
    """Table, stool, bench (they carry others), chair, lamp."""
    u = rng.uniform
    if category == "lamp":
        r, h, shade = u(0.18, 0.24), u(0.85, 1.0), u(0.26, 0.34)
        foot = edged([(0, 0), (r, 0), (r, 0.05), (0.03, 0.08), (0.03, h * 0.75), (0, h * 0.75)], 0.02)
        low, high = h * u(0.55, 0.62), h
        top = shade * u(0.5, 0.85)
        cloth = [(0, low + 0.06), (shade - 0.03, low), (shade, low), (top, high), (top - 0.03, high), (0, high - 0.05)]
        return Solid(category, *join(lathe(foot), lathe(edged(cloth, 0.01, 4))), "round")
    if category == "stool":
        r, h = u(0.3, 0.4), u(0.6, 0.9)
        seat = lathe(edged([(0, h - 0.1), (r, h - 0.1), (r, h), (0, h)], 0.03))
        spread = [0.72 * r * np.array([np.cos(a), np.sin(a)]) for a in np.arange(3) * (2 * np.pi / 3) + u(0, 2)]
        legs = [_leg(x, y, h - 0.08, u(0.035, 0.05), 1.2) for x, y in spread]
        return Solid(category, *join(seat, *legs), "round", top=0.9 * r)
    wide, deep, h = {
        "table": (u(0.9, 1.1), u(0.7, 0.9), u(0.5, 0.7)),
        "bench": (u(0.95, 1.1), u(0.34, 0.42), u(0.3, 0.42)),
    }.get(category, (u(0.46, 0.54), u(0.44, 0.52), u(0.44, 0.5)))
    thick, leg = u(0.05, 0.09), u(0.035, 0.05)
    plate = moved(rounded_box(np.array([wide, deep, thick]), 0.02, 4), 0, 0, h - thick / 2)
    feet = [(sx * (wide / 2 - 0.07), sy * (deep / 2 - 0.07)) for sx in (-1, 1) for sy in (-1, 1)]
    parts = [plate, *(_leg(x, y, h - thick * 0.6, leg) for x, y in feet)]
    if category == "chair":
        back = rounded_box(np.array([wide, 0.06, 0.3]), 0.025, 4)
        parts.append(moved(back, 0, deep / 2 - 0.04, h + 0.3))
        parts += [_leg(x, deep / 2 - 0.04, 0.3, 0.03, base=h - 0.03) for x in (-wide / 2 + 0.08, wide / 2 - 0.08)]
        return Solid(category, *join(*parts), "boxy")
    return Solid(category, *join(*parts), "boxy", top=0.46 * min(wide, deep))


def _leg(x: float, y: float, height: float, radius: float, flare: float = 1.0, base: float = 0.0) -> Mesh:
    """An upright post of 12 sides, `flare` times as far out at its foot."""
    post = lathe(edged([(0, 0), (radius * 0.8, 0), (radius, height), (0, height)], 0.01, 2), np.ones(12))

    def place(v: Array) -> Array:
        out = 1 + (flare - 1) * (1 - v[:, 2] / height)
        return np.stack([v[:, 0] + x * out, v[:, 1] + y * out, v[:, 2] + base], 1)

    return bend(place, post)


def make_fruit(category: str, rng: Generator) -> Solid:
    """Apple, orange, lemon, tomato, carrot (lying)."""
    u = rng.uniform
    if category == "orange":
        return Solid(category, *ball(), "ball", True)
    if category == "lemon":
        half = [(0, -0.5), (0.06, -0.47), (0.13, -0.4), (0.27, -0.24), (0.33, 0)]
        rest = [(0.27, 0.24), (0.13, 0.4), (0.06, 0.47), (0, 0.5)]
        lying = bend(lambda v: v[:, [2, 0, 1]], lathe(smooth([*half, *rest], 3)))
        return Solid(category, *lying, "ball")
    if category == "carrot":
        body = smooth([(0, 0.03), (0.1, 0.0), (0.13, 0.08), (0.1, 0.4), (0.06, 0.75), (0.015, 1.0), (0, 1.01)], 3)
        leaves = smooth([(0, 0), (0.03, 0.01), (0.07, 0.12), (0.03, 0.22), (0, 0.24)], 3)
        parts = [lathe(body)]
        for angle in (0.5, -0.5):
            v, faces = lathe(leaves, np.ones(12))
            parts.append(moved((_tilted(v, angle), faces), 0, 0, 0.02))
        lying = bend(lambda v: v[:, [2, 0, 1]], join(*parts))
        low = np.float32(0.12)  # it lies on its thick end and on its tip
        return Solid(category, *bend(lambda v: np.stack([v[:, 0], v[:, 1], v[:, 2] - low * v[:, 0]], 1), lying), "ball")
    squat = u(0.78, 0.95) if category == "apple" else u(0.68, 0.82)
    outline = [(0, 0.07), (0.12, 0.0), (0.34, 0.1), (0.48, 0.36), (0.46, 0.66), (0.28, 0.84), (0.1, 0.82), (0, 0.74)]
    profile = smooth([(r, z * squat) for r, z in outline], 3)
    lobes = 1 + (0.02 if category == "apple" else 0.045) * np.cos(np.arange(40) * (2 * np.pi / 40) * 5)
    curve = np.array([[0, 0, 0.7], [0.01, 0, 0.82], [0.04, 0, 0.94]]) * (1, 1, squat)
    return Solid(category, *join(lathe(profile, lobes), sweep(curve, np.array([0.02, 0.02, 0.026]), sides=8)), "ball")


def _tilted(v: Array, angle: float) -> Array:
    """Upside down, and turned by `angle` about y."""
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([v[:, 2] * s - v[:, 0] * c, v[:, 1], -(v[:, 0] * s + v[:, 2] * c)], 1)


def _sized(mesh: Mesh, scale: float) -> Mesh:
    return mesh[0] * np.float32(scale), mesh[1]


def make_toy(category: str, rng: Generator) -> Solid:
    """House, car, tree, snowman, dumbbell, rocket, arch."""
    return _TOYS[category](category, rng)


def _house(category: str, rng: Generator) -> Solid:
    u = rng.uniform
    wide, deep, high, roof = u(0.55, 0.75), u(0.6, 0.8), u(0.4, 0.55), u(0.25, 0.4)
    walls = moved(rounded_box(np.array([wide, deep, high]), 0.015, 4), 0, 0, high / 2)
    prism = lathe(edged([(0, 0), (0.62, 0), (0.62, 1), (0, 1)], 0.02, 6), polygon(3, 0.0, 60))
    # A lying prism of three sides: its own z runs along the ridge.
    x, y = prism[0][:, 0], prism[0][:, 1]
    spread = (y - y.min()) / np.ptp(y) - 0.5
    rise = (x - x.min()) / np.ptp(x)
    lying = np.stack([spread * (wide + 0.14), (prism[0][:, 2] - 0.5) * (deep + 0.1), high - 0.02 + rise * roof], 1)
    side = lying * np.array([-1, 1, 1])  # keeps the faces outward
    chimney = moved(rounded_box(np.array([0.1, 0.1, 0.3]), 0.01, 3), wide * 0.22, deep * 0.2, high + roof * 0.7)
    return Solid(category, *join(walls, _outward((side.astype(np.float32), prism[1])), chimney), "boxy")


def _outward(mesh: Mesh) -> Mesh:
    """The mesh with its faces turned so that its volume is positive."""
    v, f = mesh
    a, b, c = (v[f[:, k]].astype(np.float64) for k in range(3))
    return (v, f) if float((a * np.cross(b, c)).sum()) > 0 else (v, np.ascontiguousarray(f[:, ::-1]))


def _car(category: str, rng: Generator) -> Solid:
    u = rng.uniform
    long, wide, low = 1.0, u(0.4, 0.48), u(0.18, 0.24)
    body = moved(rounded_box(np.array([long, wide, low]), 0.06, 4), 0, 0, 0.08 + low / 2)
    cabin = bend(
        lambda v: v * np.stack([1 - 0.35 * (v[:, 2] > 0), 1 - 0.15 * (v[:, 2] > 0), np.ones(len(v))], 1),
        rounded_box(np.array([long * u(0.5, 0.62), wide * 0.9, 0.22]), 0.04, 4),
    )
    wheel = lathe(edged([(0, -0.05), (0.1, -0.05), (0.1, 0.05), (0, 0.05)], 0.02), np.ones(24))
    across = bend(lambda v: np.stack([v[:, 0], -v[:, 2], v[:, 1]], 1), wheel)
    wheels = [moved(across, x, y, 0.1) for x in (-0.3, 0.3) for y in (-wide / 2 + 0.02, wide / 2 - 0.02)]
    return Solid(category, *join(body, moved(cabin, u(-0.1, 0.05), 0, 0.08 + low + 0.08), *wheels), "boxy")


def _tree(category: str, rng: Generator) -> Solid:
    u = rng.uniform
    trunk = lathe(edged([(0, 0), (0.09, 0), (0.06, 0.4), (0, 0.4)], 0.01), np.ones(20))
    if rng.random() < 0.5:
        r = u(0.26, 0.34)
        crown = [_cone(r * (1 - 0.22 * k), 0.2 + 0.22 * k, 0.36) for k in range(3)]
        return Solid(category, *join(trunk, *crown), "round")
    r = u(0.26, 0.32)
    spots = [(0, 0, 0.66, r), (0.16, 0.06, 0.52, 0.7 * r), (-0.14, 0.1, 0.54, 0.75 * r), (0.02, -0.15, 0.5, 0.7 * r)]
    crown = [moved(_sized(ball(7), s), x, y, z) for x, y, z, s in spots]
    return Solid(category, *join(trunk, *crown), "ball")


def _cone(radius: float, base: float, height: float) -> Mesh:
    walls = [(0, base), (radius, base), (0.01, base + height), (0, base + height)]
    return lathe(edged(walls, 0.02), np.ones(28))


def _snowman(category: str, rng: Generator) -> Solid:
    sizes = [0.3, 0.22, 0.15]
    parts, z = [], 0.0
    for k, r in enumerate(sizes):
        z += 0.92 * r if k == 0 else 0.8 * r
        parts.append(moved(_sized(ball(6 if k else 8), r), 0, 0, z))
        z += 0.8 * r
    hat = [(0, z - 0.04), (0.16, z - 0.04), (0.16, z - 0.02), (0.09, z - 0.01), (0.09, z + 0.13), (0, z + 0.13)]
    nose = bend(lambda v: np.stack([v[:, 0], -v[:, 2], v[:, 1]], 1), _cone(0.03, 0.0, 0.16))
    parts[0] = bend(lambda v: np.stack([v[:, 0], v[:, 1], np.maximum(v[:, 2], 0.0)], 1), parts[0])
    return Solid(
        category, *join(*parts, lathe(edged(hat, 0.01), np.ones(28)), moved(nose, 0, -0.12, z - 0.13)), "round"
    )


def _dumbbell(category: str, rng: Generator) -> Solid:
    r, half = rng.uniform(0.2, 0.27), 0.5
    bar = [(0, -half), (r, -half), (r, -0.26), (0.06, -0.25), (0.06, 0.25), (r, 0.26), (r, half), (0, half)]
    return Solid(category, *bend(lambda v: v[:, [2, 0, 1]], lathe(edged(bar, 0.03))), "round")


def _rocket(category: str, rng: Generator) -> Solid:
    r = rng.uniform(0.14, 0.19)
    hull = smooth([(0, 0.1), (r * 0.8, 0.1), (r, 0.3), (r, 0.6), (r * 0.6, 0.85), (0.02, 0.98), (0, 1.0)], 4)
    parts = [lathe(hull, np.ones(32))]
    for k in range(3):
        a = k * 2 * np.pi / 3 + 0.4
        fin = rounded_box(np.array([0.24, 0.04, 0.34]), 0.015, 3)

        def turn(v: Array, a: float = a) -> Array:
            x = v[:, 0] + r + 0.04
            low = np.where(x > r, v[:, 2] - 0.12 * (x - r) / 0.16, v[:, 2])
            return np.stack([x * np.cos(a) - v[:, 1] * np.sin(a), x * np.sin(a) + v[:, 1] * np.cos(a), low + 0.3], 1)

        parts.append(bend(turn, fin))
    return Solid(category, *join(*parts), "round")


def _arch(category: str, rng: Generator) -> Solid:
    """A toy bridge: a block with a round gate through it."""
    gate, high, deep = rng.uniform(0.22, 0.28), rng.uniform(0.5, 0.6), rng.uniform(0.24, 0.34)
    angle = np.linspace(0, np.pi, 15)
    inner = [(0.5, 0.0), *zip(gate * np.cos(angle), gate * np.sin(angle), strict=True), (-0.5, 0.0)]
    outer = [(0.5, 0.0), *((x, high) for x in np.linspace(0.5, -0.5, 15)), (-0.5, 0.0)]
    a, b = np.array(inner), np.array(outer)
    ring = [np.stack([p[:, 0], np.full(len(p), y), p[:, 1]], 1) for y in (-deep / 2, deep / 2) for p in (a, b)]
    n = len(a)
    v = np.concatenate(ring)
    low_in, low_out, high_in, high_out = (np.arange(n) + n * k for k in range(4))
    faces = []
    for p, q in ((low_in, low_out), (low_out, high_out), (high_out, high_in), (high_in, low_in)):
        faces += [np.stack([p[:-1], q[:-1], q[1:]], 1), np.stack([p[:-1], q[1:], p[1:]], 1)]
    index, inverse = np.unique(np.round(v, 5), axis=0, return_inverse=True)
    welded = inverse.ravel()[np.concatenate(faces)]
    whole = (welded[:, 0] != welded[:, 1]) & (welded[:, 1] != welded[:, 2]) & (welded[:, 0] != welded[:, 2])
    mesh = _outward((index.astype(np.float32), welded[whole].astype(np.int32)))
    return Solid(category, *mesh, "boxy", top=0.45 * deep)


_TOYS = {
    "house": _house,
    "car": _car,
    "tree": _tree,
    "snowman": _snowman,
    "dumbbell": _dumbbell,
    "rocket": _rocket,
    "arch": _arch,
}


def make_stick(category: str, rng: Generator) -> Solid:
    """Long upright things that stand in vessels and lean on others: pencil, stick, flower, spoon."""
    u = rng.uniform
    if category == "pencil":
        r = u(0.035, 0.05)
        profile = edged([(0, 0), (r, 0), (r, 0.86), (0.01, 1.0), (0, 1.0)], 0.006, 5)
        return Solid(category, *lathe(profile, polygon(6, 0.0, 24)), "round")
    if category == "flower":
        stem = lathe(edged([(0, 0), (0.018, 0), (0.018, 0.85), (0, 0.85)], 0.005, 5), np.ones(10))
        petals = 1 - 0.3 * np.abs(np.cos(np.arange(60) * (2 * np.pi / 60) * 3))
        r, h = u(0.16, 0.22), u(0.05, 0.12)
        bloom = [(0, 0.8), (0.05, 0.8), (r, 0.86 + h), (r * 0.9, 0.88 + h), (0.06, 0.86), (0.05, 0.9), (0, 0.92)]
        return Solid(category, *join(stem, lathe(smooth(bloom, 3), petals)), "round")
    if category == "spoon":
        stem = lathe(edged([(0, 0), (0.028, 0), (0.022, 0.75), (0, 0.75)], 0.006, 5), np.ones(12))
        bowl = moved(bend(lambda v: v * np.array([0.105, 0.035, 0.15]), ball(9)), 0, 0, 0.86)
        return Solid(category, *join(stem, bowl), "ball")
    r = u(0.03, 0.05)
    knots = [(r * u(0.85, 1.1), z) for z in np.linspace(0.02, 0.98, 7)]
    return Solid(category, *lathe(smooth([(0, 0), (r * 0.9, 0.0), *knots, (0, 1.0)], 2), np.ones(14)), "round")
