"""The published loader, for comparison: written from its description (shared/reference/README.md), without its code.

Everything is float32 on the CPU, as it was: a sample of 512 px is 11 MB. Its random numbers come from NumPy's global
state. Otherwise it does each thing once, with OpenCV; albumentations is not needed for a flip, a gain and a turn.
"""

# ruff: noqa: NPY002  # the global state is what it drew from

import io
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE, OBJECT = 512, 224
Pixels = NDArray[np.uint8]


def sample(members: dict[str, bytes]) -> dict[str, NDArray[np.float32]]:
    """Members of a sample with two objects -> what the published model trains on."""
    photo = _rgb(members["bg.jpg"])
    height, width = photo.shape[:2]
    hinted, union = photo.copy(), np.zeros((height, width), np.uint8)
    regions = []
    for k in range(2):
        mask = np.asarray(Image.open(io.BytesIO(members[f"mask{k}.png"])).convert("L")) > 127
        x0, y0, x1, y1 = _enlarged(_box(mask), np.random.uniform(1.1, 1.2), height, width)
        region = np.zeros((height, width), np.uint8)
        region[y0:y1, x0:x1] = 1
        hinted[y0:y1, x0:x1] = 0
        union |= region
        regions.append(_squared(region, 0, cv2.INTER_NEAREST).astype(np.float32))
    where = _squared(union.astype(np.float32), -1, cv2.INTER_NEAREST)
    background = _squared(hinted, 0).astype(np.float32) / 127.5 - 1
    return {
        "target": _squared(photo, 0).astype(np.float32) / 127.5 - 1,
        "hint": np.concatenate([background, where[..., None]], -1),
        "regions": np.stack(regions),
        "objects": np.stack([_object(members[f"obj{k}.png"]) for k in range(2)]),
        "place": np.float32(np.random.rand()),
    }


def _object(data: bytes) -> NDArray[np.float32]:
    """[224, 224, 3] in 0 to 1: enlarged once more, mirrored, recoloured, turned."""
    picture = _rgb(data)
    shown = (picture < 250).any(2)  # guessed again
    if not shown.any():
        shown[:] = True
    y0, y1, x0, x1 = *_ends(shown.any(1)), *_ends(shown.any(0))
    inner = np.where(shown[..., None], picture, 255)[y0:y1, x0:x1]
    side = round(max(inner.shape[:2]) * np.random.uniform(1.1, 1.4))
    rows, columns = side - inner.shape[0], side - inner.shape[1]
    square = cv2.copyMakeBorder(
        inner, rows // 2, rows - rows // 2, columns // 2, columns - columns // 2, cv2.BORDER_CONSTANT, value=(255,) * 3
    )
    made = cv2.resize(square, (OBJECT, OBJECT))
    if np.random.rand() < 0.2:
        made = cv2.flip(made, 1)
    if np.random.rand() < 0.3:
        made = cv2.convertScaleAbs(made, alpha=np.random.uniform(0.9, 1.1), beta=255 * np.random.uniform(-0.1, 0.1))
    if np.random.rand() < 0.5:
        turn = cv2.getRotationMatrix2D((OBJECT / 2, OBJECT / 2), np.random.uniform(-15, 15), 1.0)
        made = cv2.warpAffine(made, turn, (OBJECT, OBJECT), borderValue=(255,) * 3)
    return made.astype(np.float32) / 255


def _rgb(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _squared(image: NDArray[Any], fill: int, how: int = cv2.INTER_AREA) -> NDArray[Any]:
    """Padded to a square and resized to 512."""
    height, width = image.shape[:2]
    side = max(height, width)
    rows, columns = side - height, side - width
    padded = cv2.copyMakeBorder(
        image, rows // 2, rows - rows // 2, columns // 2, columns - columns // 2, cv2.BORDER_CONSTANT, value=(fill,) * 3
    )
    return np.asarray(cv2.resize(padded, (SIZE, SIZE), interpolation=how))


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    (y0, y1), (x0, x1) = _ends(mask.any(1)), _ends(mask.any(0))
    return x0, y0, x1, y1


def _ends(line: NDArray[np.bool_]) -> tuple[int, int]:
    places = np.flatnonzero(line)
    return int(places[0]), int(places[-1]) + 1


def _enlarged(box: tuple[int, int, int, int], factor: float, height: int, width: int) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = box
    dx, dy = (factor - 1) * (x1 - x0) / 2, (factor - 1) * (y1 - y0) / 2
    return max(int(x0 - dx), 0), max(int(y0 - dy), 0), min(int(x1 + dx), width), min(int(y1 + dy), height)
