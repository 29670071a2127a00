"""Masks for photos that come with boxes, or with nothing: predicted by SAM or by a saliency network.

`load_predictor` gives a `Predictor`; `stage` applies it to a `Photo`; nothing here knows Ray. Torch, transformers,
onnxruntime and rembg are imported only when a predictor that needs them is loaded.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pics_common.errors import require_packages
from pics_data.predict.regions import Box, Mask

Kind = Literal["sam", "rembg"]


class Predictor(Protocol):
    """Finds silhouettes in one photo at a time; the same photo gives the same masks, whatever came before it.

    Masks come one by one, as a photo of 100 megapixels with 100 objects would not fit into memory otherwise.
    """

    def masks_of_boxes(self, rgb: NDArray[np.uint8], boxes: Sequence[Box]) -> Iterator[Mask]:
        """One mask [H, W] bool for each box, in order; empty where nothing was found.

        rgb [H, W, 3] uint8. Boxes are (x, y, width, height) in pixels, within the photo, of a size above 0.
        """
        ...

    def masks_of_photo(self, rgb: NDArray[np.uint8]) -> Iterator[tuple[Mask, float]]:
        """The objects of a photo without annotation: masks [H, W] bool with a score in 0 to 1, best first."""
        ...


def load_predictor(kind: Kind, weights: str, device: str = "cpu", threads: int = 1) -> Predictor:
    """The predictor with its weights in memory.

    `weights` is a local folder or hub id (sam), an ONNX file by path or URL, or the name of a rembg session (rembg).
    `device` is torch's word for it, `cpu` or `cuda`. `threads` of the CPU are part of the result: another number may
    round differently at a silhouette's edge.
    Raises `UserError` where a package or the weights are missing or of no use.
    """
    check_predictor(kind, weights)
    if kind == "sam":
        from pics_data.predict import sam

        return sam.load(weights, device, threads)
    from pics_data.predict import rembg

    return rembg.load(weights, device, threads)


def check_predictor(kind: Kind, weights: str) -> None:
    """Raises `UserError` for what `load_predictor` would refuse without reading the weights: before a cluster starts.

    Fetches SAM's weights from the hub if they are not here yet.
    """
    from pics_data.predict import weights as places

    if kind == "sam":
        require_packages("--masks sam", "torch", "transformers")
        places.sam_folder(weights)
    else:
        places.require_rembg(weights)
