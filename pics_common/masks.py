"""Masks as predictors give them, made whole. NumPy and OpenCV only."""

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

SPECK = 0.01  # holes and islands below this share of a mask's area are the predictor's noise


def clean(mask: Mask, speck: float = SPECK) -> Mask:
    """The mask [H, W] without holes and islands below `speck` of its area; its largest part always stays.

    Parts touch at sides or corners, holes at sides only, so that a hole cannot leak through a corner.
    """
    if not mask.any():
        return mask
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    rows, columns = slice(y, y + h), slice(x, x + w)
    tight = np.pad(mask[rows, columns], 1)  # one pixel more: all that is outside is one part, not several holes
    least = speck * np.count_nonzero(tight)

    _, labels, stats, _ = cv2.connectedComponentsWithStats(tight.view(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    keep = areas >= least
    keep[1 + int(np.argmax(areas[1:]))] = True
    keep[0] = False
    solid = keep[labels]

    _, labels, stats, _ = cv2.connectedComponentsWithStats((~solid).view(np.uint8), connectivity=4)
    fill = stats[:, cv2.CC_STAT_AREA] < least
    fill[[0, labels[0, 0]]] = False  # the mask itself, and the outside
    solid |= fill[labels]

    result = np.zeros_like(mask)
    result[rows, columns] = solid[1:-1, 1:-1]
    return result
