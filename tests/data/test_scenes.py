"""The scenes source: repeatable to the byte, full of pairs, and clear about settings that cannot be."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pics_common.errors import UserError
from pics_data.records import Photo, Pixels
from pics_data.sources.scenes import SceneSettings, pair_truth, photos, relation_label, render, scene_of
from tests.data.scenes_for_tests import KINDS, SETTINGS, digest

NUM_RENDERED = 16
NUM_DRAWN = 110
MIN_AREA = 0.0117


@pytest.fixture(scope="module")
def planned() -> list[Photo]:
    return list(photos(SETTINGS, NUM_DRAWN))


@pytest.fixture(scope="module")
def rendered(planned: list[Photo]) -> list[tuple[Photo, Pixels]]:
    return [(photo, render(photo, SETTINGS)) for photo in planned[:NUM_RENDERED]]


def test_same_bytes_in_another_process_with_one_thread(rendered: list[tuple[Photo, Pixels]]) -> None:
    wanted = [5, 2, 9]  # neither their order nor what was rendered before may matter
    program = (
        "import sys, cv2; cv2.setNumThreads(1); sys.path.insert(0, sys.argv[1])\n"
        "from tests.data.scenes_for_tests import SETTINGS, digest\n"
        "from pics_data.sources.scenes import photos, render\n"
        f"found = list(photos(SETTINGS, {max(wanted) + 1}))\n"
        f"print(*[digest(render(found[i], SETTINGS)) for i in {wanted}])\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", program, root], capture_output=True, text=True, check=True, env=environment, cwd=root
    )
    assert result.stdout.split() == [digest(rendered[i][1]) for i in wanted]


def test_chosen_instances_in_any_order_change_nothing_but_the_order(rendered: list[tuple[Photo, Pixels]]) -> None:
    photo, all_of_it = next((p, x) for p, x in rendered if len(p.instances) >= 3)
    chosen = (photo.instances[2], photo.instances[0])
    some = render(replace(photo, instances=chosen), SETTINGS)
    assert (some.rgb == all_of_it.rgb).all(), "the others must stay in the picture"
    for place, index in enumerate((2, 0)):
        assert (some.masks[place] == all_of_it.masks[index]).all()
        assert (some.full_masks[place] == all_of_it.full_masks[index]).all()
        assert (some.full_rgba[place] == all_of_it.full_rgba[index]).all()
    assert set(np.unique(some.front)) <= {-1, 0, 1}
    for few in (photo.instances[:1], ()):
        fewer = render(replace(photo, instances=few), SETTINGS)
        assert (fewer.rgb == all_of_it.rgb).all()
        assert len(fewer.masks) == len(few)
        assert (fewer.front == -1).all()
    swapped = render(replace(photo, instances=chosen[::-1]), SETTINGS)
    decided = (some.front >= 0) & (some.masks[0] | some.masks[1])
    assert (swapped.front[decided] == 1 - some.front[decided]).all()


def test_photos_depend_on_seed_and_number_only(planned: list[Photo]) -> None:
    assert list(photos(SETTINGS, 5)) == planned[:5]
    assert {photo.license for photo in planned} == {"CC0-1.0"}
    other = list(photos(SceneSettings(seed=4, size=128), 5))
    assert all(a.instances != b.instances for a, b in zip(other, planned, strict=False))
    assert len({photo.id for photo in planned} | {photo.id for photo in other}) == NUM_DRAWN + 5


def test_scenes_hold_pairs_of_all_relations(planned: list[Photo]) -> None:
    relations: Counter[str] = Counter()
    with_pair = 0
    for photo in planned:
        assert 2 <= len(photo.instances) <= 8
        found = False
        for i, a in enumerate(photo.instances):
            for b in photo.instances[:i]:
                if is_pair(photo, a.box, b.box) and min(a.area, b.area) >= MIN_AREA * photo.width * photo.height:
                    found = True
                    relations[relation_label(replace(photo, instances=(a, b)), SETTINGS)] += 1
        with_pair += found
    assert with_pair >= 0.9 * len(planned)
    assert set(relations) >= {"front", "on", "in", "beside", "leaning"}
    assert relations["front"] == max(relations.values())
    assert min(relations[name] for name in ("on", "in", "beside")) >= 4


def is_pair(photo: Photo, a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """The published rule, on whole pixels: IoU above 0, neither box in the other."""
    canvas = np.zeros((2, photo.height, photo.width), bool)
    for layer, (x, y, w, h) in zip(canvas, (a, b), strict=True):
        layer[round(y) : round(y + h), round(x) : round(x + w)] = True
    both = int((canvas[0] & canvas[1]).sum())
    return 0 < both < min(int(canvas[0].sum()), int(canvas[1].sum()))


def test_occlusion_comes_in_all_strengths(planned: list[Photo]) -> None:
    hidden = np.array(
        [1 - look.visible / look.area for photo in planned for look in scene_of(photo.id, SETTINGS).looks]
    )
    assert (hidden < 0.02).mean() > 0.2
    assert ((hidden > 0.05) & (hidden < 0.3)).mean() > 0.1
    assert ((hidden > 0.3) & (hidden < 0.7)).mean() > 0.05


def test_objects_stand_off_from_the_ground(rendered: list[tuple[Photo, Pixels]]) -> None:
    clear = 0
    for _, pixels in rendered:
        taken = np.any(pixels.full_masks, axis=0)
        around = cv2.dilate(taken.astype(np.uint8), np.ones((9, 9))).astype(bool) & ~taken
        ground = np.median(pixels.rgb[around], axis=0)
        clear += all(np.abs(np.median(pixels.rgb[m], axis=0) - ground).max() > 15 for m in pixels.masks)
    assert clear >= 0.85 * len(rendered)


def test_every_kind_offers_pairs_to_the_planner() -> None:
    for kind in KINDS:
        wanted = replace(SETTINGS, difficulty=kind)
        found = list(photos(wanted, 25))
        assert len({photo.id for photo in found} | {photo.id for photo in photos(SETTINGS, 25)}) == 50
        with_pair = sum(
            any(
                is_pair(photo, a.box, b.box) and min(a.area, b.area) >= MIN_AREA * photo.width * photo.height
                for k, a in enumerate(photo.instances)
                for b in photo.instances[:k]
            )
            for photo in found
        )
        assert with_pair >= 23, kind


def test_pair_truth_goes_by_the_order_of_the_pair() -> None:
    wanted = replace(SETTINGS, difficulty="containment")
    for photo in photos(wanted, 12):
        scene = scene_of(photo.id, wanted)
        for k, thing in enumerate(scene.objects):
            if thing.inside < 0:
                continue
            pair = replace(photo, instances=(photo.instances[k], photo.instances[thing.inside]))
            truth = pair_truth(pair, wanted)
            assert truth.container == 1
            assert truth.supporter == (1 if thing.inside in thing.rests else None)
            assert truth.contact or truth.supporter is None
            assert relation_label(pair, wanted) == "in"
            other = pair_truth(replace(photo, instances=pair.instances[::-1]), wanted)
            assert (other.container, other.contact) == (0, truth.contact)


@pytest.mark.parametrize("size", [32, 33, 77, 200])
def test_any_size_renders(size: int) -> None:
    wanted = SceneSettings(seed=2, size=size)
    for photo in photos(wanted, 2):
        pixels = render(photo, wanted)
        assert pixels.rgb.shape == (size, size, 3)
        assert all(mask.any() for mask in pixels.masks)


def test_settings_that_cannot_be_are_named() -> None:
    with pytest.raises(UserError, match="size 0"):
        list(photos(SceneSettings(size=0), 1))
    with pytest.raises(UserError, match="seed -1"):
        list(photos(SceneSettings(seed=-1), 1))
    with pytest.raises(UserError, match="difficulty 'odd'"):
        list(photos(SceneSettings(difficulty="odd"), 1))
