"""A sample as a picture: the photo with each object's silhouette and box in its own colour, the cut-outs beside it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pics_common.page import Html, data_uri, encode_jpeg, image, number, share, tag
from pics_data.inspect_strips import STRIP_STYLE, shrink_cutout, strips
from pics_data.measure import bounding_box
from pics_data.members import decode, decode_mask
from pics_data.tar_read import DamageError

# The objects' colours over a photo; the style below has their like for text, legible on paper.
COLOURS = (
    (0, 146, 236), (255, 128, 20), (0, 200, 130), (232, 92, 180), (250, 215, 40), (150, 110, 255), (80, 225, 235),
    (235, 70, 70),
)  # fmt: skip
TINT = 0.32  # opacity of a silhouette's colour
STRIPE = 5  # pixels of a picture between the stripes where silhouettes overlap
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
    views: Sequence[Sequence[Any]]  # of each object, as stored
    turned: Sequence[Sequence[Any]]
    depth: Any  # [H, W] uint16, or None
    meta: Mapping[str, Any]  # empty where the sample has none
    others: Sequence[str]  # members beyond those of the format's first rows


def decode_view(key: str, members: Mapping[str, bytes]) -> View:
    """Decodes a sample's members (extension -> bytes). Raises `DamageError` where it cannot be shown."""
    count = 0
    while f"mask{count}.png" in members:
        count += 1
    if not count:
        raise DamageError(f"no mask0.png among {', '.join(sorted(members))}")
    rgb = decode("bg.jpg", _member(members, "bg.jpg"))
    places = range(count)
    amodal = [_mask(members, f"amodal{i}.png", rgb.shape[:2]) for i in places if f"amodal{i}.png" in members]
    full = [_cutout(members, f"full{i}.png") for i in places if f"full{i}.png" in members]
    views, turned = ([_numbered(members, f"obj{i}_{kind}") for i in places] for kind in ("view", "rot"))
    shown = {"bg.jpg", "front.png", "depth.png", "meta.json", *(name for of in (*views, *turned) for name in of)}
    shown |= {f"{kind}{i}.png" for kind in ("mask", "obj", "full", "amodal") for i in places}
    try:
        meta = json.loads(members["meta.json"]) if "meta.json" in members else {}
    except ValueError as error:
        raise DamageError(f"meta.json: not JSON ({error})") from None
    return View(
        key,
        rgb,
        [_mask(members, f"mask{i}.png", rgb.shape[:2]) for i in places],
        amodal,
        [_cutout(members, f"obj{i}.png") for i in places],
        full,
        [[_cutout(members, name) for name in names] for names in views],
        [[_cutout(members, name) for name in names] for names in turned],
        decode("depth.png", members["depth.png"]) if "depth.png" in members else None,
        meta,
        sorted(members.keys() - shown),
    )


def _numbered(members: Mapping[str, bytes], start: str) -> list[str]:
    """The members `<start>1.png`, `<start>2.png`, ... as far as they go."""
    names: list[str] = []
    while (name := f"{start}{len(names) + 1}.png") in members:
        names.append(name)
    return names


def _member(members: Mapping[str, bytes], name: str) -> bytes:
    if name not in members:
        raise DamageError(f"{name}: missing")
    return members[name]


def _cutout(members: Mapping[str, bytes], name: str) -> Any:
    pixels = decode(name, _member(members, name))
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise DamageError(f"{name}: expected RGB or RGBA")
    return pixels if pixels.shape[2] == 4 else cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA)


def _mask(members: Mapping[str, bytes], name: str, shape: tuple[int, int]) -> Any:
    mask = decode_mask(name, _member(members, name))
    if mask.shape != shape:
        raise DamageError(f"{name}: {mask.shape[1]} x {mask.shape[0]}; the photo is {shape[1]} x {shape[0]}")
    return mask


def sample_card(view: View, width_px: int, height_px: int, headline: str = "", *, small: bool = False) -> Html:
    """A sample that fits `width_px` x `height_px` CSS pixels; `headline` says why it is shown; `small` says less."""
    scale = min(width_px / view.rgb.shape[1], height_px / view.rgb.shape[0])
    shown = (max(1, round(view.rgb.shape[1] * scale)), max(1, round(view.rgb.shape[0] * scale)))
    pixels = tuple(min(round(side * DENSITY), full) for side, full in zip(shown, view.rgb.shape[1::-1], strict=True))
    photo = cv2.resize(view.rgb, pixels, interpolation=cv2.INTER_AREA)
    names = _names(view)
    front = _in_front(view)
    alt = f"photo of sample {view.key}: {' and '.join(names)}"
    stage = tag(
        "div",
        image(encode_jpeg(photo, 80), alt, size=pixels),
        tag("img", src=data_uri(draw_overlay(view, pixels)), alt="", class_="overlay"),
        *(_label(i, mask, i in front) for i, mask in enumerate(view.masks)),
        class_="stage",
        style=f"width:min(100%, {shown[0]}px)",
    )
    title = tag("div", headline, class_="headline") if headline else ""
    if small:
        named = [tag("b", f"{i + 1} {name} ", class_=f"o{i % len(COLOURS) + 1}") for i, name in enumerate(names)]
        return tag("figure", title, stage, tag("figcaption", tag("span", *named), tag("code", view.key)),
                   class_="sample small")  # fmt: skip
    cutouts = tag("div", *_cutouts(view, names), class_="cutouts")
    caption = tag("figcaption", tag("code", view.key), *_details(view, names))
    pictures = tag("div", stage, cutouts, class_="pictures")
    return tag(
        "figure", title, pictures, *strips(view.views, view.turned, view.depth, view.meta), caption, class_="sample"
    )


def broken_card(key: str, why: str) -> Html:
    """The place of a sample that cannot be shown."""
    return tag("figure", tag("p", "✗ cannot be shown: ", why, class_="bad-text"),
               tag("figcaption", tag("code", key)), class_="sample broken")  # fmt: skip


def _in_front(view: View) -> set[int]:
    """Objects that are in front of another, and behind none."""
    known = [r for r in view.meta.get("relations", []) if r["front"] is not None]
    fronts = {r["front"] for r in known}
    return fronts - {i for r in known for i in r["objects"] if i != r["front"]}


def draw_overlay(view: View, size: tuple[int, int]) -> Any:
    """[height, width, 4] uint8: silhouettes tinted and outlined, striped in both colours where two overlap; boxes thin,
    outlines of hidden parts thinner."""
    width, height = size
    overlay = np.zeros((height, width, 4), np.uint8)
    covered = np.zeros((height, width), bool)
    stripes = np.indices((height, width)).sum(axis=0) // STRIPE % 2 == 0
    for i, mask in enumerate(view.masks):
        colour = COLOURS[i % len(COLOURS)]
        small = _small(mask, size)
        overlay[small & ~covered] = (*colour, round(255 * TINT))
        overlay[small & covered, 3] = round(255 * 2 * TINT)
        overlay[small & covered & stripes] = (*colour, round(255 * 2 * TINT))
        covered |= small
    for i, mask in enumerate(view.masks):
        line = (*COLOURS[i % len(COLOURS)], 255)
        if i < len(view.amodal):
            _outline(overlay, view.amodal[i], size, (*line[:3], 170), 1)
        if not mask.any():
            continue
        _outline(overlay, mask, size, line, 2)
        x, y, w, h = (
            np.array(bounding_box(mask)) * np.tile([width / mask.shape[1], height / mask.shape[0]], 2)
        ).round()
        cv2.rectangle(overlay, (int(x), int(y)), (int(x + w) - 1, int(y + h) - 1), line, 1)
    return overlay


def _outline(overlay: Any, mask: Any, size: tuple[int, int], colour: tuple[int, ...], thickness: int) -> None:
    contours, _ = cv2.findContours(_small(mask, size).view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(overlay, contours, -1, colour, thickness)


def _small(mask: Any, size: tuple[int, int]) -> Any:
    return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5


def _label(index: int, mask: Any, front: bool) -> Html:
    """The object's number at its box's corner; whoever is in front says so."""
    x, y, _, _ = bounding_box(mask) if mask.any() else (0, 0, 0, 0)
    place = f"left:{100 * x / mask.shape[1]:.1f}%;top:{100 * y / mask.shape[0]:.1f}%"
    return tag(
        "span",
        f"{index + 1}{' in front' if front else ''}",
        class_=f"label overlay o{index % len(COLOURS) + 1}",
        style=place,
    )


def _names(view: View) -> list[str]:
    objects = view.meta.get("objects", [])
    return [objects[i]["category"] if i < len(objects) else "object" for i in range(len(view.masks))]


def _cutouts(view: View, names: list[str]) -> list[Html]:
    parts = []
    for i, name in enumerate(names):
        pictures = [image(shrink_cutout(view.cutouts[i], CUTOUT_PX), f"cut-out of {name}", class_="cutout")]
        if i < len(view.full_cutouts):
            pictures.append(
                image(shrink_cutout(view.full_cutouts[i], CUTOUT_PX), f"{name} as a whole", class_="cutout")
            )
        parts.append(tag("div", *pictures, class_=f"pair o{i % len(COLOURS) + 1}"))
    return parts


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
        lines.append(tag("li", tag("b", f"{i + 1} {name}", class_=f"o{i % len(COLOURS) + 1}"), " ", ", ".join(facts)))
    if not meta:
        return [tag("span", f"{width} x {height} px, no metadata"), tag("ul", *lines)]
    origin = f"{meta['source']}, {meta['split']}, {width} x {height} px"
    if meta["photo"]["license"]:
        origin += f", licence {licence_in_short(meta['photo']['license'])}"
    lines += [tag("li", _relation_in_words(view, relation)) for relation in _told_relations(meta["relations"])]
    more = tag("li", f"also in the tar: {', '.join(view.others)}", class_="muted") if view.others else ""
    return [tag("span", origin), tag("ul", *lines, more)]


def _told_relations(relations: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Of two objects, how they stand to each other; of more, those pairs that meet."""
    meeting = [relation for relation in relations if relation["contact_px"]]
    return relations if len(relations) == 1 or not meeting else meeting


def _relation_in_words(view: View, relation: Mapping[str, Any]) -> str:
    i, j = relation["objects"]
    words = [f"box IoU {relation['box_iou']:.2f}", _meeting(view, relation)]
    words += [f"built as “{relation['label']}”"] if relation.get("label") else []
    for name, verb in (("supporter", "carries"), ("container", "holds")):
        if (one := relation.get(name)) is not None:
            words.append(f"{one + 1} {verb} {(j if one == i else i) + 1}")
    return (f"{i + 1} and {j + 1}: " if len(view.masks) > 2 else "") + ", ".join(words)


def licence_in_short(text: str) -> str:
    """A licence's URL as people name it: "CC BY-NC 2.0"; other URLs without their scheme, other text as it is."""
    if found := re.search(r"creativecommons\.org/licenses/([a-z-]+)/([\d.]+)", text):
        return f"CC {found[1].upper()} {found[2]}"
    return re.sub(r"^https?://(www\.)?(.*?)/?$", r"\2", text)


def _plural(count: int, plural: str) -> str:
    return f"{count} {plural if count != 1 else plural[:-1]}"


def _meeting(view: View, relation: Mapping[str, Any]) -> str:
    """How two silhouettes meet, in words."""
    if relation["overlap_px"]:
        smaller = min(int(np.count_nonzero(view.masks[i])) for i in relation["objects"])
        return f"silhouettes overlap by {share(relation['overlap_px'], smaller)} of the smaller"
    if relation["contact_px"]:
        return f"touching along {relation['contact_px']:,} px"
    return f"{number(relation['gap_px'])} px apart"


STYLE = (
    STRIP_STYLE
    + """
:root { --object-5: #7a6200; --object-6: #5b3fc4; --object-7: #006d78; --object-8: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --object-5: #e8cf55; --object-6: #b39dff; --object-7: #6fdfea; --object-8: #ff8a80; }
}
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
.label.o5 { background: rgb(250 220 80); } .label.o6 { background: rgb(180 155 255); }
.label.o7 { background: rgb(110 230 240); } .label.o8 { background: rgb(245 130 130); }
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
.sample .o5 { color: var(--object-5); } .sample .o6 { color: var(--object-6); }
.sample .o7 { color: var(--object-7); } .sample .o8 { color: var(--object-8); }
.sample .label { color: #10151a; }
.headline { font-size: 14.5px; font-weight: 600; margin-bottom: 8px; }
"""
)
