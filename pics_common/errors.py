"""Two kinds of error: `UserError` is one clear line for the user; the rest is our own bug and shows a traceback."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


class UserError(Exception):
    """A mistake that the user can mend: says which file, which key, what was expected and what to do, in one line."""


def run_command(command: Callable[[], int | None]) -> NoReturn:
    """Runs a command and ends the process with its exit code: 2 and one line on stderr for a `UserError`.

    So it does for a file that the system refuses (no permission, a full disk): the user's to mend, not a bug.
    """
    try:
        code = command() or 0
    except UserError as error:
        code = _fail(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        code = _fail(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        code = 130
    sys.exit(code)


def _fail(message: str) -> int:
    sys.stdout.flush()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def require_file(path: Path, what: str) -> Path:
    """Returns `path` if it is a file, else raises a `UserError` that names it."""
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{what}: {path} {kind}; expected a file")
    return path


def require_folder(path: Path, what: str) -> Path:
    """Returns `path` if it is a folder, else raises a `UserError` that names it."""
    if not path.is_dir():
        kind = "is a file" if path.exists() else "does not exist"
        raise UserError(f"{what}: {path} {kind}; expected a folder")
    return path


def require_packages(asked: str, *names: str, extra: str = "masks") -> None:
    """Raises `UserError` that says what to install for what was `asked` if a package is missing: `extra` brings it."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UserError(
            f"{asked}: {' and '.join(missing)} {verb} not installed; pip install 'pics-compositing[{extra}]'"
        )
