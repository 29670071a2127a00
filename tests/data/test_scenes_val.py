"""scenes-val, the benchmark set that is a recipe: its parts, and that all builds of it are the same."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pics_common.recipe import parse_recipe
from pics_data.choose import choose
from pics_data.config import BuildConfig
from pics_data.decompose import decompose
from pics_data.mixture import members_of
from pics_data.records import Composition
from pics_data.sources.scenes import photos, render
from tests.data.scenes_for_tests import KINDS

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"


def member(kind: str) -> BuildConfig:
    return parse_recipe(
        BuildConfig, ["--recipe", str(PIPELINES / "scenes_val" / f"{kind}.yaml")], prog="pics-data build"
    )


def digests(kind: str, count: int) -> list[str]:
    """A hash of every member of every sample of the first scenes."""
    config = member(kind)
    found = []
    for photo in photos(config.scene_settings(), count):
        for choice in choose(photo, config):
            chosen = replace(photo, instances=tuple(photo.instances[i] for i in choice.places))
            composition = Composition("key", "val-000000", "val", chosen, choice.box_iou, 5)
            sample = decompose(composition, render(chosen, config.scene_settings()), config)
            found += [hashlib.sha256(sample.members[name]).hexdigest() for name in sorted(sample.members)]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_what_its_name_says(kind: str) -> None:
    config = member(kind)
    assert config.difficulty == kind
    assert config.val_fraction == 1
    assert config.seed > 1_000_000, "far from the seeds that people train with"
    assert config.num_scenes >= 200
    found = list(photos(config.scene_settings(), 25))
    assert sum(bool(choose(photo, config)) for photo in found) >= 23, "scenes without a pair are lost"


def test_the_mixture_says_what_its_parts_say() -> None:
    words = ["--recipe", str(PIPELINES / "scenes_val.yaml")]
    whole = parse_recipe(BuildConfig, words, prog="pics-data build")
    assert [path.stem for path in whole.mix] == list(KINDS)
    for kind in KINDS:
        part = member(kind)
        assert (part.seed, part.val_fraction, part.object_size) == (whole.seed, whole.val_fraction, whole.object_size)


def test_two_builds_agree_to_the_byte() -> None:
    here = [digests(kind, 2) for kind in KINDS]
    program = "from tests.data.test_scenes_val import *\nprint([digests(kind, 2) for kind in KINDS])"
    root = str(PIPELINES.parent)
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)
    assert str(here) == there.stdout.strip()
    assert sum(map(len, here)) > 30


def test_the_parts_of_the_mixture_are_told_apart() -> None:
    whole = parse_recipe(BuildConfig, ["--recipe", str(PIPELINES / "scenes_val.yaml")], prog="pics-data build")
    members = members_of(whole)
    assert [m.name for m in members] == list(KINDS)
    ids = [next(photos(m.config.scene_settings(), 1)).id for m in members]
    assert len(set(ids)) == 3
