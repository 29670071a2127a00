"""Segment Anything, first or second version, through transformers: prompts of boxes, or of a grid of points.

transformers' processors are left out: those of SAM 2 need torchvision, and all they do is a resize and a scaling.

Shapes: H, W the photo; S the side of the model's input; h, w its low-resolution masks; N prompts; M masks of each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import Sam2Model, SamModel
from transformers.utils import logging

from pics_common.errors import UserError
from pics_common.quiet import quiet
from pics_data.predict.regions import Box, Mask, clean, clipped, distinct, grid_points, stability
from pics_data.predict.weights import SAM_HINT, preprocessor_config, read_json, sam_folder

# SAM 2's published folders hold the video model, of which the model for pictures is a part.
MODELS: Final = {"sam": SamModel, "sam2": Sam2Model, "sam2_video": Sam2Model}
BOX_MARGIN: Final = 0.05  # of the box's size on each side: annotators cut corners, SAM leaks further
PROMPTS_AT_ONCE: Final = 64  # each takes some 15 MB in the decoder


@dataclass(frozen=True, slots=True)
class PhotoSettings:
    """How objects are found where nothing is annotated; thresholds as in Kirillov et al. 2023, appendix B."""

    points_per_side: int = 16
    min_score: float = 0.88  # the IoU with the true mask that the model expects
    min_stability: float = 0.95
    stability_offset: float = 1.0
    max_iou: float = 0.7  # of two masks; the one with the lower score is a duplicate above it
    min_share: float = 0.002  # of the photo's area
    max_share: float = 0.9
    max_objects: int = 64


@dataclass(frozen=True, slots=True)
class Encoded:
    """A photo as the model sees it: what every prompt shares."""

    embeddings: Any  # a tensor, or one for each level (SAM 2)
    size: tuple[int, int]  # H, W
    inner: tuple[int, int]  # rows and columns of the S x S input that show the photo; the rest is padding


class SamPredictor:
    """See `pics_data.predict.Predictor`."""

    def __init__(self, model: Any, mean: Sequence[float], std: Sequence[float], settings: PhotoSettings) -> None:
        self.model = model
        self.settings = settings
        self.pads = isinstance(model, SamModel)  # SAM 2 stretches the photo to a square
        self.side = int(model.config.prompt_encoder_config.image_size)
        self.mean = torch.tensor(mean, device=model.device).view(3, 1, 1)
        self.std = torch.tensor(std, device=model.device).view(3, 1, 1)

    def masks_of_boxes(self, rgb: NDArray[np.uint8], boxes: Sequence[Box]) -> Iterator[Mask]:
        """See `Predictor`: of the masks that a box gets, the one that the model itself expects to fit best."""
        if not boxes:
            return
        photo = self.encode(rgb)
        corners = np.array([[x, y, x + w, y + h] for x, y, w, h in boxes], dtype=np.float64)
        for start in range(0, len(boxes), PROMPTS_AT_ONCE):
            chunk = slice(start, start + PROMPTS_AT_ONCE)
            logits, scores = self.decode(photo, boxes=corners[chunk])
            for prompt, best in enumerate(scores.argmax(dim=1).tolist()):
                mask = self.upsample(photo, logits[prompt, best])
                yield clean(clipped(mask, boxes[start + prompt], BOX_MARGIN))

    def masks_of_photo(self, rgb: NDArray[np.uint8]) -> Iterator[tuple[Mask, float]]:
        """See `Predictor`: the sure and distinct ones of the masks that a grid of points gets."""
        photo = self.encode(rgb)
        low, scores = self._candidates(photo)
        rows, columns = self._shown(photo)
        chosen = distinct(low[:, :rows, :columns] > 0, scores, self.settings.max_iou)
        for index in chosen[: self.settings.max_objects]:
            mask = clean(self.upsample(photo, torch.from_numpy(low[index]).to(self.model.device)))
            if mask.any():
                yield mask, min(1.0, float(scores[index]))  # the model's guess may exceed 1

    @torch.inference_mode()
    def encode(self, rgb: NDArray[np.uint8]) -> Encoded:
        """rgb [H, W, 3] uint8 -> its embedding, computed once for all prompts."""
        height, width = rgb.shape[:2]
        inner = (self.side, self.side)
        if self.pads:
            scale = self.side / max(height, width)
            inner = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
        resized = np.asarray(Image.fromarray(rgb).resize((inner[1], inner[0]), Image.Resampling.BILINEAR))
        pixels = torch.from_numpy(resized.copy()).to(self.model.device).permute(2, 0, 1) / 255
        pixels = (pixels - self.mean) / self.std
        pixels = F.pad(pixels, (0, self.side - inner[1], 0, self.side - inner[0]))
        return Encoded(self.model.get_image_embeddings(pixels[None]), (height, width), inner)

    @torch.inference_mode()
    def decode(
        self, photo: Encoded, *, boxes: NDArray[np.float64] | None = None, points: NDArray[np.float64] | None = None
    ) -> tuple[Tensor, Tensor]:
        """One forward of the decoder. boxes [N, 4] (left, top, right, bottom) or points [N, 2], in the photo's pixels
        -> logits [N, M, h, w], above 0 where the object is, and expected IoU [N, M]."""
        scale = np.array([photo.inner[1] / photo.size[1], photo.inner[0] / photo.size[0]])
        prompts: dict[str, Tensor] = {}
        if boxes is not None:
            prompts["input_boxes"] = self._tensor((boxes.reshape(-1, 2, 2) * scale).reshape(1, -1, 4))
        if points is not None:
            prompts["input_points"] = self._tensor((points * scale).reshape(1, -1, 1, 2))
        output = self.model(image_embeddings=photo.embeddings, multimask_output=True, **prompts)
        return output.pred_masks[0], output.iou_scores[0]

    @torch.inference_mode()
    def upsample(self, photo: Encoded, logits: Tensor) -> Mask:
        """Logits [h, w] -> mask [H, W] bool at the photo's own size."""
        plane = logits[None, None]
        if self.pads:
            plane = F.interpolate(plane, (self.side, self.side), mode="bilinear", align_corners=False)
            plane = plane[..., : photo.inner[0], : photo.inner[1]]
        plane = F.interpolate(plane, photo.size, mode="bilinear", align_corners=False)
        return (plane[0, 0] > 0).cpu().numpy()

    def _candidates(self, photo: Encoded) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Logits [N, h, w] and scores [N] of all masks that pass the thresholds: 768 of 256 KB at the very most."""
        settings = self.settings
        points = grid_points(settings.points_per_side, photo.size[1], photo.size[0])
        logits_kept, scores_kept = [], []
        for start in range(0, len(points), PROMPTS_AT_ONCE):
            logits, scores = self.decode(photo, points=points[start : start + PROMPTS_AT_ONCE])
            good = scores.flatten() >= settings.min_score
            low, sure = logits.flatten(0, 1)[good].cpu().numpy(), scores.flatten()[good].double().cpu().numpy()
            rows, columns = self._shown(photo)
            shown = low[:, :rows, :columns]
            share = np.count_nonzero(shown > 0, axis=(1, 2)) / (rows * columns)
            keep = (share >= settings.min_share) & (share <= settings.max_share)
            keep &= stability(shown, settings.stability_offset) >= settings.min_stability
            logits_kept.append(low[keep])
            scores_kept.append(sure[keep])
        return np.concatenate(logits_kept), np.concatenate(scores_kept)

    def _shown(self, photo: Encoded) -> tuple[int, int]:
        """Rows and columns of a low-resolution mask that show the photo."""
        low = self.model.config.prompt_encoder_config
        side = 4 * (int(low.image_size) // int(low.patch_size))
        return -(-photo.inner[0] * side // self.side), -(-photo.inner[1] * side // self.side)

    def _tensor(self, values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values).to(self.model.device, torch.float32)


def load(weights: str, device: str, threads: int, settings: PhotoSettings | None = None) -> SamPredictor:
    """See `pics_data.predict.load_predictor`."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--gpus-per-worker: torch sees no GPU here; install a CUDA build of torch, or leave it at 0")
    torch.set_num_threads(threads)
    folder = sam_folder(weights)
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type not in MODELS:
        known = ", ".join(MODELS)
        raise UserError(f"--mask-weights {folder}: config.json says model_type {model_type}; expected {known}")
    config = preprocessor_config(folder)
    mean, std = (_colour(config, name, folder) for name in ("image_mean", "image_std"))
    model = _load_model(MODELS[model_type], folder).to(device).eval()
    return SamPredictor(model, mean, std, settings or PhotoSettings())


def _load_model(kind: Any, folder: Path) -> Any:
    try:
        with quiet(logging):
            model, info = kind.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:  # a stranger's config.json makes transformers fail in any way
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"--mask-weights {folder}: cannot be loaded ({reason}); {SAM_HINT}") from None
    # transformers would go on with random numbers in their place.
    absent = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if absent:
        raise UserError(f"--mask-weights {folder}: {len(absent)} weights are missing, such as {absent[0]}; {SAM_HINT}")
    return model


def _colour(config: dict[str, Any], name: str, folder: Path) -> list[float]:
    value = config.get(name)
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(isinstance(number, int | float) for number in value)
        or (name == "image_std" and 0 in value)
    ):
        raise UserError(f"--mask-weights {folder}: preprocessor_config.json: {name} {value}; expected 3 numbers")
    return value
