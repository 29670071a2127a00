"""BDD100K, in its true layouts: masks equal what was drawn, and polygons nearly the data set's own bitmasks."""

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from pics_common.errors import UserError
from pics_data.labels import read_labels
from pics_data.masks import mask_of
from pics_data.records import Instance, Photo, Reject
from pics_data.sources import scalabel_json
from pics_data.sources.bdd100k import photos, read_polygon
from pics_data.sources.scalabel_json import read_config, read_frames

HEIGHT, WIDTH = 72, 128


@dataclass
class Labels:
    """`images/10k/{train,val}` and `labels/ins_seg/bitmasks/{train,val}`; and what was drawn, by photo id."""

    root: Path
    rgba: dict[str, np.ndarray]

    def bitmasks(self, split: str) -> Path:
        return self.root / "labels" / "ins_seg" / "bitmasks" / split

    def images(self, split: str) -> Path:
        return self.root / "images" / "10k" / split

    def read(self, *annotations: Path, **options: Any) -> tuple[dict[str, Photo], list[Reject]]:
        folders = [str(self.images(split)) for split in ("train", "val")]
        return split_up(photos(folders, [str(path) for path in annotations], **options))


def split_up(found: Any) -> tuple[dict[str, Photo], list[Reject]]:
    found = list(found)
    return {p.id: p for p in found if isinstance(p, Photo)}, [r for r in found if isinstance(r, Reject)]


def masks(photo: Photo) -> list[np.ndarray]:
    read = partial(read_labels, photo.labels, size=(photo.height, photo.width))
    return [mask_of(item.segmentation, photo.height, photo.width, read) for item in photo.instances]


def of_mask(mask: np.ndarray) -> tuple[tuple[float, ...], float]:
    """Box and area by brute force."""
    ys, xs = np.nonzero(mask)
    return tuple(map(float, (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1))), float(len(ys))


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    data = Labels(tmp_path, {})
    for split, names in (("train", ["0a0a0b1a-7c39d841", "00d79c0a-23bea078"]), ("val", ["7d2f7975-e0c1c5a7"])):
        data.bitmasks(split).mkdir(parents=True)
        data.images(split).mkdir(parents=True)
        for k, name in enumerate(names):
            rgba = np.zeros((HEIGHT, WIDTH, 4), dtype=np.uint8)
            # category, attributes (truncated, occluded, crowd, ignored), instance id with a high byte
            cv2.circle(rgba, (40 + k, 30), 18, (3, 0b1100, 0, 1), -1)
            cv2.circle(rgba, (62 + k, 34), 14, (1, 0, 1, 1), -1)
            cv2.circle(rgba, (90, 40), 10, (8, 0b0010, 1, 2), -1)
            cv2.circle(rgba, (112, 50), 9, (5, 0b0001, 255, 255), -1)
            Image.fromarray(rgba).save(data.bitmasks(split) / f"{name}.png")
            Image.new("RGB", (WIDTH, HEIGHT), (60, 90, 120)).save(data.images(split) / f"{name}.jpg")
            data.rgba[name] = rgba
    return data


def test_bitmasks_give_the_instances_that_were_drawn(labels: Labels) -> None:
    found, rejects = labels.read(labels.bitmasks("train"), labels.bitmasks("val"))
    assert rejects == []
    assert found.keys() == labels.rgba.keys()
    for name, rgba in labels.rgba.items():
        photo = found[name]
        assert Path(photo.path).name == f"{name}.jpg"
        assert (photo.source, photo.height, photo.width) == ("bdd100k", HEIGHT, WIDTH)
        by_id = {item.id: (item, mask) for item, mask in zip(photo.instances, masks(photo), strict=True)}
        assert {key: (item.category, item.crowd) for key, (item, _) in by_id.items()} == {
            "1": ("car", False),
            "257": ("pedestrian", False),
            "258": ("bicycle", True),
            "65535": ("bus", True),
        }
        for number, (item, mask) in by_id.items():
            assert np.array_equal(mask, 256 * rgba[..., 2].astype(int) + rgba[..., 3] == int(number))
            assert (item.box, item.area) == of_mask(mask)


def test_panoptic_bitmasks_have_other_numbers_and_stuff(labels: Labels) -> None:
    name = "0a0a0b1a-7c39d841"
    rgba = np.zeros((HEIGHT, WIDTH, 4), dtype=np.uint8)
    rgba[:] = (30, 0, 0, 30)
    rgba[40:] = (7, 0, 0, 7)
    for number, (category, attributes) in enumerate([(31, 0), (35, 0), (36, 0), (38, 0), (40, 0b10)], 31):
        cv2.circle(rgba, (20 * (number - 30), 38), 9, (category, attributes, 0, number), -1)
    folder = labels.root / "labels" / "pan_seg" / "bitmasks" / "val"
    folder.mkdir(parents=True)
    Image.fromarray(rgba).save(folder / f"{name}.png")
    found, rejects = labels.read(folder)
    assert rejects == []
    assert [(item.id, item.category, item.crowd) for item in found[name].instances] == [
        ("31", "pedestrian", False),
        ("32", "car", False),
        ("33", "car", False),
        ("34", "truck", True),  # a trailer, which the evaluation ignores
        ("35", "truck", True),
    ]
    for item, mask in zip(found[name].instances, masks(found[name]), strict=True):
        assert np.array_equal(mask, rgba[..., 3] == int(item.id))


def test_bitmasks_and_photos_of_videos_lie_in_a_folder_each(tmp_path: Path) -> None:
    video, name = "b1c81faa-3df17267", "b1c81faa-3df17267-0000001"
    for folder in ("bitmasks/train", "images/train"):
        (tmp_path / folder / video).mkdir(parents=True)
    rgba = np.zeros((HEIGHT, WIDTH, 4), dtype=np.uint8)
    rgba[5:20, 5:20] = (4, 0, 0, 7)
    Image.fromarray(rgba).save(tmp_path / "bitmasks" / "train" / video / f"{name}.png")
    path = tmp_path / "images" / "train" / video / f"{name}.jpg"
    path.write_bytes(b"not read here")
    for check in (True, False):
        found, rejects = split_up(photos([str(tmp_path / "images/train")], [str(tmp_path / "bitmasks/train")], check))
        assert rejects == []
        assert found[name].path == str(path)
        assert [item.category for item in found[name].instances] == ["truck"]


def test_a_damaged_or_lost_file_costs_only_its_photo(labels: Labels) -> None:
    broken, lost = "0a0a0b1a-7c39d841", "7d2f7975-e0c1c5a7"
    path = labels.bitmasks("train") / f"{broken}.png"
    path.write_bytes(path.read_bytes()[:-30])
    (labels.images("val") / f"{lost}.jpg").unlink()
    found, rejects = labels.read(labels.bitmasks("train"), labels.bitmasks("val"))
    assert {(reject.key, reject.stage, reject.reason) for reject in rejects} == {
        (f"bdd100k-{broken}", "plan", "broken labels"),
        (f"bdd100k-{lost}", "plan", "missing photo"),
    }
    assert all(reject.detail.startswith(reject.key.removeprefix("bdd100k-")) for reject in rejects)
    assert found.keys() == {"00d79c0a-23bea078"}


# Scalabel JSON


def rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"counts": encoded["counts"].decode(), "size": list(mask.shape)}


def frame(name: str, labels: Any, **more: Any) -> dict[str, Any]:
    return (
        {"name": f"{name}.jpg", "url": None, "videoName": name, "frameIndex": 0, "size": None}
        | more
        | {"labels": labels}
    )


def polygon(*points: tuple[float, float], types: str = "") -> list[dict[str, Any]]:
    return [{"vertices": [list(point) for point in points], "types": types or "L" * len(points), "closed": False}]


def write(labels: Labels, document: Any) -> Path:
    path = labels.root / "ins_seg_train.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("form", ["list", "object", "config first"])
def test_rle_gives_the_masks_that_were_drawn(labels: Labels, form: str) -> None:
    frames = []
    for name, rgba in labels.rgba.items():
        items = [
            {"id": "3", "category": "car", "attributes": {"crowd": False, "occluded": True}, "rle": rgba[..., 0] == 3},
            {"id": "x-1", "category": "person", "attributes": None, "rle": rgba[..., 0] == 1},
            {"id": 9, "category": "bike", "attributes": {"crowd": True}, "rle": rgba[..., 0] == 8},
            {"id": "8", "category": "other vehicle", "rle": rgba[..., 0] == 5},
            {"id": "0", "category": "road", "rle": rgba[..., 0] == 0},
        ]
        frames.append(frame(name, [item | {"rle": rle(np.asarray(item["rle"])), "box2d": None} for item in items]))
    document: Any = {"frames": frames, "groups": None, "config": None}
    if form == "list":
        document = frames
    elif form == "config first":
        document = {"config": {"imageSize": {"width": 5, "height": 4}}, "frames": frames}
    found, rejects = labels.read(write(labels, document))
    assert rejects == []
    assert found.keys() == labels.rgba.keys()
    for name, rgba in labels.rgba.items():
        photo = found[name]
        assert (photo.height, photo.width) == (HEIGHT, WIDTH)  # as the RLE says
        assert [(item.id, item.category, item.crowd) for item in photo.instances] == [
            ("3", "car", False),
            ("x-1", "pedestrian", False),
            ("9", "bicycle", True),
            ("8", "car", True),
        ]
        for item, mask, category in zip(photo.instances, masks(photo), (3, 1, 8, 5), strict=True):
            assert np.array_equal(mask, rgba[..., 0] == category)
            assert (item.box, item.area) == of_mask(mask)


def square(x: float, y: float, side: float) -> list[dict[str, Any]]:
    return polygon((x, y), (x + side, y), (x + side, y + side), (x, y + side))


def rectangle(x: int, y: int, side: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


def test_polygons_hide_those_before_them(labels: Labels) -> None:
    name = "7d2f7975-e0c1c5a7"
    items = [
        {"id": "a", "category": "car", "poly2d": square(10, 10, 30)},
        {"id": "b", "category": "rider", "poly2d": square(30, 20, 20) + square(90, 5, 8)},
        {"id": "c", "category": "vegetation", "poly2d": square(45, 30, 20)},
        {"id": "d", "category": "bus", "poly2d": square(60, 2, 10)},
        {"id": "b", "category": "train", "poly2d": square(10, 60, 10)},
    ]
    config = {"imageSize": {"width": WIDTH, "height": HEIGHT}}
    found, rejects = labels.read(write(labels, {"frames": [frame(name, items)], "config": config}))
    assert rejects == []
    a, b, c = rectangle(10, 10, 30), rectangle(30, 20, 20) | rectangle(90, 5, 8), rectangle(45, 30, 20)
    expected = {"a": a & ~b, "b": b & ~c, "d": rectangle(60, 2, 10), "b-4": rectangle(10, 60, 10)}
    assert [item.id for item in found[name].instances] == list(expected)
    for item, mask in zip(found[name].instances, masks(found[name]), strict=True):
        assert np.array_equal(mask, expected[item.id])
        assert (item.box, item.area) == of_mask(mask)
    assert isinstance(found[name].instances[2].segmentation, list)  # nothing is in front of the bus


def test_the_size_is_the_frames_then_the_files_then_bdd100ks_own(labels: Labels) -> None:
    name = "7d2f7975-e0c1c5a7"
    items = [{"id": "a", "category": "car", "poly2d": square(10, 10, 30)}]
    config = {"imageSize": {"width": 640, "height": 480}}

    def size(document: Any) -> tuple[int, int]:
        photo = labels.read(write(labels, document))[0][name]
        return photo.height, photo.width

    sized = frame(name, items, size={"width": 100, "height": 90})
    assert size({"frames": [sized], "config": config}) == (90, 100)
    assert size({"frames": [frame(name, items)], "config": config}) == (480, 640)
    assert size([frame(name, items)]) == (720, 1280)


def test_a_box_alone_is_left_to_a_mask_predictor(labels: Labels) -> None:
    name = "7d2f7975-e0c1c5a7"
    box = {"x1": 4, "y1": 6, "x2": 13, "y2": 9}
    found, rejects = labels.read(write(labels, [frame(name, [{"id": "1", "category": "truck", "box2d": box}])]))
    assert rejects == []
    assert found[name].instances == (Instance("1", "truck", (4.0, 6.0, 10.0, 4.0), 40.0),)


def distance_to(line: np.ndarray, points: np.ndarray) -> float:
    """The largest distance of any of `points` to a polyline."""
    starts, ends = line[:-1], line[1:]
    along = ends - starts
    length = np.maximum((along**2).sum(1), 1e-12)
    t = np.clip(((points[:, None] - starts) * along).sum(-1) / length, 0, 1)
    return float(np.linalg.norm(points[:, None] - (starts + t[..., None] * along), axis=-1).min(1).max())


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=4, max_size=4), st.booleans())
def test_a_curve_is_followed_to_a_quarter_of_a_pixel(points: list[tuple[float, float]], wraps: bool) -> None:
    # de Casteljau's construction is the truth; the curve's end is the first corner where the list ends.
    p = [np.array(point) for point in points]
    corner = (0.0, 0.0)
    if wraps:
        vertices, types = [points[3], corner, points[0], points[1], points[2]], "LLLCC"
    else:
        vertices, types = [points[0], points[1], points[2], points[3], corner], "LCCLL"
    flat = read_polygon({"vertices": [list(point) for point in vertices], "types": types})
    line = np.array(flat).reshape(-1, 2)
    line = line[2:] if wraps else line[:-1]
    truth = []
    for t in np.linspace(0, 1, 65):
        row = p
        while len(row) > 1:
            row = [(1 - t) * a + t * b for a, b in pairwise(row)]
        truth.append(row[0])
    assert np.allclose(line[0], points[0])
    assert np.allclose(line[-1], points[3])
    assert distance_to(line, np.array(truth)) < 0.25


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("no object", "malformed annotation"),
        ({"id": "1", "poly2d": square(1, 1, 9)}, "malformed annotation"),
        ({"category": "car", "poly2d": square(1, 1, 9)}, "malformed annotation"),
        ({"id": "\ud800", "category": "car", "poly2d": square(1, 1, 9)}, "malformed annotation"),
        ({"id": "1", "category": "car"}, "malformed annotation"),
        ({"id": "1", "category": "car", "attributes": [], "box2d": {}}, "malformed annotation"),
        ({"id": "1", "category": "car", "attributes": 1, "poly2d": square(1, 1, 9)}, "malformed annotation"),
        ({"id": "1", "category": "car", "box2d": {"x1": 4, "y1": 1, "x2": 2, "y2": 9}}, "malformed annotation"),
        ({"id": "1", "category": "car", "box2d": {"x1": 4, "y1": 1, "x2": float("nan")}}, "malformed annotation"),
        ({"id": "1", "category": "car", "poly2d": {}}, "malformed annotation"),
        ({"id": "1", "category": "car", "poly2d": "x"}, "malformed annotation"),
        ({"id": "1", "category": "car", "poly2d": [[1, 2]]}, "malformed annotation"),
        ({"id": "1", "category": "car", "poly2d": [{"vertices": [[1, 2, 3]]}]}, "malformed annotation"),
        ({"id": "1", "category": "car", "poly2d": [{"vertices": [[1, float("inf")]]}]}, "malformed annotation"),
        (
            {"id": "1", "category": "car", "poly2d": polygon((1, 1), (9, 1), (5, 9), types="LLC")},
            "malformed annotation",
        ),
        ({"id": "1", "category": "car", "poly2d": polygon((1, 1), (9, 1), (5, 9), types="LL")}, "malformed annotation"),
        ({"id": "1", "category": "car", "poly2d": polygon((1, 1), (9, 1))}, "empty mask"),
        ({"id": "1", "category": "car", "poly2d": polygon((1, 1), (9, 1), (5, 1e9))}, "malformed polygon"),
        ({"id": "1", "category": "car", "poly2d": polygon((1, 1), (9, 1), (5, 10**400))}, "malformed annotation"),
        ({"id": "1", "category": "car", "poly2d": [{"vertices": [[1, "2"], [3, 4]]}]}, "malformed annotation"),
        ({"id": "1", "category": "car", "rle": "x"}, "malformed annotation"),
        ({"id": "1", "category": "car", "rle": {}}, "mask size mismatch"),
        ({"id": "1", "category": "car", "rle": {"size": [9, 9], "counts": [81]}}, "mask size mismatch"),
        ({"id": "1", "category": "car", "rle": {"size": [HEIGHT, WIDTH], "counts": "oo"}}, "malformed RLE"),
        ({"id": "1", "category": "car", "rle": {"size": [HEIGHT, WIDTH], "counts": None}}, "malformed RLE"),
    ],
)
def test_a_label_that_cannot_be_read_costs_only_itself(labels: Labels, label: Any, reason: str) -> None:
    name = "7d2f7975-e0c1c5a7"
    good = {"id": "good", "category": "bus", "poly2d": square(40, 30, 20)}
    path = write(labels, [frame(name, [label, good], size={"width": WIDTH, "height": HEIGHT})])
    found, rejects = labels.read(path)
    assert [(reject.stage, reject.reason) for reject in rejects] == [("plan", reason)]
    assert rejects[0].key.startswith(f"bdd100k-{name}-")
    assert rejects[0].detail.startswith("ins_seg_train.json")
    assert [item.id for item in found[name].instances] == ["good"]
    assert np.array_equal(masks(found[name])[0], rectangle(40, 30, 20))


def test_a_frame_that_cannot_be_read_costs_only_itself(labels: Labels) -> None:
    name = "7d2f7975-e0c1c5a7"
    items = [{"id": "a", "category": "car", "poly2d": square(10, 10, 30)}]
    frames = [
        {"labels": items},
        frame("\ud800", items),
        frame("nowhere", items),
        frame("0a0a0b1a-7c39d841", items, size={"width": -1, "height": 3}),
        frame("00d79c0a-23bea078", {"a": 1}),
        frame(name, items),
        frame("../val/" + name, items),
    ]
    found, rejects = labels.read(write(labels, frames))
    assert [reject.reason for reject in rejects] == [
        "malformed photo entry",
        "malformed photo entry",
        "missing photo",
        "malformed photo entry",
        "malformed photo entry",
    ]
    assert found.keys() == {name}


def test_frames_without_labels_are_photos_without_instances(labels: Labels) -> None:
    found, rejects = labels.read(write(labels, [frame(name, None) for name in labels.rgba]))
    assert rejects == []
    assert [photo.instances for photo in found.values()] == [(), (), ()]


# the reader of large files


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
            max_leaves=12,
        ).map(lambda value: {"value": value}),
        max_size=8,
    ),
    st.integers(1, 40),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_frames_are_the_same_whatever_the_size_of_the_pieces(
    tmp_path_factory: pytest.TempPathFactory, frames: list[Any], chunk: int, indent: int | None, ascii_only: bool
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    document: dict[str, Any] = {"groups": [1, {"frames": [3]}], "frames": frames, "config": {"a": 12}, "n": 12345}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scalabel_json, "CHUNK", chunk)
        path.write_text(json.dumps(document, indent=indent, ensure_ascii=ascii_only), encoding="utf-8", newline="")
        assert list(read_frames(str(path))) == frames
        assert read_config(str(path)) == {"a": 12}
        path.write_text(json.dumps(frames, indent=indent, ensure_ascii=ascii_only), encoding="utf-8", newline="")
        assert list(read_frames(str(path))) == frames
        assert read_config(str(path)) == {}


def test_every_cut_through_a_file_is_noticed_and_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scalabel_json, "CHUNK", 16)
    path = tmp_path / "a.json"
    for document in ([{"name": "a"}, {"name": "b", "labels": []}], {"frames": [{"name": "a"}], "config": {"x": 1}}):
        text = json.dumps(document)
        for cut in range(len(text)):
            path.write_text(text[:cut])
            with pytest.raises(UserError, match=r"a\.json"):
                list(read_frames(str(path)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"[{}] x", "follows"),
        (b"[{},]", "Expecting value"),
        (b"[{} {}]", "expected `,` or `\\]`"),
        (b"[1]", "objects"),
        (b"12", "expected a list"),
        (b'{"frames": {}}', "no list `frames`"),
        (b'{"images": []}', "no list `frames`"),
        (b'{"frames": [] "a"}', "expected `,` or `}`"),
        (b'{"frames" [] }', "expected a key"),
        (b'[{"name": "\xff"}]', "UTF-8"),
        (b"[" * 100_000, "recursion|objects|expecting"),
    ],
)
def test_what_is_no_scalabel_json_is_an_error_that_names_the_file(tmp_path: Path, text: bytes, says: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(UserError, match=f"(?i){says}") as error:
        list(read_frames(str(path)))
    assert str(path) in str(error.value)


def test_a_frame_without_an_end_is_not_read_to_the_end_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scalabel_json, "CHUNK", 100)
    monkeypatch.setattr(scalabel_json, "LONGEST", 1000)
    path = tmp_path / "a.json"
    path.write_text('[{"name": "a"}, {"name": "' + "x" * 800 + '"}]')
    assert len(list(read_frames(str(path)))) == 2
    path.write_text('[{"name": "a"}, {"name": "' + "x" * 100_000 + '"}]')
    with pytest.raises(UserError, match="at character 16"):
        list(read_frames(str(path)))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    one = json.dumps(frame("a", [{"id": "1", "category": "car", "poly2d": square(1, 1, 9)}] * 200))
    program = (  # the peak of this process alone; getrusage's begins with that of its parent
        "import sys, re, pathlib; from pics_data.sources.scalabel_json import read_frames; "
        "n = sum(1 for _ in read_frames(sys.argv[1])); "
        "print(n, re.search(r'VmHWM:\\s*(\\d+)', pathlib.Path('/proc/self/status').read_text())[1])"
    )
    peaks = []
    for copies in (300, 1600):
        path = tmp_path / f"{copies}.json"
        path.write_text("[" + ",".join([one] * copies) + "]")
        shown = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
        count, kilobytes = map(int, shown.stdout.split())
        assert count == copies
        peaks.append(kilobytes)
    assert (tmp_path / "1600.json").stat().st_size > 40e6
    assert peaks[1] < peaks[0] + 2_000


# mistakes of the user


def test_mistakes_of_the_user_name_what_is_wrong(labels: Labels, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    images, good = str(labels.images("train")), str(labels.bitmasks("train"))
    wrong_size = write(labels, {"frames": [], "config": {"imageSize": {"width": "x"}}})
    for says, folders, annotations in [
        ("--images", [], [good]),
        ("--annotations", [images], []),
        ("nowhere does not exist", [images], [f"{tmp_path}/nowhere"]),
        ("neither PNGs nor JSON", [images], [str(empty)]),
        ("several kinds of labels; give .*ins_seg/bitmasks", [images], [str(labels.root / "labels" / "ins_seg")]),
        ("imageSize", [images], [str(wrong_size)]),
    ]:
        with pytest.raises(UserError, match=says):
            list(photos(folders, annotations))


# real files


def real(shared_data: Path, tmp_path: Path, path: str, name: str) -> Photo:
    """The one photo of a file or folder of the real data, of which the photo itself is not there."""
    (tmp_path / f"{name}.jpg").write_bytes(b"not read here")
    found, rejects = split_up(photos([str(tmp_path)], [str(shared_data / "formats" / "bdd100k" / path)]))
    assert rejects == []
    assert found.keys() == {name}
    return found[name]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_real_polygons_are_nearly_the_data_sets_own_bitmask(shared_data: Path, tmp_path: Path) -> None:
    # 74 labels of stuff and two cars, in the order of drawing; beside it the bitmask that the authors made of them.
    folder = "label/testcases/panseg_bdd100k"
    drawn = real(shared_data, tmp_path, f"{folder}/panseg_bdd100k.json", "panseg_mask")
    bitmask = split_up(photos([str(tmp_path)], [str(shared_data / "formats" / "bdd100k" / folder)]))[0]["panseg_mask"]
    assert [item.category for item in drawn.instances] == [item.category for item in bitmask.instances] == ["car"] * 2
    for ours, theirs in zip(masks(drawn), masks(bitmask), strict=True):
        assert overlap(ours, theirs) > 0.985
    assert any("minus" in item.segmentation for item in drawn.instances)


def test_real_curves_are_nearly_the_data_sets_own_bitmask(shared_data: Path, tmp_path: Path) -> None:
    name = "b1c81faa-3df17267-0000001"
    drawn = real(shared_data, tmp_path, "label/testcases/example_annotation.json", name)
    bitmask = real(shared_data, tmp_path, "label/testcases/bitmasks/quasi-video", "insseg_bitmask")
    assert [item.id for item in drawn.instances] == ["a", "b", "a-2", "c"]
    for ours, theirs in zip(masks(drawn), masks(bitmask), strict=True):
        assert overlap(ours, theirs) > 0.9


def test_real_bitmasks_and_rle_equal_a_plain_reading(shared_data: Path, tmp_path: Path) -> None:
    photo = real(shared_data, tmp_path, "label/testcases/to_rle/ins_seg/masks", "0")
    pixels = np.asarray(Image.open(photo.labels)).astype(int)
    ids = 256 * pixels[..., 2] + pixels[..., 3]
    assert {item.id for item in photo.instances} == {str(i) for i in np.unique(ids[ids > 0])}
    for item, mask in zip(photo.instances, masks(photo), strict=True):
        assert np.array_equal(mask, ids == int(item.id))
        assert (item.box, item.area) == of_mask(mask)
    rle_file = "eval/testcases/rle/seg/gt/0.json"
    photo = real(shared_data, tmp_path, rle_file, "7d06fefd-f7be05a6")
    frames = json.loads((shared_data / "formats" / "bdd100k" / rle_file).read_text())["frames"]
    truth = [coco_mask.decode(label["rle"]) for label in frames[0]["labels"] if label["category"] == "car"]
    assert [np.array_equal(a, b) for a, b in zip(masks(photo), truth, strict=True)] == [True]
