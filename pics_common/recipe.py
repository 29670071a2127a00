"""Recipes: a typed dataclass read from YAML and from the command line by the same library (tyro).

`--recipe FILE.yaml` sets defaults; what stands on the command line wins. A YAML key is the option's name with
underscores; nothing else is understood, so a key that does nothing cannot be written.
"""

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from pics_common.errors import UserError, require_file

T = TypeVar("T")


def parse_recipe(config: type[T], argv: Sequence[str], *, prog: str) -> T:
    """Builds `config` (a dataclass) from `argv`, with `--recipe FILE.yaml` expanded in front.

    Raises `UserError` for a recipe that is missing, is not YAML or holds an unknown key or an unfitting value.
    """
    argv, recipe = _take_recipe(list(argv))
    defaults = recipe_to_argv(config, recipe) if recipe else []
    return tyro.cli(config, args=[*defaults, *argv], prog=prog, description=config.__doc__)


def _take_recipe(argv: list[str]) -> tuple[list[str], Path | None]:
    for i, word in enumerate(argv):
        if word == "--recipe":
            if i + 1 == len(argv):
                raise UserError("--recipe: expected a YAML file behind it")
            return argv[:i] + argv[i + 2 :], Path(argv[i + 1])
        if word.startswith("--recipe="):
            return argv[:i] + argv[i + 1 :], Path(word.partition("=")[2])
    return argv, None


def recipe_to_argv(config: type[Any], path: Path) -> list[str]:
    """The command line that says the same as the YAML file at `path`."""
    require_file(path, "recipe")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"recipe {path}: not YAML ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"recipe {path}: expected `key: value` lines, found {type(values).__name__}")
    known = {field.name: field for field in dataclasses.fields(config)}
    argv: list[str] = []
    for key, value in values.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"known keys: {', '.join(sorted(known))}"
            raise UserError(f"recipe {path}: unknown key `{key}`; {hint}")
        option = "--" + key.replace("_", "-")
        if isinstance(value, bool):
            argv.append(option if value else "--no-" + key.replace("_", "-"))
        elif isinstance(value, list):
            argv += [option, *map(str, value)]
        elif isinstance(value, dict):
            raise UserError(f"recipe {path}: key `{key}` holds a mapping; expected one value or a list")
        else:
            argv += [option, str(value)]
    return argv
