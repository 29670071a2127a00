"""A picture of some rows of the demo, for a README or a slide: what went in, what came out, the truth."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from demo_page import DemoEntry
from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, HEAD = 144, 6, 26
COLUMNS = ("background", "object 1", "object 2", "result", "original", "copy and paste")


def write_sheet(path: Path, entries: Sequence[DemoEntry], columns: int = 2) -> None:
    """Draws the entries, six pictures each, in `columns` columns of rows."""
    rows = -(-len(entries) // columns)
    width = len(COLUMNS) * (SIDE + GAP)
    sheet = Image.new("RGB", (columns * width + (columns - 1) * 4 * GAP, HEAD + rows * (SIDE + GAP)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for i, entry in enumerate(entries):
        left, top = (i // rows) * (width + 4 * GAP), HEAD + (i % rows) * (SIDE + GAP)
        for k, picture in enumerate(_pictures(entry)):
            x = left + k * (SIDE + GAP)
            sheet.paste(Image.fromarray(picture), (x, top))
            pen.text((x + SIDE / 2, HEAD / 2), COLUMNS[k], font=font, fill="#444", anchor="mm")
    sheet.save(path, optimize=True)


def _pictures(entry: DemoEntry) -> list[np.ndarray]:
    holes = np.where(entry.background_with_holes[..., 3:] > 127, entry.background_with_holes[..., :3], 224)
    pictures = [holes, *entry.objects[:2], entry.result, entry.original, entry.paste]
    small = [cv2.resize(np.ascontiguousarray(p[..., :3], np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
             for p in pictures]  # fmt: skip
    return [np.asarray(picture, np.uint8) for picture in small]
