"""A mask as COCO's compressed RLE: a few hundred bytes that `pics_data.masks.mask_of` reads back."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask


def mask_to_rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """[H, W] bool -> {"size": [H, W], "counts": text}, as JSON values."""
    rle = coco_mask.encode(np.asfortranarray(mask).view(np.uint8))
    return {"size": [int(side) for side in mask.shape], "counts": rle["counts"].decode("ascii")}
