"""Annotation files of COCO and LVIS: read element by element, equal to a plain JSON parse; each mistake in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pics_common.errors import UserError
from pics_data.decompose import decompose_all
from pics_data.records import Photo, Reject
from pics_data.sources import coco, lvis, objects365
from pics_data.sources.coco_json import AnnotationFile
from tests.data.photos_for_tests import draw_set
from tests.data.plain_build import compositions_of, plan_of

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def element(identifier: int, image_id: int, extra: dict[str, Any]) -> dict[str, Any]:
    return {**extra, "id": identifier, "image_id": image_id, "width": 4, "height": 3}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_elements_and_their_photos_are_those_of_a_plain_parse(tmp_path: Path, data: st.DataObject) -> None:
    extras = data.draw(st.lists(st.dictionaries(st.text(max_size=5), json_values, max_size=3), min_size=1, max_size=6))
    ids = data.draw(st.lists(st.integers(0, 3), min_size=len(extras), max_size=len(extras)))
    document = {
        "info": data.draw(json_values),
        "images": [element(i, i, {}) for i in range(4)],
        "annotations": [element(n, i, extra) for n, (i, extra) in enumerate(zip(ids, extras, strict=True))],
        "categories": [],
    }
    keys = data.draw(st.permutations(list(document)))
    text = json.dumps(
        {key: document[key] for key in keys},
        ensure_ascii=data.draw(st.booleans()),
        indent=data.draw(st.sampled_from([None, 1])),
    )
    path = tmp_path / "a.json"
    path.write_text(text)
    file = AnnotationFile(str(path))
    photos = 0
    for image, items in file.photos():
        expected = [a for a in document["annotations"] if a["image_id"] == image["id"]]
        assert not isinstance(items, Reject)
        assert [file.load(text) for text in items] == expected
        photos += 1
    assert photos == 4


def test_photos_of_coco(tmp_path: Path) -> None:
    drawn = draw_set(tmp_path, num_photos=3)
    found = list(coco.photos([str(drawn.images)], [str(drawn.annotations)]))
    assert all(isinstance(photo, Photo) for photo in found)
    assert [photo.id for photo in found if isinstance(photo, Photo)] == ["1000", "1007", "1014"]
    photo = found[0]
    assert isinstance(photo, Photo)
    assert (photo.path, photo.width, photo.height) == (str(drawn.images / "photo000.jpg"), 96, 72)
    assert photo.license == "https://creativecommons.org/licenses/by/4.0/"
    assert {item.id: item.category for item in photo.instances} == {
        "10000": "ball, with \\ and ]", "10001": "disc", "10002": "disc", "10003": "disc"
    }  # fmt: skip
    assert [item.id for item in photo.instances if item.crowd] == ["10003"]


def test_each_loss_is_a_reject_beside_its_neighbours(tmp_path: Path) -> None:
    drawn = draw_set(tmp_path, num_photos=3)
    drawn.photo(1).unlink()

    def damage(document: dict[str, Any]) -> None:
        first = [a for a in document["annotations"] if a["image_id"] == 1000]
        del first[0]["area"]
        first[1]["bbox"] = [1, 2, float("nan"), 4]  # as Python's json writes it
        first[2]["category_id"] = [1]
        document["annotations"].append({**first[3], "id": 5, "image_id": 77})

    drawn.rewrite(damage)
    found = list(coco.photos([str(drawn.images)], [str(drawn.annotations)]))
    rejects = [record for record in found if isinstance(record, Reject)]
    assert [reject.reason for reject in rejects] == ["malformed annotation"] * 3 + ["missing photo", "not in images"]
    assert {reject.stage for reject in rejects} == {"plan"}
    assert [len(photo.instances) for photo in found if isinstance(photo, Photo)] == [1, 4]


def test_numbers_beyond_64_bits_lose_their_annotation_only(tmp_path: Path) -> None:
    drawn = draw_set(tmp_path, num_photos=2)

    def damage(document: dict[str, Any]) -> None:
        first = [a for a in document["annotations"] if a["image_id"] == 1000]
        first[0]["area"] = 10**400
        first[1]["segmentation"] = [[10**400, 10**19, 3, 4, 5, 6]]

    drawn.rewrite(damage)
    found = list(coco.photos([str(drawn.images)], [str(drawn.annotations)]))
    assert [record.reason for record in found if isinstance(record, Reject)] == ["malformed annotation"]
    plan = plan_of(found, drawn.config(tmp_path / "out", min_area=0.0, pairs_per_photo=9))
    made = list(decompose_all(compositions_of(plan), drawn.config(tmp_path)))
    assert {record.reason for record in made if isinstance(record, Reject)} <= {"malformed polygon"}


def test_a_missing_photo_is_named_as_it_was_looked_for(tmp_path: Path) -> None:
    drawn = draw_set(tmp_path, num_photos=1)
    for urls in ("http://x.org/val2017/000000011813.jpg?a=1", "http://[x/val2017/000000011813.jpg"):
        drawn.rewrite(lambda document, url=urls: document["images"][0].update(coco_url=url, file_name=""))
        record = next(iter(lvis.photos([str(drawn.images)], [str(drawn.annotations)])))
        assert record == Reject("lvis-1000", "plan", "missing photo", "val2017/000000011813.jpg")


def lvis_photo(tmp_path: Path, image: dict[str, Any], place: str) -> str:
    """Where LVIS' `image` is found if its file lies at `place`."""
    file = tmp_path / "data" / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x")
    image = {"id": 7, "width": 10, "height": 10, **image}
    annotation = {"id": 1, "image_id": 7, "bbox": [0, 0, 5, 5], "area": 9, "category_id": 1, "segmentation": []}
    document = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "acorn"}]}
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(document))
    record = next(iter(lvis.photos([str(tmp_path / "empty"), str(tmp_path / "data")], [str(path)])))
    return record.path if isinstance(record, Photo) else record.reason


URL = "http://images.cocodataset.org/val2017/000000011813.jpg"
OLD_NAME = "COCO_val2014_000000011813.jpg"


@pytest.mark.parametrize(
    ("image", "place"),
    [
        ({"coco_url": URL}, "000000011813.jpg"),
        ({"coco_url": URL}, "val2017/000000011813.jpg"),
        ({"coco_url": URL, "file_name": OLD_NAME}, "000000011813.jpg"),
        ({"coco_url": URL, "file_name": OLD_NAME}, OLD_NAME),
        ({"file_name": "val/" + OLD_NAME}, "val/" + OLD_NAME),
        ({"file_name": "val/" + OLD_NAME}, OLD_NAME),
    ],
)
def test_lvis_finds_photos_under_any_of_their_names(tmp_path: Path, image: dict[str, Any], place: str) -> None:
    (tmp_path / "empty").mkdir()
    assert lvis_photo(tmp_path, image, place) == str(tmp_path / "data" / place)


def test_a_name_cannot_lead_out_of_the_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("../secret.jpg", str(tmp_path / "secret.jpg"), "a/../../secret.jpg"):
        assert lvis_photo(tmp_path, {"file_name": name}, "../secret.jpg") == "missing photo"


GOOD = '{"images": [{"id": 1, "width": 2, "height": 2}], "annotations": [{"id": 1, "image_id": 1}], "categories": []}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("hello", "not JSON"),
        ("[]", "a list"),
        ("[{}]", "a list"),
        ("3", "holds int"),
        ("{}", "lacks the key `images`"),
        ('{"images": [], "annotations": []}', "lacks the key `categories`"),
        ('{"images": [], "annotations": [], "categories": []}', "empty list `images`"),
        (GOOD.replace('[{"id": 1, "image_id": 1}]', "[]"), "empty list `annotations`"),
        (GOOD.replace('[{"id": 1, "image_id": 1}]', "[1, 2]"), "`annotations` is not a list of objects"),
        (GOOD.replace('[{"id": 1, "image_id": 1}]', '{"1": {}}'), "`annotations` is not a list of objects"),
        (GOOD.replace('"image_id": 1', '"image_id": '), "not JSON"),
        (GOOD[:-20] + '"' + '\\"' * 500_000, "not JSON"),
        (GOOD[:-1], "not JSON"),
        (GOOD[:60], "not JSON"),
        (GOOD + "}", "not JSON"),
        (GOOD.replace("}], ", "},], "), "not JSON"),
        (GOOD.replace('"id": 1, "image_id"', '"id": "1, "image_id"'), "not JSON"),
    ],
)
def test_a_file_that_is_not_coco_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        list(coco.photos([str(tmp_path)], [str(path)]))
    assert str(path) in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        (GOOD.replace('"image_id": 1', '"image": 1'), "malformed annotation", "`image_id` is missing"),
        (GOOD.replace('{"id": 1, "width"', '{"width"'), "malformed photo entry", "`id` is missing"),
        (GOOD.replace(', "width": 2', ""), "malformed photo entry", "`width` is missing"),
        (GOOD.replace('"width": 2', '"width": "2"'), "malformed photo entry", "not a whole number"),
        (GOOD.replace('"width": 2', '"width": 0'), "malformed photo entry", "above 0"),
        (GOOD.replace('"width": 2', '"width": 1' + "0" * 400), "malformed photo entry", "not a whole number"),
        (
            GOOD.replace('"height": 2}', '"height": 2}, {"id": 1, "width": 2, "height": 2}'),
            "malformed photo entry",
            "twice",
        ),
        (
            GOOD.replace('"height": 2}', '"height": 2}, {"id": "1", "width": 3, "height": 2}'),
            "malformed photo entry",
            "stands twice, for different photos",
        ),
        (
            GOOD.replace('"image_id": 1', '"image_id": 1, "x": ' + "[" * 5000 + "]" * 5000),
            "malformed annotation",
            "deep",
        ),
        (GOOD.replace('"image_id": 1', '"image_id": 2'), "not in images", "1 annotations in a.json"),
    ],
)
def test_an_entry_that_is_no_use_is_a_reject(tmp_path: Path, text: str, reason: str, detail: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    rejects = [r for r in coco.photos([str(tmp_path)], [str(path)]) if isinstance(r, Reject)]
    found = [r for r in rejects if r.reason == reason and detail in r.detail]
    assert len(found) == 1


def test_many_buckets_give_the_photos_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = draw_set(tmp_path, num_photos=30)
    whole = list(coco.photos([str(drawn.images)], [str(drawn.annotations)]))
    monkeypatch.setattr("pics_data.sources.coco_json.BUCKET", 1000)
    monkeypatch.setattr("pics_data.spool.MEMORY", 2000)
    parts = list(coco.photos([str(drawn.images)], [str(drawn.annotations)]))
    assert parts != whole  # in another order
    assert sorted(parts, key=repr) == sorted(whole, key=repr)


def test_boxes_alone_are_enough_for_objects365(tmp_path: Path) -> None:
    drawn = draw_set(tmp_path, num_photos=2)

    def strip(document: dict[str, Any]) -> None:
        for annotation in document["annotations"]:
            del annotation["segmentation"], annotation["area"]
        for image in document["images"]:
            image["file_name"] = f"images/v1/patch8/{image['file_name']}"

    drawn.rewrite(strip)
    found = list(objects365.photos([str(drawn.images)], [str(drawn.annotations)]))
    assert [photo.id for photo in found if isinstance(photo, Photo)] == ["1000", "1007"]
    for photo in found:
        assert isinstance(photo, Photo)
        assert len(photo.instances) == 4
        assert all(item.segmentation is None and item.area == item.box[2] * item.box[3] for item in photo.instances)
