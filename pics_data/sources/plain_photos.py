"""Photos that no annotation describes: found below a folder, and of the size that their files' headers say."""

import posixpath
from collections import Counter
from collections.abc import Iterator
from itertools import groupby

from pics_common import storage
from pics_data.photofile import BROKEN, ORIENTATION, SWAPPED, check_file, open_image, what_is_wrong
from pics_data.records import Photo, Reject, RejectError
from pics_data.sources.annotated_files import plain

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# Enough for most headers; for those with a thumbnail, a colour profile and an editor's notes; or all there is, as WebP
# needs it, whose decoder wants the whole file.
PREFIXES = (2**16, 2**20, -1)
AHEAD = 32  # headers that are asked for at a time: a store answers late, but answers many


def find_photos(root: str) -> Iterator[tuple[str, str]]:
    """The photos below a folder, as (id, path or URL): folder by folder, by name; a folder's names are held at a time.

    The id is the path below `root` without the suffix, where nothing else in its folder is called so; else with it.
    """
    for folder, paths in groupby(storage.walk(root, SUFFIXES), key=posixpath.dirname):
        names = [posixpath.basename(path) for path in paths]
        place = storage.join(root, *filter(None, folder.split("/")))
        for photo_id, name in zip(_ids(names), names, strict=True):
            yield posixpath.join(folder, photo_id), storage.join(place, name)


def _ids(names: list[str]) -> Iterator[str]:
    stems = Counter(posixpath.splitext(name)[0] for name in names)
    taken = set(names)
    for name in names:
        stem = posixpath.splitext(name)[0]
        yield stem if stems[stem] == 1 and stem not in taken else name


def sized_photo(source: str, photo_id: str, url: str, terms: str = "") -> Photo | Reject:
    """A photo without objects, of the size that its header says, or the `Reject` of one that cannot be read.

    `terms` is its licence.
    """
    if (name := plain(photo_id)) != photo_id:
        return Reject(f"{source}-{name}", "plan", "name is not UTF-8", name)
    try:
        width, height = photo_size(url)
    except RejectError as error:
        return Reject(f"{source}-{photo_id}", "plan", error.reason, error.detail)
    return Photo(photo_id, source, url, width, height, license=terms, upright=True)


def photo_size(url: str) -> tuple[int, int]:
    """Width and height in pixels of a photo as it is shown, turned as EXIF says.

    Reads 64 KB of most files. Raises `RejectError`: "missing photo", "unreadable photo", "broken photo".
    """
    data = b""
    try:
        check_file(url)
        with storage.open_read(url) as file:
            for size in PREFIXES:
                data += file.read(size - len(data) if size > 0 else -1)
                try:
                    return _size(data)
                except BROKEN as error:
                    if len(data) != size:  # there is no more to read
                        raise RejectError("broken photo", f"{url}: {what_is_wrong(error)}") from None
    except FileNotFoundError:
        raise RejectError("missing photo", url) from None
    except OSError as error:
        raise RejectError("unreadable photo", f"{url}: {error.strerror or error}") from None
    raise AssertionError("the last prefix is the whole file")


def _size(data: bytes) -> tuple[int, int]:
    with open_image(data) as picture:
        width, height = picture.size
        # Without EXIF in the header, `getexif` would look for it behind the pixels.
        turned = "exif" in picture.info and picture.getexif().get(ORIENTATION, 1) in SWAPPED
    return (height, width) if turned else (width, height)
