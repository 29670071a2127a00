"""Which plan a build takes: the one in its folder, or a new one where the inputs are no longer those."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pics_common.errors import UserError
from pics_data import planning
from pics_data.build import build
from pics_data.config import BuildConfig
from pics_data.records import Photo, Reject
from pics_data.sources import records_of
from tests.data.photos_for_tests import DrawnSet, draw_set


def plan(config: BuildConfig) -> dict[str, Any]:
    """Plans, and returns `recipe.json`."""
    build(config, plan_only=True)
    recipe: dict[str, Any] = json.loads((Path(config.out) / "recipe.json").read_text())
    return recipe


def test_a_plan_is_taken_again_while_its_inputs_are_the_same(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    drawn = draw_set(tmp_path / "drawn")
    config = drawn.config(tmp_path / "shards")
    first = plan(config)
    assert "planning from coco" in capfd.readouterr().err
    assert plan(config) == first
    assert "planning" not in capfd.readouterr().err
    drawn.annotations.write_text(drawn.annotations.read_text() + "\n")
    again = plan(config)
    assert "planning from coco" in capfd.readouterr().err
    assert again["plan_sha256"] == first["plan_sha256"]
    assert again["inputs"] != first["inputs"]


@pytest.mark.parametrize("same_plan", [True, False])
def test_annotations_that_change_while_they_are_read_are_planned_from_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *, same_plan: bool
) -> None:
    drawn = draw_set(tmp_path / "drawn")
    config = drawn.config(tmp_path / "shards")

    def and_then_changed(config: BuildConfig) -> Iterator[Photo | Reject]:
        yield from records_of(config)
        change(drawn, same_plan=same_plan)

    monkeypatch.setattr(planning, "records_of", and_then_changed)
    first = plan(config)
    monkeypatch.undo()
    capfd.readouterr()
    if same_plan:
        assert plan(config)["plan_sha256"] == first["plan_sha256"]
        assert "planning from coco" in capfd.readouterr().err
        plan(config)
        assert "planning" not in capfd.readouterr().err
    else:
        with pytest.raises(UserError, match="was begun with other annotations"):
            plan(config)


def change(drawn: DrawnSet, *, same_plan: bool) -> None:
    """Another file; what it says of half of the photos is left out, or nothing."""
    if same_plan:
        drawn.annotations.write_text(drawn.annotations.read_text() + "\n")
    else:
        drawn.rewrite(lambda document: document.update(annotations=document["annotations"][::2]))
