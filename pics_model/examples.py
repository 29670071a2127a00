"""Example: one picture and the objects in it, decoded; what a shard's sample and an inference job both become."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pics_common.errors import UserError


@dataclass(frozen=True, slots=True)
class View:
    """An object seen from another side: `picture` [S, T, 4] uint8 as object pictures are, and its camera.

    `azimuth` (to the right) and `elevation` are in degrees from the camera of the object's own picture, `distance` is
    relative to that camera's; each NaN where unknown.
    """

    picture: NDArray[np.uint8]
    azimuth: float = math.nan
    elevation: float = math.nan
    distance: float = math.nan


def camera_of(entry: object, where: str) -> dict[str, float]:
    """A camera as JSON has it, {"azimuth": ..., "elevation": ..., "distance": ...}: those of `View`'s fields that it
    gives. Raises `UserError` that begins with `where` for values that are no camera's."""
    if not isinstance(entry, dict):
        raise UserError(f"{where} is {entry!r}; expected an object with azimuth, elevation, distance, or some of them")
    camera: dict[str, float] = {}
    for name in ("azimuth", "elevation", "distance"):
        value = entry.get(name)
        if value is None:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (0 < value < 1e6 if name == "distance" else abs(value) < 1e6):
            what = "a number above 0" if name == "distance" else "degrees"
            raise UserError(f"{where}.{name} is {value!r}; expected {what}")
        camera[name] = float(value)
    return camera


@dataclass(slots=True)
class Example:
    """One composition before it is framed and resized for a model; K objects, each with its place in the photo.

    `photo` is [H, W, 3] uint8: the target in training, the background to compose into in inference. `objects[k]` is
    [S_k, T_k, 4] uint8, RGBA, colour composed on white, alpha 255 where the object is. `masks[k]` is [H, W] bool: the
    silhouette, or any area (a filled rectangle, say) whose box is where the object shall stand.

    Where `objects` show whole objects, with what others hide, `whole_masks[k]` is the silhouette of all of object k;
    the regions are made of it. `squares[k]` is (x, y, side) in pixels of the photo: the square that `objects[k]`
    shows, None where that is not known. `angles[k]` is how far `objects[k]` is turned counterclockwise, in degrees,
    where it was stored so; else None. `views[k]` are other views of object k, `texts[k]` says in words what it is, ""
    where nobody does. Each of these lists may be empty.
    """

    key: str
    photo: NDArray[np.uint8]
    objects: list[NDArray[np.uint8]]
    masks: list[NDArray[np.bool_]]
    whole_masks: list[NDArray[np.bool_]] = field(default_factory=list)
    squares: list[tuple[float, float, float] | None] = field(default_factory=list)
    angles: list[float | None] = field(default_factory=list)
    views: list[list[View]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    meta: dict[str, object] = field(default_factory=dict)
