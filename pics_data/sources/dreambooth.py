"""DreamBooth subjects (https://github.com/google/dreambooth): some photos each of thirty objects, for evaluation.

    dataset/prompts_and_classes.txt   "Classes", then the lines `subject_name,class`, then prompts
    dataset/<subject>/00.jpg ...

`--images` is `dataset`; `--annotations` is the file of classes where it is not in there. A photo has one object, of the
subject's class, and no pair: build with `--objects 1`. There is no annotation of where it is. So its box is the whole
photo, and a mask predictor makes its silhouette (`--masks`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from pics_common import storage
from pics_common.errors import UserError
from pics_data.ahead import read_ahead
from pics_data.records import Instance, Photo, Reject
from pics_data.sources.annotated_files import require_folders
from pics_data.sources.plain_photos import AHEAD, find_photos, sized_photo

SOURCE = "dreambooth"
# Some photos are the authors' own, some from Unsplash: this list says which.
LICENSE = "https://github.com/google/dreambooth/blob/main/dataset/references_and_licenses.txt"
CLASSES = "prompts_and_classes.txt"
HEADING = "subject_name,class"


def photos(images: Sequence[str], annotations: Sequence[str], check_photos: bool = True) -> Iterator[Photo | Reject]:
    """The photos of all subjects, by name; each has one object without a segmentation, as large as the photo.

    A photo that cannot be read or whose folder is no subject of the list gives a `Reject`. The folders are listed
    whatever `check_photos` says: nothing else tells which photos there are.
    Raises `UserError` for a folder or list of classes that is not there, or is none.
    """
    if len(images) != 1 or len(annotations) > 1:
        raise UserError(f"--source {SOURCE}: expected one folder in --images, and at most one file in --annotations")
    root = require_folders("--images", images, "DreamBooth's folder of subjects")[0]
    classes = _read_classes(annotations[0] if annotations else storage.join(root, CLASSES))
    for _, photo in read_ahead(find_photos(root), partial(_photo, classes), AHEAD):
        yield photo.result()


def _photo(classes: dict[str, str], found: tuple[str, str]) -> Photo | Reject:
    photo_id, url = found
    subject = photo_id.rpartition("/")[0]
    if subject not in classes:
        return Reject(f"{SOURCE}-{photo_id}", "plan", "unknown subject", f"{url} is in no folder of a subject")
    photo = sized_photo(SOURCE, photo_id, url, LICENSE)
    if isinstance(photo, Reject):
        return photo
    box = (0.0, 0.0, float(photo.width), float(photo.height))
    return replace(photo, instances=(Instance("0", classes[subject], box, box[2] * box[3]),))


def _read_classes(url: str) -> dict[str, str]:
    """Subject -> class: the lines below `subject_name,class`, up to an empty one."""
    try:
        lines = [line.strip() for line in storage.read(url).decode(errors="replace").splitlines()]
    except FileNotFoundError:
        raise UserError(f"--annotations: {url} does not exist; expected DreamBooth's {CLASSES}") from None
    start = lines.index(HEADING) + 1 if HEADING in lines else len(lines)
    classes: dict[str, str] = {}
    for line in lines[start:]:
        subject, comma, name = line.partition(",")
        if not comma:
            break
        classes[subject.strip()] = name.strip()
    if not classes:
        raise UserError(f"--annotations: {url} has no lines below `{HEADING}`; expected DreamBooth's {CLASSES}")
    return classes
