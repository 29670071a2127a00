"""Pictures and words as directions: CLIP, the class token of DINOv2, and DreamSim's distance.

Legend: N pictures of any sizes, each [3, H, W] in [0, 1]; S the side that a network reads, E its embedding's channels.
Embeddings are of length 1, so that a cosine is a sum of products.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer, PreTrainedConfig
from transformers.utils import logging

from pics_common.errors import UserError
from pics_common.quiet import quiet
from pics_model.dino_encoder import IMAGENET_MEAN, IMAGENET_STD, load_trunk, read_trunk, resample_positions
from pics_model.metrics.weights import MissingWeightsError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
DINO_SIDE = 224
DINO_SHORT_SIDE = 256
DREAMSIM_SIDE = 224
CLIP_ID = "openai/clip-vit-large-patch14"
DINO_ID = "facebook/dinov2-base"


class Clip:
    """CLIP's two towers.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.side: int = model.config.vision_config.image_size

    def pictures(self, pictures: Sequence[Tensor]) -> Tensor:
        """Embeddings [N, E] of pictures; the middle square of each is seen, as CLIP's own preprocessing has it."""
        pixels = _normalised([resize_and_crop(x, self.side, self.side) for x in pictures], CLIP_MEAN, CLIP_STD)
        return _unit(self.model.get_image_features(pixel_values=pixels.to(self.model.device)).pooler_output)

    def words(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [N, E] of texts; what is longer than the tower's 77 tokens is cut."""
        most = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=most, return_tensors="pt")
        ids, mask = (tokens[name].to(self.model.device) for name in ("input_ids", "attention_mask"))
        return _unit(self.model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output)


class Dino:
    """DINOv2's class token.

    Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024.
    """

    def __init__(self, trunk: Any) -> None:
        self.model = trunk.requires_grad_(False).eval()

    def pictures(self, pictures: Sequence[Tensor]) -> Tensor:
        """Embeddings [N, E]: short side to 256, the middle 224, as the authors' preprocessing has it."""
        pixels = _normalised(
            [resize_and_crop(x, DINO_SHORT_SIDE, DINO_SIDE) for x in pictures], IMAGENET_MEAN, IMAGENET_STD
        )
        return _unit(self.model(pixels.to(self.model.device)).last_hidden_state[:, 0])


class DreamSim:
    """The distance of the package dreamsim.

    Fu et al., "DreamSim: Learning New Dimensions of Human Visual Similarity using Synthetic Data", NeurIPS 2023.
    """

    def __init__(self, model: Any, device: str) -> None:
        self.model = model.eval()
        self.device = device

    def distances(self, results: Sequence[Tensor], truths: Sequence[Tensor]) -> Tensor:
        """Distances [N] of pairs, each picture squeezed to 224 x 224 as the package does."""
        first, second = (torch.cat([_squeezed(x) for x in side]).to(self.device) for side in (results, truths))
        distances: Tensor = self.model(first, second)
        return distances


def load_clip(source: str | Path) -> Clip:
    """CLIP from a folder in transformers' layout, or an id of the hub; safetensors only.

    Raises `MissingWeightsError` if there is nothing of the kind, and `UserError` for a folder that is damaged or of
    another model.
    """
    _require_here(source, "CLIP", CLIP_ID)
    try:
        kind = PreTrainedConfig.get_config_dict(str(source))[0].get("model_type")
        if kind != "clip":
            raise UserError(f"CLIP {source}: config.json is of model_type {kind!r}; expected clip")
        with quiet(logging):
            model, report = CLIPModel.from_pretrained(
                str(source), use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
            tokenizer = CLIPTokenizer.from_pretrained(str(source), trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError, KeyError, TypeError) as error:
        why = f"CLIP {source}: cannot be loaded ({_one_line(error)}); expected all files of {CLIP_ID}, say"
        raise (UserError if Path(source).is_dir() else MissingWeightsError)(why) from None
    if report["missing_keys"]:
        lacking = sorted(report["missing_keys"])
        raise UserError(f"CLIP {source}: no weight {lacking[0]} ({len(lacking)} lacking); fetch it again")
    known = model.config.text_config.vocab_size
    if len(tokenizer) != known:  # without its files, transformers makes one that knows no word and says nothing
        raise UserError(
            f"CLIP {source}: its tokenizer knows {len(tokenizer)} tokens, its text tower {known}; expected "
            f"tokenizer.json, or vocab.json and merges.txt"
        )
    return Clip(model, tokenizer)


def load_dino(source: str | Path) -> Dino:
    """DINOv2 from a folder in transformers' layout, or an id of the hub; safetensors only. Raises as `load_clip`."""
    _require_here(source, "DINOv2", DINO_ID)
    try:
        values = read_trunk(source)
        trunk = load_trunk(source, values["model_type"])
    except UserError as error:
        if Path(source).is_dir():
            raise
        raise MissingWeightsError(str(error)) from None
    table = resample_positions(
        trunk.embeddings.position_embeddings,
        DINO_SIDE // values["patch_size"],
        published=values["model_type"] == "dinov2",
    )
    trunk.embeddings.position_embeddings = nn.Parameter(table)
    return Dino(trunk)


def load_dreamsim(folder: Path | None, device: str) -> DreamSim:
    """DreamSim's ensemble by the package of that name, from `folder`/dreamsim.

    Without that folder the package would fetch not only weights but also code of DINO from GitHub, and run it. That is
    for the user to do, knowingly: see docs/metrics.md. Raises `MissingWeightsError` without the folder or the package,
    and `UserError` if the package cannot read what is there.
    """
    if folder is None:
        raise MissingWeightsError("no folder of weights; give --weights DIR with a folder dreamsim in it")
    if not (folder / "dreamsim").is_dir():
        raise MissingWeightsError(
            f"{folder / 'dreamsim'} is not there; the package dreamsim fills it: see docs/metrics.md"
        )
    try:
        package: Any = importlib.import_module("dreamsim")
    except (ImportError, RuntimeError) as error:  # torchvision of another torch says RuntimeError
        raise MissingWeightsError(f"no package dreamsim ({_one_line(error)}); pip install dreamsim") from None
    try:
        model, _ = package.dreamsim(pretrained=True, device=device, cache_dir=str(folder / "dreamsim"))
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise UserError(
            f"DreamSim {folder / 'dreamsim'}: cannot be loaded ({_one_line(error)}); expected what the package fetches"
        ) from None
    return DreamSim(model, device)


def resize_and_crop(picture: Tensor, short_side: int, side: int) -> Tensor:
    """A picture [3, H, W] -> [1, 3, side, side]: short side to `short_side` (bicubic, antialiased), then the middle."""
    height, width = picture.shape[-2:]
    shorter = min(height, width)
    size = (short_side * height // shorter, short_side * width // shorter)
    resized = _resized(picture, size)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return resized[..., top : top + side, left : left + side]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosines [N] of embeddings [N, E] of length 1."""
    return (a * b).sum(1).clamp(-1, 1)


def _squeezed(picture: Tensor) -> Tensor:
    return _resized(picture, (DREAMSIM_SIDE, DREAMSIM_SIDE))


def _resized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic overshoots at edges; what a picture cannot hold is cut off, as it is where pictures are of bytes."""
    return F.interpolate(picture[None], size=size, mode="bicubic", antialias=True).clamp(0, 1)


def _normalised(pictures: list[Tensor], mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    batch = torch.cat(pictures)
    return (batch - batch.new_tensor(mean)[:, None, None]) / batch.new_tensor(std)[:, None, None]


def _unit(embeddings: Tensor) -> Tensor:
    return F.normalize(embeddings.float(), dim=1)


def _require_here(source: str | Path, name: str, example: str) -> None:
    """A path must exist; what is not one may be an id of the hub, `owner/name`."""
    looks_like_path = isinstance(source, Path) or str(source).startswith((".", "/", "~")) or str(source).count("/") != 1
    if looks_like_path and not Path(source).is_dir():
        raise MissingWeightsError(f"{name}: {source} is not there; get {example} from the hub, in transformers' layout")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
