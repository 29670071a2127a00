"""Files by path or URL: a local path, `s3://bucket/key`, or whatever else fsspec knows.

Local files are read and written by the system's own calls; all others through fsspec. A written file is whole or is
not there: local files are renamed into place, and object stores show an object when its upload is complete. Settings
of a store (keys, endpoint) come from where fsspec and the store's own library look for them: environment variables
such as `AWS_ACCESS_KEY_ID` and `AWS_ENDPOINT_URL`, or fsspec's configuration files.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from pics_common import files
from pics_common.errors import UserError

T = TypeVar("T")

S3 = ("s3", "s3a")
# Throttling and 503s are a store's way to say "slower": botocore waits twice as long each time, up to 20 s. Its mode
# "adaptive" would slow down all requests of a process after a few refusals, to some one a second.
S3_RETRIES = {"config_kwargs": {"retries": {"mode": "standard", "max_attempts": 12}}}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder in a folder's listing; `size` in bytes, 0 for a folder."""

    name: str
    size: int
    is_folder: bool


def is_remote(url: str) -> bool:
    """Whether `url` needs fsspec: it has a scheme other than `file`."""
    return "://" in url and not url.startswith("file://")


def local_path(url: str) -> Path:
    """The path that a local `url` stands for."""
    assert not is_remote(url)
    return Path(url.removeprefix("file://")).expanduser()


def absolute(url: str) -> str:
    """The same place in words that mean the same to every process; no `/` at its end.

    Links stay as they are: on another node of a cluster they may lead elsewhere.
    """
    return url.rstrip("/") if is_remote(url) else os.path.abspath(local_path(url))  # noqa: PTH100


def join(folder: str, *names: str) -> str:
    """The place `names` below `folder`."""
    return (
        "/".join([folder.rstrip("/") or "/", *names]) if is_remote(folder) else str(local_path(folder).joinpath(*names))
    )


def base_name(url: str) -> str:
    """The last part of a path or URL."""
    return url.rstrip("/").rpartition("/")[2]


def read(url: str) -> bytes:
    """All bytes of a file. Raises `FileNotFoundError`, or another `OSError` where it cannot be read."""
    if not is_remote(url):
        return local_path(url).read_bytes()
    # s3fs asks for the size first, to read large files in parts: twice the requests, for nothing with photos.
    whole = {"max_concurrency": 1} if _scheme(url) in S3 else {}
    return _ask(url, lambda fs, path: fs.cat_file(path, **whole))


def file_size(url: str) -> int | None:
    """Bytes of a file; None where no file is."""
    if not is_remote(url):
        path = local_path(url)
        return path.stat().st_size if path.is_file() else None
    try:
        info = _ask(url, lambda fs, path: fs.info(path))
    except FileNotFoundError:
        return None
    return int(info["size"]) if info["type"] == "file" else None


def is_folder(url: str) -> bool:
    """Whether a folder is at `url`; in an object store, whether anything lies below it."""
    return local_path(url).is_dir() if not is_remote(url) else bool(_ask(url, lambda fs, path: fs.isdir(path)))


def list_folder(url: str) -> list[Entry]:
    """What lies directly in a folder, sorted by name; nothing where no folder is. Links count as what they lead to."""
    if not is_remote(url):
        path = local_path(url)
        return sorted(_local_entries(path), key=lambda entry: entry.name) if path.is_dir() else []
    try:
        found = _ask(url, lambda fs, path: fs.ls(path, detail=True, refresh=True))
    except FileNotFoundError:
        return []
    here = base_name(url)
    entries = (Entry(base_name(i["name"]), int(i["size"] or 0), i["type"] == "directory") for i in found)
    # Stores may list the folder itself, as an empty object that marks it.
    return sorted((e for e in entries if e.name and not (e.name == here and not e.size)), key=lambda entry: entry.name)


def list_names(url: str) -> Iterator[str]:
    """The names in a folder, unsorted: for folders of millions of files, whose sizes nobody asks for."""
    if is_remote(url):
        yield from (entry.name for entry in list_folder(url))
    elif local_path(url).is_dir():
        with os.scandir(local_path(url)) as found:
            for item in found:
                yield item.name


def _local_entries(folder: Path) -> Iterator[Entry]:
    with os.scandir(folder) as found:
        for item in found:
            try:
                is_dir = item.is_dir()
                yield Entry(item.name, 0 if is_dir else item.stat().st_size, is_dir)
            except OSError:  # a link to itself, or to nothing
                yield Entry(item.name, 0, is_folder=False)


def walk(url: str, suffixes: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths, relative to `url`, of all files below it that end in one of `suffixes` (small letters; () for any).

    Sorted folder by folder: files first, then each sub-folder. A folder reached twice through links is listed once.
    """
    yield from _walk(url, "", suffixes, set())


def _walk(url: str, prefix: str, suffixes: tuple[str, ...], seen: set[str]) -> Iterator[str]:
    if not is_remote(url):
        real = os.path.realpath(local_path(url))
        if real in seen:
            return
        seen.add(real)
    entries = list_folder(url)
    for entry in entries:
        if not entry.is_folder and (not suffixes or entry.name.lower().endswith(suffixes)):
            yield prefix + entry.name
    for entry in entries:
        if entry.is_folder:
            yield from _walk(join(url, entry.name), f"{prefix}{entry.name}/", suffixes, seen)


def signature(url: str) -> str:
    """Changes when a file changes, as far as its size and date tell, or the names of the files in a folder."""
    if is_folder(url):
        names = hashlib.sha256()
        for name in walk(url):
            names.update(name.encode(errors="surrogateescape") + b"\n")
        return names.hexdigest()
    if not is_remote(url):
        stat = local_path(url).stat()
        return f"{stat.st_size} {stat.st_mtime_ns}"
    info = _ask(url, lambda fs, path: fs.info(path))
    date = info.get("ETag") or info.get("LastModified") or info.get("mtime") or info.get("updated")
    return f"{info['size']} {date}"


def write(url: str, data: bytes) -> None:
    """Writes a file that is whole or is not there, over what was there before."""
    if not is_remote(url):
        files.write_atomic(local_path(url), data)
    else:
        _ask(url, lambda fs, path: fs.pipe_file(path, data))


@contextmanager
def new_file(url: str) -> Iterator[tuple[BinaryIO, Callable[[], None]]]:
    """A file to write piece by piece, and the function that puts it into place at `url`; without that call, nothing.

    A local file is written beside its name; for a store it is written to this machine's temporary folder first.
    """
    if not is_remote(url):
        with files.new_file(local_path(url)) as opened:
            yield opened
        return
    with tempfile.NamedTemporaryFile(prefix="pics-") as file:

        def commit() -> None:
            file.flush()
            _ask(url, lambda fs, path: fs.put_file(file.name, path))

        yield cast("BinaryIO", file), commit


def download(url: str, path: Path) -> None:
    """Copies a remote file to `path`. Raises `OSError`; what stands at `path` then may be a part of it."""
    _ask(url, lambda fs, remote: fs.get_file(remote, str(path)))


def upload(path: Path, url: str) -> None:
    """Copies a finished local file to `url`, where it appears whole."""
    with path.open("rb") as source, new_file(url) as (target, commit):
        shutil.copyfileobj(source, target, 2**22)
        commit()


def remove(url: str) -> None:
    """Removes a file, if it is there."""
    if not is_remote(url):
        local_path(url).unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):
        _ask(url, lambda fs, path: fs.rm_file(path))


@contextmanager
def open_read(url: str) -> Iterator[BinaryIO]:
    """A file to read from at any offset."""
    if not is_remote(url):
        with local_path(url).open("rb") as file:
            yield file
        return
    with _ask(url, lambda fs, path: fs.open(path, "rb", block_size=2**20)) as file:
        yield file


@contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """The file on this machine: itself where it is local, else a copy for the time of a `with` block."""
    if not is_remote(url):
        yield local_path(url)
        return
    with tempfile.TemporaryDirectory(prefix="pics-") as folder:
        path = Path(folder) / base_name(url)
        download(url, path)
        yield path


def _ask(url: str, call: Callable[[Any, str], T]) -> T:
    """Runs `call` on the file system and path of `url`; whatever a store's library raises, an `OSError` comes out that
    names the URL."""
    try:
        return call(*_file_system(url))
    except UserError:
        raise
    except OSError as error:
        number = errno.ENOENT if isinstance(error, FileNotFoundError) else error.errno or errno.EIO
        raise type(error)(number, error.strerror or str(error), url) from error
    except Exception as error:  # each store's library has its own kinds
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", url) from error


def _scheme(url: str) -> str:
    return url.partition("://")[0]


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    scheme = _scheme(url)
    try:
        return fsspec.core.url_to_fs(url, **(S3_RETRIES if scheme in S3 else {}))
    except ImportError as error:
        raise UserError(f"{url}: `{error.name or scheme}` is not installed; {scheme}:// needs it ({error})") from None
    except ValueError as error:
        raise UserError(
            f"{url}: {error}; expected a path or a URL that fsspec knows, such as s3://bucket/folder"
        ) from None
