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
from pics_model.metrics.weights import ALEXNET, INCEPTION, MissingWeightsError, find_weights, origin

NEEDS = {
    "lpips": ("lpips", "mlpips"),
    "inception": ("fid",),
    "clip": ("clip", "clip_text"),
    "dino": ("dinov2",),
    "dreamsim": ("dreamsim",),
}


@dataclass(frozen=True, slots=True)
class Networks:
    """Networks that are at hand.

    `metrics` are those that were asked for. By metric, `missing` says why one of them cannot be, and `origins` where
    the weights of the others came from.
    """

    metrics: tuple[str, ...] = ("psnr", "ssim", "mpsnr", "mssim")
    lpips: Lpips | None = None
    inception: Inception | None = None
    clip: Clip | None = None
    dino: Dino | None = None
    dreamsim: DreamSim | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
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
    loaders: dict[str, Callable[[], tuple[Any, str]]] = {
        "lpips": lambda: (load_lpips(weights).to(device), origin(find_weights(weights, ALEXNET), ALEXNET)),
        "inception": lambda: (load_inception(weights).to(device), origin(find_weights(weights, INCEPTION), INCEPTION)),
        "clip": lambda: _load_tower(load_clip, clip, weights, "clip", device),
        "dino": lambda: _load_tower(load_dino, dino, weights, "dinov2", device),
        "dreamsim": lambda: (load_dreamsim(weights, device), f"{weights}/dreamsim"),
    }
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    origins: dict[str, str] = {}
    for part, load in loaders.items():
        wanted = [name for name in NEEDS[part] if name in metrics]
        if not wanted:
            continue
        try:
            found[part], source = load()
            origins |= dict.fromkeys(wanted, source)
        except MissingWeightsError as error:
            missing |= dict.fromkeys(wanted, str(error))
    ordered = tuple(name for name in BETTER if name in metrics)
    return Networks(metrics=ordered, missing=missing, origins=origins, device=device, **found)


def _load_tower(
    load: Callable[[str | Path], Clip | Dino], given: str | Path | None, weights: Path | None, name: str, device: str
) -> tuple[Clip | Dino, str]:
    if given is None and weights is None:
        raise MissingWeightsError(f"no folder of weights; give --weights DIR with a folder {name} in it")
    source = given if given is not None else Path(f"{weights}/{name}")
    network = load(source)
    network.model.to(device)
    return network, str(source)
