"""Files that are whole or are not there."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".tmp"  # of a file that is being written: `.<name>.<12 hex digits>.tmp`, beside its place


@contextmanager
def new_file(path: Path) -> Iterator[tuple[BinaryIO, Callable[[], None]]]:
    """A file to write piece by piece, and the function that puts it into place at `path`; without that call, nothing.

    It is written beside its name, flushed to the disk and renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{SUFFIX}")  # no other attempt at `path` uses it
    try:
        with temporary.open("wb") as file:

            def commit() -> None:
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
                flush(path.parent)

            yield file, commit
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Writes `data` as the whole of `path`, as `new_file` does."""
    with new_file(path) as (file, commit):
        file.write(data)
        commit()


def flush(path: Path) -> None:
    """Makes a written file, or the renames in a folder, last through a power cut. A folder as far as its file system
    knows how."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(*([OSError] if path.is_dir() else [])):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
