"""A sheet of held-out samples for those who watch a training: what was given, what was made, what was true."""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pics_model.draw import in_front, things
from pics_model.inputs import Batch
from pics_model.pipeline import Sampled

SIDE = 192
GAP = 10
TITLE = 28
HOLE = 225  # grey of what is to be filled


def draw_rows(batch: Batch, made: Sampled) -> NDArray[np.uint8]:
    """A row a sample [H, W, 3]: background with its hole, objects, result, the photo itself, and, where objects meet,
    the colour of the one that the model puts in front. Everything in the model's own frame."""
    results = ((made.pictures.float().cpu().permute(0, 2, 3, 1).numpy() + 1) * 127.5).round().clip(0, 255)
    rows = []
    for i, count in enumerate(batch.num_objects.tolist()):
        photo = batch.target[i].cpu().numpy()
        regions = batch.regions[i, :count].cpu().numpy()
        hole = np.logical_or.reduce(regions)[..., None]
        result = np.where(hole, results[i], photo).astype(np.uint8)
        given = np.where(hole, HOLE, photo).astype(np.uint8)
        scene = _shown(result)
        rows.append(
            [
                _shown(given),
                things(batch.objects[i, :count].cpu().numpy(), SIDE),
                scene,
                _shown(photo),
                in_front(scene, regions, made.readouts[i]),
            ]
        )
    return _sheet(rows, ("background", "objects", "composite", "photo", "who is in front"))


def _shown(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    how = cv2.INTER_AREA if picture.shape[0] > SIDE else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (SIDE, SIDE), interpolation=how), np.uint8)


def _sheet(rows: list[list[NDArray[np.uint8]]], titles: tuple[str, ...]) -> NDArray[np.uint8]:
    """Panels of equal height in columns as wide as their widest, each under its title."""
    widths = [max(row[column].shape[1] for row in rows) for column in range(len(titles))]
    width = sum(widths) + GAP * (len(widths) + 1)
    sheet = Image.new("RGB", (width, TITLE + len(rows) * (SIDE + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    x = GAP
    for column, (title, its_width) in enumerate(zip(titles, widths, strict=True)):
        draw.text((x, 6), title, "black", font)
        for number, row in enumerate(rows):
            sheet.paste(Image.fromarray(row[column]), (x, TITLE + number * (SIDE + GAP)))
        x += its_width + GAP
    return np.asarray(sheet)
