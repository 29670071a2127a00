"""Example -> model inputs -> batch. The same for training and inference; `paste_back` is the way back.

Legend: R is `resolution`, S is `object_resolution`, K objects, V views of one, B pictures, H x W the photo. All is
framed, cropped and resized in uint8 on the CPU; what costs memory (floats, the hint) is made from it on the device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pics_common.errors import UserError
from pics_model.augment import Look, change, change_view
from pics_model.encoded import stack
from pics_model.encoded_file import Encoded
from pics_model.examples import Example, View
from pics_model.framing import (
    Box,
    Frame,
    cells,
    cut,
    dilate,
    enlarge,
    frame_pair,
    frame_photo,
    frame_picture,
    tight_box,
    to_frame,
)
from pics_model.object_picture import EMPTY, PlacedCutout, crop


@dataclass(frozen=True, slots=True)
class FramingSettings:
    """How a photo is framed and where objects may appear; belongs to a model and is saved with it."""

    resolution: int = 64
    """Side R of the picture that the model sees and makes, in pixels."""
    frame: Literal["photo", "pair"] = "pair"
    """`photo` is the whole photo padded to a square (published); `pair` the square around the objects."""
    context: float = 1.5
    """Side of a `pair` frame, relative to the longer side of the objects' boxes together."""
    region: Literal["box", "silhouette"] = "box"
    """What an object's region is made of: its enlarged box (published), or its silhouette, dilated as much."""
    enlarge_min: float = 1.1
    enlarge_max: float = 1.2
    """In training a region's factor is drawn between these; in inference it is their mean."""
    object_resolution: int = 64
    """Side S of an object picture."""
    margin_min: float = 1.1
    margin_max: float = 1.4
    """An object picture shows the object's box enlarged by a factor between these; in inference by their mean."""
    snap: int = 0
    """0, or a patch's side in model pixels: then object pictures are shown at the frame's own scale with their patches
    on its grid of patches, and the margins do not matter."""
    flip: float = 0.0
    """Chance that a training sample is mirrored as a whole."""
    views: int = 0
    """Most other views of an object that the model is given; 0 where it takes none, and then none is read."""

    def __post_init__(self) -> None:
        for name, known in (("frame", ("photo", "pair")), ("region", ("box", "silhouette"))):
            if getattr(self, name) not in known:
                raise UserError(f"framing: {name} is {getattr(self, name)!r}; expected {' or '.join(known)}")
        if not 1 <= self.enlarge_min <= self.enlarge_max <= self.context:
            raise UserError(
                f"framing: expected 1 <= enlarge_min <= enlarge_max <= context, "
                f"found {self.enlarge_min}, {self.enlarge_max}, {self.context}"
            )
        if not 1 <= self.margin_min <= self.margin_max:
            raise UserError(
                f"framing: expected 1 <= margin_min <= margin_max, found {self.margin_min}, {self.margin_max}"
            )
        if self.snap and (self.object_resolution % self.snap or self.resolution % self.snap):
            raise UserError(
                f"framing: expected snap to divide resolution and object_resolution, "
                f"found {self.snap}, {self.resolution}, {self.object_resolution}"
            )


@dataclass(slots=True)
class Inputs:
    """What a model needs of one example, small and in numpy.

    `target` [R, R, 3] uint8 is the frame of the photo, 0 in the padding. `objects` [K, S, S, 4] uint8 are RGBA on
    white. `boxes` [K, 4] are the objects' enlarged boxes, cut to the photo, as (x0, y0, x1, y1) in the frame's 0 to 1.
    `object_boxes` [K, 4] are, in the same coordinates, the squares that the object pictures show; parts of them may
    lie outside of frame and photo. `regions` [K, R, R] bool hold every pixel that a region touches, `silhouettes`
    [K, R, R] those that the visible mask fills by half, None where nobody asked for them; `valid` [R, R] is False in
    the padding. `pixel_boxes` [K, 4] are `boxes` in the photo's pixels. `seed` is the sample's own randomness for noise
    and timestep. `views[k]` [V_k, S, S, 4] uint8 and `cameras[k]` [V_k, 3] float32 (azimuth, elevation, distance, see
    `View`) are there where the settings ask for views; `texts` are the K words, or none. `skipped` says what sample
    could not be read, in whose place this one stands.
    """

    key: str
    target: NDArray[np.uint8]
    objects: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    object_boxes: NDArray[np.float32]
    regions: NDArray[np.bool_]
    silhouettes: NDArray[np.bool_] | None
    valid: NDArray[np.bool_]
    frame: Frame
    photo_size: tuple[int, int]
    pixel_boxes: NDArray[np.int64]
    region_kind: Literal["box", "silhouette"] = "box"
    seed: int = 0
    views: list[NDArray[np.uint8]] = field(default_factory=list)
    cameras: list[NDArray[np.float32]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    encoded: Encoded | None = None
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Lean:
    """What an example for training goes without. `boxes` [K], of the places in the photo, stand for masks that were not
    read, None where they were; the photo was reduced to means of `reduction` x `reduction` pixels, see `framing`."""

    boxes: list[Box] | None = None
    reduction: int = 1


def frame_of(settings: FramingSettings, boxes: Sequence[Box], height: int, width: int) -> Frame:
    """The frame of a photo whose objects' places have these tight boxes."""
    if settings.frame == "photo":
        return frame_photo(height, width)
    return frame_pair(boxes, height, width, settings.context)


def compose(
    example: Example,
    settings: FramingSettings,
    rng: np.random.Generator | None,
    seed: int = 0,
    looks: Sequence[Look] = (),
    lean: Lean | None = None,
) -> Inputs:
    """Frames an example for a model. With `rng` sizes are drawn as in training; without all is deterministic.

    The same draws are made for every example of K objects, so that one setting does not shift another's. `looks`, one
    an object or none at all, are what training changes in the objects' pictures. `lean` says what was left out of the
    example because training does not need it; there are no `silhouettes` then.
    """
    reduced = lean.reduction if lean else 1
    height, width = example.photo.shape[0] * reduced, example.photo.shape[1] * reduced
    places = example.whole_masks or example.masks
    tight = lean.boxes if lean and lean.boxes is not None else [tight_box(mask) for mask in places]
    frame = frame_of(settings, tight, height, width)
    num = len(tight)
    draw = np.full((num, 2), 0.5) if rng is None else rng.random((num, 2))
    factors = settings.enlarge_min + draw[:, 0] * (settings.enlarge_max - settings.enlarge_min)
    margins = settings.margin_min + draw[:, 1] * (settings.margin_max - settings.margin_min)
    mirrored = rng is not None and rng.random() < settings.flip

    size = settings.resolution
    target, touched = frame_picture(example.photo, frame.reduced(reduced), size)
    valid = np.zeros((size, size), bool)
    valid[touched] = True
    pixel_boxes = [enlarge(box, factor, height, width) for box, factor in zip(tight, factors, strict=True)]
    if settings.region == "box":
        regions = np.zeros((num, size, size), bool)
        for region, box in zip(regions, pixel_boxes, strict=True):
            region[cells(box, frame, size)] = True
    else:
        grown = [dilate(mask, box, factor) for mask, box, factor in zip(places, tight, factors, strict=True)]
        regions = np.stack([_touched(mask, box, frame, size) & valid for mask, box in grown])
    squares = example.squares or [None] * num
    cutouts = [PlacedCutout(*each) for each in zip(example.objects, tight, squares, strict=True)]
    views = [views[: settings.views] for views in example.views] or [[] for _ in tight]
    if looks:
        cutouts = [change(cutout, look) for cutout, look in zip(cutouts, looks, strict=True)]
        views = [[change_view(view, look) for view in some] for some, look in zip(views, looks, strict=True)]
    shown_size = settings.object_resolution
    if settings.snap:
        pictures = [cutout.snapped(frame, size, shown_size, settings.snap) for cutout in cutouts]
    else:
        pictures = [cutout.cropped(margin, shown_size) for cutout, margin in zip(cutouts, margins, strict=True)]
    inputs = Inputs(
        key=example.key,
        target=target,
        objects=np.stack([picture for picture, _ in pictures]),
        boxes=np.array([to_frame(box, frame) for box in pixel_boxes], np.float32),
        object_boxes=np.array(
            [to_frame((x, y, x + side, y + side), frame) for _, (x, y, side) in pictures], np.float32
        ),
        regions=regions,
        silhouettes=None if lean else np.stack([_filled(mask, frame, size) for mask in example.masks]),
        valid=valid,
        frame=frame,
        photo_size=(height, width),
        pixel_boxes=np.array(pixel_boxes, np.int64),
        region_kind=settings.region,
        seed=seed,
        texts=list(example.texts),
    )
    if settings.views:
        inputs.views = [_stacked(some, margin, shown_size) for some, margin in zip(views, margins, strict=True)]
        inputs.cameras = [
            np.array([(v.azimuth, v.elevation, v.distance) for v in some], np.float32).reshape(-1, 3) for some in views
        ]
    return _mirror(inputs) if mirrored else inputs


def _stacked(views: Sequence[View], margin: float, size: int) -> NDArray[np.uint8]:
    """Views cropped as object pictures are, [V, S, S, 4]."""
    pictures = [crop(view.picture, margin, size) for view in views]
    return np.stack(pictures) if pictures else np.empty((0, size, size, 4), np.uint8)


def _touched(mask: NDArray[np.bool_], box: Box, frame: Frame, size: int) -> NDArray[np.bool_]:
    """Which pixels of the frame's picture the mask, standing at `box` of the photo, touches at all."""
    full = np.zeros((frame.side, frame.side), np.float32)
    x, y = box[0] - frame.x, box[1] - frame.y
    full[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    how = cv2.INTER_AREA if frame.side > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(full, (size, size), interpolation=how) > 1e-6)


def _filled(mask: NDArray[np.bool_], frame: Frame, size: int) -> NDArray[np.bool_]:
    inner = cut(mask.view(np.uint8) * np.uint8(255), frame, (0,))
    how = cv2.INTER_AREA if frame.side > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(inner, (size, size), interpolation=how) >= 128)


def _mirror(inputs: Inputs) -> Inputs:
    """Left becomes right in everything that the model sees; for training only, as the photo stays as it was."""
    for name in ("target", "regions", "silhouettes", "valid", "objects"):
        values = getattr(inputs, name)
        if values is None:
            continue
        # The horizontal axis is the last of masks and the last but one of pictures.
        axis = values.ndim - (1 if values.dtype == bool else 2)
        setattr(inputs, name, np.ascontiguousarray(np.flip(values, axis)))
    for name in ("boxes", "object_boxes"):
        values = getattr(inputs, name).copy()
        values[:, [0, 2]] = 1 - values[:, [2, 0]]
        setattr(inputs, name, values)
    inputs.views = [np.ascontiguousarray(views[:, :, ::-1]) for views in inputs.views]
    # What was to the right of the object's own camera is to its left.
    inputs.cameras = [cameras * np.array([-1, 1, 1], np.float32) for cameras in inputs.cameras]
    return inputs


@dataclass(slots=True)
class Batch:
    """B inputs as tensors, K the most objects of any: a missing object has no region, and an empty picture.

    `target` [B, R, R, 3] and `objects` [B, K, S, S, 4] uint8; `boxes` and `object_boxes` [B, K, 4] float32; `regions`
    and `silhouettes` [B, K, R, R], `valid` [B, R, R] bool; `num_objects` and `seeds` [B] int64. `silhouettes` may be
    None. See `Inputs`.

    `views` [B, K, V, S, S, 4] uint8, `view_mask` [B, K, V] bool and `cameras` [B, K, V, 3] float32, V the most views
    of any object, or None where there is no view at all. `texts` are K strings a picture, "" where nothing is said.
    `skipped` says in a line each what other samples could not be read, in whose places some of these stand.
    `latent`, `features` and `view_features`, float16, stand for pictures that were encoded before: see `encoded.stack`.
    """

    keys: list[str]
    target: Tensor
    objects: Tensor
    boxes: Tensor
    object_boxes: Tensor
    regions: Tensor
    silhouettes: Tensor | None
    valid: Tensor
    num_objects: Tensor
    seeds: Tensor
    views: Tensor | None = None
    view_mask: Tensor | None = None
    cameras: Tensor | None = None
    texts: list[list[str]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    latent: Tensor | None = None
    features: Tensor | None = None
    view_features: Tensor | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on another device; copies run along with the host from pinned memory."""
        return self._each(lambda values: values.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory; a DataLoader with `pin_memory` calls this."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {name: change(v) for name, v in values.items() if isinstance(v, Tensor)}
        return Batch(**values)


def in_memory(shape: Sequence[int], dtype: np.dtype[Any]) -> Tensor:
    """A new tensor, its values not set."""
    return torch.from_numpy(np.empty(tuple(shape), dtype))


def collate(inputs: Sequence[Inputs], new: Callable[[Sequence[int], np.dtype[Any]], Tensor] = in_memory) -> Batch:
    """Stacks inputs of one resolution; those with fewer objects are padded. `new` makes the tensors."""
    most = max(len(one.objects) for one in inputs)

    def padded(name: str, empty: Sequence[int] = (0,)) -> Tensor:
        first: NDArray[np.generic] = getattr(inputs[0], name)
        out = new((len(inputs), most, *first.shape[1:]), first.dtype)
        for values, one in zip(out.numpy(), inputs, strict=True):
            num = len(one.objects)
            values[:num] = getattr(one, name)
            values[num:] = np.array(empty, first.dtype)
        return out

    def stacked(name: str) -> Tensor:
        first: NDArray[np.generic] = getattr(inputs[0], name)
        out = new((len(inputs), *first.shape), first.dtype)
        np.stack([getattr(one, name) for one in inputs], out=out.numpy())
        return out

    views, view_mask, cameras = _padded_views(inputs, most, new)
    return Batch(
        keys=[one.key for one in inputs],
        target=stacked("target"),
        objects=padded("objects", EMPTY),
        boxes=padded("boxes", (0, 0, 1, 1)),
        object_boxes=padded("object_boxes", (0, 0, 1, 1)),
        regions=padded("regions"),
        silhouettes=None if inputs[0].silhouettes is None else padded("silhouettes"),
        valid=stacked("valid"),
        num_objects=torch.tensor([len(one.objects) for one in inputs]),
        seeds=torch.tensor([one.seed for one in inputs], dtype=torch.int64),
        views=views,
        view_mask=view_mask,
        cameras=cameras,
        texts=[one.texts + [""] * (most - len(one.texts)) for one in inputs],
        skipped=[one.skipped for one in inputs if one.skipped],
        **stack([one.encoded for one in inputs], most, new),
    )


def _padded_views(
    inputs: Sequence[Inputs], most: int, new: Callable[[Sequence[int], np.dtype[Any]], Tensor]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """`views`, `view_mask` and `cameras` of a batch whose pictures have at most `most` objects."""
    most_views = max((len(views) for one in inputs for views in one.views), default=0)
    if not most_views:
        return None, None, None
    size = inputs[0].objects.shape[1]
    views = new((len(inputs), most, most_views, size, size, 4), np.dtype(np.uint8))
    views.zero_()
    cameras = np.full((len(inputs), most, most_views, 3), np.nan, np.float32)
    mask = np.zeros((len(inputs), most, most_views), bool)
    for i, one in enumerate(inputs):
        for k, pictures in enumerate(one.views):
            views[i, k, : len(pictures)] = torch.from_numpy(pictures)
            cameras[i, k, : len(pictures)] = one.cameras[k]
            mask[i, k, : len(pictures)] = True
    return views, torch.from_numpy(mask), torch.from_numpy(cameras)


def object_pixels(objects: Tensor) -> Tensor:
    """RGBA [..., S, S, 4] uint8 -> [..., 4, S, S] float32: RGB in [-1, 1], alpha in [0, 1]."""
    scaled = objects.movedim(-1, -3).float() / 255
    return torch.cat([scaled[..., :3, :, :] * 2 - 1, scaled[..., 3:, :, :]], -3)


def to_signed(pixels: Tensor) -> Tensor:
    """[B, R, R, 3] uint8 -> [B, 3, R, R] float32 in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def hint(target: Tensor, regions: Tensor, valid: Tensor) -> Tensor:
    """What the ControlNet sees, [B, 4, R, R] float32: the background with the union of `regions` [B, K, R, R] black,
    in [-1, 1]; then a mask channel: 1 in the union, 0 in the background, -1 where not `valid` [B, R, R]."""
    union = regions.any(1)
    background = to_signed(target.masked_fill(union[..., None], 0))
    where = torch.where(union, 1.0, valid.float() - 1)
    return torch.cat([background, where[:, None]], 1)
