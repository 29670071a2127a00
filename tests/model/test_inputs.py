"""Framing, regions, object pictures, hint and paste-back: geometry that training and inference share."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pics_common.errors import UserError
from pics_model.examples import Example
from pics_model.framing import Frame, cells, cut, enlarge, frame_pair, frame_photo, tight_box
from pics_model.inputs import FramingSettings, Inputs, collate, compose, hint, to_signed
from pics_model.paste_back import paste_back, region_union
from tests.model.shards_for_tests import cut_out, make_scene

SETTINGS = FramingSettings(resolution=64, object_resolution=48)
ALL_KINDS = [
    replace(SETTINGS, frame=frame, region=region) for frame in ("photo", "pair") for region in ("box", "silhouette")
]


def make_example(seed: int = 0, known_squares: bool = True, **scene: object) -> Example:
    photo, masks, _ = make_scene(seed, **scene)
    cuts = [cut_out(photo, mask) for mask in masks]
    squares = [tuple(square) for _, square in cuts] if known_squares else []
    return Example(f"s{seed}", photo, [picture for picture, _ in cuts], masks, squares=squares)


@st.composite
def photos_with_boxes(draw: st.DrawFn) -> tuple[int, int, list[tuple[int, int, int, int]]]:
    height, width = draw(st.integers(3, 300)), draw(st.integers(3, 300))
    boxes = []
    for _ in range(draw(st.integers(1, 3))):
        x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        boxes.append((x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))))
    return height, width, boxes


def example_of_boxes(height: int, width: int, boxes: list[tuple[int, int, int, int]]) -> Example:
    """Each object is a filled rectangle; later ones lie on top, but all masks are whole."""
    rng = np.random.default_rng(height * 1000 + width)
    masks = []
    for x0, y0, x1, y1 in boxes:
        masks.append(np.zeros((height, width), bool))
        masks[-1][y0:y1, x0:x1] = True
    photo = rng.integers(0, 256, (height, width, 3), np.uint8)
    return Example("boxes", photo, [np.full((20, 30, 4), 255, np.uint8) for _ in boxes], masks)


# --- frames ---


def test_photo_frame_is_a_square_with_the_photo_in_its_middle() -> None:
    assert frame_photo(100, 100) == Frame(0, 0, 100)
    assert frame_photo(50, 100) == Frame(0, -25, 100)
    assert frame_photo(101, 50) == Frame(-25, 0, 101)


@settings(max_examples=300, deadline=None)
@given(photos_with_boxes(), st.floats(1.0, 2.0), st.floats(0, 1))
def test_pair_frame_holds_every_enlarged_box(photo, context, part) -> None:
    height, width, boxes = photo
    frame = frame_pair(boxes, height, width, context)
    assert frame.side <= max(height, width)
    for box in boxes:
        x0, y0, x1, y1 = enlarge(box, 1 + part * (context - 1), height, width)
        assert frame.x <= x0 < x1 <= frame.x + frame.side
        assert frame.y <= y0 < y1 <= frame.y + frame.side
    for start, size in ((frame.x, width), (frame.y, height)):
        inside = start >= 0 and start + frame.side <= size
        covers = start <= 0 and start + frame.side >= size
        assert inside if frame.side < size else covers


def test_pair_frame_is_as_large_as_asked() -> None:
    frame = frame_pair([(100, 100, 140, 120), (130, 100, 180, 150)], 1000, 1000, 1.5)
    assert 120 <= frame.side <= 125
    assert abs(frame.x + frame.side / 2 - 140) <= 1


@settings(max_examples=100, deadline=None)
@given(photos_with_boxes(), st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 200))
def test_cut_is_a_slice_with_padding(photo, x, y, side) -> None:
    height, width, _ = photo
    x, y = min(x, width - 1), min(y, height - 1)
    frame = Frame(max(x, 1 - side), max(y, 1 - side), side)
    image = np.random.default_rng(0).integers(1, 256, (height, width), np.uint8)
    padded = np.pad(image, 300)[300 + frame.y :, 300 + frame.x :][:side, :side]
    assert np.array_equal(cut(image, frame, (0,)), padded)


# --- compose ---


@settings(max_examples=150, deadline=None)
@given(photos_with_boxes(), st.sampled_from(ALL_KINDS), st.one_of(st.none(), st.integers(0, 99)))
def test_a_box_in_the_photo_ends_where_boxes_says(photo, how, seed) -> None:
    height, width, boxes = photo
    example = example_of_boxes(height, width, boxes)
    inputs = compose(example, how, None if seed is None else np.random.default_rng(seed))
    frame = inputs.frame
    for k, box in enumerate(boxes):
        back = inputs.boxes[k] * frame.side + [frame.x, frame.y, frame.x, frame.y]
        np.testing.assert_allclose(back, inputs.pixel_boxes[k], atol=1e-3)
        least, most = enlarge(box, how.enlarge_min, height, width), enlarge(box, how.enlarge_max, height, width)
        assert all(m <= b <= i for m, b, i in zip(most[:2], inputs.pixel_boxes[k][:2], least[:2], strict=True))
        assert all(i <= b <= m for m, b, i in zip(most[2:], inputs.pixel_boxes[k][2:], least[2:], strict=True))
        # The object's own pixels are in its region, the region in the photo.
        own = np.zeros_like(inputs.regions[k])
        own[cells(box, frame, how.resolution)] = True
        assert not (own & ~inputs.regions[k]).any()
        assert not (inputs.silhouettes[k] & ~inputs.regions[k]).any()
        assert not (inputs.regions[k] & ~inputs.valid).any()


def test_regions_are_the_cells_of_boxes_at_whole_scale() -> None:
    example = example_of_boxes(64, 64, [(10, 20, 30, 40)])
    inputs = compose(example, replace(SETTINGS, frame="photo", enlarge_min=1.2, enlarge_max=1.2), None)
    ys, xs = np.nonzero(inputs.regions[0])
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == (8, 18, 31, 41)
    assert np.array_equal(inputs.target, example.photo)
    assert np.array_equal(inputs.silhouettes[0], example.masks[0])


def test_silhouette_region_follows_the_silhouette() -> None:
    example = make_example(size=(200, 200))
    inputs = compose(example, replace(SETTINGS, region="silhouette"), None)
    boxes = compose(example, SETTINGS, None)
    assert inputs.regions.sum() < 0.9 * boxes.regions.sum()
    grown = cv2.dilate(inputs.silhouettes[0].astype(np.uint8), np.ones((3, 3)))
    assert not (grown.astype(bool) & ~inputs.regions[0]).any()


def test_padding_is_black_and_not_valid_and_does_not_bleed() -> None:
    example = example_of_boxes(51, 100, [(10, 10, 90, 40)])
    example.photo[:] = 200
    inputs = compose(example, replace(SETTINGS, frame="photo"), None)
    # The photo begins at 24 * 0.64 = 15.36 model pixels and ends at 48: the first row holds some padding too.
    assert inputs.valid.sum() == 33 * 64
    assert (inputs.target[inputs.valid] == 200).all()
    assert (inputs.target[~inputs.valid] == 0).all()


@pytest.mark.parametrize("seed", [None, 1, 2])
@pytest.mark.parametrize("known", [True, False], ids=["crop known", "crop unknown"])
def test_object_pictures_put_back_by_their_boxes_cover_the_silhouettes(seed, known) -> None:
    example = make_example(3, known, size=(180, 240))
    inputs = compose(example, SETTINGS, None if seed is None else np.random.default_rng(seed))
    for k in range(2):
        put = put_back(inputs, k)
        both, either = (put & inputs.silhouettes[k]).sum(), (put | inputs.silhouettes[k]).sum()
        assert both / either > 0.9


def put_back(inputs: Inputs, k: int) -> np.ndarray:
    size, side = inputs.objects.shape[1], len(inputs.target)
    x0, y0, x1, y1 = inputs.object_boxes[k] * side
    move = np.array(
        [[(x1 - x0) / size, 0, x0 - 0.5 + (x1 - x0) / size / 2], [0, (y1 - y0) / size, y0 - 0.5 + (y1 - y0) / size / 2]]
    )
    return cv2.warpAffine(inputs.objects[k, ..., 3], move, (side, side)) >= 128


def test_a_known_crop_counts_more_than_the_mask() -> None:
    """An object that the photo's border cuts: its picture shows more than the mask's box."""
    example = example_of_boxes(100, 100, [(0, 40, 10, 60)])
    picture = np.full((40, 40, 4), (255, 255, 255, 0), np.uint8)
    picture[10:30, 10:30] = (9, 9, 9, 255)
    example = replace(example, objects=[picture], squares=[(-20.0, 30.0, 40.0)])
    inputs = compose(example, SETTINGS, None)
    shown = inputs.object_boxes[0] * inputs.frame.side + [inputs.frame.x, inputs.frame.y] * 2
    centre = (shown[:2] + shown[2:]) / 2
    np.testing.assert_allclose(centre, [0, 50], atol=0.6)


def test_an_object_of_another_shape_than_its_place_fits_into_it() -> None:
    picture = np.full((50, 200, 4), (9, 9, 9, 255), np.uint8)
    example = replace(example_of_boxes(300, 300, [(100, 50, 140, 250)]), objects=[picture])
    settings = replace(SETTINGS, frame="photo")
    shown = compose(example, settings, None).object_boxes[0] * 300
    np.testing.assert_allclose(shown, [95, 125, 145, 175], atol=0.5)


def test_object_pictures_are_centred_on_white_with_the_margin_asked() -> None:
    example = example_of_boxes(100, 100, [(40, 40, 60, 50)])
    picture = np.full((90, 200, 4), (255, 255, 255, 0), np.uint8)
    picture[:30, 170:] = (200, 10, 10, 255)
    inputs = compose(replace(example, objects=[picture]), SETTINGS, None)
    x0, y0, x1, y1 = tight_box(inputs.objects[0, ..., 3] >= 128)
    assert 1.2 < 48 / (x1 - x0) < 1.32
    assert abs((x0 + x1) / 2 - 24) <= 1
    assert abs((y0 + y1) / 2 - 24) <= 1
    assert (inputs.objects[0, 0, 0] == (255, 255, 255, 0)).all()


def test_whole_masks_make_the_regions_and_visible_ones_the_silhouettes() -> None:
    example = make_example(size=(100, 100))
    whole = np.zeros((100, 100), bool)
    whole[10:90, 10:60] = True
    inputs = compose(replace(example, whole_masks=[whole, example.masks[1]]), replace(SETTINGS, frame="photo"), None)
    assert inputs.pixel_boxes[0, 1] <= 10
    assert inputs.silhouettes[0].sum() < inputs.regions[0].sum() / 2


def test_without_rng_all_is_deterministic_and_with_it_sizes_vary() -> None:
    example = make_example()
    one, two = compose(example, SETTINGS, None), compose(example, SETTINGS, None)
    assert np.array_equal(one.objects, two.objects)
    assert np.array_equal(one.regions, two.regions)
    drawn = [compose(example, SETTINGS, np.random.default_rng(seed)).object_boxes for seed in range(20)]
    widths = np.array([(boxes[:, 2] - boxes[:, 0]) for boxes in drawn])
    assert 1.2 < (widths.max(0) / widths.min(0)).min() < 1.45


def test_mirroring_mirrors_the_whole_composition() -> None:
    example = make_example(size=(100, 141))
    plain = compose(example, SETTINGS, np.random.default_rng(5))
    mirrored = compose(example, replace(SETTINGS, flip=1.0), np.random.default_rng(5))
    assert np.array_equal(mirrored.target, plain.target[:, ::-1])
    assert np.array_equal(mirrored.objects, plain.objects[:, :, ::-1])
    assert np.array_equal(mirrored.regions, plain.regions[..., ::-1])
    for k in range(2):
        assert (put_back(mirrored, k) & mirrored.silhouettes[k]).sum() / mirrored.silhouettes[k].sum() > 0.9


@pytest.mark.parametrize(
    "wrong", [{"enlarge_min": 0.9}, {"enlarge_min": 1.3}, {"context": 1.1}, {"margin_min": 1.5}, {"margin_min": 0.5}]
)
def test_settings_that_cannot_be(wrong) -> None:
    with pytest.raises(UserError, match="framing"):
        replace(SETTINGS, **wrong)


# --- batch and hint ---


def test_collate_pads_missing_objects_with_nothing() -> None:
    inputs = [compose(make_example(seed, num_objects=n), SETTINGS, None, seed) for seed, n in ((1, 2), (2, 1), (3, 3))]
    batch = collate(inputs)
    assert batch.num_objects.tolist() == [2, 1, 3]
    assert batch.regions.shape == (3, 3, 64, 64)
    assert not batch.regions[1, 1:].any()
    assert (batch.objects[1, 1:] == torch.tensor([255, 255, 255, 0])).all()
    assert (batch.object_boxes[1, 1:] == torch.tensor([0, 0, 1, 1])).all()
    assert np.array_equal(batch.objects[2].numpy(), inputs[2].objects)
    assert batch.seeds.tolist() == [1, 2, 3]
    moved = batch.to("cpu")
    assert moved.keys == ["s1", "s2", "s3"]
    assert torch.equal(moved.valid, batch.valid)


def test_hint_is_the_published_one() -> None:
    target = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    regions = torch.zeros(2, 2, 8, 8, dtype=torch.bool)
    regions[0, 0, 2:4, 2:4] = regions[0, 1, 3:6, 3:6] = True
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    valid[:, :1] = False
    target[~valid] = 0
    made = hint(target, regions, valid)
    assert made.shape == (2, 4, 8, 8)
    assert made.dtype == torch.float32
    expected = to_signed(target)
    expected[0, :, 2:4, 2:4] = expected[0, :, 3:6, 3:6] = -1
    assert torch.equal(made[:, :3], expected)
    where = torch.zeros(2, 8, 8)
    where[0, 2:4, 2:4] = where[0, 3:6, 3:6] = 1
    where[:, :1] = -1
    assert torch.equal(made[:, 3], where)
    assert to_signed(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1)).flatten().tolist() == [-1, 1]


# --- paste back ---


@settings(max_examples=150, deadline=None)
@given(photos_with_boxes(), st.sampled_from(ALL_KINDS), st.integers(0, 2**32 - 1))
def test_outside_of_the_union_every_pixel_is_the_photos(photo, how, seed) -> None:
    height, width, boxes = photo
    example = example_of_boxes(height, width, boxes)
    inputs = compose(example, how, None)
    before = example.photo.copy()
    result = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
    out = paste_back(example.photo, result, inputs)
    outside = np.ones((height, width), bool)
    for x0, y0, x1, y1 in inputs.pixel_boxes:
        outside[y0:y1, x0:x1] = False
    assert np.array_equal(out[outside], example.photo[outside])
    assert np.array_equal(example.photo, before)
    # The objects' own places are all in the union.
    union, (left, top, _, _) = region_union(inputs)
    for x0, y0, x1, y1 in boxes:
        assert union[y0 - top : y1 - top, x0 - left : x1 - left].all()


@pytest.mark.parametrize("how", ALL_KINDS, ids=lambda how: f"{how.frame}-{how.region}")
def test_inside_the_result_is_pasted_with_a_soft_seam(how) -> None:
    example = example_of_boxes(400, 500, [(150, 150, 260, 300)])
    example.photo[:] = 50
    inputs = compose(example, how, None)
    out = paste_back(example.photo, np.full((64, 64, 3), 250.0), inputs)
    assert (out[160:290, 170:240] == 250).all()
    row = out[225, :, 0].astype(int)
    steps = np.diff(row)
    assert steps.max() <= 80
    assert row.min() == 50


def test_no_seam_where_the_photo_ends() -> None:
    example = example_of_boxes(100, 100, [(0, 30, 50, 70), (20, 60, 100, 100)])
    example.photo[:] = 50
    inputs = compose(example, replace(SETTINGS, frame="photo"), None)
    out = paste_back(example.photo, np.full((64, 64, 3), 250, np.uint8), inputs)
    assert (out[40:60, 0] == 250).all()
    assert (out[80:, 99] == 250).all()
    assert (out[99, 50:] == 250).all()


def test_what_the_model_makes_of_padding_does_not_reach_the_photo() -> None:
    example = example_of_boxes(300, 600, [(100, 0, 400, 300)])
    inputs = compose(example, replace(SETTINGS, frame="photo"), None)
    result = np.where(inputs.valid[..., None], np.uint8(250), np.uint8(0)).repeat(3, 2)
    assert (paste_back(example.photo, result, inputs)[:, 150:350] == 250).all()


def test_the_own_picture_pasted_back_changes_next_to_nothing() -> None:
    example = make_example(size=(64, 64))
    inputs = compose(example, replace(SETTINGS, frame="photo"), None)
    assert np.array_equal(paste_back(example.photo, inputs.target, inputs), example.photo)


def test_a_region_over_the_whole_photo() -> None:
    example = example_of_boxes(70, 70, [(0, 0, 70, 70)])
    inputs = compose(example, SETTINGS, None)
    result = np.full((64, 64, 3), 7, np.uint8)
    assert (paste_back(example.photo, result, inputs) == 7).all()
