"""Recipes: a typed dataclass read from YAML and from the command line by the same library (tyro).

`--recipe FILE.yaml` sets defaults; what stands on the command line wins. A YAML key is the option's name with
underscores; nothing else is understood, so a key that does nothing cannot be written.
"""

import contextlib
import dataclasses
import difflib
import io
import itertools
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro
import yaml

from pics_common.errors import UserError, require_file

T = TypeVar("T")


def parse_recipe(config: type[T], argv: Sequence[str], *, prog: str) -> T:
    """Builds `config` (a dataclass) from `argv`, with `--recipe FILE.yaml` expanded in front.

    Raises `UserError` for a recipe that is missing, is not YAML or holds an unknown key or an unfitting value, and
    for a command line that does not fit.
    """
    argv, recipe = _take_recipe(list(argv))
    defaults = recipe_to_argv(config, recipe) if recipe else []
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(config, args=[*defaults, *argv], prog=prog, description=config.__doc__)
    except SystemExit as end:
        if not end.code:  # --help
            raise
        hint = _nearest_option(config, argv) or f"`{prog} --help` lists the options"
        raise UserError(f"{_first_part(said.getvalue())}; {hint}") from None


def _nearest_option(config: type[Any], argv: Sequence[str]) -> str:
    names = [field.name.replace("_", "-") for field in dataclasses.fields(config)]
    options = [prefix + name for name in names for prefix in ("--", "--no-")]
    for word in argv:
        if word.startswith("--") and word.partition("=")[0] not in options:
            close = difflib.get_close_matches(word.partition("=")[0], options, n=1)
            return f"did you mean `{close[0]}`?" if close else ""
    return ""


def _first_part(box: str) -> str:
    """What is wrong, out of the box that tyro draws around it: the lines up to its first rule."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    return " ".join(itertools.takewhile(lambda line: not line.startswith("─"), lines)).rstrip(".")


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
        values = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise UserError(f"recipe {path}: not YAML ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"recipe {path}: expected `key: value` lines, found {type(values).__name__}")
    fields = {field.name for field in dataclasses.fields(config)}
    hints = get_type_hints(config)  # without tyro's marks, which say how an option looks and not what it holds
    argv: list[str] = []
    for key, value in values.items():
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"known keys: {', '.join(sorted(fields))}"
            raise UserError(f"recipe {path}: unknown key `{key}`; {hint}")
        words = _words(value, hints[key])
        if words is None:
            shown = "nothing" if value is None else repr(value)
            raise UserError(f"recipe {path}: key `{key}` holds {shown}; expected {_type_in_words(hints[key])}")
        option = "--" + key.replace("_", "-")
        if isinstance(value, bool):
            argv.append(option if value else "--no-" + key.replace("_", "-"))
        else:
            argv += [option, *words]
    return argv


def _words(value: Any, hint: Any) -> list[str] | None:
    """The words that say `value` on a command line; None where it is not of type `hint`, as tyro reads it."""
    if hint is bool or isinstance(value, bool):
        return [] if hint is bool and isinstance(value, bool) else None
    if isinstance(value, dict) or (value is None and type(None) not in get_args(hint)):
        return None
    words = [str(item) for item in value] if isinstance(value, list) else [str(value)]
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            tyro.cli(hint, args=words)
    except SystemExit:
        return None
    return words


def _type_in_words(hint: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path",
             type(None): "null"}  # fmt: skip
    inner = get_args(hint)
    if get_origin(hint) is Literal:
        return " or ".join(map(str, inner))
    if isinstance(hint, types.UnionType):
        return " or ".join(map(_type_in_words, inner))
    if get_origin(hint) in (tuple, list):
        return f"a list, each {_type_in_words(inner[0])}"
    return names.get(hint, str(hint))
