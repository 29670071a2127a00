"""Example: one picture and the objects in it, decoded; what a shard's sample and an inference job both become."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class Example:
    """One composition before it is framed and resized for a model; K objects, each with its place in the photo.

    `photo` is [H, W, 3] uint8: the target in training, the background to compose into in inference. `objects[k]` is
    [S_k, T_k, 4] uint8, RGBA, colour composed on white, alpha 255 where the object is. `masks[k]` is [H, W] bool: the
    silhouette, or any area (a filled rectangle, say) whose box is where the object shall stand.
    """

    key: str
    photo: NDArray[np.uint8]
    objects: list[NDArray[np.uint8]]
    masks: list[NDArray[np.bool_]]
    meta: dict[str, object] = field(default_factory=dict)
