"""The settings of a build: one typed dataclass, read from YAML and from the command line alike."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pics_common.errors import UserError
from pics_data.options import NEEDS_VIEWS, NEEDS_ZERO123, RANGES, RayOptions, ViewOptions, check_ranges, option_of

if TYPE_CHECKING:
    from pics_data.sources.scenes import SceneSettings

Source = Literal[
    "bdd100k",
    "cityscapes",
    "coco",
    "coco_panoptic",
    "dreambooth",
    "folder",
    "lvis",
    "mapillary",
    "objects365",
    "scenes",
    "viton_hd",
]

Difficulty = Literal["mixed", "easy", "crowded", "containment"]

UNANNOTATED = ("dreambooth", "folder")  # photos without annotation files
OBJECTLESS = ("folder",)  # photos in which a predictor has to find the objects first
MASKLESS = ("dreambooth", "folder", "objects365")  # annotations, if any, without silhouettes
PARTLY_MASKLESS = ("bdd100k",)  # some of its annotation files have boxes alone

# What changes no byte of a shard: where things are, how they run, when to give up. The digest of the plan stands for
# the contents of the images' and annotations' paths, so a data set may move between two runs.
NOT_IN_IDENTITY = (
    "images",
    "annotations",
    "out",
    "address",
    "workers",
    "gpus_per_worker",
    "predictors",
    "max_reject_fraction",
    "retry_rejects",
)
# What a mixture's members bring themselves; all else is the mixture's own.
OF_A_MEMBER = (
    "source",
    "images",
    "annotations",
    "objects",
    "pairs_per_photo",
    "min_area",
    "min_iou",
    "max_iou",
    "containment",
    "crowds",
    "categories",
    "not_categories",
    "licenses",
    "max_gap",
    "max_parts",
    "max_holes",
    "max_border",
    "min_edge",
    "masks",
    "mask_weights",
    "limit",
    "num_scenes",
    "scene_size",
    "meshes",
    "difficulty",
)

# To be raised with every change of this code that makes other bytes of the same plan: a folder of shards that an older
# version began is then refused, not mixed.
BYTES_VERSION = 4


@dataclass(frozen=True, slots=True)
class BuildConfig(ViewOptions, RayOptions):
    """Takes annotated photos apart and writes shards; run again, it finishes what is not finished."""

    source: Source = "scenes"
    """Where the photos come from; `scenes` renders them and needs no data."""
    images: tuple[str, ...] = ()
    """Folders of photos: paths, or URLs such as s3://bucket/folder."""
    annotations: tuple[str, ...] = ()
    """Annotation files or folders of the source, paths or URLs."""
    out: str = "shards"
    """Folder of the shards, a path or a URL."""
    mix: tuple[Path, ...] = ()
    """Recipes of single sources to build into one set of shards, in place of --source."""
    mix_weights: tuple[float, ...] = ()
    """How often training sees a sample of each recipe of --mix, relative to the others; 1 where none is given."""

    objects: int = 2
    """Objects of a composition: this many that touch, 2 to 8 (dreambooth: 1)."""
    pairs_per_photo: int = 1
    """Compositions made of one photo at most, those with the highest box IoU first."""
    min_area: float = 0.01171
    """Smallest object, as a share of the photo's area."""
    min_iou: float = 0.0
    """Objects that touch have a box IoU above this ..."""
    max_iou: float = 1.0
    """... and not above this."""
    containment: float = 1.0
    """A box of which this share or more lies in another's is contained, and the two make no pair."""
    crowds: bool = False
    """Take annotations of crowds as objects, too."""
    categories: tuple[str, ...] = ()
    """Take objects of these categories only; none: all."""
    not_categories: tuple[str, ...] = ()
    """Take no object of these categories."""
    licenses: tuple[str, ...] = ()
    """Take photos only whose licence contains one of these words; none: all."""
    max_gap: float = -1.0
    """Drop samples whose silhouettes are further apart than this, in pixels; -1: keep them."""
    max_parts: int = 0
    """Drop samples with an object in more parts than this; 0: keep them."""
    max_holes: int = -1
    """Drop samples with an object of more holes than this; -1: keep them."""
    max_border: float = 1.0
    """Drop samples with an object of whose outline more than this share lies on the photo's border."""
    min_edge: float = 0.0
    """Drop samples with an object whose outline is less sharp than this, 0 to 1."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Near-duplicate photos: `drop` keeps one of each, across sources and splits."""

    masks: Literal["given", "sam", "rembg"] = "given"
    """Who makes silhouettes: the annotations, or a predictor where they have boxes or nothing."""
    mask_weights: str = ""
    """Weights of the predictor: a local folder or a hub id (sam), an ONNX file (rembg)."""

    val_fraction: float = 0.05
    """Share of the photos kept for validation; a photo's own id decides."""
    shard_samples: int = 0
    """Samples a shard, about; 0: 1000, fewer where the whole plan is small."""
    size: int = 0
    """Longest side of the stored photo in pixels; larger ones are resized. 0: each photo's own size, its bytes kept."""
    object_size: int = 224
    """Longest side of the square cut-outs in pixels; an object that the photo shows smaller keeps its own pixels."""
    seed: int = 0
    """Seed of the order of photos, of the cut-outs' margins and of the scenes."""
    limit: int = 0
    """Stop planning after so many photos; 0: take all."""
    check_photos: bool = True
    """List the folders of photos while planning, to leave out photos that are not there. Without, they are rejected
    when their turn comes."""
    num_scenes: int = 1000
    """Scenes to render (source scenes)."""
    scene_size: int = 256
    """Side of a scene's picture in pixels (source scenes)."""
    meshes: Path | None = None
    """Folder of further meshes: to place in scenes (source scenes), or of the objects themselves, <key>.obj0.glb and
    so on (--views mesh with any other source)."""
    difficulty: Difficulty = "mixed"
    """What scenes are like (source scenes): `easy`, `crowded`, `containment`, or `mixed`, some of each."""
    max_pixels: int = 100_000_000
    """A photo of more pixels than this is rejected before it is decoded."""
    max_reject_fraction: float = 0.5
    """The run fails if a larger share of the planned samples could not be made; what filters drop does not count."""
    retry_rejects: bool = False
    """Make those shards again that lack samples which may now succeed: photos that were missing or unreadable."""

    def check(self) -> "BuildConfig":
        """Raises `UserError` for a value out of range or an option without effect; returns itself."""
        ranges: tuple[tuple[str, float, float], ...] = (
            ("objects", 1, 8),
            ("pairs_per_photo", 1, 1_000),
            ("min_area", 0, 1),
            ("min_iou", 0, 1),
            ("max_iou", 0, 1),
            ("containment", 0.01, 1),
            ("max_gap", -1, 1_000_000),
            ("max_parts", 0, 1_000_000),
            ("max_holes", -1, 1_000_000),
            ("max_border", 0, 1),
            ("min_edge", 0, 1),
            ("val_fraction", 0, 1),
            ("shard_samples", 0, 1_000_000),
            ("size", 0, 16_384),
            ("object_size", 16, 4_096),
            ("seed", 0, 2**63 - 1),
            ("limit", 0, 2**63 - 1),
            ("num_scenes", 1, 2**63 - 1),
            ("scene_size", 32, 2_048),
            ("max_pixels", 1, 2**63 - 1),
            ("max_reject_fraction", 0, 1),
        )
        check_ranges(self, (*ranges, *RANGES))
        if self.min_iou >= self.max_iou:
            raise UserError(f"--min-iou {self.min_iou} is not below --max-iou {self.max_iou}; no two objects would fit")
        self._check_idle()
        self._check_masks()
        check_views(self, source=self.source)
        return self

    def _check_idle(self) -> None:
        """An option without effect is a mistake."""
        idle: tuple[str, ...]
        if self.source == "scenes":
            idle = ("images", "annotations", "size", "check_photos", "duplicates")
            hint = "use --scene-size for the size of scenes" if self.size else "did you mean another --source?"
        else:
            idle = ("num_scenes", "scene_size", "difficulty")
            idle += () if self.views == "mesh" else ("meshes",)
            hint = "leave it out, or use --source scenes"
            if self.source in UNANNOTATED:
                idle, hint = (*idle, "annotations"), "leave it out"
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in idle:
            if getattr(self, name) != defaults[name]:
                raise UserError(f"{option_of(name)} has no effect with --source {self.source}; {hint}")

    def _check_masks(self) -> None:
        needed = self.source in MASKLESS
        if needed and self.masks == "given":
            raise UserError(f"--source {self.source} has no silhouettes; give --masks sam or rembg and --mask-weights")
        if not needed and self.source not in PARTLY_MASKLESS and self.masks != "given":
            raise UserError(f"--masks {self.masks} has no effect with --source {self.source}: it has silhouettes")
        if self.mask_weights and self.masks == "given":
            raise UserError("--mask-weights has no effect without --masks sam or rembg")
        if self.gpus_per_worker and self.masks == "given" and self.views != "zero123":
            raise UserError("--gpus-per-worker has no effect without --masks sam or rembg, or --views zero123")
        if self.masks != "given" and not self.mask_weights:
            raise UserError(
                f"--mask-weights is missing: --masks {self.masks} needs "
                + ("a local folder or a hub id" if self.masks == "sam" else "an ONNX file or the name of a model")
            )

    def scene_settings(self) -> "SceneSettings":
        """The settings of the renderer."""
        from pics_data.sources.scenes import SceneSettings  # takes a second to import: only who renders pays

        return SceneSettings(
            seed=self.seed,
            size=self.scene_size,
            meshes=str(self.meshes.absolute()) if self.meshes else "",
            difficulty=self.difficulty,
        )


def check_views(options: ViewOptions, source: str) -> None:
    """Raises `UserError` for a view option without effect, or one that is missing; `source` is that of a build."""
    meshes = getattr(options, "meshes", None)
    defaults = {field.name: field.default for field in dataclasses.fields(ViewOptions)}
    idle: tuple[tuple[str, str], ...] = ()
    if options.views == "none":
        idle += tuple((name, "--views") for name in NEEDS_VIEWS)
    if options.views != "zero123":
        idle += tuple((name, "--views zero123") for name in NEEDS_ZERO123)
    if not options.rotations:
        idle += (("rotation", "--rotations"),)
    for name, needed in idle:
        if getattr(options, name) != defaults[name]:
            raise UserError(f"{option_of(name)} has no effect without {needed}")
    if options.views == "zero123" and not options.view_weights:
        raise UserError("--view-weights is missing: --views zero123 needs a local folder or a hub id")
    if options.views == "mesh" and source != "scenes" and meshes is None:
        raise UserError("--meshes is missing: --views mesh needs a folder of meshes, <key>.obj0.glb and so on")
