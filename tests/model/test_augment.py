"""Augmentation in the real stream: uniform, its own for each object, fresh each epoch, the same for any workers."""

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pics_common.errors import UserError
from pics_common.turn import turn_on_white
from pics_model.augment import AugmentSettings, Look, change, change_view, draw_looks
from pics_model.examples import Example, View
from pics_model.inputs import Batch, FramingSettings, compose
from pics_model.jobs import load_job, read_jobs
from pics_model.object_picture import PlacedCutout
from pics_model.pipeline import PICSPipeline
from pics_model.presets import build, load_preset
from pics_model.shard_reader import open_shards, read_example
from pics_model.stream import ShardStream
from pics_model.train_config import TrainConfig
from tests.model.shards_for_tests import encode, make_members, write_shards, write_tar

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

FRAMING = FramingSettings(resolution=32, object_resolution=64)
TURNS = AugmentSettings(rotation=30)
NUM_SAMPLES, NUM_EPOCHS = 11, 60


def bar(lean: float = 0.0) -> NDArray[np.uint8]:
    """A cut-out on white [96, 96, 4]: a long ellipse that lies flat, or turned by `lean` degrees; one end is blue."""
    picture = np.full((96, 96, 4), (255, 255, 255, 0), np.uint8)
    cv2.ellipse(picture, (48, 48), (36, 9), 0, 0, 360, (180, 90, 30, 255), -1)
    cv2.circle(picture, (72, 48), 5, (20, 30, 200, 255), -1)
    return turn_on_white(picture, lean)


def bar_members(angles: tuple[float, ...] = (), **extra: bytes) -> dict[str, bytes]:
    """A sample whose two objects are bars; with pictures turned by `angles` of the first."""
    members = make_members(0) | {f"obj{k}.png": encode(bar(), "PNG") for k in (0, 1)}
    meta = json.loads(members["meta.json"])
    if angles:
        members |= {f"obj0_rot{n}.png": encode(bar(angle), "PNG") for n, angle in enumerate(angles, 1)}
        meta["objects"][0]["rotations"] = angles
    return members | {"meta.json": json.dumps(meta).encode()} | {k.replace("_png", ".png"): v for k, v in extra.items()}


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tars of samples whose objects are bars."""
    folder = tmp_path_factory.mktemp("bars")
    for name, numbers in (("train-000000", range(7)), ("train-000001", range(7, NUM_SAMPLES))):
        write_tar(folder / f"{name}.tar", [(f"s{i:03}", bar_members()) for i in numbers])
    return folder


def take(path: Path, num_batches: int, augment: AugmentSettings = TURNS, start: int = 0, **options: int) -> list[Batch]:
    stream = ShardStream(path, FRAMING, augment=augment, **{"batch_size": 4, **options})  # type: ignore[arg-type]
    return list(islice(stream.batches(start), num_batches))


def angle_of(picture: NDArray[np.uint8]) -> float:
    """How far a bar is turned, in degrees: from the second moments of its alpha."""
    moments = cv2.moments(picture[..., 3])
    return -0.5 * math.degrees(math.atan2(2 * moments["mu11"], moments["mu20"] - moments["mu02"]))


def angles_of(batches: list[Batch]) -> NDArray[np.float64]:
    """[samples, 2], as the model sees the bars."""
    return np.array([[angle_of(o) for o in sample] for batch in batches for sample in batch.objects.numpy()])


@pytest.fixture(scope="module")
def epochs(bars: Path) -> list[Batch]:
    """60 epochs, a batch each."""
    return take(bars, NUM_EPOCHS, batch_size=NUM_SAMPLES)


@pytest.fixture(scope="module")
def angles(epochs: list[Batch]) -> dict[str, NDArray[np.float64]]:
    """By key, the angles of each epoch [epochs, 2]."""
    rows = angles_of(epochs)
    keys = np.array(list(chain(*(batch.keys for batch in epochs))))
    return {key: rows[keys == key] for key in sorted(set(keys.tolist()))}


def kolmogorov_smirnov(values: NDArray[np.float64], low: float, high: float) -> float:
    """How far the values' distribution is from uniform, times the root of their number: 1.63 is passed by chance once
    in a hundred times."""
    expected = (np.sort(values) - low) / (high - low)
    steps = np.arange(len(values) + 1) / len(values)
    return float(max((steps[1:] - expected).max(), (expected - steps[:-1]).max()) * math.sqrt(len(values)))


# --- what the model sees, statistically ---


def test_angles_are_uniform(angles) -> None:
    both = np.concatenate(list(angles.values()))
    assert len(both) == NUM_SAMPLES * NUM_EPOCHS
    for values in (both[:, 0], both[:, 1], both.ravel()):
        assert kolmogorov_smirnov(values, -30, 30) < 1.63
    assert np.abs(both).max() < 30.2


def test_the_test_of_uniformity_can_fail(angles) -> None:
    both = np.concatenate(list(angles.values())).ravel()
    for wrong in (0.8 * both, both + 5, np.abs(both), np.round(both / 15) * 15):
        assert kolmogorov_smirnov(wrong, -30, 30) > 1.63


def test_the_objects_of_a_sample_are_turned_independently(angles) -> None:
    both = np.concatenate(list(angles.values()))
    assert abs(np.corrcoef(both.T)[0, 1]) < 2.6 / math.sqrt(len(both))
    # Nor do their sizes tell of one another in a way that a line does not see.
    assert abs(np.corrcoef(np.abs(both).T)[0, 1]) < 2.6 / math.sqrt(len(both))


def test_epochs_turn_anew_and_independently(angles) -> None:
    for values in angles.values():
        assert len(np.unique(values)) == values.size
    before = np.concatenate([values[:-1].ravel() for values in angles.values()])
    after = np.concatenate([values[1:].ravel() for values in angles.values()])
    assert abs(np.corrcoef(before, after)[0, 1]) < 2.6 / math.sqrt(len(before))


def test_other_seeds_turn_otherwise(bars) -> None:
    one, two = (angles_of(take(bars, 1, batch_size=NUM_SAMPLES, seed=seed)) for seed in (0, 1))
    assert not np.isclose(one, two, atol=0.01).any()


# --- the same for any workers, ranks, batch, and after resuming ---


def by_epoch(batches: list[Batch]) -> dict[tuple[str, int], torch.Tensor]:
    """(key, how often it was seen before) -> object pictures."""
    seen: Counter[str] = Counter()
    out = {}
    for batch in batches:
        for key, objects in zip(batch.keys, batch.objects, strict=True):
            out[key, seen[key]] = objects
            seen[key] += 1
    return out


ALL = AugmentSettings(rotation=30, flip=0.5, colour=0.3, colour_chance=0.7, rotation_chance=0.8)


@pytest.mark.parametrize(("workers", "ranks", "batch_size"), [(1, 1, 4), (3, 1, 4), (0, 2, 4), (3, 2, 8), (0, 1, 1)])
def test_neither_workers_nor_ranks_nor_batch_matter(bars, workers, ranks, batch_size) -> None:
    num_steps = 4 * NUM_SAMPLES  # four epochs, and a whole number of batches of any of these sizes
    expected = by_epoch(take(bars, num_steps // 4, ALL))
    parts = [
        take(bars, num_steps // batch_size, ALL, batch_size=batch_size, num_workers=workers, rank=r, world_size=ranks)
        for r in range(ranks)
    ]
    found = by_epoch([batch for step in zip(*parts, strict=True) for batch in step])
    for key, objects in found.items():
        assert torch.equal(objects, expected[key])
    assert len(found) == num_steps // batch_size * batch_size


def test_a_resumed_run_turns_as_the_whole_one(bars) -> None:
    whole = take(bars, 9, ALL)
    resumed = take(bars, 4, ALL, start=5 * 4, num_workers=2)
    assert all(torch.equal(a.objects, b.objects) for a, b in zip(whole[5:], resumed, strict=True))


def test_nothing_but_the_objects_pictures_changes(bars) -> None:
    """Photo, regions, frame, seeds: all that is drawn elsewhere stays as it is."""
    for plain, changed in zip(take(bars, 6, AugmentSettings()), take(bars, 6, ALL), strict=True):
        for name in ("target", "boxes", "regions", "silhouettes", "valid", "seeds"):
            assert torch.equal(getattr(plain, name), getattr(changed, name))
        assert not torch.equal(plain.objects, changed.objects)


def test_one_setting_does_not_shift_another(bars) -> None:
    turned = angles_of(take(bars, 6, TURNS))
    with_colour = angles_of(take(bars, 6, replace(TURNS, colour=0.5)))
    np.testing.assert_array_equal(turned, with_colour)
    halved = angles_of(take(bars, 6, AugmentSettings(rotation=15)))
    np.testing.assert_allclose(halved, turned / 2, atol=0.4)


# --- never but in training ---


def test_by_default_a_stream_changes_nothing(bars) -> None:
    batches = list(islice(ShardStream(bars, FRAMING, batch_size=NUM_SAMPLES).batches(), 2))
    assert np.abs(angles_of(batches)).max() < 0.01


def test_inference_never_changes_an_object(bars, mini, monkeypatch) -> None:
    """What reaches the object encoder: from shards, and from pictures that a caller gives."""
    torch.manual_seed(0)
    pipeline = build(load_preset(str(mini)))
    seen: list[torch.Tensor] = []
    encode_batch = PICSPipeline.encode
    monkeypatch.setattr(PICSPipeline, "encode", lambda self, b: (seen.append(b.objects), encode_batch(self, b))[1])
    examples = [load_job(job) for job in read_jobs(bars)][:3]
    pipeline.compose_examples(examples, [1, 2, 3], 1)
    photo = np.zeros((60, 80, 3), np.uint8)
    pipeline(photo, [bar(), bar()], boxes=[(5, 5, 40, 20), (20, 30, 40, 20)], generator=0, num_inference_steps=1)
    assert len(seen) == 4
    assert max(abs(angle_of(o)) for objects in seen for o in objects[0].numpy()) < 1


def test_training_turns_by_thirty_degrees_unless_told_otherwise(tmp_path) -> None:
    config = TrainConfig(shards=(str(tmp_path),), out=tmp_path)
    assert config.augment == AugmentSettings(rotation=30)
    assert replace(config, rotation=0).augment == AugmentSettings()


# --- one picture ---


def placed(picture: NDArray[np.uint8]) -> PlacedCutout:
    """A cut-out of 2 photo pixels a pixel of its own, its corner at (100, 60)."""
    return PlacedCutout(picture, (0, 0, 1, 1), (100.0, 60.0, 2.0 * picture.shape[1]))


def middle(cutout: PlacedCutout) -> tuple[float, float]:
    x0, y0, x1, y1 = cutout.tight
    return cutout.origin[0] + cutout.scale * (x0 + x1) / 2, cutout.origin[1] + cutout.scale * (y0 + y1) / 2


@pytest.mark.parametrize("look", [Look(30), Look(-17, mirrored=True), Look(mirrored=True, gain=1.2), Look(gain=0.7)])
def test_a_changed_object_stands_where_it_stood_at_its_scale(look) -> None:
    off_centre = np.full((90, 140, 4), (255, 255, 255, 0), np.uint8)
    off_centre[5:45, 60:130] = (10, 200, 30, 255)
    before, after = placed(off_centre), change(placed(off_centre), look)
    assert after.scale == pytest.approx(before.scale)
    np.testing.assert_allclose(middle(after), middle(before), atol=1e-9)
    assert float(after.picture[..., 3].sum()) == pytest.approx(float(off_centre[..., 3].sum()), rel=0.01)


@pytest.mark.parametrize("snap", [0, 4])
def test_nothing_of_a_turned_object_is_cut_off(bars, snap) -> None:
    framing = FramingSettings(resolution=64, object_resolution=48, snap=snap)
    example = read_example(open_shards(bars), 0)
    square = np.full((96, 96, 4), (9, 9, 9, 255), np.uint8)  # touches all four borders
    example = replace(example, objects=[square, square])
    for degrees in (0.0, 30.0, -45.0):
        inputs = compose(example, framing, None, looks=[Look(degrees)] * 2)
        for k in range(2):
            alpha = inputs.objects[k, ..., 3]
            border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
            assert border.max() < 128
            # The area that the picture shows, in the frame's own units, is that of the object upright.
            x0, _, x1, _ = inputs.object_boxes[k]
            area = alpha.sum() / 255 * ((x1 - x0) / 48) ** 2
            shown = example.squares[k]
            assert shown is not None
            assert area == pytest.approx((shown[2] / inputs.frame.side) ** 2, rel=0.03)


def test_mirroring_happens_as_often_as_asked_and_mirrors(bars) -> None:
    def is_mirrored(picture: NDArray[np.uint8]) -> bool:
        blue = (picture[..., 2] > 150) & (picture[..., 0] < 100)
        return bool(np.flatnonzero(blue.any(0)).mean() < picture.shape[1] / 2)

    def share(chance: float) -> float:
        batches = take(bars, 8, AugmentSettings(flip=chance), batch_size=NUM_SAMPLES)
        return float(np.mean([is_mirrored(o) for b in batches for sample in b.objects.numpy() for o in sample]))

    assert share(0.0) == 0
    assert share(1.0) == 1
    assert abs(share(0.2) - 0.2) < 2.6 * math.sqrt(0.2 * 0.8 / (8 * 2 * NUM_SAMPLES))


def recoloured(
    gain: float, shift: float, colour: NDArray[np.float64], alpha: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The truth, in floats: the straight colour [.., 3] is changed and cut to its range, then set on white."""
    changed = (gain * colour + 255 * shift).clip(0, 255)
    return alpha[..., None] * changed + (1 - alpha[..., None]) * 255


@pytest.mark.parametrize(("gain", "shift"), [(1.1, 0.0), (1.0, -0.1), (0.7, 0.25), (1.5, 0.4), (0.0, 0.0)])
def test_colours_change_and_soft_edges_and_white_around_stay(gain, shift) -> None:
    rng = np.random.default_rng(0)
    colour, alpha = rng.uniform(0, 255, (40, 40, 3)), rng.uniform(0, 1, (40, 40)).round(2)
    alpha[:10], alpha[10:20] = 0, 1
    levels = np.rint(alpha * 255)
    white = recoloured(1.0, 0.0, colour, levels / 255)
    picture = np.dstack([np.rint(white), levels]).astype(np.uint8)
    made = change(placed(picture), Look(gain=gain, shift=shift)).picture
    assert np.array_equal(made[..., 3], picture[..., 3])
    assert (made[:10] == (255, 255, 255, 0)).all()
    assert np.abs(made[..., :3] - recoloured(gain, shift, colour, levels / 255)).max() <= 1.6


def test_brightness_and_contrast_are_uniform_and_apart(bars) -> None:
    rng = np.random.default_rng(3)
    looks = list(chain(*(draw_looks(rng, 2, AugmentSettings(colour=0.1)) for _ in range(300))))
    gains, shifts = np.array([look.gain for look in looks]), np.array([look.shift for look in looks])
    assert kolmogorov_smirnov(gains, 0.9, 1.1) < 1.63
    assert kolmogorov_smirnov(shifts, -0.1, 0.1) < 1.63
    assert abs(np.corrcoef(gains, shifts)[0, 1]) < 2.6 / math.sqrt(len(gains))
    rare = list(chain(*(draw_looks(rng, 2, replace(ALL, colour_chance=0.3)) for _ in range(300))))
    for share, expected in (
        (np.mean([look.gain != 1 for look in rare]), 0.3),
        (np.mean([look.degrees != 0 for look in rare]), 0.8),
        (np.mean([look.mirrored for look in rare]), 0.5),
    ):
        assert abs(share - expected) < 2.6 * math.sqrt(expected * (1 - expected) / len(rare))


def test_views_are_mirrored_and_recoloured_with_their_object_and_not_turned() -> None:
    view = View(bar(), azimuth=40.0, elevation=10.0)
    same = change_view(view, Look(30))
    assert np.array_equal(same.picture, view.picture)
    other = change_view(view, Look(30, mirrored=True, gain=0.5))
    assert (other.azimuth, other.elevation) == (-40, 10)
    assert np.array_equal(other.picture[..., 3], view.picture[:, ::-1, 3])
    assert other.picture[48, 48, 0] == 90
    example = Example("x", np.zeros((50, 50, 3), np.uint8), [bar()], [np.ones((50, 50), bool)], views=[[view]])
    inputs = compose(example, replace(FRAMING, views=1), None, looks=[Look(mirrored=True)])
    assert inputs.cameras[0][0, 0] == -40


# --- turned pictures that shards hold ---

STORED = AugmentSettings(rotation=30, stored_rotations=True)


def test_stored_pictures_are_taken_evenly_and_others_turn_anew(tmp_path) -> None:
    held = (-21.0, 4.0, 26.0)
    write_tar(tmp_path / "a.tar", [("s0", bar_members(held))])
    found = angles_of(take(tmp_path, 60, STORED, batch_size=2))
    nearest = np.array(held)[np.abs(found[:, :1] - held).argmin(1)]
    np.testing.assert_allclose(found[:, 0], nearest, atol=0.5)
    counts = Counter(nearest.tolist())
    assert all(abs(counts[angle] - 40) < 2.6 * math.sqrt(120 * 2 / 9) for angle in held)
    # The second object has none: it is turned as it would be without.
    np.testing.assert_array_equal(found[:, 1], angles_of(take(tmp_path, 60, TURNS, batch_size=2))[:, 1])


def test_a_stored_picture_beyond_the_rotation_is_never_taken(tmp_path) -> None:
    write_tar(tmp_path / "a.tar", [("s0", bar_members((-21.0, 4.0, 26.0)))])
    found = angles_of(take(tmp_path, 10, replace(STORED, rotation=10), batch_size=2))
    np.testing.assert_allclose(found[:, 0], 4, atol=0.5)
    found = angles_of(take(tmp_path, 10, replace(STORED, rotation=3), batch_size=2))
    fresh = angles_of(take(tmp_path, 10, AugmentSettings(rotation=3), batch_size=2))
    np.testing.assert_array_equal(found, fresh)


def test_a_stored_picture_is_shown_at_the_objects_scale_and_place(tmp_path) -> None:
    members = make_members(0)
    table_of = [("s0", members)]
    write_tar(tmp_path / "a.tar", table_of)
    upright = read_example(open_shards(tmp_path), 0)
    meta = json.loads(members["meta.json"])
    meta["objects"][0]["rotations"] = [25.0]
    turned = encode(turn_on_white(upright.objects[0], 25.0), "PNG")
    more = members | {"obj0_rot1.png": turned, "meta.json": json.dumps(meta).encode()}
    write_tar(tmp_path / "a.tar", [("s0", more)])
    held = read_example(open_shards(tmp_path), 0, pick=lambda k, angles: 0 if k == 0 else None)
    assert held.angles == [25.0, None]
    stored, fresh = compose(held, FRAMING, None), compose(upright, FRAMING, None, looks=[Look(25.0), Look()])
    np.testing.assert_allclose(stored.object_boxes, fresh.object_boxes, atol=0.02)


def test_whole_objects_have_no_stored_pictures(tmp_path) -> None:
    members = bar_members((10.0, 20.0)) | {
        kind: data for kind, data in make_members(0, whole=True).items() if kind.startswith(("full", "amodal"))
    }
    write_tar(tmp_path / "a.tar", [("s0", members)])
    stream = ShardStream(tmp_path, FRAMING, batch_size=4, cutouts="full", augment=STORED)
    other = ShardStream(tmp_path, FRAMING, batch_size=4, cutouts="full", augment=TURNS)
    assert torch.equal(next(iter(stream.batches())).objects, next(iter(other.batches())).objects)


@pytest.mark.parametrize("value", [None, [1.0], [1.0, "x"], [1.0, 999.0], {"a": 1}, [True, 1.0]])
def test_stored_pictures_without_their_angles_are_an_error(tmp_path, value) -> None:
    members = bar_members((1.0, 2.0))
    meta = json.loads(members["meta.json"])
    meta["objects"][0]["rotations"] = value
    write_tar(tmp_path / "a.tar", [("s0", members | {"meta.json": json.dumps(meta).encode()})])
    with pytest.raises(UserError, match=r"a.tar, key s0, meta.json: objects\[0\].rotations is .* of 2 turned pictures"):
        take(tmp_path, 1, STORED)
    take(tmp_path, 1, TURNS)


def test_a_stored_picture_that_is_broken_is_named(tmp_path) -> None:
    write_tar(tmp_path / "a.tar", [("s0", bar_members((1.0,), obj0_rot1_png=b"hello"))])
    with pytest.raises(UserError, match=r"key s0, obj0_rot1.png: not a JPEG, PNG"):
        take(tmp_path, 1, STORED)


def test_an_option_without_effect_is_told(tmp_path) -> None:
    write_shards(tmp_path, {"train-000000.tar": 2})
    with pytest.raises(UserError, match=r"--stored-rotations: no sample of .* holds turned pictures"):
        take(tmp_path, 1, STORED)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rotation": 181.0}, "--rotation 181.0: expected 0 to 180"),
        ({"rotation": -1.0}, "--rotation -1.0: expected 0 to 180"),
        ({"rotation": float("nan")}, "--rotation nan: expected 0 to 180"),
        ({"flip": 1.1}, "--flip 1.1: expected 0 to 1"),
        ({"colour": 2.0}, "--colour 2.0: expected 0 to 1"),
        ({"rotation": 0.0, "rotation_chance": 0.5}, "--rotation-chance: no effect with --rotation 0"),
        ({"colour_chance": 0.5}, "--colour-chance: no effect with --colour 0"),
        ({"rotation": 0.0, "stored_rotations": True}, "--stored-rotations: no effect with --rotation 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, settings, said) -> None:
    with pytest.raises(UserError, match=said):
        TrainConfig(shards=(str(tmp_path),), out=tmp_path, **settings)
