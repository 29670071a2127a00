"""Which objects of a photo make a composition: boxes and areas decide, no pixel is read.

Shapes: N boxes of a photo, [N, 4] float64, each x, y, width, height; R of them, whose relations to C others are worked
out at a time: [R, C]. The pairs of a photo are never all in memory, as annotations of 20,000 objects have 200 million.

For two objects and default settings this is the published rule: of all pairs of large objects whose boxes overlap, and
of which none contains the other, the pair with the highest IoU.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pics_data.config import BuildConfig
from pics_data.records import Photo

CELLS = 2**18  # pairs that are worked out at a time
BEST = 2**16  # pairs that are kept and ranked at a time
# Some boxes of a photo -> their links to all, [R, N] (the IoU of those that touch, else 0), and whether neither of the
# two contains the other, [R, N].
Relations = Callable[[list[int]], tuple[NDArray[np.float64], NDArray[np.bool_]]]


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
    boxes = np.array([photo.instances[i].box for i in able], dtype=np.float64)
    relations = _relations(boxes, config) if config.objects > 2 else None
    found: dict[tuple[int, ...], Choice] = {}
    for first, second, iou in _ranked_pairs(boxes, config):
        places, link = _grow((first, second), iou, config.objects, relations) if relations else ((first, second), iou)
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


def _ranked_pairs(boxes: NDArray[np.float64], config: BuildConfig) -> Iterator[tuple[int, int, float]]:
    """Pairs of boxes that touch, as (first, second, IoU), the highest IoU first; of equal ones, the first in order."""
    num_rows = max(1, CELLS // len(boxes))
    last_iou, last_place = np.inf, -1  # of what has been yielded; a pair's place is first * N + second
    while True:
        ious, places = np.empty(0), np.empty(0, np.int64)
        for start in range(0, len(boxes), num_rows):
            rows = boxes[start : start + num_rows]
            iou, apart = _box_relations(rows, boxes[start:], config.containment)
            wanted = np.triu(_touch(iou, apart, config), k=1) & (iou <= last_iou)
            if len(ious) == BEST:
                wanted &= iou > ious[-1]  # of equal ones, the earlier stay
            row, column = np.nonzero(wanted)
            where = (row + start) * len(boxes) + column + start
            new = (iou[row, column] < last_iou) | (where > last_place)
            ious, places = np.append(ious, iou[row, column][new]), np.append(places, where[new])
            order = np.argsort(-ious, kind="stable")[:BEST]
            ious, places = ious[order], places[order]
        for value, place in zip(ious.tolist(), places.tolist(), strict=True):
            yield place // len(boxes), place % len(boxes), value
        if len(ious) < BEST:
            return
        last_iou, last_place = ious[-1], places[-1]


def _touch(iou: NDArray[np.float64], apart: NDArray[np.bool_], config: BuildConfig) -> NDArray[np.bool_]:
    return (iou > config.min_iou) & (iou <= config.max_iou) & apart


def _relations(boxes: NDArray[np.float64], config: BuildConfig) -> Relations:
    """The relations of boxes, looked up in a table of all where that is small: objects are grown over and over."""

    def work_out(some: list[int]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        iou, apart = _box_relations(boxes[some], boxes, config.containment)
        return np.where(_touch(iou, apart, config), iou, 0.0), apart

    if len(boxes) ** 2 > CELLS:
        return work_out
    links, apart = work_out(list(range(len(boxes))))
    return lambda some: (links[some], apart[some])


def _grow(seed: tuple[int, int], iou: float, size: int, relations: Relations) -> tuple[tuple[int, ...], float]:
    """`seed`, of this IoU, with what touches it most, up to `size` objects, ascending, and the least IoU of the links;
    fewer objects where nothing more fits."""
    members, weakest = list(seed), iou
    of_members, apart = relations(members)
    links, fits = of_members.max(axis=0), apart.all(axis=0)  # a member is not apart from itself, so it does not fit
    while len(members) < size:
        allowed = np.where(fits, links, 0.0)
        best = int(allowed.argmax())
        if allowed[best] == 0:
            break
        members.append(best)
        weakest = min(weakest, float(links[best]))
        of_best, apart = relations([best])
        links, fits = np.maximum(links, of_best[0]), fits & apart[0]
    return tuple(sorted(members)), weakest


def _box_relations(
    boxes: NDArray[np.float64], others: NDArray[np.float64], containment: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Of boxes [R, 4] and others [C, 4]: their IoU, [R, C], and whether neither contains the other, [R, C].

    A box is contained if a share of `containment` or more of it lies in the other; 1 compares corners, exactly.
    """
    x, y, w, h = boxes.T[:, :, None]
    x2, y2, w2, h2 = others.T
    right, bottom, area = x + w, y + h, w * h
    right2, bottom2, area2 = x2 + w2, y2 + h2, w2 * h2
    inner = np.maximum(np.minimum(right, right2) - np.maximum(x, x2), 0)
    inner *= np.maximum(np.minimum(bottom, bottom2) - np.maximum(y, y2), 0)
    union = area + area2 - inner
    iou = np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)
    held = (x <= x2) & (right >= right2) & (y <= y2) & (bottom >= bottom2)  # the other in the box
    held |= (x >= x2) & (right <= right2) & (y >= y2) & (bottom <= bottom2)
    if containment < 1:
        held |= (inner >= containment * area) | (inner >= containment * area2)
    return iou, ~held
