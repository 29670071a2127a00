"""What scenes know of themselves is true: silhouettes, order, depth, and how much one hides of another."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from pics_data.records import Photo, Pixels
from pics_data.sources.scenes import SceneSettings, photos, render, scene_of
from tests.data.scenes_for_tests import KINDS, SETTINGS, look_along

NUM_RENDERED = 8  # of each kind
Rendered = list[tuple[Photo, Pixels, SceneSettings]]


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    found: Rendered = []
    for kind in KINDS:
        wanted = replace(SETTINGS, difficulty=kind)
        found += [(photo, render(photo, wanted), wanted) for photo in photos(wanted, NUM_RENDERED)]
    return found


def test_pixels_have_the_promised_form(rendered: Rendered) -> None:
    for photo, pixels, _ in rendered:
        shape, count = (photo.height, photo.width), len(photo.instances)
        assert pixels.photo_jpeg is None
        for plane, form, kind in (
            (pixels.rgb, (*shape, 3), np.uint8),
            (pixels.front, shape, np.int8),
            (pixels.depth, shape, np.float32),
            (pixels.hides, (count, count), np.float32),
            *((mask, shape, bool) for mask in (*pixels.masks, *pixels.full_masks)),
            *((rgba, (*shape, 4), np.uint8) for rgba in pixels.full_rgba),
        ):
            assert plane.shape == form
            assert plane.dtype == kind
        assert len(pixels.masks) == len(pixels.full_masks) == len(pixels.full_rgba) == count


def test_visible_silhouettes_are_disjoint_parts_of_whole_ones(rendered: Rendered) -> None:
    for photo, pixels, _ in rendered:
        assert np.sum(pixels.masks, axis=0).max() <= 1, photo.id
        for mask, full in zip(pixels.masks, pixels.full_masks, strict=True):
            assert mask.any()
            assert not (mask & ~full).any(), photo.id


def test_front_names_the_one_that_is_seen(rendered: Rendered) -> None:
    decided = 0
    for photo, pixels, _ in rendered:
        several = np.sum(pixels.full_masks, axis=0) >= 2
        assert ((pixels.front >= 0) == several).all(), photo.id
        for i, mask in enumerate(pixels.masks):
            assert (pixels.front[several & mask] == i).all(), photo.id
            decided += int((several & mask).sum())
    assert decided > 1000, "hardly any occlusion: the test has nothing to bite on"


def test_alone_objects_have_the_whole_silhouette_and_soft_edges(rendered: Rendered) -> None:
    for photo, pixels, _ in rendered:
        for mask, full, rgba in zip(pixels.masks, pixels.full_masks, pixels.full_rgba, strict=True):
            alpha = rgba[..., 3]
            assert ((alpha >= 128) == full).all(), photo.id
            assert ((alpha > 0) & (alpha < 255)).any()
            inside = cv2.erode(mask.astype(np.uint8), np.ones((3, 3))) > 0
            # Alone, an object loses the shadows of the others and nothing else: never darker than in the picture,
            # but for the few pixels in which a thin part of another shows as well.
            darker = pixels.rgb.astype(int)[inside] - rgba[..., :3].astype(int)[inside]
            assert (darker > 1).any(1).mean() < 0.03, photo.id


def test_planned_boxes_and_areas_match_the_rendering(rendered: Rendered) -> None:
    for photo, pixels, _ in rendered:
        for instance, mask, full in zip(photo.instances, pixels.masks, pixels.full_masks, strict=True):
            rows, columns = np.flatnonzero(full.any(1)), np.flatnonzero(full.any(0))
            true = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            x, y, w, h = instance.box
            assert np.abs(np.array(true) - (x, y, x + w, y + h)).max() <= 2.5, (photo.id, instance)
            assert abs(instance.area - mask.sum()) <= 0.15 * mask.sum() + 40, (photo.id, instance)


def nearest(depths: list[float]) -> tuple[float, int]:
    """The least depth and whose it is; -1 for nobody's."""
    first = int(np.argmin(depths))
    return depths[first], first if np.isfinite(depths[first]) else -1


def test_depth_and_order_are_those_of_every_triangle(rendered: Rendered) -> None:
    """At random places: who is in front, how far away it is, and what each pixel shows."""
    rng = np.random.default_rng(0)
    seen = {"object": 0, "ground": 0, "sky": 0, "order": 0}
    for photo, pixels, wanted in rendered:
        scene = scene_of(photo.id, wanted)
        whole = np.sum(pixels.full_masks, axis=0)
        spots = [np.argwhere(whole >= 2), np.argwhere(whole == 1), np.argwhere(whole == 0)]
        for places in spots:
            for y, x in places[rng.permutation(len(places))[:5]]:
                *objects, behind = look_along(scene, x + 0.5, y + 0.5, wanted.size)
                quarters = [look_along(scene, x + a, y + b, wanted.size) for a in (0.25, 0.75) for b in (0.25, 0.75)]
                true, first = nearest([*objects, behind])
                if {nearest(one)[1] for one in quarters} != {first}:
                    continue  # something ends within this pixel
                assert [bool(mask[y, x]) for mask in pixels.masks] == [k == first for k in range(len(objects))]
                if np.isinf(true):
                    assert np.isinf(pixels.depth[y, x])
                    seen["sky"] += 1
                else:
                    spread = np.ptp([nearest(one)[0] for one in quarters])
                    assert abs(pixels.depth[y, x] - true) < 2e-3 + spread, (photo.id, x, y)
                    seen["object" if first < len(objects) else "ground"] += 1
                if np.isfinite(objects).sum() >= 2 and whole[y, x] >= 2:
                    assert pixels.front[y, x] == int(np.argmin(objects)), (photo.id, x, y)
                    seen["order"] += 1
    assert min(seen["object"], seen["ground"], seen["order"]) > 30, seen


def test_depth_is_finite_but_for_the_open_sky(rendered: Rendered) -> None:
    for photo, pixels, wanted in rendered:
        scene = scene_of(photo.id, wanted)
        taken = np.any(pixels.masks, axis=0)
        assert np.isfinite(pixels.depth[taken]).all()
        assert (pixels.depth[taken] > 0).all()
        assert scene.backdrop.distance == 0 or np.isfinite(pixels.depth).all()
        # What hides another is nearer: depth cannot lie behind any object that covers the pixel.
        assert not np.isnan(pixels.depth).any()


def test_hides_is_the_share_that_is_hidden(rendered: Rendered) -> None:
    """Counted anew, pixel by pixel, from rays that are four times as dense."""
    strong = 0
    for photo, pixels, wanted in rendered[::3]:
        scene = scene_of(photo.id, wanted)
        fine = 4 * wanted.size
        rays = scene.camera.rays(fine)
        depth = np.full((len(scene.objects), fine * fine), np.inf, np.float32)
        for k, thing in enumerate(scene.objects):
            hits = thing.body.tree.first(thing.pose, scene.camera.position, rays)
            depth[k, hits.ray] = hits.depth
        for j in range(len(scene.objects)):
            area = np.isfinite(depth[j])
            for i in range(len(scene.objects)):
                true = float((area & (depth[i] < depth[j])).sum() / area.sum())
                assert abs(float(pixels.hides[i, j]) - true) < 0.012, (photo.id, i, j)
                strong += true > 0.1
            hidden = 1 - (pixels.masks[j].sum() / pixels.full_masks[j].sum())
            full = pixels.full_masks[j].astype(np.uint8)
            slack = 0.02 + 0.5 * float(
                (full - cv2.erode(full, np.ones((3, 3)))).sum() / full.sum()
            )  # pixels are shared
            assert pixels.hides[:, j].max() - slack <= hidden <= pixels.hides[:, j].sum() + slack
    assert strong > 8


def test_truth_of_few_is_that_of_all(rendered: Rendered) -> None:
    photo, pixels, wanted = next(one for one in rendered if len(one[0].instances) >= 5)
    chosen = (4, 1)
    some = render(replace(photo, instances=tuple(photo.instances[k] for k in chosen)), wanted)
    assert (some.rgb == pixels.rgb).all()
    assert (some.depth == pixels.depth).all()
    assert (some.hides == pixels.hides[np.ix_(chosen, chosen)]).all()
