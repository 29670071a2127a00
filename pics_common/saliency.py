"""Saliency networks in the layout of U2-Net: an ONNX file run directly, or a session of rembg by name.

An ONNX file needs onnxruntime alone, without the 400 MB of packages that rembg brings along. Steps and constants are
rembg's, so that a file gives what the session of its name gives. Either is imported only when it is used.

Saliency is [H, W] uint8: 0 background, 255 foreground; at `THRESHOLD` and above lies the object.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pics_common import storage
from pics_common.errors import UserError, require_packages
from pics_common.masks import clean

Saliency = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

THRESHOLD: Final = 128
FLAT: Final = 0.05  # an answer that varies less than this shows no edge; stretched, it would be noise
CPU: Final = ("CPUExecutionProvider",)
ONNX_HINT: Final = "give an ONNX file such as u2net.onnx, by path or URL, or the name of a rembg session such as u2net"
PICKLES: Final = (".bin", ".ckpt", ".pkl", ".pt", ".pth")

# rembg's sessions that mark the foreground on this machine, with one mask a photo.
SESSIONS: Final = (
    "birefnet-cod",
    "birefnet-dis",
    "birefnet-general",
    "birefnet-general-fp16",
    "birefnet-general-lite",
    "birefnet-hrsod",
    "birefnet-massive",
    "birefnet-portrait",
    "bria-rmbg",
    "isnet-anime",
    "isnet-general-use",
    "silueta",
    "u2net",
    "u2net_human_seg",
    "u2netp",
)
REMOTE_SESSIONS: Final = ("atlascloud", "withoutbg")

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


def load_saliency(weights: str, option: str, threads: int = 1, providers: Sequence[str] = CPU) -> Saliency:
    """The network, ready: a picture [H, W, 3] uint8 -> its saliency.

    `weights` is an ONNX file by path or URL, or the name of a rembg session; `option` is what the user gave it by.
    `threads` of the CPU, 0 for one a core, are part of the result: another number may round differently at a
    silhouette's edge. `providers` are onnxruntime's. Raises `UserError` where a package or the weights are missing or
    of no use.
    """
    check_saliency(weights, option)
    open_saliency = _of_file if is_onnx(weights) else _of_session
    return open_saliency(weights, option, threads, providers)


def check_saliency(weights: str, option: str, asked: str = "") -> None:
    """Raises `UserError` unless `weights` is an ONNX file that is there, or a session of rembg's that may be used.

    A session's own weights are looked for, and fetched, when it is loaded. `asked` is the option that asks for it all,
    where that is another than `option`: a package that is missing is told by it.
    """
    if not weights:
        raise UserError(f"{option}: empty; {ONNX_HINT}")
    if is_onnx(weights):
        require_packages(asked or option, "onnxruntime")
        if storage.file_size(weights) is None:
            raise UserError(f"{option} {weights}: no such file; {ONNX_HINT}")
    elif weights in REMOTE_SESSIONS:
        raise UserError(
            f"{option} {weights}: this session sends every photo to a remote service, which is never done here; "
            f"{ONNX_HINT}"
        )
    elif weights in SESSIONS:
        require_packages(asked or option, "rembg", "onnxruntime")
    elif weights.lower().endswith(PICKLES):
        raise UserError(
            f"{option} {weights}: a pickle, which is never loaded; export the network once with torch.onnx.export, or "
            f"{ONNX_HINT}"
        )
    else:
        raise UserError(f"{option} {weights}: no ONNX file and none of {', '.join(SESSIONS)}; {ONNX_HINT}")


def providers_of(device: str, option: str) -> Sequence[str]:
    """onnxruntime's providers for a device, torch's word for it: `cpu` or `cuda`. Raises `UserError` where a GPU is
    asked for that the installed onnxruntime cannot use; `option` is what the user gave the network by."""
    if not device.startswith("cuda"):
        return CPU
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise UserError(
            f"{option}: with --gpus-per-worker it needs onnxruntime-gpu, in place of onnxruntime; or leave one out"
        )
    return ("CUDAExecutionProvider", *CPU)


def alpha_of(saliency: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Saliency [H, W] -> alpha [H, W] of the object without holes and specks: all 0 where there is none.

    Networks are rarely sure of nothing: what is below `THRESHOLD` counts at the object's own edge alone.
    """
    mask = clean(saliency >= THRESHOLD)
    edge = cv2.dilate(mask.view(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return np.where(mask, np.maximum(saliency, THRESHOLD), np.where(edge, saliency, 0)).astype(np.uint8)


def is_onnx(weights: str) -> bool:
    """Whether `weights` is a file to run directly, not a session's name."""
    return weights.lower().endswith(".onnx")


def _of_file(weights: str, option: str, threads: int, providers: Sequence[str]) -> Saliency:
    session = _open(weights, option, threads, providers)
    layout = layout_of(storage.base_name(weights))
    picture, answer = session.get_inputs(), session.get_outputs()
    # u2net answers with seven maps, the fused one first.
    shape = picture[0].shape
    if len(picture) != 1 or len(shape) != 4 or shape[1] != 3 or len(answer[0].shape) != 4:
        found = f"input {shape}, output {answer[0].shape}"
        raise UserError(f"{option} {weights}: {found}; expected 1 x 3 x S x S -> 1 x 1 x S x S")
    size = tuple(side if isinstance(side, int) and side > 0 else layout.side for side in shape[2:])
    name, dtype = picture[0].name, np.float16 if picture[0].type == "tensor(float16)" else np.float32

    def saliency(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        pixels = to_pixels(rgb, (size[0], size[1]), layout).astype(dtype)
        return to_saliency(session.run([answer[0].name], {name: pixels})[0][0, 0], rgb.shape[:2], layout)

    return saliency


def _open(weights: str, option: str, threads: int, providers: Sequence[str]) -> Any:
    import onnxruntime

    data, options = storage.read(weights), _options(threads)
    try:
        # From bytes: a file that names further files beside it finds none.
        return onnxruntime.InferenceSession(data, options, providers=list(providers))
    except Exception as error:  # onnxruntime's errors have no common base
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{option} {weights}: no ONNX file that can be run ({reason}); {ONNX_HINT}") from None


def _options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    return options


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


def _of_session(name: str, option: str, threads: int, providers: Sequence[str]) -> Saliency:
    # At its first import in an environment rembg compiles matting code with numba for 45 s; none of it is used here.
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    import rembg

    try:
        session = rembg.new_session(name, sess_opts=_options(threads), providers=list(providers))
    except Exception as error:  # pooch, requests and onnxruntime each have their own
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{option} {name}: rembg cannot load its weights ({type(error).__name__}: {reason}); {ONNX_HINT}, "
            f"or put {name}.onnx into the folder $U2NET_HOME"
        ) from None

    def saliency(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        with np.errstate(invalid="ignore"):  # 0 / 0 where the answer is constant; as bytes it is 0
            return np.asarray(session.predict(Image.fromarray(rgb))[0])

    return saliency
