"""Pictures of what the blocks decided: who is in front, in colour over the composed picture."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pics_model.examples import Example
from pics_model.framing import cut, resize
from pics_model.inputs import FramingSettings, compose
from pics_model.readout import Readout, mean_alpha

# Told apart by people with colour-blindness too (Okabe & Ito 2008); objects beyond them begin again.
COLOURS = np.array(
    [(0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66)],
    np.float32,
)
SIDE = 384
GAP = 12
STRENGTH = 0.7


def draw_alpha(
    picture: NDArray[np.uint8], example: Example, framing: FramingSettings, readouts: Sequence[Readout]
) -> NDArray[np.uint8]:
    """A sheet [h, w, 3] uint8: the composed picture [H, W, 3] in the model's frame; the same with every place where
    objects meet in the colour of who is in front (a mixture where undecided); the objects, framed in their colours."""
    inputs = compose(example, framing, None)
    scene = cv2.resize(cut(picture, inputs.frame), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    shown = in_front(np.asarray(scene, np.uint8), inputs.regions, readouts)
    return _side_by_side([np.asarray(scene, np.uint8), shown, things(inputs.objects)])


def in_front(scene: NDArray[np.uint8], regions: NDArray[np.bool_], readouts: Sequence[Readout]) -> NDArray[np.uint8]:
    """The scene [S, S, 3] in grey, with outlines of the regions [K, R, R], and where these meet the colour of who is in
    front, or a mixture."""
    side = scene.shape[0]
    grid = max(readout.alpha.shape[1] for readout in readouts)
    alpha = mean_alpha(readouts, grid)
    known = ~np.isnan(alpha[0])
    colours = _colours(len(alpha))
    tint = np.einsum("kyx,kc->yxc", np.nan_to_num(alpha), colours)
    large = cv2.resize(tint.astype(np.float32), (side, side), interpolation=cv2.INTER_NEAREST)
    where = cv2.resize(known.astype(np.float32), (side, side), interpolation=cv2.INTER_NEAREST)[..., None]
    grey = scene.mean(2, keepdims=True) * 0.6 + 100
    shown = np.where(where > 0, (1 - STRENGTH) * scene + STRENGTH * large, grey)
    for k, region in enumerate(regions[: len(alpha)]):
        outline = cv2.resize(region.view(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(outline, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(shown, contours, -1, colours[k].tolist(), 2)
    return np.rint(shown).astype(np.uint8)


def _colours(num_objects: int) -> NDArray[np.float32]:
    return COLOURS[np.arange(num_objects) % len(COLOURS)]


def things(objects: NDArray[np.uint8], height: int = SIDE) -> NDArray[np.uint8]:
    """Object pictures [K, S, S, 4], two or more rows of them, each in a frame of its colour; [height, w, 3]."""
    colours = _colours(len(objects))
    rows = max(2, int(np.ceil(np.sqrt(len(objects)))))
    side = (height - (rows - 1) * GAP) // rows
    columns = -(-len(objects) // rows)
    sheet = np.full((height, columns * side + (columns - 1) * GAP, 3), 255, np.uint8)
    for k, thing in enumerate(objects):
        y, x = (k % rows) * (side + GAP), (k // rows) * (side + GAP)
        framed = np.empty((side, side, 3), np.uint8)
        framed[:] = np.rint(colours[k])
        framed[4:-4, 4:-4] = resize(np.ascontiguousarray(thing[..., :3]), side - 8)
        sheet[y : y + side, x : x + side] = framed
    return sheet


def _side_by_side(panels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    gap = np.full((SIDE, GAP, 3), 255, np.uint8)
    row = np.concatenate([part for panel in panels for part in (panel, gap)][:-1], 1)
    return cv2.copyMakeBorder(row, GAP, GAP, GAP, GAP, cv2.BORDER_CONSTANT, value=(255, 255, 255)).astype(np.uint8)
