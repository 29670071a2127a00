"""Saliency networks in the layout of U2-Net: an ONNX file run directly, or a session of rembg by name.

An ONNX file needs onnxruntime alone, without the 400 MB of packages that rembg brings along. Steps and constants are
rembg's, so that a file gives what the session of its name gives.

Saliency is [H, W] uint8: 0 background, 255 foreground.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pics_common import storage
from pics_common.errors import UserError
from pics_data.predict.regions import Box, Mask, clean, clipped, enlarged
from pics_data.predict.weights import ONNX_HINT, is_onnx

Saliency = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

THRESHOLD: Final = 128
CONTEXT: Final = 0.2  # of a box's size on each side: a network needs to see background to tell it from the object
MIN_SHARE: Final = 0.005  # of the photo's area, for an object that nobody has annotated
MAX_SHARE: Final = 0.9
FLAT: Final = 0.05  # an answer that varies less than this shows no edge; stretched, it would be noise

IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, slots=True)
class Layout:
    """How a network wants its picture, and what it answers with."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    side: int  # pixels, where the file leaves it open
    logits: bool = False  # or probabilities


U2NET: Final = Layout(*IMAGENET, side=320)
# By how a file's name begins, as rembg names its downloads; the first that fits counts, U2-Net's if none does.
LAYOUTS: Final = {
    "isnet-anime": Layout(IMAGENET[0], (1.0, 1.0, 1.0), side=1024),
    "isnet": Layout((0.5, 0.5, 0.5), (1.0, 1.0, 1.0), side=1024),
    "dis": Layout((0.5, 0.5, 0.5), (1.0, 1.0, 1.0), side=1024),
    "ben": Layout((0.5, 0.5, 0.5), (1.0, 1.0, 1.0), side=1024),
    "birefnet": Layout(*IMAGENET, side=1024, logits=True),
    "bria": Layout(*IMAGENET, side=1024),
}


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
    """See `pics_data.predict.load_predictor`, which checks `weights` before."""
    open_saliency = _of_file if is_onnx(weights) else _of_session
    return SaliencyPredictor(open_saliency(weights, device, threads))


def _of_file(weights: str, device: str, threads: int) -> Saliency:
    session = _open(weights, device, threads)
    layout = layout_of(storage.base_name(weights))
    picture, answer = session.get_inputs(), session.get_outputs()
    # u2net answers with seven maps, the fused one first.
    shape = picture[0].shape
    if len(picture) != 1 or len(shape) != 4 or shape[1] != 3 or len(answer[0].shape) != 4:
        found = f"input {shape}, output {answer[0].shape}"
        raise UserError(f"--mask-weights {weights}: {found}; expected 1 x 3 x S x S -> 1 x 1 x S x S")
    size = tuple(side if isinstance(side, int) and side > 0 else layout.side for side in shape[2:])
    name, dtype = picture[0].name, np.float16 if picture[0].type == "tensor(float16)" else np.float32

    def saliency(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        pixels = to_pixels(rgb, (size[0], size[1]), layout).astype(dtype)
        return to_saliency(session.run([answer[0].name], {name: pixels})[0][0, 0], rgb.shape[:2], layout)

    return saliency


def _open(weights: str, device: str, threads: int) -> Any:
    import onnxruntime

    data, options, providers = storage.read(weights), _options(threads), _providers(device)
    try:
        # From bytes: a file that names further files beside it finds none.
        return onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no common base
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--mask-weights {weights}: no ONNX file that can be run ({reason}); {ONNX_HINT}") from None


def _options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    return options


def _providers(device: str) -> list[str]:
    import onnxruntime

    if not device.startswith("cuda"):
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise UserError(
            "--gpus-per-worker: rembg needs onnxruntime-gpu for it, in place of onnxruntime; or leave it at 0"
        )
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]


def layout_of(file_name: str) -> Layout:
    """The layout that a file's name stands for."""
    return next((layout for start, layout in LAYOUTS.items() if file_name.lower().startswith(start)), U2NET)


def to_pixels(rgb: NDArray[np.uint8], size: tuple[int, int], layout: Layout) -> NDArray[np.floating[Any]]:
    """rgb [H, W, 3] uint8 -> [1, 3, *size], scaled by its brightest value, less mean, over std."""
    resized = np.asarray(Image.fromarray(rgb).resize((size[1], size[0]), Image.Resampling.LANCZOS))
    scaled = resized / max(int(resized.max()), 1)
    return ((scaled - layout.mean) / layout.std).transpose(2, 0, 1)[None]


def to_saliency(answer: NDArray[Any], size: tuple[int, ...], layout: Layout) -> NDArray[np.uint8]:
    """A network's answer [S, S] -> saliency at `size` (H, W), stretched to the whole range.

    rembg stretches any answer, and divides 0 by 0 where it is constant; one that is almost flat is left as it is here.
    """
    values: NDArray[np.floating[Any]] = np.nan_to_num(answer.astype(np.float32))
    if layout.logits:
        values = 1 / (1 + np.exp(-np.clip(values, -60, 60)))
    low, high = float(values.min()), float(values.max())
    if high - low > FLAT:
        values = (values - low) / (high - low)
    grey = (np.clip(values, 0, 1) * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(grey).resize((size[1], size[0]), Image.Resampling.LANCZOS))


def _of_session(name: str, device: str, threads: int) -> Saliency:
    # At its first import in an environment rembg compiles matting code with numba for 45 s; none of it is used here.
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    import rembg

    options, providers = _options(threads), _providers(device)
    try:
        session = rembg.new_session(name, sess_opts=options, providers=providers)
    except Exception as error:  # pooch, requests and onnxruntime each have their own
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--mask-weights {name}: rembg cannot load its weights ({type(error).__name__}: {reason}); {ONNX_HINT}, "
            f"or put {name}.onnx into the folder $U2NET_HOME"
        ) from None

    def saliency(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        with np.errstate(invalid="ignore"):  # 0 / 0 where the answer is constant; as bytes it is 0
            return np.asarray(session.predict(Image.fromarray(rgb))[0])

    return saliency
