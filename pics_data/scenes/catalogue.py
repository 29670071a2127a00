"""The embedded objects: a category name -> a function that draws one of its kind from a generator."""

from collections.abc import Callable

from numpy.random import Generator

from pics_data.scenes.simple import make_ball, make_box, make_curved, make_rock, make_straight, make_swept
from pics_data.scenes.solids import Solid, grounded
from pics_data.scenes.things import make_fruit, make_furniture, make_stick, make_toy
from pics_data.scenes.vessels import make_vessel


def make_solid(category: str, rng: Generator) -> Solid:
    """One solid of a category of `CATEGORIES`, standing on z = 0 with largest extent 1."""
    return grounded(CATEGORIES[category](category, rng))


_STRAIGHT = (
    *("cylinder", "puck", "prism", "star", "cone", "pyramid", "frustum", "barrel", "spool", "can", "candle", "plate"),
)
CATEGORIES: dict[str, Callable[[str, Generator], Solid]] = {
    **dict.fromkeys(("box", "cube", "brick", "book", "plank", "frame"), make_box),
    **dict.fromkeys(("sphere", "egg", "pebble"), make_ball),
    **dict.fromkeys(("rock", "blob"), make_rock),
    **dict.fromkeys(_STRAIGHT, make_straight),
    **dict.fromkeys(("pawn", "bottle", "goblet", "mushroom", "pear", "gem", "pumpkin", "cactus"), make_curved),
    **dict.fromkeys(("bowl", "tray", "crate", "pot", "basket", "cup", "mug", "vase"), make_vessel),
    **dict.fromkeys(("torus", "knot", "spring", "banana", "capsule"), make_swept),
    **dict.fromkeys(("apple", "orange", "lemon", "tomato", "carrot"), make_fruit),
    **dict.fromkeys(("table", "stool", "bench", "chair", "lamp"), make_furniture),
    **dict.fromkeys(("house", "car", "tree", "snowman", "dumbbell", "rocket", "arch"), make_toy),
    **dict.fromkeys(("pencil", "stick", "flower", "spoon"), make_stick),
}
STICKS = ("pencil", "stick", "flower", "spoon")  # too thin to stand alone: they go into vessels, or lean
SHEETS = (
    "book",
    "plank",
    "frame",
    "plate",
)  # lying things that also lean: own z is their thickness, own y their length
CONTAINERS = ("bowl", "tray", "crate", "pot", "basket", "mug")
HOLDERS = ("cup", "mug", "vase")  # of sticks
SUPPORTS = (
    *("box", "cube", "brick", "book", "cylinder", "puck", "prism", "star", "frustum", "barrel", "spool", "plate"),
    *("table", "stool", "bench", "plank"),
)
WALLS = ("box", "cube", "brick", "cylinder", "barrel", "can", "crate", "prism", "pot")  # what others lean on
ROLLING = ("sphere", "egg", "pebble", "orange", "apple", "tomato", "lemon", "blob", "pear", "gem")
"""What settles in a round bowl by itself."""
FREE = tuple(name for name in CATEGORIES if name not in STICKS)
