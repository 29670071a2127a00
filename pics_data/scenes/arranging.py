"""What kinds of scenes there are: each fills an `Arrangement` with a few bodies, or many, or with what holds others."""

from collections.abc import Callable
from dataclasses import dataclass

from pics_data.scenes.catalogue import CONTAINERS, HOLDERS, SUPPORTS, WALLS
from pics_data.scenes.placing import Arrangement, bridge, lean, put_in, put_on, put_stick_in, stand, stand_by


@dataclass(frozen=True, slots=True)
class Kind:
    """How scenes of a kind are made, and what a good one is.

    `counts` are the fewest and most objects; `pitch` the camera's angle down, in degrees; each object shows at least
    `visible` of its silhouette and `share` of the picture, and its box is at most `box` of the picture. All together
    `fill` so much of its width or height. Where it `holds`, some object is inside another.
    """

    arrange: Callable[[Arrangement, int], None]
    counts: tuple[int, int]
    pitch: tuple[float, float]
    visible: float
    share: float
    box: float
    fill: tuple[float, float]
    holds: bool = False


def _easy(made: Arrangement, count: int) -> None:
    """Two or three, mostly side by side, sometimes one on the other, in it or against it."""
    rng = made.rng
    wish = float(rng.random())
    if wish < 0.28:
        made.add(stand(made, _u(made, 0.9, 1.15), SUPPORTS))
        made.add(put_on(made, 0, _u(made, 0.55, 1.0)))
    elif wish < 0.42:
        made.add(stand(made, _u(made, 0.9, 1.15), WALLS))
        made.add(lean(made, 0))
    elif wish < 0.52:
        made.add(stand(made, _u(made, 0.95, 1.15), CONTAINERS))
        made.add(put_in(made, 0, _u(made, 0.5, 0.8)))
    else:
        made.add(stand(made, _u(made, 0.85, 1.15)))
    _fill(made, count, {"beside": 0.65, "front": 0.35}, (0.7, 1.1))


def _few(made: Arrangement, count: int) -> None:
    """Two to four, most of them in front of each other."""
    rng = made.rng
    wish = float(rng.random())
    first = SUPPORTS if wish < 0.22 else CONTAINERS if wish < 0.34 else WALLS if wish < 0.44 else ()
    made.add(stand(made, _u(made, 0.9, 1.2), first))
    if first == SUPPORTS:
        made.add(put_on(made, 0, _u(made, 0.55, 1.0)))
    elif first == CONTAINERS:
        made.add(put_in(made, 0, _u(made, 0.45, 0.8)))
    elif first == WALLS:
        made.add(lean(made, 0))
    _fill(made, count, {"front": 0.8, "beside": 0.2}, (0.65, 1.05))


def _crowded(made: Arrangement, count: int) -> None:
    """Rows one behind the other, with stacks, bridges and things that lean."""
    rng = made.rng
    if rng.random() < 0.12:
        for thing in bridge(made, _u(made, 1.0, 1.25)) or ():
            made.add(thing)
    count = max(count, int(rng.integers(5, 9)))  # some will hardly show and be taken out again
    back = [SUPPORTS, WALLS, ()][int(rng.integers(3))]
    if not made.placed:
        made.add(stand(made, _u(made, 0.95, 1.25), back))
    for _ in range(int(rng.integers(1, 3))):
        made.add(stand_by(made, "beside", _u(made, 0.85, 1.2), [(), WALLS, SUPPORTS][int(rng.integers(3))]))
    if rng.random() < 0.6:
        _stack(made, int(rng.integers(1, 4)), count)
    if rng.random() < 0.4:
        _lean_somewhere(made, count)
    _fill(made, count, {"front": 0.82, "beside": 0.09, "on": 0.09}, (0.6, 0.95))


def _containment(made: Arrangement, count: int) -> None:
    """Things in bowls, boxes, baskets and mugs, sticks in cups and vases, and a few more around."""
    rng = made.rng
    vessels = 1 if count < 5 or rng.random() < 0.7 else 2
    for k in range(vessels):
        number = _vessel(made, k, HOLDERS if rng.random() < 0.25 else CONTAINERS)
        left = count - len(made.placed)
        if number is not None and left > 0:
            _load(made, number, min(5, left if vessels == 1 and rng.random() < 0.6 else max(1, left // 2)))
    held = sum(p.inside >= 0 for p in made.placed)
    _fill(made, min(count, len(made.placed) + (2 if held < 2 else 1)), {"front": 0.4, "beside": 0.6}, (0.5, 0.8))


def _vessel(made: Arrangement, k: int, wanted: tuple[str, ...]) -> int | None:
    scale = _u(made, 1.2, 1.5)
    return made.add(stand(made, scale, wanted) if not k else stand_by(made, "beside", 0.9 * scale, wanted))


def _load(made: Arrangement, number: int, count: int) -> None:
    """Up to `count` things into the vessel `number`."""
    category = made.placed[number].body.solid.category
    sticks = category in ("cup", "vase") or (category == "mug" and made.rng.random() < 0.4)
    cavity = made.placed[number].body.solid.cavity
    assert cavity is not None
    if sticks:
        for _ in range(min(count, 3)):
            made.add(put_stick_in(made, number))
        return
    room = max(cavity.radius, 0.8 * cavity.rim_radius)
    for _ in range(count):
        widest = {1: 1.3, 2: 1.05, 3: 0.95, 4: 0.86}.get(count, 0.8)
        made.add(put_in(made, number, 2 * room * widest * _u(made, 0.66, 0.86)))


def _stack(made: Arrangement, levels: int, count: int) -> None:
    """Things upon each other, on something that carries them."""
    able = [k for k, p in enumerate(made.placed) if p.body.solid.top > 0.15 and made.top_free(k)]
    below = int(made.rng.choice(able)) if able else made.add(stand_by(made, "beside", _u(made, 0.8, 1.0), SUPPORTS))
    for level in range(levels):
        if below is None or len(made.placed) >= count:
            return
        wanted = _FLAT if level < levels - 1 else ()
        below = made.add(put_on(made, below, _u(made, 0.65, 1.0), wanted))


_FLAT = ("box", "cube", "brick", "book", "book", "puck", "cylinder", "plate")


def _lean_somewhere(made: Arrangement, count: int) -> None:
    able = [k for k, p in enumerate(made.placed) if p.body.solid.category in WALLS and not p.rests and p.inside < 0]
    if not able:
        number = made.add(stand_by(made, "beside", _u(made, 0.8, 1.1), WALLS))
        able = [] if number is None else [number]
    if able and len(made.placed) < count:
        made.add(lean(made, int(made.rng.choice(able))))


def _fill(made: Arrangement, count: int, ways: dict[str, float], scales: tuple[float, float]) -> None:
    """More bodies up to `count`, by those that stand there."""
    names, shares = list(ways), list(ways.values())
    for _ in range(2 * count):
        if len(made.placed) >= count:
            return
        way = names[int(made.rng.choice(len(names), p=shares))]
        able = [k for k, p in enumerate(made.placed) if p.body.solid.top > 0.15 and made.top_free(k)]
        if way == "on" and able:
            made.add(put_on(made, int(made.rng.choice(able)), _u(made, 0.55, 0.9)))
        else:
            made.add(stand_by(made, "front" if way == "on" else way, _u(made, *scales)))


def _u(made: Arrangement, low: float, high: float) -> float:
    return float(made.rng.uniform(low, high))


KINDS = {
    "easy": Kind(_easy, (2, 3), (12, 34), 0.7, 0.02, 0.42, (0.68, 0.82)),
    "few": Kind(_few, (2, 4), (12, 34), 0.3, 0.02, 0.42, (0.7, 0.86)),
    "crowded": Kind(_crowded, (5, 8), (11, 31), 0.28, 0.0125, 0.42, (0.84, 0.94)),
    "containment": Kind(_containment, (2, 8), (32, 54), 0.28, 0.0125, 0.62, (0.8, 0.94), True),
}
# Of each setting of difficulty: which kinds there are, how often.
DIFFICULTIES = {
    "mixed": {"easy": 0.23, "few": 0.25, "crowded": 0.27, "containment": 0.25},
    "easy": {"easy": 1.0},
    "crowded": {"crowded": 1.0},
    "containment": {"containment": 1.0},
}
