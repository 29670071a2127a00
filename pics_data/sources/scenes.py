"""The embedded source: procedural scenes instead of photographs. A `Photo` is a seed, its pixels are rendered."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pics_common.errors import UserError
from pics_data.records import Instance, Photo, Pixels
from pics_data.scenes.arranging import DIFFICULTIES
from pics_data.scenes.contact import truth_of_pair
from pics_data.scenes.layout import draw_scene
from pics_data.scenes.meshes import mesh_files
from pics_data.scenes.render import front, hides, render_scene
from pics_data.scenes.scene import Scene, relation

SIZES = (32, 2048)  # pixels a side


@dataclass(frozen=True, slots=True)
class SceneSettings:
    """What a scene depends on, besides its number."""

    seed: int = 0
    size: int = 256  # pixels, square pictures
    meshes: str = ""  # folder of the user's meshes (glb, gltf, obj, ply, off, stl), searched with its subfolders
    difficulty: str = "mixed"  # what scenes are like: easy, crowded, containment, or mixed


def photos(settings: SceneSettings, num_scenes: int) -> Iterator[Photo]:
    """The scenes 0 .. num_scenes - 1 with their objects; no pixel is made.

    Boxes are those of the whole objects, hidden parts included; areas are of what shows, within a few percent.
    Raises `UserError` for a size, seed or difficulty that cannot be, and for a folder of meshes that is not one or
    holds a file that cannot be read.
    """
    if not SIZES[0] <= settings.size <= SIZES[1]:
        raise UserError(f"scenes: size {settings.size}; expected {SIZES[0]} to {SIZES[1]} pixels")
    if settings.seed < 0:
        raise UserError(f"scenes: seed {settings.seed}; expected 0 or more")
    if settings.difficulty not in DIFFICULTIES:
        raise UserError(f"scenes: difficulty {settings.difficulty!r}; expected one of {', '.join(DIFFICULTIES)}")
    for index in range(num_scenes):
        yield _photo(_draw(settings, index), settings, index)


def render(photo: Photo, settings: SceneSettings) -> Pixels:
    """The picture of a scene and the truth of `photo.instances`: any of its objects, in any order."""
    scene = scene_of(photo.id, settings)
    chosen = tuple(int(instance.id) for instance in photo.instances)
    made = render_scene(scene, settings.size, chosen)
    return Pixels(
        rgb=made.rgb,
        masks=[made.visible[k] for k in chosen],
        full_masks=[made.whole[k] for k in chosen],
        full_rgba=made.alone,
        front=front(made, chosen),
        depth=made.depth,
        hides=hides(made, chosen),
    )


def relation_label(photo: Photo, settings: SceneSettings) -> str:
    """How the first two of `photo.instances` stand to each other: "front", "on", "in", "leaning", "beside", or ""."""
    scene = scene_of(photo.id, settings)
    first, second = (int(instance.id) for instance in photo.instances[:2])
    return relation(scene, first, second)


@dataclass(frozen=True, slots=True)
class PairTruth:
    """How two objects hold each other in space; each of the two is called 0 or 1.

    `supporter` carries the other from below, directly; what merely leans is not carried. `container` has the other in
    its room, whether or not they touch. `contact` says whether they touch: are nearer than `contact.TOUCHING`.
    """

    supporter: int | None
    container: int | None
    contact: bool


def pair_truth(photo: Photo, settings: SceneSettings) -> PairTruth:
    """The truth of the first two of `photo.instances`."""
    scene = scene_of(photo.id, settings)
    first, second = (int(instance.id) for instance in photo.instances[:2])
    return PairTruth(*truth_of_pair(scene.objects, first, second))


def scene_of(photo_id: str, settings: SceneSettings) -> Scene:
    """The scene that the photo of this id shows."""
    return _draw(settings, _number(photo_id, settings))


@lru_cache(maxsize=4)  # a sample asks for its scene twice: for its pixels and for the relation
def _draw(settings: SceneSettings, index: int) -> Scene:
    return draw_scene(settings.seed, index, _meshes(settings.meshes), settings.difficulty)


@lru_cache(maxsize=4)
def _meshes(folder: str) -> tuple[Path, ...]:
    """The folder is listed once a process: it is expected not to change during a run."""
    return mesh_files(folder)


def _number(photo_id: str, settings: SceneSettings) -> int:
    start, _, number = photo_id.rpartition("-")
    assert start == _start(settings), f"{photo_id} is not a scene of seed {settings.seed}, {settings.difficulty}"
    return int(number)


def _start(settings: SceneSettings) -> str:
    """What the ids of the settings' photos begin with: those of a mixture's members differ by their difficulty."""
    return f"s{settings.seed}" + ("" if settings.difficulty == "mixed" else f"-{settings.difficulty}")


def _photo(scene: Scene, settings: SceneSettings, index: int) -> Photo:
    size = settings.size
    instances = []
    for k, (thing, look) in enumerate(zip(scene.objects, scene.looks, strict=True)):
        x, y, w, h = (value * size for value in look.box)
        instances.append(Instance(str(k), thing.body.solid.category, (x, y, w, h), look.visible * size * size))
    name = f"{_start(settings)}-{index:07d}"
    terms = "" if settings.meshes else "CC0-1.0"  # the user's meshes have their own
    return Photo(name, "scenes", "", size, size, tuple(instances), license=terms)
