"""Where things stand: nothing floats, nothing is pierced, and what is said of contact is true. Brute force judges."""

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from pics_data.scenes.catalogue import SHEETS
from pics_data.scenes.contact import DOWN, TOUCHING, approach, crosses, touching, truth_of_pair
from pics_data.scenes.layout import draw_scene
from pics_data.scenes.materials import draw_material
from pics_data.scenes.rays import Pose
from pics_data.scenes.scene import Placed, Scene, body_of
from pics_data.scenes.shapes import stock_shape
from tests.data.scenes_for_tests import KINDS, gap_between

NUM_DRAWN = 85


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Scene]]:
    return {kind: [draw_scene(17, index, (), kind) for index in range(NUM_DRAWN)] for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_everything_touches_what_carries_it(drawn: dict[str, list[Scene]], kind: str) -> None:
    carried = 0
    for number, scene in enumerate(drawn[kind][:45]):
        for k, thing in enumerate(scene.objects):
            lowest = float(thing.points[:, 2].min())
            if not thing.rests:
                assert abs(lowest) < 1e-5, (number, k, "it neither stands on the ground nor rests on another")
            for below in (*thing.rests, *([thing.leans] if thing.leans >= 0 else [])):
                gap = gap_between(thing, scene.objects[below])
                assert gap < TOUCHING, (number, k, below, gap)
                carried += 1
            if thing.rests:
                middle = thing.pose.to_world(thing.shape.middle[None])[0]
                assert middle[2] > min(float(scene.objects[r].points[:, 2].min()) for r in thing.rests)
    assert carried > 8, "hardly anything rests on anything: the test has nothing to bite on"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_pierced(drawn: dict[str, list[Scene]], kind: str) -> None:
    near = 0
    for number, scene in enumerate(drawn[kind]):
        shapes = [trimesh.Trimesh(t.points, t.body.solid.faces, process=False) for t in scene.objects]
        for i, a in enumerate(shapes):
            for j, b in enumerate(shapes):
                within = ((a.vertices > b.bounds[0] + 1e-4) & (a.vertices < b.bounds[1] - 1e-4)).all(1)
                if i != j and within.any():
                    near += 1
                    assert not b.contains(a.vertices[within]).any(), (number, i, j)
        assert all(float(thing.points[:, 2].min()) > -1e-5 for thing in scene.objects)
    assert near > NUM_DRAWN / 3


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_of_pairs_is_true(drawn: dict[str, list[Scene]], kind: str) -> None:
    touch = 0
    for number, scene in enumerate(drawn[kind][45:62]):
        for i, a in enumerate(scene.objects):
            for j in range(i):
                b = scene.objects[j]
                supporter, container, contact = truth_of_pair(scene.objects, i, j)
                assert truth_of_pair(scene.objects, j, i) == (
                    None if supporter is None else 1 - supporter,
                    None if container is None else 1 - container,
                    contact,
                )
                gap = gap_between(a, b)
                # Moving some way by TOUCHING closes gaps up to that; directions are some 20 degrees apart.
                assert gap < 1.1 * TOUCHING if contact else gap > 0.85 * TOUCHING, (number, i, j, gap)
                touch += contact
                if supporter is not None:
                    upper, lower = (b, a) if supporter == 0 else (a, b)
                    assert not crosses(upper, lower)
                    assert crosses(upper.moved(DOWN * np.float32(4 * TOUCHING)), lower), "nothing keeps it from falling"
                if container is not None:
                    held, holder = (b, a) if container == 0 else (a, b)
                    _check_inside(held, holder)
    assert touch > 5


def _check_inside(held: Placed, holder: Placed) -> None:
    """Its lowest point lies within the walls, above the floor and below the rim."""
    cavity = holder.body.solid.cavity
    assert cavity is not None
    low = holder.pose.to_own(held.points[[int(held.points[:, 2].argmin())]])[0]
    assert cavity.floor - 1e-4 < low[2] < cavity.rim
    assert float(np.hypot(low[0], low[1])) < max(cavity.radius, cavity.rim_radius)


def test_kinds_differ_in_what_they_promise(drawn: dict[str, list[Scene]]) -> None:
    counts = {kind: [len(scene.objects) for scene in scenes] for kind, scenes in drawn.items()}
    assert set(counts["easy"]) == {2, 3}
    assert min(counts["crowded"]) >= 5
    assert max(counts["crowded"]) == 8
    held = [[t.inside for t in scene.objects if t.inside >= 0] for scene in drawn["containment"]]
    assert np.mean([len(one) >= 1 for one in held]) > 0.97
    assert np.mean([len(one) >= 2 for one in held]) > 0.3
    hidden = {kind: [1 - o.visible / o.area for s in scenes for o in s.looks] for kind, scenes in drawn.items()}
    assert np.mean(np.array(hidden["easy"]) < 0.3) > 0.95
    assert np.mean(np.array(hidden["crowded"]) > 0.1) > 0.25
    for kind in KINDS:
        assert np.mean(np.array(hidden[kind]) > 0.75) < 0.01, "objects keep a fair share"


def test_ways_of_placing_all_occur(drawn: dict[str, list[Scene]]) -> None:
    things = [(scene, thing) for scenes in drawn.values() for scene in scenes for thing in scene.objects]
    assert sum(thing.leans >= 0 for _, thing in things) > 15
    assert sum(len(thing.rests) >= 2 for _, thing in things) > 5
    levels = []
    for scene, thing in things:
        level, below = 1, thing
        while below.rests and below.inside < 0:
            level, below = level + 1, scene.objects[below.rests[0]]
        levels.append(level)
    assert max(levels) >= 4
    assert sum(level >= 3 for level in levels) > 5
    assert sum(t.inside >= 0 and t.body.solid.category in ("pencil", "stick", "flower", "spoon") for _, t in things) > 5


@pytest.mark.parametrize("kind", KINDS)
def test_everything_lies_within_the_picture(drawn: dict[str, list[Scene]], kind: str) -> None:
    for number, scene in enumerate(drawn[kind]):
        for thing, look in zip(scene.objects, scene.looks, strict=True):
            spots = scene.camera.project(thing.points, 1)
            assert spots.min() >= 0, number
            assert spots.max() <= 1, number
            x, y, w, h = look.box
            assert np.abs(np.array([*spots.min(0), *spots.max(0)]) - (x, y, x + w, y + h)).max() < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_on_another_is_balanced(drawn: dict[str, list[Scene]], kind: str) -> None:
    found = 0
    for number, scene in enumerate(drawn[kind]):
        for k, thing in enumerate(scene.objects):
            if not thing.rests or thing.inside >= 0:
                continue
            middle = thing.pose.to_world(thing.shape.middle[None])[0]
            carriers = [scene.objects[below] for below in thing.rests]
            away = np.array([middle[:2] - below.pose.shift[:2] for below in carriers])
            if len(carriers) == 1:
                assert np.hypot(*away[0]) < carriers[0].body.solid.top * carriers[0].pose.scale, (number, k)
            else:  # across a bridge's blocks: its middle lies between them
                assert float((away[0] * away[1]).sum()) < 0, (number, k)
            found += 1
    assert found > 5 or kind == "containment"


def test_leaning_things_reach_high_enough_to_stay(drawn: dict[str, list[Scene]]) -> None:
    for scenes in drawn.values():
        for scene in scenes:
            for thing in scene.objects:
                if thing.leans < 0:
                    continue
                middle = thing.pose.to_world(thing.shape.middle[None])[0]
                foot = thing.points[int(thing.points[:, 2].argmin())]
                wall = scene.objects[thing.leans]
                up = thing.pose.turn[:, 1 if thing.body.solid.category in SHEETS else 2]
                toward = up[:2] / np.hypot(*up[:2])
                assert float((toward * (middle - foot)[:2]).sum()) > 0, "it would fall away from what it leans on"
                assert float((toward * (wall.pose.shift - foot)[:2]).sum()) > 0


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["sphere", "box", "apple", "stool", "torus"]), st.floats(-0.3, 0.3), st.integers(0, 7))
def test_a_dropped_body_stops_at_what_is_below(category: str, x: float, variant: int) -> None:
    rng = np.random.default_rng(variant)
    material = draw_material(rng, np.zeros((1, 3), np.float32))
    eye = np.eye(3, dtype=np.float32)
    block = Placed(body_of(stock_shape("rock", variant), material), Pose(eye, 1.0, np.zeros(3, np.float32)))
    body = Placed(body_of(stock_shape(category, variant), material), Pose(eye, 0.6, np.array([x, 0.1, 2], np.float32)))
    found = approach(body, [block], DOWN)
    assert found is not None
    here, touched = found
    assert not crosses(here, block)
    assert touching(here, block)
    assert not touching(here.moved(np.array([0, 0, 5 * TOUCHING])), block)
    assert gap_between(here, block) < TOUCHING
    assert touched == [True]
    assert crosses(here.moved(DOWN * np.float32(0.03)), block)
