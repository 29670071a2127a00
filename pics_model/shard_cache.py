"""Remote shards on this machine: each fetched whole, once for all processes, and kept while there is room.

A shard's file carries its final name only when all of it has arrived and its SHA-256 is the index's. Locks of the
system guard each file, so that of all workers and ranks of a machine one fetches it and the others wait; locks die with
their process, and what that had begun is begun anew. Room is made by removing what was used longest ago: whoever reads
a file that is removed reads on, as its descriptor holds it.
"""

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pics_common import storage
from pics_common.errors import UserError
from pics_model.shard_set import Shard

GIB = 2**30
DEFAULT_BYTES = 64 * GIB
MARK = ".room"  # ending of a file that keeps room for a shard that is on its way
FETCHES = 4  # at the same time, by one process
TRIES = 5  # for a shard; the store's own library also tries each of its requests several times
FIRST_WAIT = 0.5  # seconds before the second try; twice as long before each one after it


def default_folder() -> Path:
    """`pics` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pics"


class ShardCache:
    """Files of remote shards in `folder`, together at most `most` bytes."""

    def __init__(self, folder: Path, most: int | None = None) -> None:
        self.folder, self.most = folder, DEFAULT_BYTES if most is None else most

    def require_room(self, num_bytes: int) -> None:
        """Raises `UserError` if so many bytes, which are needed at one time, do not fit."""
        if num_bytes > self.most:
            raise UserError(
                f"cache {self.folder}: may hold {self.most / 1e9:.1f} GB; the shards mixed at one time and those of "
                f"the next group have {num_bytes / 1e9:.1f} GB: allow it more, or mix fewer shards at a time"
            )

    def path(self, shard: Shard) -> Path:
        """Where a shard is, or will be: named by what it holds, or, where no index says that, by where it came from."""
        known = shard.sha256 or f"{shard.url} {shard.size}"
        return self.folder / f"{hashlib.sha256(known.encode()).hexdigest()[:24]}-{shard.name}"

    def has(self, shard: Shard) -> bool:
        """Whether a shard is here, of the size that the index says."""
        try:
            size = self.path(shard).stat().st_size
        except OSError:
            return False
        return shard.size in (None, size)

    def fetch(self, shard: Shard, wait: bool = True) -> Path | None:
        """The shard's file, fetched if it is not here. Without `wait`: None where another process is at it.

        Raises `UserError` if it cannot be had, or what comes is not what the index says.
        """
        path = self.path(shard)
        try:
            if not self.has(shard):
                self.folder.mkdir(parents=True, exist_ok=True)
                with _locked(path.with_name(path.name + ".lock"), wait) as mine:
                    if not mine:
                        return None
                    if not self.has(shard):
                        self._fetch(shard, path)
            stat = path.stat()
            os.utime(path, ns=(time.time_ns(), stat.st_mtime_ns))  # when it was used
        except FileNotFoundError:  # another process made room just now
            return self.fetch(shard, wait)
        except OSError as error:
            raise UserError(
                f"cache {self.folder}: cannot be written ({error.strerror}); choose another --cache"
            ) from None
        return path

    def drop_if_damaged(self, shard: Shard) -> bool:
        """Removes a shard's file if it is not what the index says; returns whether it did."""
        path = self.path(shard)
        with suppress(FileNotFoundError, NotADirectoryError), path.open("rb") as file:
            damaged = bool(shard.sha256) and hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256
            if damaged or shard.size not in (None, os.fstat(file.fileno()).st_size):
                path.unlink(missing_ok=True)
                return True
        return False

    def _fetch(self, shard: Shard, path: Path) -> None:
        """Under the lock of `path`, so that nobody else writes there."""
        part, mark = path.with_name(path.name + ".part"), path.with_name(path.name + MARK)
        try:
            self._make_room(shard.size or 0, mark)
            for tried in range(TRIES):
                if tried:
                    time.sleep(FIRST_WAIT * 2 ** (tried - 1))
                wrong = self._try(shard, part)
                if not wrong:
                    part.replace(path)
                    return
        finally:
            part.unlink(missing_ok=True)
            mark.unlink(missing_ok=True)
        raise UserError(f"shard {shard.url}: {wrong}, {TRIES} times")

    def _try(self, shard: Shard, part: Path) -> str:
        """Fetches a shard; returns what is wrong with what came, "" if nothing is."""
        try:
            storage.download(shard.url, part)
            return _difference(shard, part)
        except FileNotFoundError as error:
            if error.filename == shard.url:
                raise UserError(f"shard {shard.url}: does not exist") from None
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES):
                raise
            return f"cannot be fetched ({error.strerror})"

    def _make_room(self, size: int, mark: Path) -> None:
        """Removes files, those used longest ago first, until `size` more bytes fit, and keeps these free for `mark`: a
        file without contents, but of that size, for as long as a shard is on its way."""
        with _locked(self.folder / "room.lock", wait=True):
            mark.unlink(missing_ok=True)
            total, found = size, []
            for path in self.folder.iterdir():
                if path.suffix == MARK and _abandoned(path):
                    path.unlink(missing_ok=True)
                    path.with_suffix(".part").unlink(missing_ok=True)
                elif path.suffix in (".tar", MARK):
                    with suppress(FileNotFoundError):
                        stat = path.stat()
                        total += stat.st_size
                        found.append((stat.st_atime_ns, stat.st_size, path))
            for _, bytes_, path in sorted(found):
                if total > self.most and path.suffix == ".tar":
                    path.unlink(missing_ok=True)
                    total -= bytes_
            with mark.open("wb") as file:
                file.truncate(size)


def _difference(shard: Shard, part: Path) -> str:
    """How a fetched file differs from what the index says; "" if it does not."""
    size = part.stat().st_size
    if shard.size not in (None, size):
        return f"{size} bytes came, the index says {shard.size}"
    if shard.sha256:
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != shard.sha256:
            return f"its SHA-256 is {found[:16]}..., the index says {shard.sha256[:16]}..."
    return ""


def _abandoned(mark: Path) -> bool:
    """Whether nobody is fetching the shard any more for which room is kept: the process that began to is gone."""
    with _locked(mark.with_suffix(".lock"), wait=False) as mine:
        return mine


@contextmanager
def _locked(path: Path, wait: bool) -> Iterator[bool]:
    """Holds a lock between processes and threads; yields False if another holds it and `wait` is not set."""
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            # Closing is not enough: a process that was forked meanwhile has the file open too, and so the lock.
            fcntl.flock(file, fcntl.LOCK_UN)
