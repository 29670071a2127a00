"""Which objects of a photo make a composition: boxes and areas decide, no pixel is read.

For two objects and default settings this is the published rule: of all pairs of large objects whose boxes overlap, and
of which none contains the other, the pair with the highest IoU.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pics_data.config import BuildConfig
from pics_data.records import Photo


@dataclass(frozen=True, slots=True)
class Choice:
    """Objects of one composition: places in `Photo.instances`, ascending; and the IoU that ranks it.

    Of two objects it is the IoU of their boxes; of more, the least IoU of the links that hold them together; of one, 0.
    """

    places: tuple[int, ...]
    box_iou: float


def choose(photo: Photo, config: BuildConfig) -> list[Choice]:
    """At most `config.pairs_per_photo` compositions of `config.objects` objects, best first, no set of objects twice.

    Objects have at least `min_area` of the photo, are no crowd unless `crowds`, and pass the filters by category. Two
    touch if their boxes' IoU is above `min_iou` and at most `max_iou`; none of a composition contains another. More
    than two are a chain or cluster: each touches one of the others. They are grown from each touching pair in turn,
    the pair of the highest IoU first, by what touches them most.
    """
    able = able_objects(photo, config)
    if len(able) < config.objects:
        return []
    if config.objects == 1:
        largest = sorted(able, key=lambda i: -photo.instances[i].area)
        return [Choice((i,), 0.0) for i in largest[: config.pairs_per_photo]]
    iou, apart = _box_relations(np.array([photo.instances[i].box for i in able], dtype=np.float64), config.containment)
    touch = (iou > config.min_iou) & (iou <= config.max_iou) & apart
    first, second = np.nonzero(np.triu(touch, k=1))
    ranked = np.argsort(-iou[first, second], kind="stable")  # of equal ones, the first in the photo's order
    found: dict[tuple[int, ...], Choice] = {}
    for k in ranked:
        seed = (int(first[k]), int(second[k]))
        places, link = (
            (seed, float(iou[seed])) if config.objects == 2 else _grow(seed, config.objects, iou, touch, apart)
        )
        if len(places) == config.objects and places not in found:
            found[places] = Choice(tuple(able[i] for i in places), link)
            if len(found) == config.pairs_per_photo:
                break
    return list(found.values())


def able_objects(photo: Photo, config: BuildConfig) -> list[int]:
    """Places in `photo.instances` of what may be an object of a composition."""
    floor = config.min_area * photo.width * photo.height
    wanted, unwanted = set(config.categories), set(config.not_categories)
    return [
        i
        for i, item in enumerate(photo.instances)
        if item.area >= floor
        and (config.crowds or not item.crowd)
        and (not wanted or item.category in wanted)
        and item.category not in unwanted
    ]


def _grow(
    seed: tuple[int, int], size: int, iou: NDArray[np.float64], touch: NDArray[np.bool_], apart: NDArray[np.bool_]
) -> tuple[tuple[int, ...], float]:
    """`seed` with what touches it most, up to `size` objects, ascending, and the least IoU of the links; fewer objects
    where nothing more fits."""
    members, weakest = list(seed), float(iou[seed])
    while len(members) < size:
        fits = np.logical_and.reduce(apart[members])
        np.put(fits, members, False)
        links = np.where(touch[members] & fits, iou[members], 0.0).max(axis=0)
        best = int(links.argmax())
        if links[best] == 0:
            break
        members.append(best)
        weakest = min(weakest, float(links[best]))
    return tuple(sorted(members)), weakest


def _box_relations(boxes: NDArray[np.float64], containment: float) -> tuple[Any, Any]:
    """Of boxes [N, 4] (x, y, width, height): their IoU, [N, N], and whether neither contains the other, [N, N] bool.

    A box is contained if a share of `containment` or more of it lies in the other; 1 compares corners, exactly.
    """
    x, y, w, h = boxes.T[:, :, None]
    right, bottom = x + w, y + h
    inner_w = np.minimum(right, right.T) - np.maximum(x, x.T)
    inner_h = np.minimum(bottom, bottom.T) - np.maximum(y, y.T)
    inner = np.maximum(inner_w, 0) * np.maximum(inner_h, 0)
    area = w * h
    union = area + area.T - inner
    iou = np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)
    held = (x <= x.T) & (right >= right.T) & (y <= y.T) & (bottom >= bottom.T)  # the second in the first
    if containment < 1:
        held |= inner >= containment * area.T
    return iou, ~(held | held.T)
