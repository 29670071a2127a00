"""The nouns of the data engine: Photo and Instance come out of a source, Composition out of the plan, Sample out of
the decomposition. All are plain values that pickle small: pixels travel as bytes, and only inside one stage.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Instance:
    """One annotated object of a photo.

    `box` is (x, y, width, height) in pixels, `area` the silhouette's pixels as annotated. `segmentation` is what the
    data set says, as JSON values: COCO polygons; a COCO RLE dict (compressed or not); `{"labels": FORM, "values":
    [...]}` for the pixels of these values in the photo's label picture; `{"polygons": [...], "minus": [...]}` for
    polygons of which others hide a part. None where a later stage makes it: the renderer, or a mask predictor.
    """

    id: str
    category: str
    box: tuple[float, float, float, float]
    area: float
    segmentation: Any = None
    crowd: bool = False


@dataclass(frozen=True, slots=True)
class Photo:
    """One picture with its instances.

    `path` is the file or its URL, or "" where the source renders it from `id` and settings. `labels` is the picture
    that holds the instances' silhouettes as pixel values, in data sets that have one. `upright` says that width and
    height are those of the picture as EXIF turns it; else they tell whether it is meant as turned or as stored.
    """

    id: str
    source: str
    path: str
    width: int
    height: int
    instances: tuple[Instance, ...] = ()
    license: str = ""
    url: str = ""
    labels: str = ""
    upright: bool = False


@dataclass(frozen=True, slots=True)
class Composition:
    """The plan of one sample: which objects of which photo, under which key, in which shard, with which seed."""

    key: str
    shard: str
    split: str
    photo: Photo  # its `instances` are the chosen objects, in order
    box_iou: float
    seed: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample as it stands in a tar: member extension (`bg.jpg`, `obj0.png`, ...) -> encoded bytes."""

    key: str
    members: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Reject:
    """What could not be made: every drop has a key, the stage that dropped it, a countable reason, and its detail."""

    key: str
    stage: str
    reason: str
    detail: str = ""


class RejectError(Exception):
    """Raised by a stage on one record: it goes to `rejects.parquet`, its neighbours are unaffected."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(slots=True)
class Pixels:
    """A photo taken apart as far as annotation or renderer allows; what `decompose` cuts from.

    `rgb` is [H, W, 3] uint8. `photo_jpeg` are the photo's own bytes if it is a JPEG. `masks[i]` is the visible
    silhouette of `photo.instances[i]`, [H, W] bool. Rendered scenes also know, per instance: `full_masks[i]`, the
    amodal silhouette; `full_rgba[i]`, [H, W, 4] uint8, the whole object alone, straight (not premultiplied) alpha;
    and `front`, [H, W] int8: where several full masks meet, the index of the instance that is in front; -1 elsewhere.
    Of the whole picture they know `depth`, [H, W] float32: the distance from the camera to what each pixel shows, along
    the camera's axis, infinite for the open sky; and `hides`, [K, K]: the share of instance j's whole silhouette on
    which instance i stands before it.
    """

    rgb: Any
    masks: list[Any]
    photo_jpeg: bytes | None = None
    full_masks: list[Any] = field(default_factory=list)
    full_rgba: list[Any] = field(default_factory=list)
    front: Any = None
    depth: Any = None
    hides: Any = None
