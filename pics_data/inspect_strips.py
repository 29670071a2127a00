"""What a sample has besides photo and cut-outs, in rows: an object's other sides and turned copies, and the depth."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from pics_common.page import Html, encode_jpeg, image, tag

VIEW_PX = 112  # pixels of a picture; half as many CSS pixels
DEPTH_PX = 176
NUM_SHOWN = 6  # of a kind


def strips(
    views: Sequence[Sequence[Any]], turned: Sequence[Sequence[Any]], depth: Any, meta: Mapping[str, Any]
) -> list[Html]:
    """A row for each object that has views or turned copies, [n, n, 4] each; one for `depth` [H, W] uint16, or None."""
    objects = meta.get("objects", [])
    rows = []
    for k, (sides, copies) in enumerate(zip(views, turned, strict=True)):
        item = objects[k] if k < len(objects) else {}
        cameras = item.get("views", [])
        said = [f"{camera['azimuth']:.0f}° {_signed(camera['elevation'])}°" for camera in cameras]
        small = [_small(picture, words) for picture, words in zip(sides, _padded(said, sides), strict=True)]
        angles = [f"↺ {angle:.0f}°" for angle in item.get("rotations", [])]
        small_too = [_small(picture, words) for picture, words in zip(copies, _padded(angles, copies), strict=True)]
        if small or small_too:
            pictures = small[:NUM_SHOWN] + small_too[:NUM_SHOWN]
            rows.append(tag("div", *pictures, class_=f"strip o{k % 8 + 1}"))
        if why := item.get("no_views"):
            rows.append(tag("div", tag("span", f"no views: {why}"), class_=f"strip o{k % 8 + 1}"))
    if depth is not None:
        shown = tag("figure", image(encode_jpeg(_depth_picture(depth), 80), "depth"), tag("figcaption", "depth"))
        rows.append(tag("div", shown, class_="strip depth"))
    return rows


def _signed(degrees: float) -> str:
    return f"{whole:+d}" if (whole := round(degrees)) else "0"


def _padded(words: list[str], pictures: Sequence[Any]) -> list[str]:
    return (words + [""] * len(pictures))[: len(pictures)]


def _small(rgba: Any, words: str) -> Html:
    return tag("figure", image(shrink_cutout(rgba, VIEW_PX), words or "view"), tag("figcaption", words))


def shrink_cutout(rgba: Any, largest: int) -> Any:
    """A cut-out of at most `largest` a side; colours are averaged by their opacity, so that edges stay clean."""
    side = rgba.shape[0]
    if side <= largest:
        return rgba
    weighted = rgba.astype(np.float32)
    weighted[..., :3] *= weighted[..., 3:] / 255
    small = cv2.resize(weighted, (largest, round(largest * side / rgba.shape[1])), interpolation=cv2.INTER_AREA)
    small[..., :3] /= np.maximum(small[..., 3:] / 255, 1e-3)
    return small.round().clip(0, 255).astype(np.uint8)


def _depth_picture(depth: Any) -> Any:
    """[H, W] uint16 thousandths, 65535 for the sky -> [h, w, 3] uint8: near is bright, and what is cut off is dark."""
    scale = min(1.0, DEPTH_PX / max(depth.shape))
    size = (max(1, round(depth.shape[1] * scale)), max(1, round(depth.shape[0] * scale)))
    near = np.where(depth < 65535, 1000 / np.maximum(depth.astype(np.float32), 1), 0)
    near = cv2.resize(near.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    low, high = float(np.percentile(near, 5)), float(near.max())
    grey = np.clip((near - low) / max(high - low, 1e-9), 0, 1) ** 0.8 * 255
    return cv2.cvtColor(cv2.applyColorMap(grey.astype(np.uint8), cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


STRIP_STYLE = """
.strip { display: flex; flex-wrap: wrap; gap: 6px; margin-top: 8px; border-left: 3px solid; padding-left: 6px; }
.strip figure { margin: 0; }
.strip img { width: 56px; border-radius: 3px; display: block; }
.strip.depth { border-left-color: var(--line); }
.strip.depth img { width: 88px; }
.sample .strip figcaption {
  margin-top: 1px; font-size: 10.5px; text-align: center; color: var(--muted); display: block;
}
"""
