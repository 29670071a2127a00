"""DreamBooth subjects: one object a photo, of the class that the data set's list says."""

from pathlib import Path

import fsspec
import pytest
from PIL import Image

from pics_common.errors import UserError
from pics_data.records import Photo, Reject
from pics_data.sources import dreambooth

LIST = """Classes

subject_name,class
backpack_dog,backpack
bear_plushie,stuffed animal
dog,dog

Prompts

Object Prompts

prompt_list = [
'a {0} {1} in the jungle'.format(unique_token, class_token),
"""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    (tmp_path / "prompts_and_classes.txt").write_text(LIST)
    for name in ("dog/01.jpg", "dog/00.jpg", "bear_plushie/00.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (60, 40)).save(tmp_path / name)
    return tmp_path


def read(root: Path | str, *classes: str) -> list[Photo | Reject]:
    return list(dreambooth.photos([str(root)], classes))


def test_each_photo_is_one_object_of_its_subjects_class(dataset: Path) -> None:
    found = read(dataset)
    assert [item.id for item in found if isinstance(item, Photo)] == ["bear_plushie/00", "dog/00", "dog/01"]
    assert len(found) == 3
    for item, category in zip(found, ("stuffed animal", "dog", "dog"), strict=True):
        assert isinstance(item, Photo)
        assert item.path == str(dataset / f"{item.id}.jpg")
        (instance,) = item.instances
        assert (instance.category, instance.box, instance.area) == (category, (0, 0, 60, 40), 2400)
        assert instance.segmentation is None


def test_the_object_is_as_large_as_the_photo_is_shown(dataset: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(dataset / "dog" / "00.jpg", exif=exif)
    photo = read(dataset)[1]
    assert isinstance(photo, Photo)
    assert (photo.width, photo.height, photo.instances[0].box) == (40, 60, (0, 0, 40, 60))


def test_what_is_no_subject_or_no_photo_is_a_reject(dataset: Path) -> None:
    for name in ("stranger/00.jpg", "loose.jpg", "dog/deeper/00.jpg"):
        (dataset / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (60, 40)).save(dataset / name)
    (dataset / "dog" / "02.jpg").write_bytes(b"\xff\xd8")
    found = read(dataset)
    assert {item.key: item.reason for item in found if isinstance(item, Reject)} == {
        "dreambooth-loose": "unknown subject",
        "dreambooth-stranger/00": "unknown subject",
        "dreambooth-dog/deeper/00": "unknown subject",
        "dreambooth-dog/02": "broken photo",
    }
    assert [item.id for item in found if isinstance(item, Photo)] == ["bear_plushie/00", "dog/00", "dog/01"]


def test_the_list_may_lie_elsewhere(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "classes.txt"
    (dataset / "prompts_and_classes.txt").rename(elsewhere)
    with pytest.raises(UserError, match=r"prompts_and_classes.txt does not exist; expected DreamBooth's"):
        read(dataset)
    assert len(read(dataset, str(elsewhere))) == 3


def test_a_store(dataset: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in dataset.rglob("*.*"):
        memory.pipe_file(f"/dreambooth-set/{path.relative_to(dataset)}", path.read_bytes())
    found = read("memory://dreambooth-set")
    assert [item.path for item in found if isinstance(item, Photo)] == [
        f"memory://dreambooth-set/{name}.jpg" for name in ("bear_plushie/00", "dog/00", "dog/01")
    ]


def test_another_layout_is_named(dataset: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist or is no folder; expected DreamBooth's folder"):
        read(dataset / "nowhere")
    with pytest.raises(UserError, match="expected one folder in --images, and at most one file in --annotations"):
        list(dreambooth.photos([str(dataset), str(dataset)], []))
    for text in ("", "backpack,backpack\n", "subject_name,class\n\nPrompts\n"):
        (dataset / "prompts_and_classes.txt").write_text(text)
        with pytest.raises(UserError, match="has no lines below `subject_name,class`"):
            read(dataset)


@pytest.mark.shared
def test_the_real_subjects(shared_data: Path) -> None:
    found = read(shared_data / "dreambooth")
    assert len(found) == 10
    categories = {}
    for item in found:
        assert isinstance(item, Photo)
        assert (item.width, item.height) == Image.open(item.path).size
        categories[item.id] = item.instances[0].category
    assert categories["berry_bowl/00"] == "bowl"
    assert categories["wolf_plushie/00"] == "stuffed animal"
