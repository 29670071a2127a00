"""Folders of photos without annotation: each is found once, under an id of its own, in the size as it is shown."""

import io
import os
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pics_common.errors import UserError
from pics_data.records import Photo, Reject
from pics_data.sources import folder
from pics_data.sources.plain_photos import ORIENTATION, _ids, photo_size


def read(*roots: Path | str) -> list[Photo | Reject]:
    return list(folder.photos([str(root) for root in roots], []))


def ids(found: list[Photo | Reject]) -> list[str]:
    return [item.id for item in found if isinstance(item, Photo)]


def save(path: Path, width: int = 40, height: int = 30, **more: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, **more)
    return path


def turned(orientation: int, ballast: int = 0) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010E] = "n" * ballast  # description
    return exif


def test_photos_of_all_folders_by_name(tmp_path: Path) -> None:
    for name in (
        "b.JPG",
        "a.png",
        "trip/day 2/z.jpeg",
        "trip/y.webp",
        "trip/notes.txt",
        "a.tif",
        "été/ф.jpg",
        "v1.2/c.d.jpg",
    ):
        save(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("no photo")
    found = read(tmp_path)
    assert ids(found) == ["a", "b", "trip/y", "trip/day 2/z", "v1.2/c.d", "été/ф"]
    for item in found:
        assert isinstance(item, Photo)
        assert (item.source, item.instances, item.labels) == ("folder", (), "")
        assert (item.width, item.height) == (40, 30)
        assert Path(item.path).is_file()
        assert item.path.startswith(f"{tmp_path}/{item.id}.")


def test_names_that_differ_in_the_suffix_alone_keep_it(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.jpg", "sub/a.jpg", "a.jpg.png"):
        save(tmp_path / name)
    assert ids(read(tmp_path)) == ["a.jpg", "a.jpg.png", "a.png", "b", "sub/a"]


@given(
    st.lists(
        st.text("ab.", min_size=1, max_size=3).map(lambda stem: stem + ".jpg")
        | st.text("ab.", min_size=1, max_size=3).map(lambda stem: stem + ".png"),
        unique=True,
    )
)
def test_ids_of_a_folder_are_unique(names: list[str]) -> None:
    assert len(set(_ids(names))) == len(names)


def test_several_folders_are_kept_apart(tmp_path: Path) -> None:
    for name in ("one/a.jpg", "two/a.jpg", "old/two/a.jpg"):
        save(tmp_path / name)
    assert ids(read(tmp_path / "one", tmp_path / "two")) == ["one/a", "two/a"]
    assert ids(read(tmp_path / "old" / "two", tmp_path / "two")) == ["0-two/a", "1-two/a"]
    with pytest.raises(UserError, match=r"one lies in .*give each photo once"):
        read(tmp_path / "one", tmp_path)
    with pytest.raises(UserError, match="give each photo once"):
        read(tmp_path / "one", tmp_path / "one")
    assert ids(read(tmp_path / "one")) == ["a"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    save(tmp_path / "photos" / "a.jpg")
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "self.jpg").symlink_to(tmp_path / "photos" / "self.jpg")
    (tmp_path / "photos" / "gone.jpg").symlink_to(tmp_path / "gone.jpg")
    found = read(tmp_path / "photos")
    assert ids(found) == ["a"]
    assert {item.key: item.reason for item in found if isinstance(item, Reject)} == {
        "folder-self": "unreadable photo",
        "folder-gone": "missing photo",
    }


def test_a_name_that_is_no_text_is_a_reject(tmp_path: Path) -> None:
    good = save(tmp_path / "good.jpg")
    bad = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    try:
        Path(bad).write_bytes(good.read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = read(tmp_path)
    assert ids(found) == ["good"]
    (reject,) = (item for item in found if isinstance(item, Reject))
    assert (reject.reason, reject.key) == ("name is not UTF-8", "folder-caf\\udce9")
    f"{reject.key} {reject.detail}".encode()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_width_and_height_are_those_shown(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = save(tmp_path / f"a.{suffix}", 64, 48, exif=turned(orientation))
    with Image.open(path) as picture:
        expected = ImageOps.exif_transpose(picture).size
    assert photo_size(str(path)) == expected == ((64, 48) if orientation < 5 else (48, 64))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_a_large_header_is_read_to_its_end(tmp_path: Path, mode: str) -> None:
    """A colour profile of 3 MB and a description before the size: no prefix holds them."""
    path = tmp_path / "a.jpg"
    Image.new(mode, (50, 70)).save(path, exif=turned(6, ballast=50_000), icc_profile=bytes(3_000_000))
    assert path.read_bytes().index(b"\xff\xc0") > 2**20
    assert photo_size(str(path)) == (70, 50)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_the_pixels_are_not_read(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", 1500, 1000)
    data = path.read_bytes()
    assert len(data) > 10 * 2**16
    path.write_bytes(data[: 2**16])
    assert photo_size(str(path)) == (1500, 1000)


def test_damaged_files_are_rejects_and_their_neighbours_are_there(tmp_path: Path) -> None:
    whole = save(tmp_path / "good.jpg").read_bytes()
    damaged = {
        "empty.jpg": b"",
        "text.png": b"<html>404</html>",
        "short.jpg": whole[:100],
        "marker.jpg": whole[:2],
        "webp.webp": b"RIFF\x00\x00\x00\x00WEBPVP8 ",
        "noise.jpg": np.random.default_rng(1).bytes(200_000),
        "zeros.png": bytes(2_000_000),
        "png.png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR\x00",
    }
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.jpg").mkdir()
    found = read(tmp_path)
    assert ids(found) == ["good"]
    assert {item.key: item.reason for item in found if isinstance(item, Reject)} == {
        f"folder-{name.partition('.')[0]}": "broken photo" for name in damaged
    }
    assert all(item.stage == "plan" and str(tmp_path) in item.detail for item in found if isinstance(item, Reject))


@given(st.data())
def test_any_damage_is_a_reject_or_a_size(data: st.DataObject) -> None:
    """Whatever a file holds, nothing else comes out; read from a store in memory."""
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP"]))
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), (200, 10, 10)).save(buffer, kind, exif=turned(6))
    damaged = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(0, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    keep = data.draw(st.integers(0, len(damaged)))
    fsspec.filesystem("memory").pipe_file("/damaged/a.jpg", bytes(damaged[:keep]))
    (item,) = read("memory://damaged")
    assert isinstance(item, Photo | Reject)
    if isinstance(item, Photo):
        assert item.width > 0
        assert item.height > 0


def test_photos_of_a_store(tmp_path: Path) -> None:
    data = save(tmp_path / "a.jpg", 90, 60, exif=turned(8)).read_bytes()
    memory = fsspec.filesystem("memory")
    for name in ("x.jpg", "deep/er/y z.jpg"):
        memory.pipe_file(f"/folder-photos/{name}", data)
    found = read("memory://folder-photos/")
    assert ids(found) == ["x", "deep/er/y z"]
    assert [item.path for item in found if isinstance(item, Photo)] == [
        "memory://folder-photos/x.jpg",
        "memory://folder-photos/deep/er/y z.jpg",
    ]
    assert {(item.width, item.height) for item in found if isinstance(item, Photo)} == {(60, 90)}


def test_a_wrong_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist or is no folder; expected a folder of photos"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no photo; expected files \.jpg, \.jpeg, \.png, \.webp"):
        read(tmp_path)
    with pytest.raises(UserError, match="--images: expected a folder of photos"):
        read()
    with pytest.raises(UserError, match="--annotations has no effect with --source folder"):
        list(folder.photos([str(tmp_path)], ["a.json"]))


@pytest.mark.shared
def test_real_photos(shared_data: Path) -> None:
    found = read(shared_data / "coco_mini")
    assert len(found) == len(list((shared_data / "coco_mini").rglob("*.jpg"))) >= 159
    for item in found:
        assert isinstance(item, Photo)
        with Image.open(item.path) as picture:
            assert (item.width, item.height) == ImageOps.exif_transpose(picture).size
