"""A sample as a picture: the photo with each object's silhouette and box in its own colour, the cut-outs beside it."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from pics_common.page import Html, data_uri, encode_jpeg, image, number, share, tag
from pics_data.measure import bounding_box
from pics_data.photofile import BROKEN, MAX_PIXELS, what_is_wrong

# The objects' colours over a photo; page.css has their like for text (--object-1 ...), legible on paper.
COLOURS = ((0, 146, 236), (255, 128, 20), (0, 200, 130), (232, 92, 180))
TINT = 0.32  # opacity of a silhouette's colour
CUTOUT_PX = 176
DENSITY = 1.4  # pixels of a picture for each CSS pixel of its place: crisp enough, and light


@dataclass(frozen=True, slots=True)
class View:
    """A sample decoded for looking at: `rgb` [H, W, 3] uint8; `masks` and `amodal` [H, W] bool; cut-outs as stored."""

    key: str
    rgb: Any
    masks: Sequence[Any]
    amodal: Sequence[Any]
    cutouts: Sequence[Any]
    full_cutouts: Sequence[Any]
    meta: Mapping[str, Any]  # empty where the sample has none
    others: Sequence[str]  # members beyond those of the format's first rows


class BrokenSampleError(Exception):
    """A sample that cannot be shown; says which member and why."""


def decode_view(key: str, members: Mapping[str, bytes]) -> View:
    """Decodes a sample's members (extension -> bytes). Raises `BrokenSampleError`."""
    count = 0
    while f"mask{count}.png" in members:
        count += 1
    if not count:
        raise BrokenSampleError(f"no mask0.png among {', '.join(sorted(members))}")
    rgb = _decode(members, "bg.jpg", "RGB")
    masks = [_decode_mask(members, f"mask{i}.png", rgb.shape[:2]) for i in range(count)]
    amodal = [
        _decode_mask(members, f"amodal{i}.png", rgb.shape[:2]) for i in range(count) if f"amodal{i}.png" in members
    ]
    cutouts = [_decode(members, f"obj{i}.png", "RGBA") for i in range(count)]
    full = [_decode(members, f"full{i}.png", "RGBA") for i in range(count) if f"full{i}.png" in members]
    shown = {"bg.jpg", "front.png", "meta.json"}
    shown |= {f"{kind}{i}.png" for kind in ("mask", "obj", "full", "amodal") for i in range(count)}
    meta = json.loads(members["meta.json"]) if "meta.json" in members else {}
    return View(key, rgb, masks, amodal, cutouts, full, meta, sorted(members.keys() - shown))


def _decode(members: Mapping[str, bytes], name: str, mode: str) -> Any:
    if name not in members:
        raise BrokenSampleError(f"{name} is missing")
    try:
        with Image.open(io.BytesIO(members[name])) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise BrokenSampleError(f"{name} has {picture.width} x {picture.height} pixels, limit {MAX_PIXELS}")
            return np.asarray(picture.convert(mode))
    except BROKEN as error:
        raise BrokenSampleError(f"{name} cannot be decoded ({what_is_wrong(error)})") from None


def _decode_mask(members: Mapping[str, bytes], name: str, shape: tuple[int, int]) -> Any:
    mask = _decode(members, name, "L") > 127
    if mask.shape != shape:
        sizes = f"{mask.shape[1]} x {mask.shape[0]} pixels, bg.jpg {shape[1]} x {shape[0]}"
        raise BrokenSampleError(f"{name} has {sizes}")
    return mask


def sample_card(view: View, width_px: int, height_px: int, headline: str = "", *, small: bool = False) -> Html:
    """A sample that fits `width_px` x `height_px` CSS pixels; `headline` says why it is shown; `small` says less."""
    scale = min(width_px / view.rgb.shape[1], height_px / view.rgb.shape[0])
    shown = (max(1, round(view.rgb.shape[1] * scale)), max(1, round(view.rgb.shape[0] * scale)))
    pixels = tuple(min(round(side * DENSITY), full) for side, full in zip(shown, view.rgb.shape[1::-1], strict=True))
    photo = cv2.resize(view.rgb, pixels, interpolation=cv2.INTER_AREA)
    names = _names(view)
    front = view.meta.get("relation", {}).get("front")
    alt = f"photo of sample {view.key}: {' and '.join(names)}"
    stage = tag(
        "div",
        image(encode_jpeg(photo, 80), alt, size=pixels),
        tag("img", src=data_uri(draw_overlay(view, pixels)), alt="", class_="overlay"),
        *(_label(i, mask, i == front) for i, mask in enumerate(view.masks)),
        class_="stage",
        style=f"width:min(100%, {shown[0]}px)",
    )
    title = tag("div", headline, class_="headline") if headline else ""
    if small:
        return tag("figure", title, stage, tag("figcaption", tag("code", view.key)), class_="sample small")
    cutouts = tag("div", *_cutouts(view, names), class_="cutouts")
    caption = tag("figcaption", tag("code", view.key), *_details(view, names))
    return tag("figure", title, tag("div", stage, cutouts, class_="pictures"), caption, class_="sample")


def broken_card(key: str, why: str) -> Html:
    """The place of a sample that cannot be shown."""
    return tag("figure", tag("p", "✗ cannot be shown: ", why, class_="bad-text"),
               tag("figcaption", tag("code", key)), class_="sample broken")  # fmt: skip


def draw_overlay(view: View, size: tuple[int, int]) -> Any:
    """[height, width, 4] uint8: silhouettes tinted and outlined, boxes thin, outlines of hidden parts thinner."""
    width, height = size
    overlay = np.zeros((height, width, 4), np.uint8)
    for i, mask in enumerate(view.masks):
        colour = (*COLOURS[i % len(COLOURS)], 255)
        small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
        overlay[small] = (*colour[:3], round(255 * TINT))
    for i, mask in enumerate(view.masks):
        colour = (*COLOURS[i % len(COLOURS)], 255)
        if i < len(view.amodal):
            _outline(overlay, view.amodal[i], size, (*colour[:3], 170), 1)
        if not mask.any():
            continue
        _outline(overlay, mask, size, colour, 2)
        x, y, w, h = (
            np.array(bounding_box(mask)) * np.tile([width / mask.shape[1], height / mask.shape[0]], 2)
        ).round()
        cv2.rectangle(overlay, (int(x), int(y)), (int(x + w) - 1, int(y + h) - 1), colour, 1)
    return overlay


def _outline(overlay: Any, mask: Any, size: tuple[int, int], colour: tuple[int, ...], thickness: int) -> None:
    small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
    contours, _ = cv2.findContours(small.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(overlay, contours, -1, colour, thickness)


def _label(index: int, mask: Any, front: bool) -> Html:
    """The object's number at its box's corner; whoever is in front says so."""
    x, y, _, _ = bounding_box(mask) if mask.any() else (0, 0, 0, 0)
    place = f"left:{100 * x / mask.shape[1]:.1f}%;top:{100 * y / mask.shape[0]:.1f}%"
    return tag(
        "span", f"{index + 1}{' in front' if front else ''}", class_=f"label overlay o{index % 4 + 1}", style=place
    )


def _names(view: View) -> list[str]:
    objects = view.meta.get("objects", [])
    return [objects[i]["category"] if i < len(objects) else f"object {i + 1}" for i in range(len(view.masks))]


def _cutouts(view: View, names: list[str]) -> list[Html]:
    parts = []
    for i, name in enumerate(names):
        pictures = [image(_shrink(view.cutouts[i]), f"cut-out of {name}", class_="cutout")]
        if i < len(view.full_cutouts):
            pictures.append(image(_shrink(view.full_cutouts[i]), f"{name} as a whole", class_="cutout"))
        parts.append(tag("div", *pictures, class_=f"pair o{i % 4 + 1}"))
    return parts


def _shrink(rgba: Any) -> Any:
    """A cut-out of at most `CUTOUT_PX` a side; colours are averaged by their opacity, so that edges stay clean."""
    side = rgba.shape[0]
    if side <= CUTOUT_PX:
        return rgba
    weighted = rgba.astype(np.float32)
    weighted[..., :3] *= weighted[..., 3:] / 255
    small = cv2.resize(weighted, (CUTOUT_PX, round(CUTOUT_PX * side / rgba.shape[1])), interpolation=cv2.INTER_AREA)
    small[..., :3] /= np.maximum(small[..., 3:] / 255, 1e-3)
    return small.round().clip(0, 255).astype(np.uint8)


def _details(view: View, names: list[str]) -> list[Html]:
    """What the metadata says about objects and relation, a line each."""
    height, width = view.rgb.shape[:2]
    meta = view.meta
    lines = []
    for i, (name, mask) in enumerate(zip(names, view.masks, strict=True)):
        facts = [f"{share(float(mask.mean()), 1)} of the photo"]
        if meta and i < len(meta["objects"]):
            item = meta["objects"][i]
            facts += [_plural(item[kind], kind) for kind in ("parts", "holes") if item[kind] > (kind == "parts")]
            facts += [f"{share(item['border'], 1)} of its outline on the border"] if item["border"] > 0 else []
            facts += [f"{share(item['hidden'], 1)} hidden"] if item.get("hidden", 0) > 0 else []
        lines.append(tag("li", tag("b", f"{i + 1} {name}", class_=f"o{i % 4 + 1}"), " ", ", ".join(facts)))
    if not meta:
        return [tag("span", f"{width} x {height} px, no metadata"), tag("ul", *lines)]
    relation, origin = meta["relation"], f"{meta['source']}, {meta['split']}, {width} x {height} px"
    if meta["photo"]["license"]:
        origin += f", licence {meta['photo']['license']}"
    label = f"built as “{relation['label']}”" if relation.get("label") else ""
    words = [f"box IoU {relation['box_iou']:.2f}", _meeting(view, relation), label]
    more = tag("li", f"also in the tar: {', '.join(view.others)}", class_="muted") if view.others else ""
    related = tag("li", ", ".join(word for word in words if word))
    return [tag("span", origin), tag("ul", *lines, related, more)]


def _plural(count: int, plural: str) -> str:
    return f"{count} {plural if count != 1 else plural[:-1]}"


def _meeting(view: View, relation: Mapping[str, Any]) -> str:
    """How the first two silhouettes meet, in words."""
    first, second = view.masks[0], view.masks[-1] if len(view.masks) == 1 else view.masks[1]
    overlap = int(np.count_nonzero(first & second))
    smaller = min(int(np.count_nonzero(first)), int(np.count_nonzero(second)))
    if len(view.masks) > 1 and overlap:
        return f"silhouettes overlap by {share(overlap, smaller)} of the smaller"
    if relation["contact_px"]:
        return f"touching along {relation['contact_px']:,} px"
    return f"{number(relation['gap_px'])} px apart"


STYLE = """
.toggle { display: inline-flex; gap: 8px; align-items: center; font-size: 15px; }
.samples { columns: 2 420px; column-gap: 20px; margin-top: 16px; }
.samples .sample { margin-bottom: 20px; }
.smalls {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); gap: 16px;
  margin-top: 12px;
}
.sample {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px;
  break-inside: avoid;
}
.sample .pictures { display: flex; gap: 14px; align-items: flex-start; }
.sample .stage { position: relative; flex: 0 1 auto; overflow: hidden; border-radius: 4px; }
.stage img { width: 100%; }
.stage .overlay { position: absolute; transition: opacity .15s; }
.stage img.overlay { inset: 0; height: 100%; }
.stage:hover .overlay, body:has(#overlays:not(:checked)) .overlay { opacity: 0; }
.label {
  font-size: 12px; line-height: 17px; font-weight: 600; padding: 0 5px; color: #10151a;
  border-radius: 0 0 4px 0;
}
.label.o1 { background: rgb(80 180 250); } .label.o2 { background: rgb(255 150 60); }
.label.o3 { background: rgb(50 215 150); } .label.o4 { background: rgb(245 140 205); }
.cutouts { display: grid; gap: 10px; flex: none; }
.cutouts .pair { display: flex; gap: 6px; border-left: 3px solid; padding-left: 6px; }
.cutouts img { width: 88px; border-radius: 3px; }
.cutouts .pair img:nth-child(2) { width: 58px; align-self: flex-end; }
.sample figcaption { margin-top: 10px; display: grid; gap: 1px; overflow-wrap: anywhere; }
@media (max-width: 559px) {
  .sample .pictures { flex-direction: column; }
  .cutouts { display: flex; flex-wrap: wrap; }
}
.sample figcaption code { color: var(--ink); }
.sample ul { list-style: none; margin: 2px 0 0; padding: 0; }
.sample figcaption b { font-weight: 600; }
.sample .o1 { color: var(--object-1); } .sample .o2 { color: var(--object-2); }
.sample .o3 { color: var(--object-3); } .sample .o4 { color: var(--object-4); }
.sample .label { color: #10151a; }
.headline { font-size: 14.5px; font-weight: 600; margin-bottom: 8px; }
"""
