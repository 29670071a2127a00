"""`pics-data build | plan | views | encode | verify | inspect`."""

import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import tyro

from pics_common.errors import UserError, run_command
from pics_common.recipe import parse_recipe
from pics_data.config import BuildConfig
from pics_data.encode.options import EncodeConfig
from pics_data.options import ViewsConfig

PathOrUrl = Annotated[str, tyro.conf.arg(metavar="PATH-OR-URL")]


@dataclass(frozen=True, slots=True)
class VerifyConfig:
    """Reads shards back, every byte, and names all that is damaged. Reads the published shards too."""

    folder: tyro.conf.Positional[PathOrUrl]
    """Folder of shards, or one tar."""
    deep: bool = False
    """Compare each sample with its photo and its annotation, and its cut-outs with its own photo and masks."""
    workers: int = 0
    """Shards read at the same time; 0: one for each CPU."""


@dataclass(frozen=True, slots=True)
class InspectConfig:
    """Writes a page of pictures and distributions of the samples in shards, or of the meshes in a folder."""

    folder: tyro.conf.Positional[PathOrUrl]
    """Folder of shards, or of meshes."""
    out: Path = Path("out/inspect")
    """Folder of the page."""
    max_samples: int = 24
    """Samples to show."""


def build_command(config: BuildConfig) -> int:
    from pics_data.build import build
    from pics_data.progress import summary

    print(summary(build(config)))
    return 0


def plan_command(config: BuildConfig) -> int:
    from pics_data.build import build
    from pics_data.progress import summary

    print(summary(build(config, plan_only=True)))
    return 0


def views_command(config: ViewsConfig) -> int:
    from pics_data.progress import views_summary
    from pics_data.views.job import add_views

    print(views_summary(add_views(config)))
    return 0


def encode_command(config: EncodeConfig) -> int:
    from pics_data.encode.job import encode, encode_summary

    print(encode_summary(encode(config)))
    return 0


def verify_command(config: VerifyConfig) -> int:
    from pics_data.verify import verify

    if config.workers < 0:
        raise UserError(f"--workers {config.workers}: expected 0 or more")
    print(verify(config.folder, deep=config.deep, workers=config.workers))
    return 0


def inspect_command(config: InspectConfig) -> int:
    from pics_data.inspect import inspect_shards

    if config.max_samples < 0:
        raise UserError(f"--max-samples {config.max_samples}: expected 0 or more")
    print(inspect_shards(config.folder, config.out, config.max_samples))
    return 0


COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int], str]] = {
    "build": (BuildConfig, build_command, str(BuildConfig.__doc__)),
    "plan": (
        BuildConfig,
        plan_command,
        "Chooses compositions and writes the plan alone; `build` then goes on from it.",
    ),
    "views": (ViewsConfig, views_command, str(ViewsConfig.__doc__)),
    "encode": (EncodeConfig, encode_command, str(EncodeConfig.__doc__)),
    "verify": (VerifyConfig, verify_command, str(VerifyConfig.__doc__)),
    "inspect": (InspectConfig, inspect_command, str(InspectConfig.__doc__)),
}


def run(argv: Sequence[str]) -> int:
    """Runs one command line and returns its exit code. Raises `UserError`."""
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name:{width}}  {about}" for name, (_, _, about) in COMMANDS.items()]
        print("usage: pics-data COMMAND [--recipe FILE.yaml] [options]\n", *lines, sep="\n")
        print("\n`pics-data COMMAND --help` lists the options.")
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        close = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"commands: {', '.join(COMMANDS)}"
        raise UserError(f"pics-data: unknown command `{argv[0]}`; {hint}")
    config_type, command, _ = COMMANDS[argv[0]]
    config = parse_recipe(config_type, argv[1:], prog=f"pics-data {argv[0]}")
    try:
        return command(config)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("pics_"):
            raise
        extras = "data,model" if argv[0] == "encode" else "data"
        raise UserError(
            f"pics-data {argv[0]}: `{error.name}` is not installed; pip install 'pics-compositing[{extras}]' brings it"
        ) from None


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The `pics-data` program."""
    run_command(lambda: run(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    main()
