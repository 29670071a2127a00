"""Jobs: every layout is found, every bad job is one named error, and object pictures of any kind get their alpha."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pics_common.errors import UserError
from pics_model.inputs import FramingSettings, compose
from pics_model.jobs import Job, JobError, load_job, read_jobs
from pics_model.pictures import alpha_from_white, read_mask, read_object, read_photo
from tests.model.shards_for_tests import encode, make_scene, write_shards

WHITE_BALL = np.full((40, 60, 3), 255, np.uint8)
WHITE_BALL[10:30, 20:40] = (120, 30, 30)
WHITE_BALL[15:25, 25:35] = 255  # a white part inside


def write_job(folder: Path, seed: int = 0, num_objects: int = 2, photo: str = "image.jpg") -> Path:
    folder.mkdir(parents=True)
    picture, masks, _ = make_scene(seed, num_objects=num_objects)
    Image.fromarray(picture).save(folder / photo)
    for k, mask in enumerate(masks):
        (folder / f"object_{k}.png").write_bytes(encode(WHITE_BALL, "PNG"))
        (folder / f"object_{k}_mask.png").write_bytes(encode(mask.astype(np.uint8) * 255, "PNG"))
    return folder


def only(path: Path) -> Job:
    (job,) = read_jobs(path)
    return job


# --- layouts ---


def test_a_folder_of_job_folders(tmp_path) -> None:
    write_job(tmp_path / "tea", photo="image.png")
    write_job(tmp_path / "bread", 1, num_objects=3, photo="image.webp")
    (tmp_path / "notes").mkdir()
    (tmp_path / "README.txt").write_text("nothing")
    jobs = read_jobs(tmp_path)
    assert [job.name for job in jobs] == ["bread", "tea"]
    example = load_job(jobs[0])
    assert len(example.objects) == len(example.masks) == 3
    assert example.photo.shape == (96, 128, 3)
    compose(example, FramingSettings(), None)


def test_one_job_folder(tmp_path) -> None:
    assert only(write_job(tmp_path / "tea")).name == "tea"


def test_more_than_ten_objects_are_in_order(tmp_path) -> None:
    folder = write_job(tmp_path / "many", num_objects=12)
    for k in range(12):
        rectangle = np.zeros((96, 128), np.uint8)
        rectangle[k, : k + 1] = 255
        (folder / f"object_{k}_mask.png").write_bytes(encode(rectangle, "PNG"))
    assert [int(mask.sum()) for mask in load_job(only(folder)).masks] == list(range(1, 13))


def test_lines(tmp_path) -> None:
    write_job(tmp_path / "tea")
    lines = [
        {
            "key": "mug.1",
            "image": "tea/image.jpg",
            "objects": [
                {"image": "tea/object_0.png", "mask": "tea/object_0_mask.png"},
                {"image": str(tmp_path / "tea" / "object_1.png"), "box": [120, -5, 30.4, 20]},
            ],
            "note": "anything",
        },
        {"image": "tea/image.jpg", "objects": [{"image": "tea/object_0.png", "box": [1, 2, 3, 4]}]},
    ]
    file = tmp_path / "jobs.jsonl"
    file.write_text(json.dumps(lines[0]) + "\n\n" + json.dumps(lines[1]) + "\n")
    jobs = read_jobs(file)
    assert [job.name for job in jobs] == ["mug.1", "job-000003"]
    mask = load_job(jobs[0]).masks[1]
    assert mask[:15, 120:].all()
    assert mask.sum() == 15 * 8
    assert load_job(jobs[1]).masks[0].sum() == 12


def test_shards(tmp_path) -> None:
    write_shards(tmp_path, {"train-000000.tar": 2, "val-000000.tar": 1})
    assert [job.name for job in read_jobs(tmp_path)] == ["s000000", "s000001", "s000002"]
    assert [job.name for job in read_jobs(tmp_path, split="val")] == ["s000002"]
    assert load_job(read_jobs(tmp_path / "val-000000.tar")[0]).key == "s000002"


def test_keys_that_two_shards_share(tmp_path) -> None:
    for name in ("a", "b"):
        write_shards(tmp_path, {f"{name}.tar": 1}, index=False)
    assert [job.name for job in read_jobs(tmp_path)] == ["a-s000000", "b-s000000"]


def test_the_published_samples(shared_data) -> None:
    """Each lacks one file, which is named; nothing else is wrong with them."""
    errors = {}
    for job in read_jobs(shared_data / "pics_samples"):
        with pytest.raises(JobError) as caught:
            load_job(job)
        errors[job.name] = str(caught.value)
    assert list(errors) == ["bread_basket", "pen_penholder"]
    assert "bread_basket: no object_0.png; it holds image.jpg" in errors["bread_basket"]
    assert "pen_penholder: no image.jpg; it holds object_0.png" in errors["pen_penholder"]


def test_a_published_sample_made_whole(shared_data, tmp_path) -> None:
    """Its pictures are RGB on white, cut tight, with sizes of their own; its masks are rectangles of the photo's."""
    theirs = shared_data / "pics_samples" / "bread_basket"
    folder = tmp_path / "bread_basket"
    folder.mkdir()
    for file in theirs.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "object_0.png").write_bytes((theirs / "object_1.png").read_bytes())
    example = load_job(only(folder))
    assert example.photo.shape == (640, 640, 3)
    assert example.objects[1].shape == (473, 741, 4)
    assert example.masks[0].sum() == 36640
    assert 0.4 < (example.objects[1][..., 3] == 255).mean() < 0.9


# --- bad jobs: one is reported, the others are done ---


def remove(name: str):
    return lambda folder: (folder / name).unlink()


def put(name: str, data: bytes):
    return lambda folder: (folder / name).write_bytes(data)


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    (folder / "photo.jpg").write_bytes(b"")


BAD_FOLDERS = {
    "no image": (remove("image.jpg"), r"folder .*tea: no image.jpg; it holds object_0.png"),
    "no object": (remove("object_0.png"), r"no object_0.png; it holds"),
    "no last object": (remove("object_1.png"), r"no object_1.png; it holds"),
    "no mask": (remove("object_1_mask.png"), r"no object_1_mask.png"),
    "a gap": (put("object_3.png", b""), r"no object_2.png, no object_2_mask.png, no object_3_mask.png"),
    "a number like a year": (put("object_20000000.png", b""), r"no object_2.png"),
    "two images": (put("image.png", b""), r"both image.jpg and image.png"),
    "wrong names": (empty, r"no image.jpg, no object_0.png, no object_0_mask.png; it holds none"),
    "image is text": (put("image.jpg", b"hello"), r"image.jpg: not a JPEG, PNG or WebP picture"),
    "image is empty": (put("image.jpg", b""), r"image.jpg: not a JPEG, PNG or WebP picture"),
    "image cut off": (put("image.jpg", encode(make_scene(0)[0], "JPEG")[:700]), r"image.jpg: broken picture"),
    "mask of another size": (
        put("object_0_mask.png", encode(np.ones((9, 7), bool), "PNG")),
        r"object_0_mask.png: mask of 7 x 9 pixels, its photo has 128 x 96",
    ),
    "empty mask": (
        put("object_0_mask.png", encode(np.zeros((96, 128), bool), "PNG")),
        r"object_0_mask.png: empty mask",
    ),
    "transparent object": (put("object_0.png", encode(np.zeros((9, 7, 4), np.uint8), "PNG")), r"nothing but transp"),
    "object above the limit": (
        put("object_0.png", encode(np.zeros((10_001, 10_000), bool), "PNG")),
        r"object_0.png: picture of 10000 x 10001 pixels; the limit is 100,000,000",
    ),
    "object far above the limit": (
        put("object_0.png", encode(np.zeros((20_001, 10_000), bool), "PNG")),
        r"object_0.png: picture of 10000 x 20001 pixels; the limit is 100,000,000",
    ),
    "object longer than the limit": (
        put("object_0.png", encode(np.zeros((1, 20_001), bool), "PNG")),
        r"object_0.png: picture of 20001 x 1 pixels; the limit is .*, 20,000 a side",
    ),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_a_bad_job_is_named_and_the_others_load(tmp_path, name) -> None:
    harm, message = BAD_FOLDERS[name]
    harm(write_job(tmp_path / "tea"))
    write_job(tmp_path / "bread")
    bread, tea = read_jobs(tmp_path)
    load_job(bread)
    with pytest.raises(JobError, match=rf"^job tea: .*{message}") as caught:
        load_job(tea)
    assert "\n" not in str(caught.value)


BAD_LINES = {
    "not JSON": ("{", "expected a JSON object"),
    "a list": ("[]", "expected a JSON object"),
    "no image": ('{"objects": []}', "no `image`"),
    "no objects": ('{"image": "a.jpg"}', "no `objects`"),
    "empty objects": ('{"image": "a.jpg", "objects": []}', "no `objects`"),
    "object without image": ('{"image": "a.jpg", "objects": [{"mask": "m.png"}]}', r"objects\[0\] has no `image`"),
    "neither": ('{"image": "a.jpg", "objects": [{"image": "o.png"}]}', "either `mask` or `box`"),
    "both": ('{"image": "a.jpg", "objects": [{"image": "o", "mask": "m", "box": [0, 0, 1, 1]}]}', "either `mask` or"),
    "short box": (
        '{"image": "a.jpg", "objects": [{"image": "o", "box": [0, 0, 1]}]}',
        r"objects\[0\].box is \[0, 0, 1\]",
    ),
    "flat box": (
        '{"image": "a.jpg", "objects": [{"image": "o", "box": [0, 0, 0, 9]}]}',
        "expected .x, y, width, height",
    ),
    "no number": ('{"image": "a.jpg", "objects": [{"image": "o", "box": [0, 0, NaN, 9]}]}', "expected .x, y, width"),
    "mask is a number": ('{"image": "a.jpg", "objects": [{"image": "o", "mask": 3}]}', r"objects\[0\].mask is 3"),
    "missing file": (
        '{"image": "nowhere.jpg", "objects": [{"image": "o", "mask": "m"}]}',
        "nowhere.jpg: cannot be read",
    ),
    "box outside": (
        '{"image": "tea/image.jpg", "objects": [{"image": "tea/object_0.png", "box": [500, 0, 9, 9]}]}',
        r"box \[500, 0, 9, 9\] covers no pixel of the 128 x 96",
    ),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named(tmp_path, name) -> None:
    line, message = BAD_LINES[name]
    write_job(tmp_path / "tea")
    (tmp_path / "jobs.jsonl").write_text("\n" + line + "\n")
    with pytest.raises(JobError, match=rf"^job job-000002: .*{message}"):
        load_job(only(tmp_path / "jobs.jsonl"))


@pytest.mark.parametrize("key", ["../x", "a/b", "", ".hidden", 3, None, "a b"])
def test_a_key_that_cannot_name_a_file(tmp_path, key) -> None:
    (tmp_path / "jobs.jsonl").write_text(json.dumps({"key": key}))
    with pytest.raises(UserError, match=r"line 1: key .* expected letters"):
        read_jobs(tmp_path / "jobs.jsonl")


def test_two_lines_of_one_key(tmp_path) -> None:
    (tmp_path / "jobs.jsonl").write_text('{"key": "a"}\n{"key": "a"}\n')
    with pytest.raises(UserError, match="two jobs are named a"):
        read_jobs(tmp_path / "jobs.jsonl")


def test_no_jobs(tmp_path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_jobs(tmp_path / "nowhere")
    with pytest.raises(UserError, match="none found"):
        read_jobs(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"expected a folder, a .jsonl file or a .tar"):
        read_jobs(tmp_path / "photo.jpg")


# --- pictures of every kind ---


def test_alpha_of_a_cut_out_on_white() -> None:
    alpha = alpha_from_white(WHITE_BALL)
    assert (alpha[10:30, 20:40] == 255).all()
    assert alpha.sum() == 255 * 400
    noisy = np.where(WHITE_BALL == 255, np.uint8(251), WHITE_BALL)
    assert np.array_equal(alpha_from_white(noisy), alpha)


def test_a_white_picture_is_all_object() -> None:
    assert (alpha_from_white(np.full((5, 5, 3), 255, np.uint8)) == 255).all()


def test_a_picture_without_any_white_border_is_all_object() -> None:
    assert (alpha_from_white(np.full((5, 5, 3), 90, np.uint8)) == 255).all()


def test_rgba_is_composed_on_white_unless_it_is_already() -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    pixels[0, 1] = (10, 20, 30, 128)
    made = read_object(encode(pixels, "PNG"), "x")
    assert made[0, 0].tolist() == [10, 20, 30, 255]
    assert made[0, 1].tolist() == [132, 137, 142, 128]
    assert made[1, 1].tolist() == [255, 255, 255, 0]
    assert np.array_equal(read_object(encode(pixels, "PNG"), "x", on_white=True), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_masks_of_every_mode(mode) -> None:
    mask = np.zeros((6, 9), np.uint8)
    mask[2:4, 3:7] = 255
    if mode == "I;16":
        data = encode(mask.astype(np.uint16) * 257, "PNG")
    else:
        data = encode(np.asarray(Image.fromarray(mask).convert(mode)), "PNG")
    read = read_mask(data, "x", (6, 9))
    assert read.dtype == bool
    assert np.array_equal(read, mask > 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_photos_of_every_mode_are_rgb(mode, tmp_path) -> None:
    Image.fromarray(make_scene(0)[0]).convert(mode).save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"))
    (file,) = tmp_path.iterdir()
    assert read_photo(file.read_bytes(), "x").shape == (96, 128, 3)


def test_photos_of_jobs_stand_upright_and_those_of_shards_as_stored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(make_scene(0)[0], "JPEG", exif=exif)
    assert read_photo(data, "x", upright=True).shape == (128, 96, 3)
    assert read_photo(data, "x").shape == (96, 128, 3)
