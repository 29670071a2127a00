"""Files that are whole or are not there."""

import os
from contextlib import suppress
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
    """Writes `data` beside `path`, flushes it to the disk and renames it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """Makes a written file, or the renames in a folder, last through a power cut. A folder as far as its file system
    knows how."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(*([OSError] if path.is_dir() else [])):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
