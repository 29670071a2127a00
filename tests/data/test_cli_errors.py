"""Every mistake a user can make: one line that names the file and what to do, exit code 2, nothing half-written."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pics_data import cli
from tests.data.photos_for_tests import DrawnSet, draw_set


@pytest.fixture
def drawn(tmp_path: Path) -> DrawnSet:
    return draw_set(tmp_path / "drawn", num_photos=3)


def error_of(capfd: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line of an error, from a run that must end with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    said = capfd.readouterr()
    assert ended.value.code == 2
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in said.err
    assert said.out == ""
    return errors[0]


def test_input_that_is_not_there(drawn: DrawnSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    good = drawn.argv(out)
    for place, replaced, message in [
        (4, str(tmp_path / "none"), "--images: {} does not exist or is no folder"),
        (4, str(drawn.annotations), "--images: {} does not exist or is no folder"),
        (6, str(tmp_path / "none.json"), "annotations: {} does not exist"),
        (6, str(tmp_path), "annotations: {} is a folder"),
    ]:
        argv = [*good[:place], replaced, *good[place + 1 :]]
        assert message.format(replaced) in error_of(capfd, *argv)
    assert "--images" in error_of(capfd, "build", "--source", "coco", "--out", str(out))
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is empty"), ("no json", "not JSON"), ("[]", "holds a list"), ("{}", "lacks the key `images`")],
)
def test_annotations_that_are_none(
    drawn: DrawnSet, tmp_path: Path, capfd: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    drawn.annotations.write_text(content)
    line = error_of(capfd, *drawn.argv(tmp_path / "out"))
    assert str(drawn.annotations) in line
    assert message in line
    assert not (tmp_path / "out").exists()


def test_annotations_of_photos_none_of_which_is_there(
    drawn: DrawnSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        drawn.photo(i).unlink()
    line = error_of(capfd, *drawn.argv(tmp_path / "out"))
    assert "none of the 3 photos" in line
    assert "photo000.jpg" in line
    assert str(drawn.images) in line
    assert not (tmp_path / "out").exists()


def test_photos_without_any_composition(drawn: DrawnSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = error_of(capfd, *drawn.argv(tmp_path / "out", "--min-area", "0.9"))
    assert "no composition in 3 photos" in line
    assert not (tmp_path / "out").exists()


def test_an_output_folder_with_other_things_in_it(
    drawn: DrawnSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "train-000000.tar").write_bytes(b"someone else's")
    assert "train-000000.tar" in error_of(capfd, *drawn.argv(out))
    assert [p.name for p in out.iterdir()] == ["train-000000.tar"]
    (out / "recipe.json").write_text("{")
    assert "recipe.json is not JSON" in error_of(capfd, *drawn.argv(out))
    (out / "recipe.json").write_text(json.dumps({"recipe": {"source": "scenes"}, "plan_sha256": ""}))
    assert "source scenes there, coco here" in error_of(capfd, *drawn.argv(out))
    assert "is a file" in error_of(capfd, *drawn.argv(drawn.annotations))
    assert (out / "train-000000.tar").read_bytes() == b"someone else's"


def test_options_out_of_range_or_without_effect(
    drawn: DrawnSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert "--val-fraction 1.5" in error_of(capfd, *drawn.argv(out, "--val-fraction", "1.5"))
    assert "--pairs-per-photo 0" in error_of(capfd, *drawn.argv(out, "--pairs-per-photo", "0"))
    assert "--num-scenes has no effect" in error_of(capfd, *drawn.argv(out, "--num-scenes", "5"))
    assert "--images has no effect" in error_of(capfd, "build", "--images", str(drawn.images), "--out", str(out))
    assert "--scene-size" in error_of(capfd, "build", "--size", "64", "--out", str(out))
    assert "--scene-size 4000" in error_of(capfd, "build", "--scene-size", "4000", "--out", str(out))
    assert "--meshes" in error_of(capfd, "build", "--meshes", str(out), "--out", str(out))
    assert not out.exists()


def test_recipes(drawn: DrawnSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("pairs_per_foto: 2\n")
    assert "did you mean `pairs_per_photo`?" in error_of(capfd, *drawn.argv(tmp_path / "out", "--recipe", str(recipe)))
    assert "recipe" in error_of(capfd, *drawn.argv(tmp_path / "out", "--recipe", str(tmp_path / "none.yaml")))
    # A recipe's values count, and what stands on the command line wins.
    recipe.write_text(f"source: coco\nimages: [{drawn.images}]\nannotations: [{drawn.annotations}]\nmin_area: 0.9\n")
    argv = ("build", "--recipe", str(recipe), "--out", str(tmp_path / "out"))
    assert "no composition" in error_of(capfd, *argv)
    assert "--min-area 3" in error_of(capfd, *argv, "--min-area", "3")


RECIPES = sorted((Path(__file__).parents[2] / "pipelines").glob("*.yaml"))


NO_SOURCE = ("paper", "scenes_val", "train_scenes")  # mixtures, and what is no build


@pytest.mark.parametrize("path", [path for path in RECIPES if path.stem not in NO_SOURCE], ids=lambda path: path.stem)
def test_shipped_recipes_are_understood(path: Path) -> None:
    from pics_common.recipe import parse_recipe
    from pics_data.config import BuildConfig

    config = parse_recipe(BuildConfig, ["--recipe", str(path)], prog="pics-data build").check()
    assert config.source == path.stem


def test_commands(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "did you mean `build`?" in error_of(capfd, "biuld")
    assert "does not exist" in error_of(capfd, "verify", str(tmp_path / "none"))
    assert "does not exist" in error_of(capfd, "inspect", str(tmp_path / "none"))


def test_the_installed_program_prints_one_line_and_ends_with_2(drawn: DrawnSet, tmp_path: Path) -> None:
    drawn.annotations.write_text("[]")
    argv = drawn.argv(tmp_path / "out")
    done = subprocess.run([sys.executable, "-m", "pics_data.cli", *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: annotations: ")
    assert "Traceback" not in done.stderr


def test_only_one_build_writes_to_a_folder(drawn: DrawnSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from pics_data.build import lock_folder

    out = tmp_path / "out"
    out.mkdir()
    with lock_folder(str(out)):
        assert "another build is writing" in error_of(capfd, *drawn.argv(out))
    assert list(out.iterdir()) == []


def test_command_lines_that_do_not_fit(drawn: DrawnSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good = drawn.argv(tmp_path / "out")
    for words, message in [
        (["--pairs-per-photo", "two"], "--pairs-per-photo"),
        (["--source", "imagenet"], "'coco', 'coco_panoptic'"),
        (["--pair-per-photo", "3"], "did you mean `--pairs-per-photo`?"),
        (["--min-area"], "--min-area"),
        (["stray"], "stray; `pics-data build --help`"),
    ]:
        assert message in error_of(capfd, *good, *words)
    assert "PATH" in error_of(capfd, "verify")
    assert "--max-samples -1" in error_of(capfd, "inspect", str(tmp_path), "--max-samples", "-1")


def test_an_output_folder_that_cannot_be(drawn: DrawnSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert f"{drawn.annotations} is a file" in error_of(capfd, *drawn.argv(drawn.annotations / "out"))
    out = tmp_path / "out"
    out.mkdir()
    (out / "recipe.json").write_text("[]")
    assert "recipe.json is not the recipe of a build" in error_of(capfd, *drawn.argv(out))
    assert "/proc/none" in error_of(capfd, *drawn.argv(Path("/proc/none")))


def test_an_address_where_nothing_answers(drawn: DrawnSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for address in ("nowhere", "127.0.0.1:9", "nowhere.invalid:1", "ray://127.0.0.1:99999"):
        assert f"--address {address}" in error_of(capfd, *drawn.argv(tmp_path / "out", "--address", address))
    assert not (tmp_path / "out").exists()


def test_a_build_that_came_and_went_during_planning_is_seen(
    drawn: DrawnSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from pics_data import planning

    out = tmp_path / "out"
    plan = planning.make_plan

    def plan_while_another_builds(*given: Any, **more: Any) -> Any:
        out.mkdir()
        (out / "recipe.json").write_text(json.dumps({"recipe": {"source": "scenes"}, "plan_sha256": ""}))
        return plan(*given, **more)

    monkeypatch.setattr(planning, "make_plan", plan_while_another_builds)
    assert "source scenes there, coco here" in error_of(capfd, *drawn.argv(out))
    assert [p.name for p in out.iterdir()] == ["recipe.json"]


def test_a_missing_package_says_what_to_install(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow.parquet", None)
        for name in [name for name in sys.modules if name.startswith("pics_data.")]:
            patch.delitem(sys.modules, name)
        assert "pics-compositing[data]" in error_of(capfd, "verify", str(tmp_path))
