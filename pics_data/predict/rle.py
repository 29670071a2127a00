"""A mask as COCO's RLE: a few hundred bytes that `pics_data.masks.mask_of` reads back."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pics_data.masks import MOST_PIXELS_IN_RUNS


def mask_to_rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """[H, W] bool -> {"size": [H, W], "counts": text}, as JSON values; a list of runs in place of text for masks that
    pycocotools must not write."""
    if mask.size >= MOST_PIXELS_IN_RUNS:
        columns = mask.T.reshape(-1)
        ends = np.flatnonzero(columns[1:] != columns[:-1]) + 1
        runs = np.diff(ends, prepend=0, append=mask.size).tolist()
        return {"size": [int(side) for side in mask.shape], "counts": [0, *runs] if columns[0] else runs}
    rle = coco_mask.encode(np.asfortranarray(mask).view(np.uint8))
    return {"size": [int(side) for side in mask.shape], "counts": rle["counts"].decode("ascii")}
