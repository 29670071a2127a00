"""Auxiliary views: what an object looks like from other sides, made from its cut-out, its mesh, or by a network.

Each generator is one file with the same signature, `Generator`: cut-outs and cameras in, pictures out. None knows Ray.

Legend: n pixels a side of a cut-out and of its views. Pictures are [n, n, 4] uint8 with straight (not premultiplied)
alpha; colours where alpha is 0 mean nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pics_data.records import RejectError

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ViewCamera:
    """Where a view is taken from, relative to the camera of the cut-out.

    `azimuth` is the angle, in degrees, by which the camera has gone round the object's vertical axis to the right, so
    that the object's right side comes into sight; `elevation` by how much it has climbed; `distance` how far away it
    is, in units of the cut-out's own distance.
    """

    azimuth: float
    elevation: float
    distance: float = 1.0


@dataclass(frozen=True, slots=True)
class Cutout:
    """One object as its sample holds it: `rgba` [n, n, 4], square, with a margin around the object.

    `key` and `index` name the sample and the object in it; `photo_id`, `instance_id` and `category` are the source's.
    """

    key: str
    index: int
    rgba: Picture
    category: str = ""
    photo_id: str = ""
    instance_id: str = ""


# The views of each cut-out, in order: one picture for each of its cameras, or why there is none.
Generator = Callable[[Sequence[Cutout], Sequence[Sequence[ViewCamera]]], Iterator[list[Picture] | RejectError]]


def draw_cameras(num_views: int, seed: tuple[int, ...]) -> tuple[ViewCamera, ...]:
    """`num_views` cameras, evenly around the object but for the side that the cut-out shows, a little out of step.

    Azimuths are 360 k / (num_views + 1), each moved by up to a quarter of that step; elevations are U(-10, 30) degrees.
    The same `seed` gives the same cameras.
    """
    rng = np.random.default_rng(seed)
    step = 360 / (num_views + 1)
    out = []
    for k in range(1, num_views + 1):
        azimuth = step * (k + rng.uniform(-0.25, 0.25))
        out.append(ViewCamera(round(azimuth, 2), round(rng.uniform(-10, 30), 2)))
    return tuple(out)
