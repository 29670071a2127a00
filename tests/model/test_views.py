"""Views and words from shards and jobs to the object encoder: read only if asked, cropped, padded, mirrored."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pics_common.errors import UserError
from pics_model.examples import Example, View
from pics_model.framing import tight_box
from pics_model.inputs import FramingSettings, collate, compose, object_pixels
from pics_model.jobs import JobError, load_job, read_jobs
from pics_model.object_encoder import ConvObjectEncoder
from pics_model.shard_reader import open_shards, read_example
from pics_model.side_tokens import sides_of
from pics_model.stream import ShardStream
from tests.model.shards_for_tests import cut_out, encode, make_members, make_scene, write_tar

FRAMING = FramingSettings(resolution=32, object_resolution=24)


def shape(colour: int, width: int = 10, height: int = 20) -> NDArray[np.uint8]:
    """RGBA, a grey box off the middle of a picture of 30 x 40, its left half darker."""
    picture = np.full((40, 30, 4), (255, 255, 255, 0), np.uint8)
    picture[5 : 5 + height, 3 : 3 + width] = (colour, colour, colour, 255)
    picture[5 : 5 + height, 3 : 3 + width // 2, :3] //= 2
    return picture


def members_with_views(seed: int, counts: list[int], cameras: bool = True) -> dict[str, bytes]:
    """A shard's sample whose object k has `counts[k]` views, of grey 10 * (1 + k) + v."""
    members = make_members(seed)
    meta = json.loads(members["meta.json"])
    for k, count in enumerate(counts):
        meta["objects"][k]["category"] = f"tea_pot {k}"
        if cameras:
            meta["objects"][k]["views"] = [{"azimuth": 30.0 * v, "elevation": 5, "distance": 1} for v in range(count)]
        for v in range(count):
            members[f"obj{k}_view{v + 1}.png"] = encode(shape(10 * (1 + k) + v), "PNG")
    members["meta.json"] = json.dumps(meta).encode()
    return members


def example_of(counts: list[int]) -> Example:
    photo, masks, _ = make_scene(0, num_objects=len(counts))
    views = [[View(shape(10 * (1 + k) + v), azimuth=30.0 * v) for v in range(n)] for k, n in enumerate(counts)]
    texts = [f"thing {k}" for k in range(len(counts))]
    return Example("s", photo, [cut_out(photo, mask)[0] for mask in masks], masks, views=views, texts=texts)


# --- shards ---


def test_a_shard_gives_as_many_views_as_are_asked_for(tmp_path) -> None:
    table = open_shards(write_tar(tmp_path / "a.tar", [("a", members_with_views(0, [3, 0]))]))
    two = read_example(table, 0, views=2)
    assert [len(views) for views in two.views] == [2, 0]
    assert np.array_equal(two.views[0][1].picture, shape(11))
    assert (two.views[0][1].azimuth, two.views[0][1].elevation, two.views[0][1].distance) == (30, 5, 1)
    assert two.texts == ["tea pot 0", "tea pot 1"]
    assert [len(views) for views in read_example(table, 0, views=9).views] == [3, 0]


def test_what_no_model_asks_for_is_not_decoded(tmp_path) -> None:
    members = members_with_views(0, [1, 1]) | {"obj0_view1.png": b"not a picture"}
    table = open_shards(write_tar(tmp_path / "a.tar", [("a", members)]))
    assert read_example(table, 0).views == []
    with pytest.raises(UserError, match=r"key a, obj0_view1.png: not a JPEG, PNG or WebP"):
        read_example(table, 0, views=1)


def test_cameras_that_nobody_tells_are_unknown(tmp_path) -> None:
    table = open_shards(write_tar(tmp_path / "a.tar", [("a", members_with_views(0, [2, 1], cameras=False))]))
    assert all(np.isnan(view.azimuth) for views in read_example(table, 0, views=2).views for view in views)


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ([3], r"objects\[0\].views\[0\] is 3; expected an object"),
        ([{"azimuth": "left"}], r"views\[0\].azimuth is 'left'; expected degrees"),
        ([{"distance": 0}], r"views\[0\].distance is 0; expected a number above 0"),
        ([{"elevation": 10**400}], r"views\[0\].elevation is 1000"),
        ([{"elevation": float("nan")}], r"views\[0\].elevation is nan"),
    ],
)
def test_cameras_that_are_none(tmp_path, views, words) -> None:
    members = members_with_views(0, [1, 0])
    meta = json.loads(members["meta.json"])
    meta["objects"][0]["views"] = views
    members["meta.json"] = json.dumps(meta).encode()
    table = open_shards(write_tar(tmp_path / "a.tar", [("a", members)]))
    with pytest.raises(UserError, match=words):
        read_example(table, 0, views=1)


def test_published_shards_say_nothing_in_words(tmp_path) -> None:
    table = open_shards(write_tar(tmp_path / "a.tar", [("a", make_members(0, published=True))]))
    assert read_example(table, 0, views=2).texts == ["", ""]
    assert read_example(table, 0, views=2).views == [[], []]


def test_through_the_stream(tmp_path) -> None:
    samples = [("a", members_with_views(0, [2, 1])), ("b", members_with_views(1, [0, 0]))]
    write_tar(tmp_path / "train-000000.tar", samples)
    batches = ShardStream(tmp_path, replace(FRAMING, views=2), batch_size=2, num_workers=1).batches()
    batch = next(batches)
    assert batch.views is not None
    assert batch.views.shape == (2, 2, 2, 24, 24, 4)
    assert sorted(batch.view_mask.flatten(1).sum(1).tolist()) == [0, 3]
    assert next(ShardStream(tmp_path, FRAMING, batch_size=2).batches()).views is None


# --- inputs and batches ---


def test_views_are_cropped_as_object_pictures_are() -> None:
    inputs = compose(example_of([1, 2]), replace(FRAMING, views=4), None)
    assert [len(views) for views in inputs.views] == [1, 2]
    x0, y0, x1, y1 = tight_box(inputs.views[1][0, ..., 3] >= 128)
    assert (y1 - y0) / 24 == pytest.approx(1 / 1.25, abs=0.06)
    assert (x1 - x0) / (y1 - y0) == pytest.approx(0.5, abs=0.06)
    assert abs((x0 + x1) / 2 - 12) <= 1
    assert (inputs.views[1][0, 0, 0] == (255, 255, 255, 0)).all()
    assert np.array_equal(inputs.cameras[1][:, 0], [0, 30])
    assert np.isnan(inputs.cameras[1][:, 1:]).all()


def test_no_more_views_than_the_model_takes() -> None:
    inputs = compose(example_of([1, 3]), replace(FRAMING, views=2), None)
    assert [len(views) for views in inputs.views] == [1, 2]
    assert compose(example_of([1, 3]), FRAMING, None).views == []


def test_views_do_not_change_what_is_drawn_for_a_sample() -> None:
    one = compose(example_of([2, 2]), replace(FRAMING, views=2), np.random.default_rng(4))
    two = compose(example_of([0, 0]), FRAMING, np.random.default_rng(4))
    assert np.array_equal(one.objects, two.objects)
    assert np.array_equal(one.boxes, two.boxes)


def test_a_mirrored_sample_has_mirrored_views_from_the_other_side() -> None:
    how = replace(FRAMING, views=2)
    plain = compose(example_of([0, 2]), how, np.random.default_rng(5))
    mirrored = compose(example_of([0, 2]), replace(how, flip=1.0), np.random.default_rng(5))
    assert np.array_equal(mirrored.views[1], plain.views[1][:, :, ::-1])
    assert not np.array_equal(mirrored.views[1], plain.views[1])
    assert np.array_equal(mirrored.cameras[1][:, 0], [0, -30])


def test_a_batch_pads_views_and_words() -> None:
    how = replace(FRAMING, views=3)
    inputs = [compose(example_of(counts), how, None) for counts in ([1, 3], [2], [0, 0, 0])]
    batch = collate(inputs)
    assert batch.view_mask.sum(-1).tolist() == [[1, 3, 0], [2, 0, 0], [0, 0, 0]]
    assert batch.cameras[0, 1, :, 0].tolist() == [0, 30, 60]
    assert batch.cameras[~batch.view_mask].isnan().all()
    for i, one in enumerate(inputs):
        for k, views in enumerate(one.views):
            assert np.array_equal(batch.views[i, k, : len(views)].numpy(), views)
    assert batch.texts == [["thing 0", "thing 1", ""], ["thing 0", "", ""], ["thing 0", "thing 1", "thing 2"]]
    moved = batch.to("cpu")
    assert moved.texts == batch.texts
    assert torch.equal(moved.views, batch.views)


def test_a_batch_without_views_has_nothing_for_them() -> None:
    for how in (FRAMING, replace(FRAMING, views=3)):
        batch = collate([compose(example_of([0, 0]), how, None)])
        assert batch.views is batch.view_mask is batch.cameras is None
        assert sides_of(batch) is None


def test_from_a_batch_to_codes() -> None:
    torch.manual_seed(0)
    encoder = ConvObjectEncoder(resolution=24, patch=4, code_channels=16, width=8, views=True, text_channels=5)
    torch.nn.init.normal_(encoder.sides.join.to_out.weight)
    how = replace(FRAMING, views=3)
    batch = collate([compose(example_of(counts), how, None) for counts in ([1, 3], [2])])
    text, text_mask = torch.randn(4, 3, 5), torch.tensor([[1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0]]).bool()
    images = object_pixels(batch.objects.flatten(0, 1))
    codes = encoder(images, sides_of(batch, text, text_mask))
    changed = (codes - encoder(images)).abs().amax((1, 2)) > 1e-3
    assert changed.tolist() == [True, True, True, False]
    assert torch.equal(images[:, :3].amax((1, 2, 3)), torch.ones(4))
    assert images[:, 3].min() == 0


# --- jobs ---


def write_job(folder: Path, num_objects: int = 2) -> Path:
    folder.mkdir(parents=True)
    photo, masks, _ = make_scene(0, num_objects=num_objects)
    (folder / "image.jpg").write_bytes(encode(photo, "JPEG"))
    for k, mask in enumerate(masks):
        (folder / f"object_{k}.png").write_bytes(encode(shape(50), "PNG"))
        (folder / f"object_{k}_mask.png").write_bytes(encode(mask, "PNG"))
    return folder


def test_a_folder_with_views(tmp_path) -> None:
    folder = write_job(tmp_path / "tea")
    for v in range(1, 12):
        (folder / f"object_1_view_{v}.png").write_bytes(encode(shape(v), "PNG"))
    (job,) = read_jobs(folder)
    assert [len(views) for views in load_job(job).views] == [0, 0]
    example = load_job(job, views=11)
    assert [len(views) for views in example.views] == [0, 11]
    assert [int(view.picture[10, 10, 0]) for view in example.views[1]] == list(range(1, 12))
    assert example.texts == ["", ""]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("object_1_view_2.png", "no object_1_view_1.png"),
        ("object_1_view_0.png", "no object_1_view_1.png"),
        ("object_1_view_99999999.png", "no object_1_view_1.png"),
        ("object_2_view_1.png", "no object_2.png, no object_2_mask.png"),
    ],
)
def test_views_that_are_not_counted_from_one(tmp_path, name, words) -> None:
    folder = write_job(tmp_path / "tea")
    (folder / name).write_bytes(encode(shape(1), "PNG"))
    (job,) = read_jobs(folder)
    with pytest.raises(JobError, match=words) as caught:
        load_job(job)
    assert len(str(caught.value)) < 500


def test_a_line_with_views_and_words(tmp_path) -> None:
    write_job(tmp_path / "tea")
    (tmp_path / "side.png").write_bytes(encode(shape(7), "PNG"))
    turned = {"image": "side.png", "azimuth": -90, "distance": 1.5}
    objects = [
        {"image": "tea/object_0.png", "box": [0, 0, 9, 9], "text": "a red mug", "views": ["side.png", turned]},
        {"image": "tea/object_1.png", "mask": "tea/object_1_mask.png"},
    ]
    (tmp_path / "jobs.jsonl").write_text(json.dumps({"image": "tea/image.jpg", "objects": objects}))
    (job,) = read_jobs(tmp_path / "jobs.jsonl")
    example = load_job(job, views=2)
    assert example.texts == ["a red mug", ""]
    assert [len(views) for views in example.views] == [2, 0]
    assert (example.views[0][1].azimuth, example.views[0][1].distance) == (-90, 1.5)
    assert np.isnan([example.views[0][0].azimuth, example.views[0][1].elevation]).all()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"text": 3}, r"objects\[0\].text is 3; expected what the object is"),
        ({"views": "side.png"}, r"objects\[0\].views is 'side.png'; expected a list"),
        ({"views": [3]}, r"objects\[0\].views\[0\] is 3; expected a path"),
        ({"views": [{"azimuth": 3}]}, r"objects\[0\].views\[0\] is {'azimuth': 3}; expected a path"),
        ({"views": [{"image": "a", "azimuth": True}]}, r"views\[0\].azimuth is True; expected degrees"),
        ({"views": ["nowhere.png"]}, r"nowhere.png: cannot be read"),
    ],
)
def test_lines_with_views_or_words_that_are_none(tmp_path, more, words) -> None:
    write_job(tmp_path / "tea")
    line = {"image": "tea/image.jpg", "objects": [{"image": "tea/object_0.png", "box": [0, 0, 9, 9], **more}]}
    (tmp_path / "jobs.jsonl").write_text(json.dumps(line))
    (job,) = read_jobs(tmp_path / "jobs.jsonl")
    with pytest.raises(JobError, match=words):
        load_job(job, views=1)
