"""Where a predictor's weights and packages are, or one line that says how to get them. No pickle is ever read."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final

from pics_common import storage
from pics_common.errors import UserError
from pics_common.saliency import ONNX_HINT, check_saliency, is_onnx
from pics_common.saliency import PICKLES as PICKLES

SAM_FILES: Final = "config.json, preprocessor_config.json and model.safetensors"
SAM_HINT: Final = f"give a folder that holds {SAM_FILES}, or a hub id such as facebook/sam-vit-base"
HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")


def sam_folder(weights: str) -> Path:
    """The local folder of a SAM checkpoint, fetched from the hub if `weights` is a hub id.

    Raises `UserError` that names both ways where there is none, or where it holds no safetensors.
    """
    if not weights:
        raise UserError(f"--masks sam needs --mask-weights: {SAM_HINT}")
    if storage.is_remote(weights):
        raise UserError(f"--mask-weights {weights}: SAM's weights are not read from a URL; {SAM_HINT}")
    path = storage.local_path(weights)
    if path.is_dir():
        return _with_sam_files(path)
    if path.exists():
        form = "is a pickle, which is never loaded" if path.suffix in PICKLES else "is a file"
        raise UserError(f"--mask-weights {weights}: {form}; {SAM_HINT}")
    return _with_sam_files(_from_hub(weights))


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    why = "no such folder, and no hub id"
    if HUB_ID.fullmatch(name):
        try:
            # By pattern: a repository's pickles are not even fetched.
            return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
        except (OSError, ValueError, HfHubHTTPError):
            why = "is no folder and cannot be fetched from the hub (offline, or no such id?)"
    raise UserError(f"--mask-weights {name}: {why}; {SAM_HINT}")


def _with_sam_files(folder: Path) -> Path:
    def lacks(missing: str, what_to_do: str) -> UserError:
        return UserError(f"--mask-weights {folder}: {missing}; {what_to_do}")

    if not (folder / "config.json").is_file():
        raise lacks("no config.json", SAM_HINT)
    if not any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        pickles = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLES]
        if pickles:
            convert = (
                f"SamModel.from_pretrained({str(folder)!r}, use_safetensors=False).save_pretrained({str(folder)!r})"
            )
            what_to_do = f"if you trust it, convert it once: from transformers import SamModel; {convert}"
            raise lacks(
                f"{pickles[0]} is a pickle, which is never loaded, and there is no model.safetensors", what_to_do
            )
        raise lacks("no model.safetensors", SAM_HINT)
    preprocessor_config(folder)
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `UserError` that names the file."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"--mask-weights {path}: cannot be read ({error}); fetch it again") from None
    if not isinstance(value, dict):
        raise UserError(f"--mask-weights {path}: expected a JSON object; fetch it again")
    return value


def preprocessor_config(folder: Path) -> dict[str, Any]:
    """How a checkpoint wants its pictures: preprocessor_config.json, or the same within processor_config.json."""
    if (folder / "preprocessor_config.json").is_file():
        return read_json(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").is_file():
        inner = read_json(folder / "processor_config.json").get("image_processor")
        if isinstance(inner, dict):
            return inner
    raise UserError(f"--mask-weights {folder}: no preprocessor_config.json; {SAM_HINT}")


def require_rembg(weights: str) -> None:
    """Raises `UserError` unless `weights` can be a saliency network: see `check_saliency`."""
    if not weights:
        raise UserError(f"--masks rembg needs --mask-weights: {ONNX_HINT}")
    check_saliency(weights, "--mask-weights", "--masks rembg")


def weights_digest(kind: str, weights: str) -> str:
    """What of `weights` the masks depend on, whatever place they are in: SHA-256 of the files' bytes.

    For a session of rembg it is the name: rembg itself checks what it downloads for it.
    Raises `UserError` as `load_predictor` does.
    """
    if kind == "sam":
        folder = sam_folder(weights)
        files = [folder / name for name in ("config.json", "preprocessor_config.json", "processor_config.json")]
        digest = hashlib.sha256()
        for path in [path for path in files if path.is_file()] + sorted(folder.glob("*.safetensors")):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()
    require_rembg(weights)
    return hashlib.sha256(storage.read(weights)).hexdigest() if is_onnx(weights) else weights
