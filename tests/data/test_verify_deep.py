"""`verify --deep`: forgeries that agree with all papers, and are no longer what photo and annotation say."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pics_data import codecs
from pics_data.config import BuildConfig
from pics_data.cutout import on_white, premultiply
from pics_data.verify import DamagedError, verify
from pics_data.verify_cutouts import check_cutouts, differences
from pics_data.verify_sample import Opened
from tests.data.photos_for_tests import HEIGHT, WIDTH, DrawnSet, draw_set
from tests.data.plain_build import build_plainly
from tests.data.shards_for_tests import Members, forge

SHARD = "train-000000"
Samples = list[tuple[str, Members]]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> DrawnSet:
    return draw_set(tmp_path_factory.mktemp("drawn"), num_photos=8)


@pytest.fixture(scope="module")
def built(drawn: DrawnSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of drawn photos, not to be changed."""
    folder = tmp_path_factory.mktemp("built") / "shards"
    build_plainly(drawn.config(folder, shard_samples=8, val_fraction=0.0, pairs_per_photo=2))
    return folder


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))


def damages_of(folder: Path) -> str:
    with pytest.raises(DamagedError) as error:
        verify(str(folder), deep=True, workers=1, tell=lambda _: None)
    return "\n".join(error.value.damages)


def mask_of(members: Members, i: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(members[f"mask{i}.png"])))


def swap(names: tuple[str, ...]) -> Callable[[Samples], None]:
    """Swaps members between the first sample and one of another photo."""

    def change(samples: Samples) -> None:
        first = samples[0][1]
        photo = orjson.loads(first["meta.json"])["photo"]["id"]
        other = next(m for _, m in samples if orjson.loads(m["meta.json"])["photo"]["id"] != photo)
        for name in names:
            first[name], other[name] = other[name], first[name]

    return change


def swap_cutouts_within(samples: Samples) -> None:
    members = samples[0][1]
    members["obj0.png"], members["obj1.png"] = members["obj1.png"], members["obj0.png"]


def shift_mask(samples: Samples) -> None:
    mask = np.roll(mask_of(samples[0][1], 0), 3, axis=1)
    samples[0][1]["mask0.png"] = codecs.mask_png(mask)


def shift_mask_and_cutout(samples: Samples) -> None:
    """As consistent in itself as a build from a shifted annotation would be."""
    members = samples[0][1]
    shift_mask(samples)
    meta = orjson.loads(members["meta.json"])
    x, y, side = (int(v) for v in meta["objects"][0]["crop"])
    rgb = np.asarray(Image.open(io.BytesIO(members["bg.jpg"])))
    square = premultiply(rgb, mask_of(members, 0), (x + 3, y, side))
    members["obj0.png"] = codecs.png(on_white(square, 224))
    meta["objects"][0]["crop"] = [x + 3, y, side]
    members["meta.json"] = orjson.dumps(meta)


def another_photo(samples: Samples) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    samples[0][1]["bg.jpg"] = codecs.jpeg(noise)


def encoded_again(samples: Samples) -> None:
    rgb = np.asarray(Image.open(io.BytesIO(samples[0][1]["bg.jpg"])))
    samples[0][1]["bg.jpg"] = codecs.jpeg(rgb)


def of_another_object(samples: Samples) -> None:
    meta = orjson.loads(samples[0][1]["meta.json"])
    meta["objects"][0]["category"] = "zebra"
    samples[0][1]["meta.json"] = orjson.dumps(meta)


FORGERIES: dict[str, tuple[Callable[[Samples], None], str]] = {
    "masks swapped between two samples": (swap(("mask0.png", "mask1.png")), "pixels differ from annotation"),
    "one mask swapped": (swap(("mask1.png",)), "mask1.png: "),
    "masks and cut-outs swapped": (swap(("mask0.png", "mask1.png", "obj0.png", "obj1.png")), "differ from annotation"),
    "photos swapped": (swap(("bg.jpg",)), "bg.jpg: not the bytes of photo"),
    "another photo of the same size": (another_photo, "bg.jpg: not the bytes of photo"),
    "the photo encoded again": (encoded_again, "bg.jpg: not the bytes of photo"),
    "cut-outs swapped between two samples": (swap(("obj0.png", "obj1.png")), "obj0.png: "),
    "cut-outs swapped within a sample": (swap_cutouts_within, "obj0.png: "),
    "a mask shifted by 3 px": (shift_mask, "mask0.png: "),
    "mask and cut-out shifted by 3 px": (shift_mask_and_cutout, "pixels differ from annotation"),
    "another category": (of_another_object, "`objects`"),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forgery_that_agrees_with_all_papers_is_named(copy: Path, kind: str) -> None:
    change, message = FORGERIES[kind]
    forge(copy, SHARD, change)
    verify(str(copy), workers=1)  # nothing to be seen from outside
    told = damages_of(copy)
    assert message in told
    assert f"{SHARD}.tar: coco-" in told


# Without the annotation, a cut-out and its mask that are shifted together look right; so do other bytes of one photo.
BEYOND_A_SAMPLE = ("mask and cut-out shifted by 3 px", "the photo encoded again", "another category")


@pytest.mark.parametrize("kind", [kind for kind in FORGERIES if kind not in BEYOND_A_SAMPLE])
def test_parts_that_do_not_belong_together_are_noticed_without_plan_and_photos(copy: Path, kind: str) -> None:
    forge(copy, SHARD, FORGERIES[kind][0])
    for name in ("recipe.json", "rejects.parquet"):
        (copy / name).unlink()
    shutil.rmtree(copy / "plan")
    shutil.rmtree(copy / "parts")
    told = damages_of(copy)
    assert "its colours are not" in told or "its outline is" in told


def test_the_whole_build_passes_and_says_what_was_compared(built: Path) -> None:
    assert "compared: 32 cut-outs, 32 masks, 8 photos" in verify(str(built), deep=True, workers=1)


def test_photos_that_are_gone_are_counted_and_masks_compared_all_the_same(drawn: DrawnSet, tmp_path: Path) -> None:
    images = Path(shutil.copytree(drawn.images, tmp_path / "photos"))
    moved = DrawnSet(images, drawn.annotations, drawn.document)
    build_plainly(moved.config(tmp_path / "shards", shard_samples=8, val_fraction=0.0))
    moved.photo(3).unlink()
    told = verify(str(tmp_path / "shards"), deep=True, workers=1)
    assert "compared: 16 cut-outs, 16 masks, 7 photos; not compared: 1 photos not reached" in told
    forge(tmp_path / "shards", SHARD, swap(("mask0.png", "obj0.png")))
    assert "pixels differ from annotation" in damages_of(tmp_path / "shards")


@pytest.mark.parametrize("settings", [{"size": 48}, {"object_size": 16}, {"size": 64, "objects": 3}])
def test_photos_made_smaller_pass_and_forgeries_of_them_do_not(
    drawn: DrawnSet, tmp_path: Path, settings: dict[str, int]
) -> None:
    folder = tmp_path / "shards"
    build_plainly(drawn.config(folder, shard_samples=8, val_fraction=0.0, **settings))
    assert "8 photos" in verify(str(folder), deep=True, workers=1)
    forge(folder, SHARD, swap(("bg.jpg",)))
    assert "bg.jpg: " in damages_of(folder)


def test_a_source_that_had_to_be_encoded_is_compared_by_its_pixels(drawn: DrawnSet, tmp_path: Path) -> None:
    images = tmp_path / "photos"
    images.mkdir()
    for path in drawn.images.iterdir():  # PNG under the names of JPEG, which a build takes
        Image.open(path).save(images / path.name, "PNG")
    build_plainly(DrawnSet(images, drawn.annotations, drawn.document).config(tmp_path / "shards", val_fraction=0.0))
    shards = str(tmp_path / "shards")
    assert "8 photos" in verify(shards, deep=True, workers=1)
    first = sorted((tmp_path / "shards").glob("*.tar"))[0].stem
    forge(tmp_path / "shards", first, another_photo)
    assert "bg.jpg: does not show photo" in damages_of(tmp_path / "shards")


def test_scenes_are_rendered_again(tmp_path: Path) -> None:
    config = BuildConfig(out=str(tmp_path / "shards"), num_scenes=4, scene_size=96, object_size=48, val_fraction=0.0)
    build_plainly(config)
    told = verify(config.out, deep=True, workers=1)
    assert "compared: 8 cut-outs, 16 masks, 4 photos" in told
    forge(tmp_path / "shards", SHARD, swap(("amodal0.png",)))
    assert "amodal0.png: " in damages_of(tmp_path / "shards")


def blob(rng: np.random.Generator) -> np.ndarray:
    """A silhouette [120, 160] of a few joined ellipses."""
    mask = np.zeros((120, 160), np.uint8)
    for _ in range(3):
        centre = (int(rng.integers(50, 110)), int(rng.integers(40, 80)))
        cv2.ellipse(mask, centre, (int(rng.integers(12, 40)), int(rng.integers(12, 30))), 0, 0, 360, 1, -1)
    return mask.view(np.bool_)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(16, 224), st.integers(3, 12), st.booleans())
def test_a_cut_out_fits_its_place_and_no_other(seed: int, object_size: int, shift: int, down: bool) -> None:
    rng = np.random.default_rng(seed)
    rgb = cv2.resize(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
    mask = blob(rng)
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    side = round(max(w, h) * rng.uniform(1.1, 1.4))
    crop = (round(x + (w - side) / 2), round(y + (h - side) / 2), side)
    cutout = on_white(premultiply(rgb, mask, crop), object_size)
    meta = {"photo": {"height": 120, "width": 160}, "objects": [{"crop": list(crop)}]}

    def sample(shown_mask: np.ndarray) -> Opened:
        pictures = {"bg.jpg": rgb, "mask0.png": shown_mask, "obj0.png": cutout}
        return Opened("a", {"mask0.png": b""}, pictures, meta)

    assert check_cutouts(sample(mask)) == 1
    off, _ = differences(sample(np.roll(mask, shift, axis=0 if down else 1)), 0)
    assert off > 0.3
