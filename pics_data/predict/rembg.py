"""Masks from a saliency network (`pics_common.saliency`): what stands out, in a box or in the whole photo."""

from collections.abc import Iterator, Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pics_common.saliency import THRESHOLD, Saliency, load_saliency, providers_of
from pics_data.predict.regions import Box, Mask, clean, clipped, enlarged

CONTEXT: Final = 0.2  # of a box's size on each side: a network needs to see background to tell it from the object
MIN_SHARE: Final = 0.005  # of the photo's area, for an object that nobody has annotated
MAX_SHARE: Final = 0.9


class SaliencyPredictor:
    """See `pics_data.predict.Predictor`."""

    def __init__(self, saliency: Saliency) -> None:
        self.saliency = saliency

    def masks_of_boxes(self, rgb: NDArray[np.uint8], boxes: Sequence[Box]) -> Iterator[Mask]:
        """See `Predictor`: what stands out in the box and its surroundings, within the box."""
        height, width = rgb.shape[:2]
        for box in boxes:
            area = enlarged(box, CONTEXT, width, height)
            mask = np.zeros((height, width), np.bool_)
            mask[area] = self.saliency(np.ascontiguousarray(rgb[area])) >= THRESHOLD
            yield clean(clipped(mask, box, 0.0))

    def masks_of_photo(self, rgb: NDArray[np.uint8]) -> Iterator[tuple[Mask, float]]:
        """See `Predictor`: the connected parts of what stands out; the score is a part's mean saliency."""
        saliency = self.saliency(rgb)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(
            (saliency >= THRESHOLD).view(np.uint8), connectivity=8
        )
        share = stats[:, cv2.CC_STAT_AREA] / saliency.size
        parts = [part for part in range(1, count) if MIN_SHARE <= share[part] <= MAX_SHARE]
        scores = {part: _mean_of(saliency, labels, stats, part) for part in parts}
        for part in sorted(parts, key=lambda part: -scores[part]):
            yield clean(labels == part), scores[part]


def _mean_of(saliency: NDArray[np.uint8], labels: NDArray[np.int32], stats: NDArray[np.int32], part: int) -> float:
    x, y, w, h = stats[part, :4]
    inside = labels[y : y + h, x : x + w] == part
    return float(saliency[y : y + h, x : x + w][inside].mean()) / 255


def load(weights: str, device: str, threads: int) -> SaliencyPredictor:
    """See `pics_data.predict.load_predictor`."""
    return SaliencyPredictor(load_saliency(weights, "--mask-weights", threads, providers_of(device, "--mask-weights")))
