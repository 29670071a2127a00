"""Options that several commands share: what is made of each cut-out besides, and what the work runs on."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pics_common.errors import UserError

ViewsBy = Literal["none", "inflate", "mesh", "zero123"]

# The least and the most of the options that both hold; see `check_ranges`.
RANGES: tuple[tuple[str, float, float], ...] = (
    ("num_views", 1, 100),
    ("view_steps", 1, 1_000),
    ("view_guidance", 1, 100),
    ("view_batch", 1, 4_096),
    ("rotations", 0, 100),
    ("rotation", 0, 180),
    ("gpus_per_worker", 0, 1_000),
    ("predictors", 1, 100_000),
    ("workers", 0, 100_000),
)
# What an option is without effect without.
NEEDS_VIEWS = ("num_views", "require_views")
NEEDS_ZERO123 = ("view_weights", "view_steps", "view_guidance", "view_batch", "view_saliency")


@dataclass(frozen=True)
class ViewOptions:
    """Pictures made of each cut-out: the object from other sides, and turned in the plane."""

    views: ViewsBy = "none"
    """Who makes auxiliary views of each object: `inflate` from its silhouette, `mesh` from a mesh (a scene's own
    objects, or those of --meshes), `zero123` a diffusion model; none: nobody."""
    num_views: int = 4
    """Views of each object."""
    require_views: bool = False
    """Drop samples with an object that no view could be made of; else they go on without, and say so."""
    view_weights: str = ""
    """Weights of zero123 in diffusers' layout: a local folder or a hub id."""
    view_steps: int = 50
    """Denoising steps of a view (zero123)."""
    view_guidance: float = 3.0
    """Guidance scale of a view (zero123); 1: none."""
    view_batch: int = 8
    """Views that go through the network together (zero123)."""
    view_saliency: str = ""
    """Network that finds the object in the pictures of zero123: an ONNX file such as u2net.onnx, or a rembg session;
    none: what is not white is the object."""
    rotations: int = 0
    """Copies of each cut-out, turned in the plane."""
    rotation: float = 30.0
    """Each by an angle from U(-ROTATION, ROTATION) degrees."""


@dataclass(frozen=True)
class RayOptions:
    """What the work runs on."""

    gpus_per_worker: float = 0.0
    """GPUs of each mask predictor or view generator; 0 runs them on CPUs."""
    predictors: int = 1
    """Mask predictors, and view generators with weights, at the same time."""
    workers: int = 0
    """Shards made at the same time; 0: one for each CPU."""
    address: str | None = None
    """Ray cluster to run on: `auto` or host:port. All places named must then be shared by all nodes."""


@dataclass(frozen=True, slots=True)
class ViewsConfig(ViewOptions, RayOptions):
    """Adds views and rotations to the samples of built shards; run again, it finishes what is not finished."""

    folder: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PATH-OR-URL")]] = ""
    """Folder of shards."""
    out: str = "shards-with-views"
    """Folder of the new shards, a path or a URL."""
    views: ViewsBy = "inflate"
    """Who makes auxiliary views of each object; see `pics-data build --help`."""
    meshes: Path | None = None
    """Folder of meshes of the objects, <key>.obj0.glb and so on (--views mesh)."""


def check_ranges(config: object, ranges: Iterable[tuple[str, float, float]]) -> None:
    """Raises `UserError` for the first of the named values that is not within its bounds, both included."""
    for name, low, high in ranges:
        value = getattr(config, name)
        if not low <= value <= high:
            raise UserError(f"{option_of(name)} {value}: expected {low} to {high}")


def option_of(name: str) -> str:
    """A setting's name as an option: `num_views` -> `--num-views`."""
    return "--" + name.replace("_", "-")
