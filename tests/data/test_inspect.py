"""`pics-data inspect`: what it reads, what it shows, and what it says of damage."""

import base64
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from pics_common.errors import UserError
from pics_data.inspect import inspect_shards
from pics_data.inspect_measure import measure_bare, quality_flags, spread
from pics_data.inspect_pictures import COLOURS, decode_view, draw_overlay
from pics_data.inspect_read import read_members, survey_folder, tar_members
from pics_data.measure import contact_and_gap, measure_quality

SIZE = (48, 64)  # height, width of the toy photos
Boxes = Sequence[tuple[int, int, int, int]]
BOXES: Boxes = ((8, 10, 20, 24), (28, 14, 24, 20))  # x, y, width, height; side by side, touching


def encode(picture: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def sample(key: str, boxes: Boxes = BOXES, *, meta: bool = True, photo: str = "", **changes: Any) -> dict[str, bytes]:
    """A sample's members by full name; silhouettes are boxes. `changes` go into the metadata of the first object."""
    height, width = SIZE
    photo_picture = Image.new("RGB", (width, height), (120, 130, 140))
    members, objects, masks = {}, [], []
    for i, (x, y, w, h) in enumerate(boxes):
        ImageDraw.Draw(photo_picture).rectangle((x, y, x + w - 1, y + h - 1), fill=(200 - 150 * i, 60, 40 + 100 * i))
        mask = np.zeros(SIZE, bool)
        mask[y : y + h, x : x + w] = True
        masks.append(mask)
        members[f"{key}.obj{i}.png"] = encode(Image.new("RGBA", (32, 32), (200, 60, 40, 255)))
        kind = "1" if meta else "L"  # the published shards hold 8-bit masks
        members[f"{key}.mask{i}.png"] = encode(Image.fromarray(mask).convert(kind))
    jpeg = encode(photo_picture, "JPEG")
    rgb = np.asarray(Image.open(io.BytesIO(jpeg)))
    for i, (box, mask) in enumerate(zip(boxes, masks, strict=True)):
        quality = measure_quality(rgb, mask)
        measured = {name: getattr(quality, name) for name in ("area", "parts", "holes", "border", "edge")}
        more = changes if i == 0 else {}
        objects.append({"id": str(i), "category": f"cat{i}", "box": box, "crop": [0, 0, 9], **measured, **more})
    contact, gap = contact_and_gap(masks[0], masks[1])
    relation = {"box_iou": 0.1, "gap_px": gap, "contact_px": contact, "front": 0, "label": "beside"}
    described = {
        "schema": 1, "source": "toy", "split": "train", "size": list(SIZE), "objects": objects, "relation": relation,
        "photo": {"id": photo or key, "file_name": "a.jpg", "width": width, "height": height, "license": "CC0",
                  "url": ""},
        "seed": 1,
    }  # fmt: skip
    members[f"{key}.bg.jpg"] = jpeg
    if meta:
        members[f"{key}.meta.json"] = json.dumps(described).encode()
    return members


def write_tar(path: Path, samples: Sequence[dict[str, bytes]], tar_format: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as tar:
        for members in samples:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(data), 1234.5678  # in pax a fraction makes an extended header
                tar.addfile(info, io.BytesIO(data))
    return path


def page_of(folder: Path, **options: Any) -> str:
    return inspect_shards(folder, folder / "page.html", **options).read_text()


def told(html: str) -> str:
    """The page's text, without tags and pictures."""
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL))


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.text("abcß/-_.", min_size=1, max_size=200), st.integers(0, 1500)), max_size=8),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_tars_read_like_pythons_tarfile(members: list[tuple[str, int]], tar_format: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, size in members:
            info = tarfile.TarInfo(f"k{name}x")
            info.size, info.mtime = size, 0.25
            tar.addfile(info, io.BytesIO(bytes(size)))
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        wanted = [(member.name, member.offset_data, member.size) for member in tar]
    assert list(tar_members(io.BytesIO(buffer.getvalue()), SizeOnly(len(buffer.getvalue())))) == wanted


class SizeOnly:
    """Stands for a path where only the file's size is asked."""

    def __init__(self, size: int) -> None:
        self.st_size = size

    def stat(self) -> "SizeOnly":
        return self


def test_links_and_folders_are_no_samples_and_are_counted(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "train-000000.tar", [sample("a")])
    with tarfile.open(path, "a") as tar:
        for name, kind in (("folder", tarfile.DIRTYPE), ("b.bg.jpg", tarfile.SYMTYPE), ("c.bg.jpg", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
    survey = survey_folder(tmp_path)
    assert survey.keys == ["a"]
    assert survey.strangers == Counter({"1": 1, "2": 1})
    assert "2 of tar type" not in told(page_of(tmp_path))
    assert "1 of tar type '2'" in told(page_of(tmp_path)).replace("&#x27;", "'")


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_every_sample_is_counted_and_found_again(tmp_path: Path, tar_format: int) -> None:
    # A name of more than 100 characters stands in a member of its own before the sample's first.
    long = "" if tar_format == tarfile.USTAR_FORMAT else "-long" * 30
    samples = [sample(f"key-{i}{long}", photo=f"photo-{i // 2}") for i in range(7)]
    write_tar(tmp_path / "train-000000.tar", samples[:4], tar_format)
    write_tar(tmp_path / "val-000000.tar", samples[4:], tar_format)
    survey = survey_folder(tmp_path)
    assert survey.keys == [f"key-{i}{long}" for i in range(7)]
    assert [(shard.split, shard.num_samples) for shard in survey.shards] == [("train", 4), ("val", 3)]
    assert len(survey.photos) == 4
    assert survey.counts["category"] == Counter({"cat0": 7, "cat1": 7})
    assert survey.counts["pair"] == Counter({"cat0 + cat1": 7})
    assert len(survey.objects["area"]) == 14
    assert survey.num_without_meta == 0
    for i, members in enumerate(samples):
        assert {f"key-{i}{long}.{name}": data for name, data in read_members(survey, i).items()} == members


def test_pictures_are_not_read(tmp_path: Path) -> None:
    """A member of 9 GiB, all of it a hole in the file: only its header may cost time. Its size is no octal number."""
    first = write_tar(tmp_path / "first.tar", [sample("a")]).read_bytes().rstrip(b"\0")
    first += bytes(-len(first) % 512)
    huge = tarfile.TarInfo("b.bg.jpg")
    huge.size = 9 << 30
    with (tmp_path / "train-000000.tar").open("wb") as file:
        file.write(first + huge.tobuf(tarfile.GNU_FORMAT))
        file.seek(huge.size, 1)
        file.write(write_tar(tmp_path / "last.tar", [sample("c")]).read_bytes())
    (tmp_path / "first.tar").unlink()
    (tmp_path / "last.tar").unlink()
    assert survey_folder(tmp_path).keys == ["a", "b", "c"]


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1))
def test_a_tar_that_is_cut_off_is_named(tmp_path_factory: pytest.TempPathFactory, where: float) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = write_tar(folder / "train-000000.tar", [sample("a"), sample("b")])
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512  # where the end mark begins
    path.write_bytes(whole[: int(where * end)])
    with pytest.raises(UserError, match=r"shard .*train-000000\.tar: cut off"):
        survey_folder(folder)


def test_a_damaged_header_is_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "train-000000.tar", [sample("a")])
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"train-000000\.tar: not a tar header at byte 0"):
        survey_folder(tmp_path)
    path.write_bytes(b"\xff\xd8" * 1000)
    with pytest.raises(UserError, match="not a tar header at byte 0"):
        survey_folder(tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_anywhere_is_a_clear_error_or_a_page(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    path = write_tar(folder / "train-000000.tar", [sample("a"), sample("b", meta=False)], tarfile.PAX_FORMAT)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole.rstrip(b"\0"))))
        whole[at] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    with suppress(UserError):
        page_of(folder)


def test_a_size_below_zero_does_not_lead_round_in_circles(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.bg.jpg")
    info.pax_headers = {"size": "-1536"}
    (tmp_path / "train-000000.tar").write_bytes(info.tobuf(tarfile.PAX_FORMAT) + bytes(1024))
    with pytest.raises(UserError, match="not a tar header"):
        survey_folder(tmp_path)


def test_folders_without_shards(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing does not exist"):
        inspect_shards(tmp_path / "missing", tmp_path / "page.html")
    with pytest.raises(UserError, match=r"no \*\.tar in it"):
        inspect_shards(tmp_path, tmp_path / "page.html")
    write_tar(tmp_path / "train-000000.tar", [])
    with pytest.raises(UserError, match="hold no sample"):
        inspect_shards(tmp_path, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("meta", "told_of"),
    [
        (b"{", "unexpected end"),
        (b"[]", "has no attribute"),
        (b'{"source": "s", "split": "train"}', "lacks 'size'"),
        (re.sub(rb'"size": \[[^]]*\]', b'"size": [0, 0]', sample("b")["b.meta.json"]), "division by zero"),
        (sample("b")["b.meta.json"].replace(b'"area": 0.', b'"area": 5.'), "says objects: area 5."),
    ],
)
def test_metadata_that_cannot_be_used_is_named(tmp_path: Path, meta: bytes, told_of: str) -> None:
    write_tar(tmp_path / "train-000000.tar", [sample("a"), {**sample("b"), "b.meta.json": meta}])
    with pytest.raises(UserError, match=rf"train-000000\.tar: b\.meta\.json .*{re.escape(told_of)}"):
        survey_folder(tmp_path)


def test_the_page_answers_what_is_in_the_shards(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-000000.tar", [sample(f"k{i}") for i in range(5)])
    write_tar(tmp_path / "val-000000.tar", [sample("k5", category="<script>alert(1)</script>")])
    rows = [("x1", "decompose", "empty mask", "<i>"), ("x2", "decompose", "empty mask", ""), ("x3", "plan", "lost", "")]
    names = ("key", "stage", "reason", "detail")
    pq.write_table(pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows]),
                   tmp_path / "rejects.parquet")  # fmt: skip
    html = page_of(tmp_path, max_samples=3)
    text = told(html)
    assert "3 of 6, evenly spread" in text
    assert [key for key in (f"k{i}" for i in range(6)) if f"photo of sample {key}:" in html] == ["k1", "k3", "k5"]
    assert "100 % of the samples bear none of the flags" in text
    assert "3 of 9 were left out when building (33 %)" in text
    assert re.search(r"empty mask decompose 2 22 % x1 : &lt;i&gt; x2", text)
    assert "touching along 21 px" in text
    assert "1 in front" in text
    assert "index.json is missing" in text
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert not re.search(r'(src|href)="(?!data:image/|#)', html)


def test_index_and_folder_that_differ(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-000000.tar", [sample("a")])
    write_tar(tmp_path / "train-000002.tar", [sample("b")])
    shards = [{"url": f"train-00000{i}.tar", "nsamples": i + 2, "split": "train"} for i in range(2)]
    (tmp_path / "index.json").write_text(json.dumps({"shardlist": shards}))
    text = told(page_of(tmp_path))
    assert "train-000001.tar stands in index.json and is not in the folder." in text
    assert "train-000002.tar is in the folder and not in index.json." in text
    assert "train-000000.tar holds 1 samples, index.json says 2." in text
    (tmp_path / "index.json").write_text('{"shardlist": 3}')
    with pytest.raises(UserError, match=r"index\.json: not a shard index"):
        page_of(tmp_path)


def test_published_shards_are_measured_from_their_masks(tmp_path: Path) -> None:
    write_tar(tmp_path / "with" / "0.tar", [sample("a"), sample("b", ((0, 0, 10, 10), (30, 20, 20, 20)))])
    bare = [sample("a", meta=False), sample("b", ((0, 0, 10, 10), (30, 20, 20, 20)), meta=False)]
    write_tar(tmp_path / "bare" / "0.tar", bare)
    known, measured = survey_folder(tmp_path / "with"), survey_folder(tmp_path / "bare")
    assert measured.num_without_meta == 2
    assert measure_bare(known) == 0
    assert measure_bare(measured) == 2
    for name in ("index", "area", "parts", "holes", "border", "edge"):
        assert np.allclose(known.objects[name], measured.objects[name]), name
    for name in ("index", "gap_px", "gap_share", "contact_px", "num_objects"):
        assert np.allclose(known.samples[name], measured.samples[name]), name
    text = told(page_of(tmp_path / "bare"))
    assert "2 of 2 samples carry no meta.json; 2 of them, spread evenly, were measured" in text
    assert "no metadata" in text


def test_a_sample_that_cannot_be_shown_leaves_the_others(tmp_path: Path) -> None:
    broken = [
        {**sample("b1"), "b1.bg.jpg": b"\xff\xd8\xff no picture"},
        {**sample("b2"), "b2.mask1.png": encode(Image.new("1", (5, 5), 1))},
        {name: data for name, data in sample("b3").items() if name != "b3.obj0.png"},
        {name: data for name, data in sample("b4", meta=False).items() if "mask" not in name},
    ]
    write_tar(tmp_path / "train-000000.tar", [sample("good"), *broken])
    text = told(page_of(tmp_path))
    assert "bg.jpg cannot be decoded" in text
    assert "mask1.png has 5 x 5 pixels, bg.jpg 64 x 48" in text
    assert "obj0.png is missing" in text
    assert "b4 cannot be measured: no mask0.png" in text
    assert "1 cat0" in text


def test_samples_without_objects_pixels_and_with_many_objects(tmp_path: Path) -> None:
    empty = sample("e", meta=False)
    empty["e.mask0.png"] = encode(Image.new("L", SIZE[::-1], 0))
    many = sample("m", ((0, 0, 9, 9), (9, 0, 9, 9), (18, 0, 9, 9), (27, 0, 9, 9), (36, 0, 9, 9)))
    write_tar(tmp_path / "train-000000.tar", [empty, many])
    text = told(page_of(tmp_path))
    assert "5 cat4" in text
    assert "1 empty silhouettes are left out" in text


def test_flags_name_the_right_samples(tmp_path: Path) -> None:
    samples = [
        sample("fine"),
        sample("tiny", area=0.005),
        sample("pieces", parts=9, holes=7),
        sample("cut", border=0.4),
        sample("soft", edge=0.001),
        sample("hidden", hidden=0.9),
        sample("apart", ((0, 0, 10, 10), (40, 20, 20, 20))),
    ]
    write_tar(tmp_path / "train-000000.tar", samples)
    survey = survey_folder(tmp_path)
    found = {flag.name: [survey.keys[int(i)] for i in flag.samples] for flag in quality_flags(survey)}
    assert found == {
        "tiny object": ["tiny"], "in pieces": ["pieces"], "riddled": ["pieces"], "cut off": ["cut", "apart"],
        "soft outline": ["soft"], "mostly hidden": ["hidden"], "far apart": ["apart"],
    }  # fmt: skip
    assert {flag.name: flag.whole for flag in quality_flags(survey)}["mostly hidden"] == 1
    text = told(page_of(tmp_path))
    for words in ("9 parts", "40 % of an outline", "0.50 % of the photo", "gradient 0.001", "90 % hidden"):
        assert words in text


def test_the_overlay_lies_on_the_objects_and_nowhere_else(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-000000.tar", [sample("a")])
    view = decode_view("a", read_members(survey_folder(tmp_path), 0))
    overlay = draw_overlay(view, (128, 96))
    inside, other = overlay[44, 36], overlay[48, 80]  # the middles of the boxes, twice as large
    assert tuple(inside[:3]) == COLOURS[0]
    assert tuple(other[:3]) == COLOURS[1]
    assert 0 < inside[3] < 255
    far = np.ones((96, 128), bool)
    far[18:70, 14:108] = False
    assert not overlay[far].any()


def test_pictures_on_the_page_are_the_samples(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-000000.tar", [sample("a")])
    sources = re.findall(r'<img src="data:image/jpeg;base64,([^"]*)" alt="photo of sample a', page_of(tmp_path))
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(sources[0]))))
    wanted = decode_view("a", read_members(survey_folder(tmp_path), 0)).rgb
    assert shown.shape == wanted.shape
    assert np.abs(shown.astype(int) - wanted).mean() < 3


@given(st.integers(0, 500), st.integers(0, 60))
def test_samples_are_spread_evenly(total: int, count: int) -> None:
    chosen = spread(total, count)
    assert len(chosen) == min(total, count)
    assert chosen == sorted(set(chosen))
    assert all(0 <= index < total for index in chosen)
    gaps = np.diff([-1 - (chosen[0] if chosen else 0), *chosen])[1:]
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


def test_real_photos(tmp_path: Path, shared_data: Path) -> None:
    """Built from real photos, every sample's silhouettes and numbers reach the page."""
    from pics_data.config import BuildConfig
    from pics_data.decompose import decompose_all
    from pics_data.plan import make_plan, read_shard_plan, write_plan
    from pics_data.shards import write_shard
    from pics_data.sources import coco

    coco_mini = shared_data / "coco_mini"
    images, annotations = (coco_mini / "val2017",), (coco_mini / "annotations" / "instances_val2017.json",)
    config = BuildConfig(source="coco", images=images, annotations=annotations, out=tmp_path, limit=20)
    plan = make_plan(coco.photos(images, annotations), config)
    write_plan(plan, tmp_path / "plan.parquet")
    for number, shard in enumerate(plan.shards):
        (tmp_path / "parts").mkdir(exist_ok=True)
        write_shard(tmp_path, shard, decompose_all(read_shard_plan(tmp_path / "plan.parquet", number), config))
    survey = survey_folder(tmp_path)
    assert sorted(survey.keys) == sorted(plan.table["key"].to_pylist())
    html = page_of(tmp_path, max_samples=4)
    assert html.count('class="sample"') == min(4, len(survey.keys))
    assert "cannot be shown" not in html
