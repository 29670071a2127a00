"""What to compose: folders in the published layout, a JSON-lines file, or shards -> jobs, loaded one at a time.

The published layout is a folder a job: `image.jpg` is the background; `object_0.png`, `object_1.png`, ... are the
objects, each a cut-out of any size on white or with alpha; `object_0_mask.png`, ... have the background's size and are
white where the object shall stand (a silhouette, or just a rectangle). Photos and masks are turned as their EXIF says.
`object_0_view_1.png`, `object_0_view_2.png`, ... may be there, the object seen from other sides; models that take no
views do without.

A line of a JSON-lines file says the same: {"key": "tea", "image": "table.jpg", "objects": [{"image": "pot.png",
"mask": "pot_mask.png"}, {"image": "cup.png", "box": [x, y, width, height]}]}, with paths relative to the file. An
object may have "text", what it is in words, and "views": paths, or {"image": "side.png", "azimuth": 90} with what is
known of azimuth and elevation (degrees) and distance, relative to the object's own picture.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pics_common.errors import UserError
from pics_model.arguments import mask_of_box
from pics_model.cut_out import Cut
from pics_model.examples import Example, View, camera_of
from pics_model.pictures import read_mask, read_object, read_photo
from pics_model.shard_reader import ShardTable, Split, open_shards, read_example

KINDS = (".jpg", ".jpeg", ".png", ".webp")
PICTURE = re.compile(r"(image|object_(?P<number>\d+)(_mask|_view_(?P<view>\d+))?)", re.IGNORECASE)
_Views: TypeAlias = list[tuple[Path, dict[str, float]]]  # each with its camera, as `camera_of` gives it
GOOD_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class JobError(UserError):
    """One job cannot be done; says which and why in one line. The others can."""


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to make. `name` is unique among the jobs read together, and fit to be a file's name; `read` takes
    the most views of an object that are wanted."""

    name: str
    read: Callable[[int], Example]


@dataclass(frozen=True, slots=True)
class _Placed:
    """The files of one object: its picture, and its mask or box (x, y, width, height) in the background; its views;
    what it is in words."""

    picture: Path
    mask: Path | None
    box: tuple[float, float, float, float] | None = None
    views: _Views = field(default_factory=list)
    text: str = ""


def load_job(job: Job, views: int = 0) -> Example:
    """Reads a job's pictures, and at most so many views of an object, `FramingSettings.views` of the model.

    Raises `JobError` for whatever is missing, unreadable or of the wrong size.
    """
    try:
        return job.read(views)
    except UserError as error:
        raise JobError(f"job {job.name}: {error}") from None


def read_jobs(path: Path, split: Split = "all", whole: bool = False, cut: Cut | None = None) -> list[Job]:
    """Lists the jobs of a folder of job folders, one job folder, a `.jsonl` file, a folder of shards or a tar.

    No picture is opened yet. `split` and `whole` (pictures of whole objects, where known) are for shards; `cut`
    cuts object pictures without alpha out (see `as_object`), and is not for shards. Raises `UserError` if there is no
    job at all, or if two would share a name.
    """
    if not path.exists():
        raise UserError(f"jobs {path}: does not exist; expected a folder of jobs, a .jsonl file, or shards")
    if path.is_file() and path.suffix == ".jsonl":
        jobs = _from_lines(path, cut)
    elif path.is_file() and path.suffix != ".tar":
        raise UserError(f"jobs {path}: expected a folder, a .jsonl file or a .tar")
    elif path.is_file() or (path / "index.json").is_file() or any(path.glob("*.tar")):
        if cut is not None:
            raise UserError("--cut-out has no effect with shards: their objects are cut out")
        table = open_shards(path, split)
        jobs = [Job(name, partial(read_example, table, i, whole)) for i, name in enumerate(_sample_names(table))]
    elif _is_job(path):
        jobs = [Job(path.resolve().name, partial(_read_folder, path, cut))]
    else:
        folders = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and _has_pictures(folder)]
        jobs = [Job(folder.name, partial(_read_folder, folder, cut)) for folder in folders]
    if not jobs:
        raise UserError(
            f"jobs {path}: none found; expected folders with image.jpg, object_0.png, object_0_mask.png, ..."
        )
    _check_names(path, jobs)
    return jobs


def _sample_names(table: ShardTable) -> list[str]:
    """The samples' keys, behind their shards' names if a key occurs in two shards."""
    if len(set(table.keys)) == len(table):
        return table.keys
    return [f"{table.shards[table.shard[i]].path.stem}-{key}" for i, key in enumerate(table.keys)]


def _check_names(path: Path, jobs: list[Job]) -> None:
    seen: set[str] = set()
    for job in jobs:
        if job.name in seen:
            raise UserError(f"jobs {path}: two jobs are named {job.name}; expected each name once")
        seen.add(job.name)


def _is_job(folder: Path) -> bool:
    return any(PICTURE.fullmatch(file.stem) and file.suffix.lower() in KINDS for file in folder.iterdir())


def _has_pictures(folder: Path) -> bool:
    """Whether it looks like a job, well named or not: one with wrong names shall be reported, not passed over."""
    return not folder.name.startswith(".") and any(file.suffix.lower() in KINDS for file in folder.iterdir())


def _read_folder(folder: Path, cut: Cut | None, views: int) -> Example:
    found: dict[str, Path] = {}
    num_objects = 0
    num_views: dict[int, int] = {}
    for file in sorted(folder.iterdir()):
        match = PICTURE.fullmatch(file.stem)
        if not match or file.suffix.lower() not in KINDS:
            continue
        name = file.stem.lower()
        if name in found:
            raise UserError(f"folder {folder}: both {found[name].name} and {file.name}; expected one of them")
        found[name] = file
        if match["number"]:
            k = int(match["number"])
            num_objects = max(num_objects, k + 1)
            if match["view"]:
                num_views[k] = max(num_views.get(k, 1), int(match["view"]))
    wanted = ["image"]
    for k in range(min(max(num_objects, 1), len(found) + 1)):
        wanted += [f"object_{k}", f"object_{k}_mask"]
        # A number far beyond what is there is named once, not once for each that lacks.
        wanted += [f"object_{k}_view_{v}" for v in range(1, min(num_views.get(k, 0), len(found)) + 1)]
    lacking = [f"{name}.jpg" if name == "image" else f"{name}.png" for name in wanted if name not in found]
    if lacking:
        raise UserError(f"folder {folder}: no {', no '.join(lacking)}; it holds {', '.join(sorted(_names(found)))}")
    placed = []
    for k in range(num_objects):
        seen: _Views = [(found[f"object_{k}_view_{v}"], {}) for v in range(1, num_views.get(k, 0) + 1)]
        placed.append(_Placed(found[f"object_{k}"], found[f"object_{k}_mask"], views=seen))
    return _read_files(folder.resolve().name, found["image"], placed, cut, views)


def _names(found: dict[str, Path]) -> list[str]:
    return [file.name for file in found.values()] or ["none of a job's files"]


def _from_lines(path: Path, cut: Cut | None) -> list[Job]:
    jobs = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"jobs {path}: cannot be read as text ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        key = f"job-{number:06}"
        try:
            content = json.loads(line)
            if isinstance(content, dict) and "key" in content:
                key = content["key"]
        except ValueError:
            content = None
        if not isinstance(key, str) or not GOOD_KEY.fullmatch(key):
            raise UserError(f"{where}: key {key!r}; expected letters, digits, `-`, `_` and `.`, as it names a file")
        jobs.append(Job(key, partial(_read_line, where, path.parent, key, content, cut)))
    return jobs


def _read_line(where: str, folder: Path, key: str, content: Any, cut: Cut | None, views: int) -> Example:
    if not isinstance(content, dict):
        raise UserError(f'{where}: expected a JSON object, {{"image": ..., "objects": [...]}}')
    image, objects = content.get("image"), content.get("objects")
    if not isinstance(image, str):
        raise UserError(f"{where}: no `image`; expected the path of the background")
    if not isinstance(objects, list) or not objects:
        raise UserError(f"{where}: no `objects`; expected a list of at least one")
    placed = [_placed(entry, f"{where}: objects[{k}]", folder) for k, entry in enumerate(objects)]
    return _read_files(key, folder / image, placed, cut, views)


def _placed(entry: Any, where: str, folder: Path) -> _Placed:
    """An object as a JSON line has it."""
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
        raise UserError(f"{where} has no `image`; expected the path of its picture")
    if ("mask" in entry) == ("box" in entry):
        raise UserError(f"{where}: expected either `mask` or `box`")
    text, views = entry.get("text", ""), entry.get("views", [])
    if not isinstance(text, str):
        raise UserError(f"{where}.text is {text!r}; expected what the object is, in words")
    if not isinstance(views, list):
        raise UserError(f"{where}.views is {views!r}; expected a list of paths")
    seen = [_view(view, f"{where}.views[{v}]", folder) for v, view in enumerate(views)]
    mask, box = None, None
    if "box" in entry:
        box = entry["box"]
        numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) for v in box)
        if not numbers or not all(abs(v) < 1e9 for v in box) or box[2] <= 0 or box[3] <= 0:
            raise UserError(f"{where}.box is {box!r}; expected [x, y, width, height] in pixels")
        box = (box[0], box[1], box[2], box[3])
    elif isinstance(entry["mask"], str):
        mask = folder / entry["mask"]
    else:
        raise UserError(f"{where}.mask is {entry['mask']!r}; expected a path")
    return _Placed(folder / entry["image"], mask, box, seen, text)


def _view(entry: Any, where: str, folder: Path) -> tuple[Path, dict[str, float]]:
    """A view as a JSON line has it: a path, or an object with `image` and a camera."""
    if isinstance(entry, str):
        return folder / entry, {}
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
        raise UserError(f'{where} is {entry!r}; expected a path, or {{"image": path, "azimuth": degrees, ...}}')
    return folder / entry["image"], camera_of(entry, where)


def _read_files(key: str, image: Path, placed: list[_Placed], cut: Cut | None, views: int) -> Example:
    photo = read_photo(_bytes(image), str(image), upright=True)
    size = photo.shape[0], photo.shape[1]
    return Example(
        key=key,
        photo=photo,
        objects=[_object(one.picture, cut) for one in placed],
        masks=[mask_of_box(one.box, size, str(image)) if one.box else _file_mask(one.mask, size) for one in placed],
        views=[[View(_object(path, cut), **camera) for path, camera in one.views[:views]] for one in placed],
        texts=[one.text for one in placed],
    )


def _object(path: Path, cut: Cut | None) -> NDArray[np.uint8]:
    return read_object(_bytes(path), str(path), upright=True, cut=cut)


def _file_mask(path: Path | None, size: tuple[int, int]) -> NDArray[np.bool_]:
    assert path is not None
    return read_mask(_bytes(path), str(path), size, upright=True)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
