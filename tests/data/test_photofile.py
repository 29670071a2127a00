"""Photo files: what passes byte for byte, what is decoded, what is a reject. The files are really broken here."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pics_data.photofile import read_photo
from pics_data.records import Photo, RejectError

LIMIT = 1_000_000


def picture(width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def save(path: Path, image: Image.Image, **options: object) -> Photo:
    image.save(path, **options)  # type: ignore[arg-type]
    return Photo("1", "coco", str(path), image.width, image.height)


def reason(photo: Photo, limit: int = LIMIT) -> str:
    with pytest.raises(RejectError) as error:
        read_photo(photo, limit)
    return error.value.reason


def test_a_plain_jpeg_passes_byte_for_byte(tmp_path: Path) -> None:
    photo = save(tmp_path / "a.jpg", picture())
    rgb, data = read_photo(photo, LIMIT)
    assert data == (tmp_path / "a.jpg").read_bytes()
    assert np.array_equal(rgb, np.asarray(Image.open(photo.path)))


@pytest.mark.parametrize(("name", "mode"), [("a.png", "RGB"), ("a.png", "P"), ("a.jpg", "L"), ("a.jpg", "CMYK")])
def test_other_pictures_are_decoded(tmp_path: Path, name: str, mode: str) -> None:
    rgb, data = read_photo(save(tmp_path / name, picture(mode=mode)), LIMIT)
    assert data is None
    assert rgb.shape == (48, 64, 3)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def test_annotations_of_the_stored_pixels_win_over_exif(tmp_path: Path) -> None:
    """COCO's way: width and height are those of the stored pixels, so no reader may turn it again."""
    photo = save(tmp_path / "a.jpg", picture(), exif=exif(6))
    rgb, data = read_photo(photo, LIMIT)
    assert data is None
    assert np.array_equal(rgb, np.asarray(Image.open(photo.path)))


def test_annotations_of_the_turned_picture_turn_it(tmp_path: Path) -> None:
    stored = save(tmp_path / "a.jpg", picture(), exif=exif(6))
    turned = Photo("1", "labelme", stored.path, stored.height, stored.width)
    rgb, data = read_photo(turned, LIMIT)
    assert data is None
    assert np.array_equal(rgb, np.rot90(np.asarray(Image.open(stored.path)), k=-1))


def test_another_size_than_annotated_is_a_reject(tmp_path: Path) -> None:
    photo = save(tmp_path / "a.jpg", picture())
    assert reason(Photo("1", "coco", photo.path, 64, 49)) == "size mismatch"
    assert reason(Photo("1", "coco", photo.path, 48, 64)) == "size mismatch"


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("keep", [0.05, 0.3, 0.6, 0.97])
def test_a_jpeg_cut_off_anywhere_is_a_reject(tmp_path: Path, keep: float, progressive: bool) -> None:
    photo = save(tmp_path / "a.jpg", picture(640, 480), quality=95, progressive=progressive)
    data = Path(photo.path).read_bytes()
    Path(photo.path).write_bytes(data[: int(len(data) * keep)])
    assert reason(photo) == "broken photo"


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.95])
def test_a_png_cut_off_anywhere_is_a_reject(tmp_path: Path, keep: float) -> None:
    photo = save(tmp_path / "a.png", picture(200, 200))
    data = Path(photo.path).read_bytes()
    Path(photo.path).write_bytes(data[: int(len(data) * keep)])
    assert reason(photo) == "broken photo"


def test_what_is_no_picture_is_a_reject(tmp_path: Path) -> None:
    for content in (b"", b"\xff\xd8\xff", b"GIF89a", b"<html>404</html>"):
        (tmp_path / "a.jpg").write_bytes(content)
        assert reason(Photo("1", "coco", str(tmp_path / "a.jpg"), 64, 48)) == "broken photo"
    assert reason(Photo("1", "coco", str(tmp_path / "b.jpg"), 64, 48)) == "missing photo"
    assert reason(Photo("1", "coco", str(tmp_path), 64, 48)) == "unreadable photo"


def test_a_picture_beyond_the_limit_is_refused_by_its_header(tmp_path: Path) -> None:
    photo = save(tmp_path / "a.png", picture())
    assert reason(photo, 64 * 48 - 1) == "photo too large"
    # A header that claims 60000 x 60000: decoding it would take 10 GB.
    data = bytearray(io.BytesIO(Path(photo.path).read_bytes()).getvalue())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    Path(photo.path).write_bytes(data)
    assert reason(photo, 100_000_000) == "photo too large"


def test_deep_pictures_are_refused(tmp_path: Path) -> None:
    deep = Image.fromarray(np.zeros((48, 64), np.uint16))
    assert reason(save(tmp_path / "a.png", deep)) == "unreadable photo"
