"""Label pictures: every form gives back what was drawn, regions equal brute force, damage is a reject."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from pics_data import labels as labels_module
from pics_data.labels import decode_labels, label_instances, read_labels
from pics_data.records import RejectError

shapes = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30)


def png(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def bytes_of(values: np.ndarray, count: int) -> np.ndarray:
    """[H, W] -> [H, W, count] uint8, the lowest byte first."""
    return np.stack([values >> 8 * i & 255 for i in range(count)], axis=-1).astype(np.uint8)


@given(arrays(np.int64, shapes, elements=st.integers(0, 2**24 - 1)))
def test_rgb_is_three_bytes_with_the_lowest_in_red(values: np.ndarray) -> None:
    assert np.array_equal(decode_labels(png(bytes_of(values, 3)), "rgb", "a.png"), values)
    opaque = bytes_of(values | 255 << 24, 4)
    assert np.array_equal(decode_labels(png(opaque), "rgb", "a.png"), values)


@given(arrays(np.int64, shapes, elements=st.integers(0, 2**16 - 1)), st.integers(0, 255), st.integers(0, 255))
def test_bdd_is_the_instance_in_blue_and_alpha(ids: np.ndarray, category: int, attributes: int) -> None:
    rgba = np.stack([np.full(ids.shape, category), np.full(ids.shape, attributes), ids >> 8, ids & 255], axis=-1)
    data = png(rgba.astype(np.uint8))
    assert np.array_equal(decode_labels(data, "bdd", "a.png"), ids)
    everything = decode_labels(data, "rgba", "a.png")
    for i in range(4):
        assert np.array_equal(everything >> 8 * i & 255, rgba[..., i])


@given(arrays(np.uint16, shapes))
def test_index_of_16_and_of_8_bits_is_the_value_as_it_stands(values: np.ndarray) -> None:
    assert np.array_equal(decode_labels(png(values), "index", "a.png"), values)
    small = values.astype(np.uint8)
    assert np.array_equal(decode_labels(png(small), "index", "a.png"), small)


@given(arrays(np.uint8, shapes), st.sampled_from([1, 2, 4, 8]))
def test_index_of_a_palette_is_not_its_colour(values: np.ndarray, bits: int) -> None:
    values = values >> (8 - bits)
    picture = Image.fromarray(values, mode="P")
    picture.putpalette([(37 * i + 11) % 256 for i in range(3 * 256)])
    file = io.BytesIO()
    picture.save(file, "PNG", bits=bits)
    assert np.array_equal(decode_labels(file.getvalue(), "index", "a.png"), values)


def grey_png(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of 1, 2 or 4 bits, which neither Pillow nor OpenCV write: that of a palette, in grey's name."""
    picture = Image.fromarray(values, mode="P")
    picture.putpalette(range(256))
    file = io.BytesIO()
    picture.save(file, "PNG", bits=bits)
    data = file.getvalue()
    out, at = data[:8], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            body = body[:9] + b"\0" + body[10:]
        if kind != b"PLTE":
            out += struct.pack(">I", size) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        at += 12 + size
    return out


@given(arrays(np.uint8, shapes), st.sampled_from([1, 2, 4]))
def test_index_of_few_bits_is_not_stretched(values: np.ndarray, bits: int) -> None:
    values = values >> (8 - bits)
    assert np.array_equal(decode_labels(grey_png(values, bits), "index", "a.png"), values)


@settings(max_examples=200)
@given(arrays(np.int32, shapes, elements=st.sampled_from([-5, 0, 1, 2, 7, 70000])))
def test_regions_equal_a_search_for_each_value(values: np.ndarray) -> None:
    found = label_instances(values)
    assert [region.value for region in found] == sorted(set(values.ravel().tolist()))
    for region in found:
        ys, xs = np.nonzero(values == region.value)
        assert region.area == len(ys)
        assert region.box == (int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1)


def test_noise_is_refused_before_it_takes_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_module, "MAX_RUNS", 50)
    stripes = np.tile(np.arange(10, dtype=np.int32), (6, 1))
    assert len(label_instances(stripes[:5])) == 10
    with pytest.raises(RejectError, match="noise") as error:
        label_instances(stripes, "b.png")
    assert "b.png" in error.value.detail


def drawn() -> np.ndarray:
    values = np.zeros((60, 80), dtype=np.uint16)
    for i in range(1, 12):
        cv2.circle(values, (7 * i, 5 * i), 9, 1000 * i, -1)
    return values


def palette_png(values: np.ndarray) -> bytes:
    picture = Image.fromarray(values.astype(np.uint8), mode="P")
    picture.putpalette(range(256))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("data", [png(drawn()), palette_png(drawn())], ids=["16 bits", "palette"])
def test_no_cut_and_no_changed_bit_gives_other_labels(data: bytes) -> None:
    truth = decode_labels(data, "index", "a.png")
    rng = np.random.default_rng(0)
    damaged = [data[:cut] for cut in range(0, len(data) - 16, 7)]
    for _ in range(300):
        copy = bytearray(data)
        copy[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(copy))
    noticed = 0
    for item in damaged:
        try:
            labels = decode_labels(item, "index", "a.png", truth.shape)
        except RejectError:
            noticed += 1
        else:
            assert np.array_equal(labels, truth)
    assert noticed > 0.9 * len(damaged)


def bomb() -> bytes:
    """A few bytes that say they are a picture of 30,000 x 30,000."""
    data = bytearray(png(np.zeros((1, 1), dtype=np.uint8)))
    data[16:24] = (30_000).to_bytes(4) * 2
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "form", "reason", "says"),
    [
        (b"", "index", "broken labels", "no PNG|not a PNG"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "index", "broken labels", "not a PNG"),
        (bomb(), "index", "broken labels", "900000000|30000 x 30000"),
        (png(np.zeros((4, 5, 3), dtype=np.uint8)), "index", "broken labels", "one channel"),
        (png(np.zeros((4, 5), dtype=np.uint8)), "rgb", "broken labels", "RGB"),
        (png(np.zeros((4, 5), dtype=np.uint16)), "rgb", "broken labels", "RGB"),
        (png(np.zeros((4, 5, 3), dtype=np.uint8)), "bdd", "broken labels", "RGBA"),
    ],
)
def test_what_is_no_label_picture_is_a_reject_that_names_the_file(
    data: bytes, form: str, reason: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "some.png").write_bytes(data)
    with pytest.raises(RejectError) as error:
        read_labels(str(tmp_path / "some.png"), form)
    assert error.value.reason == reason
    assert "some.png" in error.value.detail
    assert any(part in error.value.detail for part in says.split("|"))


def test_a_missing_file_and_another_size_have_their_own_reasons(tmp_path: Path) -> None:
    path = tmp_path / "some.png"
    with pytest.raises(RejectError) as error:
        read_labels(str(path), "index")
    assert (error.value.reason, str(path) in error.value.detail) == ("missing labels", True)
    path.write_bytes(png(drawn()))
    with pytest.raises(RejectError) as error:
        read_labels(str(path), "index", (60, 81))
    assert error.value.reason == "label size mismatch"
    assert "some.png is 80 x 60 pixels, its photo 81 x 60" in error.value.detail


def test_real_label_pictures_of_each_kind_decode_as_pillow_reads_them(shared_data: Path) -> None:
    formats = shared_data / "formats"
    pictures = {
        "viton_hd/test/image-parse-v3/00006_00.png": "index",
        "synthetic_layouts/mapillary_vistas_dataset/train/v1.2/instances/2.png": "index",
        "synthetic_layouts/cityscapes_dataset/train_dataset/gtFine/train/defaultcity/"
        "defaultcity_000002_000045_gtFine_instanceIds.png": "index",
        "bdd100k/label/testcases/bitmasks/quasi-video/insseg_bitmask.png": "bdd",
        "bdd100k/label/testcases/panseg_coco/panseg_mask.png": "rgb",
    }
    for name, form in pictures.items():
        pixels = np.asarray(Image.open(formats / name)).astype(np.int64)
        if form == "bdd":
            pixels = 256 * pixels[..., 2] + pixels[..., 3]
        elif form == "rgb":
            pixels = pixels @ np.array([1, 256, 65536])
        found = read_labels(str(formats / name), form)
        assert found.dtype == np.int32
        assert np.array_equal(found, pixels), name
