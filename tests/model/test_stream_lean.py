"""What training goes without, and what is done the fast way, beside the whole and the plain: the same samples."""

import io
import json
import struct
import zlib
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pics_common.errors import UserError
from pics_model import framing
from pics_model.augment import AugmentSettings
from pics_model.fast_pictures import decode_jpeg, decode_rgba_png
from pics_model.framing import Frame, cut, frame_pair, frame_photo, frame_picture, reduction, resize, tight_box
from pics_model.inputs import FramingSettings, collate, compose
from pics_model.packed import MOST_OBJECTS, Slots, bools_by_torch, pack, slot_bytes
from pics_model.pictures import read_object, read_photo
from pics_model.shard_reader import decode
from pics_model.shard_table import open_shards
from pics_model.stream import ShardStream
from tests.model.shards_for_tests import encode, make_members, make_scene, write_tar
from tests.model.test_inputs import example_of_boxes

# --- the frame's picture ---


def plain_frame_picture(photo: np.ndarray, frame: Frame, size: int) -> np.ndarray:
    """All of the square is cut and resized, then the padding made black."""
    picture = resize(cut(photo, frame), size).copy()
    inside = np.zeros((size, size), bool)
    inside[framing.cells((0, 0, photo.shape[1], photo.shape[0]), frame, size)] = True
    picture[~inside] = 0
    return picture


@settings(max_examples=150, deadline=None)
@given(st.integers(5, 200), st.integers(5, 200), st.sampled_from([16, 32, 40]), st.integers(0, 99), st.booleans())
def test_padding_is_left_out_and_nothing_else_changes(height, width, size, seed, whole) -> None:
    rng = np.random.default_rng(seed)
    photo = rng.integers(0, 256, (height, width, 3), np.uint8)
    x0, y0 = int(rng.integers(width)), int(rng.integers(height))
    box = (x0, y0, int(rng.integers(x0, width)) + 1, int(rng.integers(y0, height)) + 1)
    frame = frame_photo(height, width) if whole else frame_pair([box], height, width, 1.5)
    picture, (rows, columns) = frame_picture(photo, frame, size)
    # By rows, one rounding more.
    tolerance = 1 if frame.side * 17 <= size * 34 and frame.side > size else 0
    expected = plain_frame_picture(photo, frame, size)
    assert np.abs(picture.astype(int) - expected).max() <= tolerance
    outside = np.ones((size, size), bool)
    outside[rows, columns] = False
    assert not picture[outside].any()


@pytest.mark.parametrize(("height", "width", "size"), [(480, 640, 512), (427, 640, 512), (60, 64, 32), (99, 51, 88)])
def test_means_by_rows_are_means_by_area(height, width, size, monkeypatch) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    frame = frame_photo(height, width)
    by_rows, _ = frame_picture(photo, frame, size)
    monkeypatch.setattr(framing, "MOST_PHASES", 0)
    by_area, _ = frame_picture(photo, frame, size)
    difference = np.abs(by_rows.astype(int) - by_area)
    assert difference.max() <= 1
    if frame.side != 99:
        assert difference.any(), "both went the same way: nothing is tested"


# --- reduced photos ---


def test_a_photo_is_reduced_only_where_its_means_stay_whole() -> None:
    assert reduction(Frame(0, -256, 2048), 1536, 2048, 512) == 4
    assert reduction(Frame(0, -200, 1600), 1200, 1600, 512) == 1  # 3.125: means would not be of whole pixels
    assert reduction(Frame(0, -81, 1024), 862, 1024, 512) == 1  # the photo begins within such a pixel
    assert reduction(Frame(0, -80, 1024), 864, 1024, 512) == 2
    assert reduction(Frame(0, 0, 512), 512, 512, 512) == 1
    assert reduction(Frame(64, 32, 512), 4000, 6000, 64) == 8


@pytest.mark.parametrize("by", [2, 4, 8])
def test_a_reduced_photo_is_the_mean_of_its_pixels(by) -> None:
    photo = make_scene(3, (256, 320))[0]
    photo = cv2.GaussianBlur(photo, (0, 0), 1.0)  # as sharp as photographs are
    data = encode(photo, "JPEG", quality=92)
    reduced = decode_jpeg(data, by)
    whole = read_photo(data, "photo")
    assert reduced is not None
    assert reduced.shape == (256 // by, 320 // by, 3)
    means = whole.reshape(256 // by, by, 320 // by, by, 3).mean((1, 3))
    difference = np.abs(reduced - means)
    assert difference.mean() < 0.6
    assert np.percentile(difference, 99) < 4


# --- boxes in place of masks ---


def with_boxes(members: dict[str, bytes], **change: object) -> dict[str, bytes]:
    """`meta.json` as the builder writes it since its second version, as far as it matters."""
    meta = json.loads(members["meta.json"])
    masks = [np.asarray(Image.open(io.BytesIO(members[f"mask{k}.png"]))) for k in range(len(meta["objects"]))]
    for k, (entry, mask) in enumerate(zip(meta["objects"], masks, strict=True)):
        x0, y0, x1, y1 = tight_box(mask.astype(bool))
        entry["box"] = [x0, y0, x1 - x0, y1 - y0]
        if f"amodal{k}.png" in members:
            x0, y0, x1, y1 = tight_box(np.array(Image.open(io.BytesIO(members[f"amodal{k}.png"]))).astype(bool))
            entry["full_box"] = [x0, y0, x1 - x0, y1 - y0]
    meta |= {"schema": 2, "size": list(masks[0].shape)} | change
    return members | {"meta.json": json.dumps(meta).encode()}


AUGMENT = AugmentSettings(rotation=20, flip=0.3, colour=0.2)
KINDS = [
    FramingSettings(resolution=64, object_resolution=32, frame=frame, region=region)
    for frame in ("photo", "pair")
    for region in ("box", "silhouette")
]


@pytest.mark.parametrize("cutouts", ["visible", "full"])
@pytest.mark.parametrize("how", KINDS, ids=lambda how: f"{how.frame}-{how.region}")
def test_a_batch_without_silhouettes_is_otherwise_the_same(tmp_path, how, cutouts) -> None:
    samples = [(f"s{i}", with_boxes(make_members(i, whole=True, size=(96, 128)))) for i in range(4)]
    write_tar(tmp_path / "a.tar", samples)
    whole, lean = (
        list(
            islice(
                ShardStream(
                    tmp_path, how, batch_size=4, augment=AUGMENT, cutouts=cutouts, silhouettes=silhouettes
                ).batches(),
                2,
            )
        )
        for silhouettes in (True, False)
    )
    for one, two in zip(whole, lean, strict=True):
        assert two.silhouettes is None
        assert one.keys == two.keys
        for name in ("objects", "boxes", "object_boxes", "regions", "valid", "seeds"):
            assert torch.equal(getattr(one, name), getattr(two, name))
        # Photos of 128 px are reduced for 64, where the frame is all of them: their edges are harder than photographs'.
        assert (one.target.int() - two.target.int()).abs().float().mean() < 1
        if how.frame == "pair":
            assert torch.equal(one.target, two.target)


def test_masks_with_known_boxes_are_not_decoded(tmp_path) -> None:
    members = with_boxes(make_members(0, size=(96, 128))) | {"mask1.png": b"no picture"}
    write_tar(tmp_path / "a.tar", [("s0", members)])
    next(ShardStream(tmp_path, KINDS[0], batch_size=1, silhouettes=False).batches())
    for how, silhouettes in ((KINDS[0], True), (KINDS[1], False)):
        with pytest.raises(UserError, match=r"mask1.png: not a JPEG"):
            next(ShardStream(tmp_path, how, batch_size=1, silhouettes=silhouettes).batches())


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 1},
        {"size": [97, 128]},
        {"objects": []},
        *({"objects": [{"box": box}, {"box": [1, 1, 5, 5]}]} for box in ([0, 0, 0, 5], [0, 0, 129, 5], [0, -1, 5, 5])),
        {"objects": [{"box": [0.0, 0, 5, 5]}, {"box": [1, 1, 5, 5]}]},
        {"objects": [{"box": "all"}, {"box": [1, 1, 5, 5]}]},
    ],
)
def test_boxes_that_cannot_be_are_taken_from_the_masks(tmp_path, change) -> None:
    write_tar(tmp_path / "a.tar", [("s0", with_boxes(make_members(0, size=(96, 128)), **change))])
    stored = open_shards(tmp_path).sample(0)
    example, lean = decode(stored, framing=KINDS[0])
    assert lean.boxes is None
    assert len(example.masks) == 2
    example, lean = decode(stored)
    assert (lean.boxes, lean.reduction) == (None, 1)


# --- decoders ---


def test_photos_and_cutouts_decode_as_pillow_does() -> None:
    rng = np.random.default_rng(1)
    photo = make_scene(0, (97, 131))[0]
    for options in ({}, {"quality": 30}, {"subsampling": 0}, {"progressive": True}):
        data = encode(photo, "JPEG", **options)
        fast = decode_jpeg(data)
        assert fast is not None
        assert np.array_equal(fast, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    grey = decode_jpeg(encode(photo[..., 0], "JPEG"))
    assert grey is not None
    assert grey.shape == (97, 131, 3)
    cutout = rng.integers(0, 256, (31, 29, 4), np.uint8)
    for level in (0, 1, 9):
        decoded = decode_rgba_png(encode(cutout, "PNG", compress_level=level))
        assert decoded is not None
        assert np.array_equal(decoded, cutout)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def test_pictures_of_other_kinds_are_left_to_pillow() -> None:
    rgb = make_scene(0, (40, 40))[0]
    rgba = np.dstack([rgb, np.full((40, 40), 255, np.uint8)])
    assert decode_jpeg(encode(rgb, "PNG")) is None
    assert decode_rgba_png(encode(rgb, "PNG")) is None
    assert decode_rgba_png(encode(rgb, "JPEG")) is None
    cmyk = io.BytesIO()
    Image.fromarray(rgb).convert("CMYK").save(cmyk, "JPEG")
    assert decode_jpeg(cmyk.getvalue()) is None
    assert read_photo(cmyk.getvalue(), "x").shape == (40, 40, 3)
    png = encode(rgba, "PNG")
    gamma = png[:33] + chunk(b"gAMA", struct.pack(">I", 45455)) + png[33:]
    assert decode_rgba_png(gamma) is None
    assert np.array_equal(read_object(gamma, "x", on_white=True), rgba)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["cut", "flip", "flip in a sound chunk"]))
def test_damaged_cutouts_never_pass_that_pillow_refuses(seed, damage) -> None:
    rng = np.random.default_rng(seed)
    png = encode(cv2.GaussianBlur(rng.integers(0, 256, (24, 24, 4), np.uint8), (0, 0), 2), "PNG")
    at = int(rng.integers(8, len(png)))
    changed = bytearray(png)
    if damage == "cut":
        changed = changed[:at]
    elif damage == "flip":
        changed[at] ^= int(rng.integers(1, 256))
    else:
        data = bytearray(png[41:-16])
        data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        changed = bytearray(png[:33] + chunk(b"IDAT", bytes(data)) + png[-12:])
    fast = decode_rgba_png(bytes(changed))
    if fast is None:
        return
    slow = np.asarray(Image.open(io.BytesIO(bytes(changed))).convert("RGBA"))
    assert np.array_equal(fast, slow)


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
def test_a_photo_cut_off_is_an_error(keep) -> None:
    data = encode(make_scene(0, (96, 128))[0], "JPEG")
    cut_off = data[: int(keep * len(data))]
    assert decode_jpeg(cut_off) is None
    with pytest.raises(UserError, match="broken picture"):
        read_photo(cut_off, "photo")


# --- on the way to the device ---


@pytest.mark.parametrize("resolution", [16, 20, 64])
@pytest.mark.parametrize("counts", [(2, 2), (1, 3, 2), (MOST_OBJECTS + 2, 1)], ids=str)
def test_what_is_packed_comes_out_as_it_went_in(resolution, counts) -> None:
    """In one process, and through a slot, whether it has room for all of a batch or not."""
    how = FramingSettings(resolution=resolution, object_resolution=24)
    boxes = [[(3 * k, k, 20 + 3 * k, 30) for k in range(num)] for num in counts]
    inputs = [compose(example_of_boxes(50, 60 + i, some), how, None, i) for i, some in enumerate(boxes)]
    inputs[1].skipped = "shard x: missing"
    plain = collate(inputs)
    slots = Slots(3, slot_bytes(how, len(inputs)))
    slots.memory[:] = b"\xa5" * len(slots.memory)  # what was there before must not shine through
    small = Slots(2, 4000)
    for packed in (pack(inputs), slots.receive(slots.send(inputs, 2)), small.receive(small.send(inputs, 1))):
        batch = packed.unpack("cpu")
        assert (batch.keys, batch.texts, batch.skipped) == (plain.keys, plain.texts, ["shard x: missing"])
        for name in ("target", "objects", "boxes", "object_boxes", "regions", "silhouettes", "valid", "seeds"):
            assert torch.equal(getattr(batch, name), getattr(plain, name)), name
    before = batch.target.clone()
    small.memory[:] = b"\0" * len(small.memory)
    assert torch.equal(batch.target, before), "a batch that was given out must not change when its slot is used again"


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_bits_are_taken_apart_alike_on_any_device(seed, size) -> None:
    truth = np.random.default_rng(seed).random((2, 3, size)) < 0.5
    bits = torch.from_numpy(np.packbits(truth, axis=-1))
    assert torch.equal(bools_by_torch(bits, size), torch.from_numpy(truth))


def test_batches_that_are_kept_stay_as_they_were(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [(f"s{i}", make_members(i, size=(40, 56))) for i in range(5)])
    kept = list(islice(ShardStream(tmp_path, KINDS[0], batch_size=2, num_workers=1).batches(), 12))
    alone = list(islice(ShardStream(tmp_path, KINDS[0], batch_size=2).batches(), 12))
    assert all(torch.equal(a.target, b.target) for a, b in zip(kept, alone, strict=True))
