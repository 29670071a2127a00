"""Photo files: what passes byte for byte, what is decoded, what is a reject. The files are really broken here."""

import io
import zlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from pics_data.photofile import decode_photo, read_bytes, read_photo
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


def test_16_bits_are_scaled_to_8(tmp_path: Path) -> None:
    grey = np.linspace(0, 65_535, 48 * 64).astype(np.uint16).reshape(48, 64)
    colour = np.dstack([grey, grey[::-1], grey[:, ::-1]])
    expected = {"grey": np.dstack([grey / 257] * 3), "colour": colour / 257}
    for name, deep in (("grey", grey), ("colour", cv2.cvtColor(colour, cv2.COLOR_RGB2BGR))):
        path = tmp_path / f"{name}.png"
        cv2.imwrite(str(path), deep)
        rgb, data = read_photo(Photo("1", "coco", str(path), 64, 48), LIMIT)
        assert data is None
        assert np.abs(rgb - expected[name]).max() <= 1


def test_pixels_without_a_range_are_refused(tmp_path: Path) -> None:
    for dtype in (np.int32, np.float32):
        deep = Image.fromarray(np.ones((48, 64), dtype))
        assert reason(save(tmp_path / "a.tif", deep)) == "unreadable photo"


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    rgba = np.zeros((48, 64, 4), np.uint8)
    rgba[:, :32] = (200, 100, 50, 255)
    rgba[:, 48:] = (0, 0, 0, 128)
    rgb, _ = read_photo(save(tmp_path / "a.png", Image.fromarray(rgba)), LIMIT)
    assert rgb[0, [0, 40, 60]].tolist() == [[200, 100, 50], [255, 255, 255], [127, 127, 127]]
    palette = Image.fromarray(np.repeat(np.arange(2, dtype=np.uint8)[:, None], 64, axis=1), "P")
    palette.putpalette([10, 20, 30, 0, 0, 0])
    rgb, _ = read_photo(save(tmp_path / "p.png", palette, transparency=1), LIMIT)
    assert rgb[:, 0].tolist() == [[10, 20, 30], [255, 255, 255]]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_of_an_animation_it_is_the_first_frame(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue", "lime")]
    photo = save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], **lossless(name))
    rgb, data = read_photo(photo, LIMIT)
    assert data is None
    assert (rgb == (255, 0, 0)).all()


def lossless(name: str) -> dict[str, object]:
    return {"lossless": True} if name.endswith("webp") else {}


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_every_exif_orientation_turns_as_pillow_does(tmp_path: Path, name: str, orientation: int) -> None:
    stored = save(tmp_path / name, picture(64, 48), exif=exif(orientation))
    upright = ImageOps.exif_transpose(Image.open(stored.path))
    if upright.size == (64, 48):  # both fit: the pixels as stored, COCO's way
        upright = Image.open(stored.path)
    rgb, data = read_photo(Photo("1", "folder", stored.path, *upright.size), LIMIT)
    assert data is None
    assert np.array_equal(rgb, np.asarray(upright))


def test_a_cmyk_jpeg_shows_what_it_showed(tmp_path: Path) -> None:
    shown = picture(64, 48)
    rgb, _ = read_photo(save(tmp_path / "a.jpg", shown.convert("CMYK"), quality=95), LIMIT)
    assert np.abs(rgb.astype(int) - np.asarray(shown)).mean() < 6


def damaged(data: bytes, rng: np.random.Generator, length: int) -> bytes:
    """A file with `length` bytes in a row overwritten, somewhere behind its tables."""
    begin = int(rng.integers(data.index(b"\xff\xda") + 20, len(data) - length - 2))
    return data[:begin] + rng.bytes(length) + data[begin + length :]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_damaged_in_its_middle_is_a_reject(tmp_path: Path, mode: str, progressive: bool) -> None:
    """A block of a disk overwritten: Pillow shows a picture all the same, with grey or shifted parts."""
    rng = np.random.default_rng(1)
    grain = np.random.default_rng(2).normal(0, 12, (480, 640, 1))
    photo = np.clip(np.asarray(picture(640, 480)) + grain, 0, 255).astype(np.uint8)
    image = Image.fromarray(photo).convert(mode)
    stored = save(tmp_path / "a.jpg", image, quality=90, progressive=progressive)
    data = Path(stored.path).read_bytes()
    found = [broken(stored, damaged(data, rng, 512)) for _ in range(25)]
    assert sum(found) >= 24
    decode_photo(stored, data, LIMIT)


def broken(photo: Photo, data: bytes) -> bool:
    try:
        decode_photo(photo, data, LIMIT)
    except RejectError as error:
        return error.reason == "broken photo"
    return False


@pytest.mark.shared
def test_damage_of_real_photos_is_noticed_without_false_alarms(shared_data: Path) -> None:
    files = sorted((shared_data / "coco_mini").rglob("*.jpg"))
    rng = np.random.default_rng(0)
    found = []
    for path in files:
        with Image.open(path) as image:
            photo = Photo("1", "coco", str(path), *image.size)
            grey = image.mode == "L"
        data = path.read_bytes()
        assert decode_photo(photo, data, LIMIT)[1] == (None if grey else data)
        found.append(broken(photo, damaged(data, rng, 512)))
    assert len(found) > 150
    assert sum(found) >= 0.97 * len(found)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, on malformed EXIF
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_flipped_byte_anywhere_is_a_picture_or_a_reject_and_nothing_else(kind: str) -> None:
    file = io.BytesIO()
    picture().save(file, kind, exif=exif(6)) if kind in ("JPEG", "PNG", "WEBP") else picture().save(file, kind)
    data, rng = file.getvalue(), np.random.default_rng(3)
    reasons: Counter[str] = Counter()
    for _ in range(300):
        bad = bytearray(data)
        bad[int(rng.integers(len(data)) if rng.random() < 0.5 else rng.integers(200))] ^= int(rng.integers(1, 256))
        try:
            rgb, _ = decode_photo(Photo("1", "coco", "a", 64, 48), bytes(bad), LIMIT)
            assert rgb.shape == (48, 64, 3)
        except RejectError as error:
            reasons[error.reason] += 1
    assert set(reasons) <= {"broken photo", "size mismatch", "photo too large", "unreadable photo"}
    assert reasons["broken photo"] >= (250 if kind == "PNG" else 10)


def test_reading_and_decoding_are_apart(tmp_path: Path) -> None:
    photo = save(tmp_path / "a.jpg", picture())
    data = read_bytes(photo)
    Path(photo.path).unlink()
    assert decode_photo(photo, data, LIMIT)[1] is data
    with pytest.raises(RejectError, match="missing photo"):
        read_bytes(photo)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(64, 48), (48, 48)])
def test_a_photo_meant_as_shown_is_turned_whatever_its_size(
    tmp_path: Path, size: tuple[int, int], orientation: int
) -> None:
    """Sources without annotation name the size as shown; a mirrored or square photo has it before and after."""
    stored = save(tmp_path / "a.png", picture(*size), exif=exif(orientation))
    with Image.open(stored.path) as image:
        shown = np.asarray(ImageOps.exif_transpose(image))
    photo = Photo("1", "folder", stored.path, shown.shape[1], shown.shape[0], upright=True)
    assert np.array_equal(read_photo(photo, LIMIT)[0], shown)
