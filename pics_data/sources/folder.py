"""Any photos of the user's own, without annotation: .jpg, .jpeg, .png and .webp in folders and all folders below.

`--images` names the folders. A photo's id is its path below that folder, without the suffix: the folder may move, and
its photos keep their keys and their split. The photos come without objects; mask predictors find them (`--masks`).
"""

import posixpath
from collections.abc import Iterator, Sequence
from itertools import permutations

from pics_common import storage
from pics_common.errors import UserError
from pics_data.ahead import read_ahead
from pics_data.records import Photo, Reject
from pics_data.sources.annotated_files import require_folders
from pics_data.sources.plain_photos import AHEAD, SUFFIXES, find_photos, sized_photo

SOURCE = "folder"


def photos(images: Sequence[str], annotations: Sequence[str], check_photos: bool = True) -> Iterator[Photo | Reject]:
    """The photos below `images`, folder by folder, by name, with width and height as they are shown; no objects.

    A photo whose header cannot be read gives a `Reject`. Names of other kinds of files are passed over. The folders are
    listed whatever `check_photos` says: nothing else tells which photos there are.
    Raises `UserError` for a folder that is not there, holds no photo, or lies in another one that is given as well.
    """
    if annotations:
        raise UserError(f"--annotations has no effect with --source {SOURCE}, whose photos have none; leave it out")
    roots = require_folders("--images", images, "a folder of photos")
    for outer, root in permutations(roots, 2):
        if f"{root}/".startswith(f"{outer}/"):
            raise UserError(f"--images: {root} lies in {outer}; give each photo once")
    for root, prefix in zip(roots, _prefixes(roots), strict=True):
        found = ((posixpath.join(prefix, photo_id), url) for photo_id, url in find_photos(root))
        num_found = 0
        for _, photo in read_ahead(found, lambda item: sized_photo(SOURCE, *item), AHEAD):
            num_found += 1
            yield photo.result()
        if not num_found:
            raise UserError(f"--images: {root} holds no photo; expected files {', '.join(SUFFIXES)}")


def _prefixes(roots: list[str]) -> list[str]:
    """What keeps the ids of several folders apart: their names, with numbers where two are called the same."""
    if len(roots) == 1:
        return [""]
    names = [storage.base_name(root) for root in roots]
    if len(set(names)) == len(names):
        return names
    return [f"{i}-{name}" for i, name in enumerate(names)]
