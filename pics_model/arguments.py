"""What a caller hands to the pipeline, as PIL pictures, arrays or tensors -> examples; wrong values get one clear line.

Legend: H x W is the background's size. Arrays are [H, W], [H, W, 3] or [H, W, 4], tensors [H, W] or [channels, H, W];
both hold uint8, or floats in 0 to 1, or bool for masks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pics_common.errors import UserError
from pics_model.cut_out import Cut
from pics_model.examples import Example, View
from pics_model.pictures import as_mask, as_object, as_photo

Picture: TypeAlias = Image.Image | NDArray[Any] | torch.Tensor
Box: TypeAlias = Sequence[float]
MAX_OBJECTS = 16
NOT_GIVEN: dict[str, Any] = {"masks": None, "boxes": None, "views": (), "texts": ""}


@dataclass(frozen=True, slots=True)
class Request:
    """One picture to make: its background, its objects, and for each a mask or a box (x, y, width, height), other
    views of it, and words."""

    background: Picture
    objects: Sequence[Picture]
    masks: Sequence[Picture | None]
    boxes: Sequence[Box | None]
    views: Sequence[Sequence[Picture | View]]
    texts: Sequence[str]


def requests_of(background: Any, given: Mapping[str, Any]) -> tuple[list[Request], bool]:
    """Splits the pipeline's arguments (objects, masks, boxes, views, texts; None where not given) into pictures; also
    whether a list of backgrounds was given.

    One background goes with one list of objects; a list of backgrounds with as many lists. Raises `UserError` where
    the numbers do not fit.
    """
    many = isinstance(background, list | tuple)
    backgrounds = list(background) if many else [background]
    lists = {name: (value if many else [value]) for name, value in given.items() if value is not None}
    for name, values in lists.items():
        if not isinstance(values, list | tuple) or len(values) != len(backgrounds):
            raise UserError(
                f"{name}: expected a list of lists, one for each of the {len(backgrounds)} backgrounds; "
                f"a single background takes a plain list"
            )
    if "objects" not in lists:
        raise UserError("objects: none given; expected a list of pictures")
    return [_request(i, b, {name: v[i] for name, v in lists.items()}, many) for i, b in enumerate(backgrounds)], many


def _request(index: int, background: Picture, given: dict[str, Any], many: bool) -> Request:
    where = f"[{index}]" if many else ""
    for name, values in given.items():
        if not isinstance(values, list | tuple):
            raise UserError(f"{name}{where} is {type(values).__name__}; expected a list with an entry an object")
    objects = given["objects"]
    if not 1 <= len(objects) <= MAX_OBJECTS:
        raise UserError(f"objects{where}: {len(objects)} given; expected 1 to {MAX_OBJECTS}")
    count = len(objects)
    entries = {name: given.get(name, [empty] * count) for name, empty in NOT_GIVEN.items()}
    for name, values in entries.items():
        if len(values) != count:
            raise UserError(f"{name}{where}: {len(values)} given for {count} objects; expected one each")
    for k in range(count):
        if (entries["masks"][k] is None) == (entries["boxes"][k] is None):
            found = "neither" if entries["boxes"][k] is None else "both"
            raise UserError(f"objects{where}[{k}]: expected either a mask or a box, found {found}")
        if not isinstance(entries["texts"][k], str):
            raise UserError(f"texts{where}[{k}] is {entries['texts'][k]!r}; expected words, or an empty text")
        if not isinstance(entries["views"][k], list | tuple):
            raise UserError(f"views{where}[{k}] is {type(entries['views'][k]).__name__}; expected a list of pictures")
    return Request(background, objects, **entries)


def example_of(request: Request, name: str, cut: Cut | None = None) -> Example:
    """Decodes a request; `cut` cuts out pictures without alpha, see `as_object`.

    Raises `UserError` that begins with the argument that is wrong.
    """
    photo = as_photo(to_pil(request.background, f"background{name}"))
    size = photo.shape[0], photo.shape[1]
    objects, masks = [], []
    for k, (picture, mask, box) in enumerate(zip(request.objects, request.masks, request.boxes, strict=True)):
        objects.append(as_object(to_pil(picture, f"objects{name}[{k}]"), f"objects{name}[{k}]", cut=cut))
        where = f"masks{name}[{k}]"
        if box is not None:
            masks.append(mask_of_box(box, size, f"boxes{name}[{k}]"))
        else:
            assert mask is not None
            masks.append(as_mask(to_pil(mask, where), where, size))
    views = [
        [_view(view, f"views{name}[{k}][{v}]", cut) for v, view in enumerate(some)]
        for k, some in enumerate(request.views)
    ]
    return Example(f"picture{name}", photo, objects, masks, views=views, texts=list(request.texts))


def _view(view: Picture | View, name: str, cut: Cut | None) -> View:
    if isinstance(view, View):
        return view
    return View(as_object(to_pil(view, name), name, cut=cut))


def mask_of_box(box: Box, size: tuple[int, int], name: str) -> NDArray[np.bool_]:
    """[H, W] bool of a box (x, y, width, height) in pixels. Raises `UserError` if it is none, or lies outside."""
    try:
        x, y, width, height = (float(value) for value in box)
    except (TypeError, ValueError):
        raise UserError(f"{name} is {box!r}; expected (x, y, width, height) in pixels") from None
    if not all(map(np.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
        raise UserError(f"{name} is {list(box)}; expected (x, y, width, height) in pixels")
    mask = np.zeros(size, bool)
    mask[max(round(y), 0) : max(round(y + height), 0), max(round(x), 0) : max(round(x + width), 0)] = True
    if not mask.any():
        raise UserError(f"{name}: box {list(box)} covers no pixel of the {size[1]} x {size[0]} background")
    return mask


def to_pil(picture: Picture, name: str) -> Image.Image:
    """A picture of any accepted kind, upright. Raises `UserError` that begins with `name` for any other."""
    if isinstance(picture, Image.Image):
        return ImageOps.exif_transpose(picture)
    if isinstance(picture, torch.Tensor):
        pixels = picture.detach().cpu().numpy() if picture.dtype != torch.bfloat16 else picture.float().cpu().numpy()
        pixels = np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 else pixels
    elif isinstance(picture, np.ndarray):
        pixels = picture
    else:
        raise UserError(f"{name} is {type(picture).__name__}; expected a PIL picture, an array or a tensor")
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in (3, 4)) or not pixels.size:
        raise UserError(
            f"{name} has shape {list(picture.shape)}; expected arrays [H, W(, 3 or 4)], tensors [(3 or 4,) H, W]"
        )
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif np.issubdtype(pixels.dtype, np.floating):
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
            raise UserError(f"{name} holds {pixels.min():g} to {pixels.max():g}; expected floats in 0 to 1, or uint8")
        pixels = np.rint(pixels * 255).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        raise UserError(f"{name} is of {pixels.dtype}; expected uint8, or floats in 0 to 1")
    return Image.fromarray(np.ascontiguousarray(pixels))
