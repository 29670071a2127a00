"""Objects in pictures without alpha, cut out by a saliency network where they do not stand on white already."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pics_common.errors import UserError
from pics_common.saliency import THRESHOLD, Saliency, alpha_of, load_saliency


@dataclass(slots=True)
class CutOut:
    """Finds the object in a picture [H, W, 3] uint8: its alpha [H, W] uint8. `num_cut` counts the pictures."""

    saliency: Saliency
    num_cut: int = 0

    def __call__(self, rgb: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        """Raises `UserError` that names the picture if the network finds nothing in it, or nothing but object."""
        alpha = alpha_of(self.saliency(rgb))
        if not alpha.any() or (alpha >= THRESHOLD).all():
            what = "nothing that stands out" if not alpha.any() else "nothing but object"
            raise UserError(f"{name}: the network finds {what}; give a picture with alpha, or another network")
        self.num_cut += 1
        return alpha


def load_cut_out(weights: str, threads: int) -> CutOut:
    """The network of an ONNX file or of a rembg session. Raises `UserError` where it cannot be had."""
    return CutOut(load_saliency(weights, "--cut-out", threads))


Cut = Callable[[NDArray[np.uint8], str], NDArray[np.uint8]]
