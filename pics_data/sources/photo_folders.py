"""Finds a photo's file in the folders that the user names."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from pics_common import storage
from pics_common.errors import UserError

NAME_MAX, PATH_MAX = 255, 2048  # bytes of a name, and of a path below a folder


class PhotoFolders:
    """The folders of photos, each listed once: asking a network file system for each photo takes hours.

    Of a listing, 8 bytes a name stay in memory: 14 MB for the 1.7 million photos of Objects365. With `check` False
    nothing is listed, and a photo is taken to be where its first name says; that needs a single folder.
    Raises `UserError` for a folder that is not there.
    """

    def __init__(self, folders: Sequence[str], check: bool = True) -> None:
        for folder in folders if check else ():
            if not storage.is_folder(folder):
                raise UserError(f"--images: {folder} does not exist or is no folder; expected a folder of photos")
        if not check and len(folders) != 1:
            raise UserError(
                f"--no-check-photos: {len(folders)} folders in --images; expected one, that holds all photos"
            )
        self._folders = [storage.absolute(folder) for folder in folders]
        self._check = check
        self._listings: dict[str, NDArray[np.int64]] = {}

    def find(self, names: Sequence[str]) -> str | None:
        """The path or URL of the first of `names` that is in one of the folders.

        A name may have folders in it, but cannot lead out.
        """
        for name in names:
            relative = PurePosixPath(name)
            if relative.is_absolute() or ".." in relative.parts or not relative.name or not _is_possible(relative):
                continue
            for folder in self._folders:
                place = storage.join(folder, *relative.parts)
                if not self._check or self._is_listed(storage.join(folder, *relative.parts[:-1]), relative.name):
                    return place
        return None

    def _is_listed(self, folder: str, name: str) -> bool:
        if folder not in self._listings:
            # Two names with the same 64 bits are one in 10^7 for a million photos, and then only a reject later on.
            hashes = np.fromiter(map(hash, storage.list_names(folder)), np.int64)
            hashes.sort()
            self._listings[folder] = hashes
        hashes, wanted = self._listings[folder], hash(name)
        place = int(np.searchsorted(hashes, wanted))
        return place < len(hashes) and int(hashes[place]) == wanted


def _is_possible(path: PurePosixPath) -> bool:
    """Whether a file may be called so: the system would not say "not there" to the others, but raise an error."""
    parts = [part.encode(errors="surrogatepass") for part in path.parts]
    return max(map(len, parts)) <= NAME_MAX and sum(map(len, parts)) <= PATH_MAX and not any(b"\0" in p for p in parts)
