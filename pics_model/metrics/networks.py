"""All networks that metrics need and that are at hand; of the others, why they are not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pics_common.errors import UserError
from pics_model.metrics.embeddings import Clip, Dino, DreamSim, load_clip, load_dino, load_dreamsim
from pics_model.metrics.inception import Inception, load_inception
from pics_model.metrics.lpips import Lpips, load_lpips
from pics_model.metrics.score import BETTER
from pics_model.metrics.weights import MissingWeightsError

NEEDS = {
    "lpips": ("lpips", "mlpips"),
    "inception": ("fid",),
    "clip": ("clip", "clip_text"),
    "dino": ("dinov2",),
    "dreamsim": ("dreamsim",),
}


@dataclass(frozen=True, slots=True)
class Networks:
    """Networks that are at hand. `metrics` are those that were asked for; `missing` says why one of them cannot be."""

    metrics: tuple[str, ...] = ("psnr", "ssim", "mpsnr", "mssim")
    lpips: Lpips | None = None
    inception: Inception | None = None
    clip: Clip | None = None
    dino: Dino | None = None
    dreamsim: DreamSim | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"


def load_networks(
    weights: Path | None,
    clip: str | Path | None = None,
    dino: str | Path | None = None,
    metrics: Sequence[str] = tuple(BETTER),
    device: str = "cpu",
) -> Networks:
    """What the metrics need: files of the folder `weights`; CLIP and DINOv2 from a folder or a hub id each, by default
    from `weights`/clip and `weights`/dinov2.

    What is not there is told in `missing`. Raises `UserError` for an unknown metric, and for weights that are there but
    damaged: whoever put them there wants the number.
    """
    unknown = sorted(set(metrics) - set(BETTER))
    if unknown:
        raise UserError(f"metrics: unknown {unknown[0]!r}; expected some of {', '.join(BETTER)}")
    loaders: dict[str, Callable[[], Any]] = {
        "lpips": lambda: load_lpips(weights).to(device),
        "inception": lambda: load_inception(weights).to(device),
        "clip": lambda: _on(device, load_clip(_source(clip, weights, "clip"))),
        "dino": lambda: _on(device, load_dino(_source(dino, weights, "dinov2"))),
        "dreamsim": lambda: load_dreamsim(weights, device),
    }
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for part, load in loaders.items():
        wanted = [name for name in NEEDS[part] if name in metrics]
        if not wanted:
            continue
        try:
            found[part] = load()
        except MissingWeightsError as error:
            missing |= dict.fromkeys(wanted, str(error))
    ordered = tuple(name for name in BETTER if name in metrics)
    return Networks(metrics=ordered, missing=missing, device=device, **found)


def _source(given: str | Path | None, weights: Path | None, name: str) -> str | Path:
    if given is not None:
        return given
    if weights is None:
        raise MissingWeightsError(f"no folder of weights; give --weights DIR with a folder {name} in it")
    return weights / name


def _on(device: str, network: Clip | Dino) -> Clip | Dino:
    (network.model if isinstance(network, Clip) else network.trunk).to(device)
    return network
