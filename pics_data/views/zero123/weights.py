"""Where Zero-1-to-3's weights are, and whether they are all there, before any is read. No torch, no pickle, no code.

A folder in diffusers' layout has these parts, as `kxic/zero123-xl`, `kxic/zero123-165000`,
`bennyguo/zero123-xl-diffusers` and `ashawkey/zero123-xl-diffusers` have them:

    model_index.json                 the class of each part; read as data, since the projection's is code of its own
    scheduler/scheduler_config.json  DDIM
    unet/                            UNet2DConditionModel of 8 input channels
    vae/                             AutoencoderKL
    image_encoder/                   CLIPVisionModelWithProjection
    cc_projection/                   kxic: `projection.weight` [D, D + 4] and `projection.bias` [D]
    clip_camera_projection/          the others: `proj.weight` and `proj.bias` of the same shapes

D, 768, is the width of CLIP's embedding. A part's weights are `<stem>.safetensors`, or `<stem>.fp16.safetensors` where
that is all there is.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pics_common import storage
from pics_common.errors import UserError
from pics_common.errors import require_packages as _require_packages
from pics_data.predict.weights import HUB_ID, PICKLES

HINT: Final = "give a folder in diffusers' layout, or a hub id such as ashawkey/zero123-xl-diffusers"
PACKAGES: Final = ("torch", "diffusers", "transformers", "safetensors")
INDEX: Final = "model_index.json"
SCHEDULER: Final = "scheduler/scheduler_config.json"
# Parts of our own list of classes, and the stems of their weights.
PARTS: Final = {
    "unet": ("UNet2DConditionModel", "diffusion_pytorch_model"),
    "vae": ("AutoencoderKL", "diffusion_pytorch_model"),
    "image_encoder": ("CLIPVisionModelWithProjection", "model"),
}
# The known names of the projection, and of the linear layer in it.
PROJECTIONS: Final = {"cc_projection": "projection", "clip_camera_projection": "proj"}
PROJECTION_STEM: Final = "diffusion_pytorch_model"
LATENT: Final = 4  # channels
POSE: Final = 4  # numbers
# Stable Zero123 comes in the same layout, but wants the cut-out's own elevation where these want the change of radius.
STABLE: Final = re.compile(r"stable.?zero123", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Weights:
    """A folder in which nothing is missing; `files` are the weights of each part, the projection's under its name."""

    folder: Path
    projection: str
    width: int  # D
    files: dict[str, Path]


def require_packages() -> None:
    """Raises `UserError` that says what to install if a package is missing."""
    _require_packages("--views zero123", *PACKAGES, extra="views")


def find_weights(weights: str) -> Weights:
    """The weights at `weights`, a local folder or a hub id, all parts there and of sizes that fit together.

    Raises `UserError` that names the file, and what was expected of it.
    """
    if not weights:
        raise UserError(f"--views zero123 needs --view-weights: {HINT}")
    if STABLE.search(storage.base_name(weights)):
        raise refusal(weights, "Stable Zero123 encodes cameras in another way; expected zero123 or zero123-xl")
    if storage.is_remote(weights):
        raise refusal(weights, "weights are not read from a URL")
    path = storage.local_path(weights)
    if path.is_dir():
        return _checked(path, str(path), "")
    if path.exists():
        form = "is a pickle, which is never loaded" if path.suffix in PICKLES else "is a file"
        raise refusal(weights, form)
    return _checked(_from_hub(weights), weights, f"fetch it with `hf download {weights} --local-dir zero123` and ")


def refusal(place: object, why: str, what_to_do: str = HINT) -> UserError:
    """The error of weights that are of no use."""
    return UserError(f"--view-weights {place}: {why}; {what_to_do}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `UserError` that names the file."""
    if not path.is_file():
        raise refusal(path, "no such file")
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise refusal(path, f"cannot be read ({error})", "fetch it again") from None
    if not isinstance(value, dict):
        raise refusal(path, "expected a JSON object", "fetch it again")
    return value


def weights_digest(weights: str) -> str:
    """What of `weights` the views depend on, whatever place they are in: SHA-256 of the files' bytes."""
    found = find_weights(weights)
    configs = [found.folder / SCHEDULER, *(found.folder / part / "config.json" for part in PARTS)]
    digest = hashlib.sha256()
    for path in [*configs, *(file for name in found.files for file in _all_of(found.files[name]))]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    why = "no such folder, and no hub id"
    if HUB_ID.fullmatch(name):
        parts = [*PARTS, *PROJECTIONS, "scheduler"]
        wanted = [INDEX, *(f"{part}/*.{ending}" for part in parts for ending in ("json", "safetensors"))]
        try:
            # By pattern: a repository's code and pickles are not even fetched.
            return Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=["*ema.safetensors"]))
        except (OSError, ValueError, HfHubHTTPError):
            why = "is no folder and cannot be fetched from the hub (offline, or no such id?)"
    raise refusal(name, why)


def _checked(folder: Path, place: str, fetch: str) -> Weights:
    """`place` is what the user calls the folder; `fetch` how to get what was left on the hub."""
    index = read_json(folder / INDEX)
    for part, (kind, _) in PARTS.items():
        entry = index.get(part)
        if isinstance(entry, list) and entry[-1] != kind:
            raise refusal(folder / INDEX, f"{part} is {entry[-1]}; expected {kind}")
    read_json(folder / SCHEDULER)
    projection = _projection(folder)
    stems = {part: stem for part, (_, stem) in PARTS.items()} | {projection: PROJECTION_STEM}
    files = {part: _weights_of(folder / part, stem, place, fetch) for part, stem in stems.items()}
    width = _check_configs(folder)
    _check_projection(files[projection], PROJECTIONS[projection], width)
    return Weights(folder, projection, width, files)


def _projection(folder: Path) -> str:
    found = [name for name in PROJECTIONS if (folder / name).is_dir()]
    if len(found) != 1:
        there = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir()))
        expected = f"expected either {' or '.join(PROJECTIONS)} among its folders"
        raise refusal(folder, f"{expected}, where embedding and camera are joined; found {there}")
    return found[0]


def _weights_of(folder: Path, stem: str, place: str, fetch: str) -> Path:
    """The file that holds a part's weights; or lists the files that do."""
    for name in (f"{stem}.safetensors", f"{stem}.safetensors.index.json", f"{stem}.fp16.safetensors"):
        if (folder / name).is_file():
            return folder / name
    lacking = f"no {folder.name}/{stem}.safetensors"
    pickles = [path for path in sorted(folder.glob("*")) if path.suffix in PICKLES]
    if pickles:
        why = f"{folder.name}/{pickles[0].name} is a pickle, which is never loaded, and there is {lacking}"
        raise refusal(place, why, f"if you trust it, convert it once: {_convert(place)}")
    if fetch:
        why = f"{lacking}, and pickles are never fetched"
        raise refusal(place, why, f"if it holds pickles that you trust, {fetch}convert them: {_convert('zero123')}")
    raise refusal(place, lacking)


def _convert(folder: str) -> str:
    """Python, in one line, that writes all pickles of a folder as safetensors, unpickling nothing but numbers."""
    return (
        "import torch; from pathlib import Path; from safetensors.torch import save_file; "
        "[save_file({k: v.clone() for k, v in torch.load(p, weights_only=True).items()}, p.with_name("
        "('model' if p.stem == 'pytorch_model' else p.stem) + '.safetensors'), {'format': 'pt'}) "
        f"for p in Path({folder!r}).glob('*/*.bin')]"
    )


def _check_configs(folder: Path) -> int:
    """D, to which all parts must agree."""
    configs = {part: read_json(folder / part / "config.json") for part in PARTS}
    width = configs["image_encoder"].get("projection_dim")
    if not isinstance(width, int):
        raise refusal(folder / "image_encoder/config.json", f"projection_dim is {width}; expected a width, such as 768")
    for part, key, expected, why in (
        ("unet", "in_channels", 2 * LATENT, "a noisy latent and the cut-out's"),
        ("unet", "out_channels", LATENT, "a latent's"),
        ("vae", "latent_channels", LATENT, "a latent's"),
        ("unet", "cross_attention_dim", width, "the image encoder's projection_dim"),
    ):
        value = configs[part].get(key)
        if value != expected:
            raise refusal(folder / part / "config.json", f"{key} is {value}; expected {expected}, {why}")
    return width


def _check_projection(file: Path, layer: str, width: int) -> None:
    from safetensors import SafetensorError, safe_open

    expected = {f"{layer}.weight": [width, width + POSE], f"{layer}.bias": [width]}
    try:
        with safe_open(file, framework="numpy") as tensors:
            found = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise refusal(file, f"cannot be read ({error})", "fetch it again") from None
    if found != expected:
        raise refusal(file, f"holds {_shapes(found)}; expected {_shapes(expected)}")


def _shapes(tensors: dict[str, list[int]]) -> str:
    return " and ".join(f"{name} {shape}" for name, shape in sorted(tensors.items())) or "nothing"


def _all_of(file: Path) -> list[Path]:
    """The weights' file itself; or the list and all that it lists."""
    return [file] if file.suffix == ".safetensors" else [file, *sorted(file.parent.glob("*-of-*.safetensors"))]
