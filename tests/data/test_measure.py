"""Quality of a silhouette and relation of two, on shapes whose measures are known."""

import json
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pics_data.masks import mask_of
from pics_data.measure import bounding_box, box_iou, contact_and_gap, measure_quality, measure_relation


def shape(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (60, 80)) -> np.ndarray:
    """A mask of filled boxes (x, y, width, height)."""
    mask = np.zeros(size, bool)
    for x, y, width, height in boxes:
        mask[y : y + height, x : x + width] = True
    return mask


GREY = np.full((60, 80, 3), 128, np.uint8)


def test_parts_holes_box_and_area() -> None:
    mask = shape((10, 10, 20, 20), (50, 30, 5, 5))
    mask[15:18, 15:18] = mask[22:25, 20:23] = False
    quality = measure_quality(GREY, mask)
    assert (quality.parts, quality.holes) == (2, 2)
    assert quality.box == (10, 10, 45, 25)
    assert quality.area == pytest.approx(mask.sum() / mask.size, abs=1e-6)


def test_border_is_the_share_of_the_outline_on_the_photos_border() -> None:
    assert measure_quality(GREY, shape((10, 10, 20, 20))).border == 0
    assert measure_quality(GREY, shape((0, 10, 20, 20))).border == 0.25
    assert measure_quality(GREY, shape((1, 10, 20, 20))).border == 0.25  # one pixel is what rasterising loses
    assert measure_quality(GREY, shape((2, 10, 20, 20))).border == 0
    assert measure_quality(GREY, shape((0, 0, 80, 60))).border == 1
    assert measure_quality(GREY, shape((60, 40, 20, 20))).border == 0.5


def test_edge_tells_a_sharp_outline_from_a_lost_one() -> None:
    mask = shape((20, 15, 30, 30))
    sharp = np.repeat(np.where(mask, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    assert measure_quality(sharp, mask).edge > 0.9
    assert measure_quality(sharp // 4, mask).edge == pytest.approx(0.25, abs=0.03)
    assert measure_quality(GREY, mask).edge == 0
    assert measure_quality(sharp, shape((0, 0, 80, 60))).edge == 0  # only the photo's border


@pytest.mark.parametrize(
    ("second", "contact", "gap"),
    [
        ((30, 10, 10, 20), 20, 0),  # beside, along 20 pixels
        ((30, 30, 10, 10), 1, 0),  # corner to corner
        ((31, 10, 10, 20), 0, 1),
        ((40, 10, 10, 20), 0, 10),
        ((33, 34, 5, 5), 0, 4.66),  # 4 and 5 pixels away: hypot(4, 5) - 1 less rounding of centres
        ((25, 10, 10, 20), 120, 0),  # overlapping annotations: 5 x 20 and the column beside
    ],
)
def test_contact_and_gap(second: tuple[int, int, int, int], contact: int, gap: float) -> None:
    measured = contact_and_gap(shape((10, 10, 20, 20)), shape(second))
    assert measured[0] == contact
    assert measured[1] == pytest.approx(gap, abs=0.75)


BLOBS = st.lists(
    st.tuples(st.integers(0, 21), st.integers(0, 17), st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=3
).map(lambda boxes: shape(*boxes, size=(18, 22)))
NOISE = arrays(np.bool_, (18, 22), fill=st.just(False)).filter(lambda mask: mask.any())
MASKS = BLOBS | NOISE  # compact and apart, and scattered


@given(MASKS, MASKS)
def test_relations_equal_what_all_pairs_of_pixels_say(first: np.ndarray, second: np.ndarray) -> None:
    a, b = np.argwhere(first), np.argwhere(second)
    distances = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    relation = measure_relation(first, second)
    assert relation.contact_px == (distances.min(axis=1) < 1.5).sum()
    assert relation.overlap_px == (distances == 0).sum()
    touch = relation.contact_px > 0
    assert relation.gap_px == pytest.approx(0 if touch else distances.min() - 1, abs=0.006)  # it has two decimals
    assert contact_and_gap(first, second) == (relation.contact_px, relation.gap_px)
    boxes = [shape((x, y, w, h), size=(18, 22)) for x, y, w, h in (bounding_box(first), bounding_box(second))]
    assert relation.box_iou == pytest.approx((boxes[0] & boxes[1]).sum() / (boxes[0] | boxes[1]).sum(), abs=1e-6)


@given(MASKS, MASKS)
def test_relations_know_no_first_and_second(first: np.ndarray, second: np.ndarray) -> None:
    there, back = measure_relation(first, second), measure_relation(second, first)
    assert (there.box_iou, there.gap_px, there.overlap_px) == (back.box_iou, back.gap_px, back.overlap_px)
    assert (there.contact_px > 0) == (back.contact_px > 0) == (there.gap_px == 0)
    assert there.overlap_px <= min(there.contact_px, back.contact_px)
    assert there.contact_px <= first.sum()
    assert there.overlap_px <= min(first.sum(), second.sum())


@given(MASKS)
def test_a_silhouette_given_twice_overlaps_itself(mask: np.ndarray) -> None:
    relation = measure_relation(mask, mask.copy())
    assert (relation.box_iou, relation.gap_px) == (1, 0)
    assert relation.contact_px == relation.overlap_px == mask.sum()


@given(MASKS, st.integers(0, 5), st.integers(0, 5))
def test_measures_do_not_depend_on_where_in_the_photo(mask: np.ndarray, down: int, right: int) -> None:
    other = np.zeros_like(mask)
    other[:3, :2] = True
    moved = [np.pad(each, ((down, 5), (right, 5))) for each in (mask, other)]
    assert measure_relation(*moved) == measure_relation(mask, other)


def test_an_object_in_the_hole_of_another() -> None:
    ring = shape((5, 5, 20, 20)) & ~shape((8, 8, 14, 14))
    inside = shape((13, 13, 4, 4))
    assert measure_relation(ring, inside).gap_px == measure_relation(inside, ring).gap_px == 5  # columns 8 to 12


def test_an_empty_mask_has_an_empty_box() -> None:
    assert bounding_box(np.zeros((4, 5), bool))[2:] == (0, 0)
    assert box_iou((0, 0, 2, 2), (2, 0, 2, 2)) == 0


@given(st.data())
def test_any_mask_is_measured(data: st.DataObject) -> None:
    mask = data.draw(arrays(np.bool_, (7, 9)).filter(lambda m: m.any()))
    photo = data.draw(arrays(np.uint8, (7, 9, 3)))
    quality = measure_quality(photo, mask)
    assert quality.parts >= 1
    assert 0 <= quality.border <= 1
    assert 0 <= quality.edge <= 1


@pytest.mark.shared
def test_gaps_of_real_silhouettes_equal_the_distance_transform(shared_data: Path) -> None:
    document = json.loads((shared_data / "coco_mini" / "annotations" / "instances_val2017.json").read_bytes())
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    of_photo: dict[int, list[np.ndarray]] = {}
    for item in document["annotations"]:
        if not item["iscrowd"] and item["area"] > 500:
            mask = mask_of(item["segmentation"], *sizes[item["image_id"]])
            of_photo.setdefault(item["image_id"], []).append(mask)
    pairs = [pair for masks in of_photo.values() for pair in combinations(masks[:4], 2)]
    assert len(pairs) > 100
    for first, second in pairs:
        distance = cv2.distanceTransform(1 - second.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[first]
        relation = measure_relation(first, second)
        assert relation.contact_px == (distance < 1.5).sum()
        assert relation.overlap_px == (distance == 0).sum()
        assert relation.gap_px == pytest.approx(max(0, distance.min() - 1) if distance.min() > 1.5 else 0, abs=0.02)
