"""Recipes and errors: what a user's mistake looks like from outside."""

import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pics_common.errors import UserError, require_file, require_folder, run_command
from pics_common.recipe import parse_recipe


@dataclass(frozen=True)
class Config:
    """Does a thing."""

    steps: int = 100
    learning_rate: float = 1e-4
    images: tuple[Path, ...] = ()
    flip: bool = True
    source: Literal["coco", "lvis"] = "coco"
    meshes: Path | None = Path("m")


def parse(tmp_path: Path, text: str, *argv: str) -> Config:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    return parse_recipe(Config, ["--recipe", str(recipe), *argv], prog="x")


def test_recipe_sets_every_kind_of_value(tmp_path: Path) -> None:
    text = "steps: -5\nlearning_rate: 1e-5\nimages: [a, b c]\nflip: no\nsource: lvis\nmeshes: null\n"
    assert parse(tmp_path, text) == Config(-5, 1e-5, (Path("a"), Path("b c")), False, "lvis", None)


def test_command_line_wins_over_the_recipe_wherever_it_stands(tmp_path: Path) -> None:
    assert parse(tmp_path, "steps: 5\nflip: false", "--steps", "7", "--flip") == Config(steps=7, flip=True)
    assert parse(tmp_path, "images: [a, b]", "--images", "c").images == (Path("c"),)
    recipe = tmp_path / "recipe.yaml"
    argv = ["--steps", "7", f"--recipe={recipe}"]
    assert parse_recipe(Config, argv, prog="x") == Config(steps=7, images=(Path("a"), Path("b")))


@given(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_values_come_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, steps: int, rate: float, flip: bool
) -> None:
    text = f"steps: {steps}\nlearning_rate: {rate!r}\nflip: {str(flip).lower()}\n"
    assert parse(tmp_path_factory.mktemp("r"), text) == Config(steps, rate, flip=flip)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("learnin_rate: 1", "unknown key `learnin_rate`; did you mean `learning_rate`?"),
        ("zzz: 1", "unknown key `zzz`; known keys: flip, images"),
        ("learning-rate: 1", "did you mean `learning_rate`?"),
        ("3: 1", "unknown key `3`"),
        ("steps: many", "key `steps` holds 'many'; expected a whole number"),
        ("steps: 1.5", "key `steps` holds 1.5; expected a whole number"),
        ("steps:", "key `steps` holds nothing"),
        ("steps: [1, 2]", "key `steps` holds [1, 2]"),
        ("steps: true", "key `steps` holds True"),
        ("flip: maybe", "key `flip` holds 'maybe'; expected true or false"),
        ("source: voc", "key `source` holds 'voc'; expected coco or lvis"),
        ("images: {a: b}", "expected a list, each a path"),
        ("- steps", "expected `key: value` lines, found list"),
        ("", "expected `key: value` lines, found NoneType"),
        ("steps: [1", "not YAML"),
        ("steps: 1\n\tflip: no", "not YAML"),
        ("steps: !!python/object/apply:os.system [true]", "not YAML"),
    ],
)
def test_mistakes_in_a_recipe_name_the_file_and_what_to_do(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(tmp_path, text)
    assert str(caught.value).startswith(f"recipe {tmp_path / 'recipe.yaml'}: ")
    assert told in str(caught.value)


def test_recipe_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    binary = tmp_path / "photo.yaml"
    binary.write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF")
    with pytest.raises(UserError, match=r"photo\.yaml: not YAML"):
        parse_recipe(Config, ["--recipe", str(binary)], prog="x")
    with pytest.raises(UserError, match=r"missing\.yaml does not exist"):
        parse_recipe(Config, ["--recipe", str(tmp_path / "missing.yaml")], prog="x")
    with pytest.raises(UserError, match="is a folder"):
        parse_recipe(Config, [f"--recipe={tmp_path}"], prog="x")
    with pytest.raises(UserError, match="expected a YAML file behind it"):
        parse_recipe(Config, ["--recipe"], prog="x")


def test_every_field_is_a_key(tmp_path: Path) -> None:
    values = {"steps": 1, "learning_rate": 1, "images": "[a]", "flip": "true", "source": "coco", "meshes": "m"}
    assert set(values) == {field.name for field in fields(Config)}
    parse(tmp_path, "\n".join(f"{key}: {value}" for key, value in values.items()))


SCRIPT = """
from pics_common.errors import UserError, run_command
def command():
    {body}
run_command(command)
"""


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("return None", 0, ""),
        ("return 3", 3, ""),
        ("raise UserError('photo a.jpg:\\n  broken')", 2, "error: photo a.jpg: broken\n"),
        ("raise KeyboardInterrupt", 130, "interrupted; run the same command again to continue\n"),
    ],
)
def test_exit_codes_and_one_line_on_stderr(body: str, code: int, stderr: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr, done.stdout) == (code, stderr, "")


def test_a_bug_of_ours_keeps_its_traceback() -> None:
    def command() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(command)


def test_required_paths(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.touch()
    assert require_file(file, "plan") == file
    assert require_folder(tmp_path, "shards") == tmp_path
    with pytest.raises(UserError, match=f"shards: {file} is a file; expected a folder"):
        require_folder(file, "shards")
    with pytest.raises(UserError, match="does not exist; expected a folder"):
        require_folder(tmp_path / "no", "shards")


def test_a_refusal_of_the_system_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: (tmp_path / "none").read_bytes() and 0)
    assert ended.value.code == 2
    assert capfd.readouterr().err == f"error: {tmp_path / 'none'}: No such file or directory\n"


def test_a_command_line_that_does_not_fit_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in ("30", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        with pytest.raises(UserError, match="--steps"):
            parse(tmp_path, "flip: true", "--steps", "many")
        with pytest.raises(UserError, match="did you mean `--learning-rate`"):
            parse(tmp_path, "flip: true", "--learn-rate", "1")
