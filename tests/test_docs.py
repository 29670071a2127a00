"""The commands of the README and of the recipes are real: every option parses, every recipe loads, every link leads."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from pics_common.recipe import parse_recipe
from pics_data.cli import COMMANDS
from pics_model.convert import ConvertConfig
from pics_model.infer import InferConfig
from pics_model.start import StartConfig
from pics_model.train_config import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    "pics_model.convert": ConvertConfig,
    "pics_model.infer": InferConfig,
    "pics_model.start": StartConfig,
    "pics_model.train": TrainConfig,
}
PAGES = [path for path in ROOT.rglob("*.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]
RECIPES = sorted((ROOT / "pipelines").glob("*.yaml"))


def commands(text: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    blocks = [block for language, block in fenced if language in ("", "bash")]
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(". ")]


def parse(line: str) -> object:
    words = shlex.split(line)
    if words[0] == "pics-data":
        return parse_recipe(COMMANDS[words[1]][0], words[2:], prog="pics-data")
    if words[0] == "torchrun":
        words = words[words.index("-m") - 1 :]
    if words[1].startswith(("benchmarks/", "pipelines/")):
        return (ROOT / words[1]).read_text()
    assert words[1] == "-m", line
    return parse_recipe(MODULES[words[2]], words[3:], prog=words[2])


@pytest.mark.parametrize("line", [line for page in PAGES for line in commands(page.read_text())])
def test_commands_in_the_docs_parse(line, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    if line.startswith("make "):
        assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        parse(line)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_recipes_load_and_their_first_line_is_the_command(recipe, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    line = recipe.read_text().splitlines()[0].removeprefix("# ")
    assert recipe.name in line
    config = parse(line)
    for key, value in yaml.safe_load(recipe.read_text()).items():
        found = getattr(config, key)
        if isinstance(value, list):
            assert [str(item) for item in found] == [
                str(type(item)(one)) for item, one in zip(found, value, strict=True)
            ]
        else:
            assert found == value or str(found) == str(value)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
