"""`pics-data inspect`: what it counts, what it warns of, what it shows, and what it says of damage."""

import base64
import io
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pics_common.errors import UserError
from pics_data.config import BuildConfig
from pics_data.inspect import inspect_shards
from pics_data.inspect_pictures import COLOURS, View, decode_view, draw_overlay, licence_in_short
from pics_data.inspect_read import read_folder
from pics_data.mixture import members_of
from pics_data.sample_table import read_tables
from tests.data.photos_for_tests import draw_set, write_recipes
from tests.data.plain_build import build_plainly
from tests.data.shards_for_tests import read_samples
from tests.data.stores_for_tests import object_store, put_folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of drawn photos of which one is broken and one missing, not to be changed."""
    folder = tmp_path_factory.mktemp("built")
    drawn = draw_set(folder / "drawn", num_photos=16)
    drawn.photo(5).write_bytes(drawn.photo(5).read_bytes()[:200])
    drawn.photo(9).unlink()
    config = drawn.config(folder / "shards", shard_samples=6, object_size=48, val_fraction=0.2, pairs_per_photo=2)
    build_plainly(config)
    return folder / "shards"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a mixture, not to be changed."""
    folder = tmp_path_factory.mktemp("mixed")
    drawn = draw_set(folder / "drawn", num_photos=12)
    rooms = {"source": "scenes", "num_scenes": 4, "scene_size": 64}
    mix = write_recipes(folder, photos=drawn.recipe(), rooms=rooms)
    build_plainly(BuildConfig(mix=mix, mix_weights=(1.0, 6.0), out=str(folder / "shards"), shard_samples=4,
                              object_size=48, val_fraction=0.0))  # fmt: skip
    return folder / "shards"


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))


def page_of(folder: Path | str, page: Path, **options: Any) -> str:
    return inspect_shards(str(folder), page / "page.html", **options).read_text()


def told(html: str) -> str:
    """The page's text, without tags and pictures."""
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL))


def shown(html: str) -> list[str]:
    """Keys of the samples with large pictures."""
    samples = re.search(r'<section id="samples">(.*?)</section>', html, re.DOTALL)
    return re.findall(r'alt="photo of sample ([^:"]*):', samples[1]) if samples else []


def test_the_page_answers_what_is_in_the_shards(built: Path, tmp_path: Path) -> None:
    html = page_of(built, tmp_path, max_samples=5)
    text = told(html)
    samples = read_tables(str(built)).num_rows
    assert re.search(rf"samples\s+{samples} photos\s+14 shards", text)
    assert f"5 of {samples}, spread" in text
    assert len(set(shown(html))) == 5
    assert "photos that the source named 16" in text
    assert "– not there 1 6.2 %" in text
    assert re.search(r"broken photo decompose 2 coco-1035-", text)
    assert re.search(r"missing photo plan 1 coco-1063", text)
    assert "6.7 % of the planned samples could not be made, most often: broken photo" in text
    assert "<script" not in html
    assert not re.search(r'(src|href)="(?!data:image/|#)', html)


def test_pictures_are_the_samples_and_each_is_read_at_its_place_alone(copy: Path, tmp_path: Path) -> None:
    """All bytes but those of the samples to show are lost, and they are shown all the same."""
    found = read_folder(str(copy), 4)
    places = [*found.survey.chosen, *(entry.place for worst in found.survey.worst.values() for entry in worst)]
    for tar in copy.glob("*.tar"):
        data, kept_bytes = tar.read_bytes(), bytearray(tar.stat().st_size)
        for place in places:
            if place.url == str(tar):
                kept_bytes[place.start : place.start + place.num_bytes] = data[place.start :][: place.num_bytes]
        tar.write_bytes(kept_bytes)
    html = page_of(copy, tmp_path, max_samples=4)
    assert "cannot be shown" not in html
    assert shown(html) == [place.key for place in found.survey.chosen]
    truth = {key: members["bg.jpg"] for tar in sorted(copy.glob("*.tar")) for key, members in _readable(tar, places)}
    for key, picture in re.findall(r'<img src="data:image/jpeg;base64,([^"]*)" alt="photo of sample ([^:]*)', html)[:4]:
        seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(key)))).astype(int)
        wanted = np.asarray(Image.open(io.BytesIO(truth[picture])))
        assert seen.shape == wanted.shape
        assert np.abs(seen - wanted).mean() < 8  # noise, encoded once more


def _readable(tar: Path, places: list[Any]) -> list[tuple[str, dict[str, bytes]]]:
    from pics_data.tar_read import read_range

    with tar.open("rb") as file:
        return [read_range(file, place.start, place.num_bytes) for place in places if place.url == str(tar)]


def test_the_same_shards_give_the_same_page(built: Path, tmp_path: Path) -> None:
    assert page_of(built, tmp_path / "a") == page_of(built, tmp_path / "b")


def test_a_mixture_shows_each_source_and_what_training_sees(mixed: Path, tmp_path: Path) -> None:
    html = page_of(mixed, tmp_path, max_samples=6)
    assert Counter(key.partition("-")[0] for key in shown(html)) == Counter({"coco": 3, "scenes": 3})
    counts = Counter(read_tables(str(mixed))["source"].to_pylist())
    whole = counts["coco"] + 6 * counts["scenes"]
    text = told(html)
    assert f"coco {counts['coco']} 0 1 {round(100 * counts['coco'] / whole)} %" in text
    assert f"scenes {counts['scenes']} 0 6 {round(600 * counts['scenes'] / whole)} %" in text
    assert "no sample is kept for validation" in text


def test_weights_are_known_before_the_build_has_ended(mixed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(mixed, tmp_path / "copy"))
    (copy / "index.json").unlink()
    found = read_folder(str(copy), 2)
    assert found.weights() == {"coco": 1.0, "scenes": 6.0}
    assert "has not ended yet" in told(page_of(copy, tmp_path))


def test_a_shard_without_a_mark_is_not_counted(copy: Path, tmp_path: Path) -> None:
    whole = read_tables(str(copy)).num_rows
    lost = pq.read_table(copy / "parts" / "train-000000.parquet").num_rows
    (copy / "parts" / "train-000000.json").unlink()
    assert read_folder(str(copy), 2).num_samples == whole - lost
    assert "1 tars have no table of samples or no mark" in told(page_of(copy, tmp_path))


def published(folder: Path, num_tars: int) -> Path:
    """Tars in the published form: RGB cut-outs, 8-bit masks, no metadata, no index."""
    from pics_data.shards import tar_member

    rng = np.random.default_rng(0)
    folder.mkdir()
    for n in range(num_tars):
        with (folder / f"LVIS_{n:03d}.tar").open("wb") as file:
            for key in range(5):
                photo = Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
                members = {"bg.jpg": photo}
                for i, left in enumerate((5, 25)):
                    mask = np.zeros((40, 60), np.uint8)
                    mask[10:30, left : left + 20] = 255
                    members |= {f"obj{i}.png": photo.resize((224, 224)), f"mask{i}.png": Image.fromarray(mask)}
                for name, picture in members.items():
                    data = io.BytesIO()
                    picture.save(data, "JPEG" if name.endswith("jpg") else "PNG")
                    file.write(tar_member(f"{n:06d}{key}.{name}", data.getvalue()))
            file.write(bytes(1024))
    return folder


def test_published_shards_are_measured_from_a_part_of_them(tmp_path: Path) -> None:
    html = page_of(published(tmp_path / "published", 20), tmp_path, max_samples=3)
    text = told(html)
    assert "about 100" in text
    assert "60 samples, spread over 12 of 20 tars, were read in its place" in text
    assert "Not known: how many photos there are and what was rejected; what the objects are" in text
    assert "no metadata" in text
    assert "cannot be shown" not in html
    assert len(shown(html)) == 3
    survey = read_folder(str(tmp_path / "published"), 0).survey
    assert set(survey.values("area")) == {round(20 * 20 / 2400, 6)}
    assert set(survey.values("contact_px")) == {20.0}
    assert not survey.counted("category")


def test_tars_alone_tell_what_their_metadata_says(built: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for tar in built.glob("*.tar"):
        shutil.copy(tar, bare)
    known, read = read_folder(str(built), 3), read_folder(str(bare), 3)
    assert read.num_samples == known.num_samples
    assert not read.estimated
    for name in ("area", "border", "edge", "box_iou", "widest_gap", "contact_px", "num_bytes"):
        assert read.survey.values(name).tolist() == known.survey.values(name).tolist(), name
    assert read.survey.counts == known.survey.counts
    assert "cannot be shown" not in page_of(bare, tmp_path)


def test_without_tables_what_was_built_is_measured_alike(built: Path) -> None:
    """The measures of samples without metadata are those that a build writes."""
    from pics_data.inspect_bare import measured_meta

    for key, members in read_samples(built / "train-000000.tar"):
        meta = json.loads(members["meta.json"])
        found = measured_meta(decode_view(key, members), "train")
        for name in ("area", "parts", "holes", "border", "edge"):
            assert [item[name] for item in found["objects"]] == [item[name] for item in meta["objects"]], name
        for name in ("objects", "box_iou", "gap_px", "contact_px", "overlap_px"):
            assert [item[name] for item in found["relations"]] == [item[name] for item in meta["relations"]], name


def test_a_sample_that_cannot_be_shown_leaves_the_others(copy: Path, tmp_path: Path) -> None:
    found = read_folder(str(copy), 3)
    place = found.survey.chosen[0]
    tar = Path(place.url)
    data = bytearray(tar.read_bytes())
    data[place.start + 512 : place.start + 700] = bytes(188)  # of bg.jpg
    tar.write_bytes(data)
    html = page_of(copy, tmp_path, max_samples=3)
    assert "cannot be shown: bg.jpg: does not decode" in told(html)
    assert len(shown(html)) == 2
    tar.unlink()
    assert "1 tars" not in told(page_of(copy, tmp_path, max_samples=3))


def test_text_from_data_is_never_markup(copy: Path, tmp_path: Path) -> None:
    rejects = pq.read_table(copy / "rejects.parquet")
    rows = [{"key": "<b>", "stage": "<i>", "reason": "<script>alert(1)</script>", "detail": "<img src=x>"}]
    pq.write_table(pa.Table.from_pylist(rows, schema=rejects.schema), copy / "rejects.parquet")
    html = page_of(copy, tmp_path)
    assert "<script" not in html
    assert "<img src=x>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_folders_that_cannot_be_used_are_named(copy: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = [
        (tmp_path / "missing", "missing does not exist"),
        (copy / "index.json", "is a file"),
        (empty, r"holds no \*\.tar"),
    ]
    for folder, message in cases:
        with pytest.raises(UserError, match=message):
            page_of(folder, tmp_path)
    (empty / "train-000000.tar").write_bytes(bytes(1024))
    with pytest.raises(UserError, match="hold no sample"):
        page_of(empty, tmp_path)
    for name in ("index.json", "rejects.parquet", "parts/train-000000.parquet"):
        broken = Path(shutil.copytree(copy, tmp_path / name.replace("/", "-")))
        (broken / name).write_bytes(b"{")
        with pytest.raises(UserError, match=re.escape(name)):
            page_of(broken, tmp_path)


def test_index_and_folder_that_differ_are_told(copy: Path, tmp_path: Path) -> None:
    (copy / "train-000001.tar").rename(copy / "train-000077.tar")
    text = told(page_of(copy, tmp_path))
    assert "train-000001.tar stands in index.json and is not in the folder." in text
    assert "train-000077.tar is in the folder and not in index.json." in text


def test_licences_are_named_as_people_name_them() -> None:
    assert licence_in_short("http://creativecommons.org/licenses/by-nc-sa/2.0/") == "CC BY-NC-SA 2.0"
    assert licence_in_short("https://www.usa.gov/copyright.shtml") == "usa.gov/copyright.shtml"
    assert licence_in_short("CC0-1.0") == "CC0-1.0"
    assert licence_in_short("") == ""


def drawn_view(masks: list[tuple[slice, slice]]) -> View:
    pixels = []
    for place in masks:
        mask = np.zeros((48, 64), bool)
        mask[place] = True
        pixels.append(mask)
    return View("a", np.zeros((48, 64, 3), np.uint8), pixels, [], [], [], [], [], None, {}, [])


def test_the_overlay_lies_on_the_objects_with_stripes_where_they_overlap_and_nowhere_else() -> None:
    overlay = draw_overlay(drawn_view([np.s_[8:32, 8:36], np.s_[12:40, 28:60]]), (128, 96))
    assert tuple(overlay[40, 30, :3]) == COLOURS[0]
    assert tuple(overlay[60, 100, :3]) == COLOURS[1]
    assert 0 < overlay[40, 30, 3] < 255
    both = overlay[30:60, 60:70]
    assert {tuple(colour) for colour in both[..., :3].reshape(-1, 3)} == {COLOURS[0], COLOURS[1]}
    far = np.ones((96, 128), bool)
    far[14:82, 14:122] = False
    assert not overlay[far].any()


def test_shards_in_a_store_are_shown(mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("moto", reason="moto is not installed: pip install 'pics-compositing[dev]'")
    with object_store("shards") as store:
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        put_folder(mixed, "s3://shards/mixed")
        there, here = page_of("s3://shards/mixed", tmp_path, max_samples=3), page_of(mixed, tmp_path, max_samples=3)
        assert told(there).replace("Shards: mixed", "") == told(here).replace("Shards: shards", "").replace(
            str(mixed), "s3://shards/mixed"
        )
        assert shown(there) == shown(here)


def test_real_photos(tmp_path: Path, shared_data: Path) -> None:
    """Built from real photos, every sample's numbers reach the page, and pictures are shown."""
    coco = shared_data / "coco_mini"
    config = BuildConfig(
        source="coco", images=(str(coco / "val2017"),), out=str(tmp_path / "shards"), limit=20,
        annotations=(str(coco / "annotations" / "instances_val2017.json"),),
    )  # fmt: skip
    assert members_of(config)
    plan = build_plainly(config)
    assert read_folder(config.out, 4).num_samples == plan.num_samples
    html = page_of(config.out, tmp_path, max_samples=4)
    assert len(shown(html)) == min(4, plan.num_samples)
    assert "cannot be shown" not in html
