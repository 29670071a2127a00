"""Encodings of samples: what the model makes of the inputs of training, in the place of which they stand."""

import json
import shutil
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pics_common.errors import UserError
from pics_model import train
from pics_model.augment import AugmentSettings
from pics_model.denoising import DenoisingLoss, draw
from pics_model.encode import codes_of, encode_samples, encode_shard, find_encoded, inputs_of, recipe_of
from pics_model.encoded import Encodings, file_name, open_encodings, stack
from pics_model.inputs import Inputs, collate, in_memory, to_signed
from pics_model.pipeline import PICSPipeline
from pics_model.presets import build, load_preset
from pics_model.shard_set import find_shards
from pics_model.shard_table import ShardTable, open_shards
from pics_model.side_tokens import sides_of
from pics_model.snapshot import save_model
from pics_model.stream import ShardStream
from tests.model.encoded_for_tests import (
    HALF,
    OBJECTS,
    VIEWS,
    as_given,
    encode_all,
    place_of,
    preset,
    read,
    sample,
    with_views,
    write,
)
from tests.model.models_for_tests import LATENT, pipeline_of
from tests.model.shards_for_tests import write_tar


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("encoded") / "shards")


@pytest.fixture(scope="module")
def pipeline() -> PICSPipeline:
    return with_views()


@pytest.fixture(scope="module")
def encodings(pipeline, shards, tmp_path_factory) -> Encodings:
    return encode_all(pipeline, shards, tmp_path_factory.mktemp("kept"))


def inputs_with(encodings: Encodings, pipeline: PICSPipeline, shards: Path) -> tuple[list[Inputs], list[Inputs]]:
    """What training composes of all samples, and the same with their encodings."""
    table = open_shards(shards)
    stored = [table.sample(index) for index in range(len(table))]
    plain = [inputs_of(one, pipeline.framing, encodings.recipe)[0] for one in stored]
    rng = np.random.default_rng(0)
    return plain, [
        encodings.put_into(as_given(one), stored[index], *place_of(index), rng) for index, one in enumerate(plain)
    ]


# --- what they are ---


def test_they_are_what_the_model_makes_of_the_inputs(pipeline, shards, encodings) -> None:
    plain, given_ = inputs_with(encodings, pipeline, shards)
    batch = collate(plain)
    with torch.no_grad():
        latents = pipeline.to_latent(to_signed(batch.target))
        codes = pipeline.encode(batch).codes
    found = stack([one.encoded for one in given_], batch.objects.shape[1], in_memory)
    assert {name: values.dtype for name, values in found.items()} == dict.fromkeys(
        ("latent", "features", "view_features"), torch.float16
    )
    torch.testing.assert_close(found["latent"].float(), latents, rtol=HALF, atol=HALF)
    sides = sides_of(batch)
    assert sides is not None
    sides.views = found["view_features"].flatten(0, 1)
    with torch.no_grad():
        mine = codes_of(pipeline.object_encoder, found["features"].flatten(0, 1), sides).unflatten(0, codes.shape[:2])
    there = torch.arange(codes.shape[1]) < batch.num_objects[:, None]
    assert codes[there].std() > 0.1
    torch.testing.assert_close(mine[there], codes[there], rtol=10 * HALF, atol=2 * HALF)


def test_they_are_made_of_what_the_stream_gives(pipeline, shards, encodings) -> None:
    batch = next(ShardStream(shards, pipeline.framing, batch_size=5, silhouettes=False).batches())
    plain, _ = inputs_with(encodings, pipeline, shards)
    for row, key in enumerate(batch.keys):
        mine = plain[int(key[1:])]
        num = len(mine.objects)
        assert np.array_equal(mine.target, batch.target[row])
        assert np.array_equal(mine.objects, batch.objects[row, :num])
        assert np.array_equal(mine.object_boxes, batch.object_boxes[row, :num])
        for k, views in enumerate(mine.views):
            assert np.array_equal(views, batch.views[row, k, : len(views)])


def test_pictures_do_not_travel_where_their_features_do(pipeline, shards, encodings) -> None:
    plain, given_ = inputs_with(encodings, pipeline, shards)
    for one, other in zip(plain, given_, strict=True):
        assert other.objects.size == 0
        assert sum(views.size for views in other.views) == 0
        assert [len(views) for views in other.views] == [len(views) for views in one.views]
        assert np.array_equal(other.target, one.target), "the hint is made of it"
    bare, full = collate(given_), collate(plain)
    for name in ("regions", "object_boxes", "view_mask", "cameras"):
        assert torch.equal(getattr(bare, name).nan_to_num(9), getattr(full, name).nan_to_num(9)), name


def test_the_stream_does_not_even_open_pictures_that_features_stand_for(pipeline, shards, encodings, tmp_path) -> None:
    """The same batches from shards in which every picture of an object, and of its views, is spoilt."""
    copy = Path(shutil.copytree(shards, tmp_path / "spoilt"))
    table = open_shards(copy)
    for index in range(len(table)):
        stored = table.sample(index)
        with table.shards[place_of(index)[0]].path.open("r+b") as file:
            for kind, (offset, length) in stored.members.items():
                if kind.startswith("obj"):
                    file.seek(offset)
                    file.write(bytes(length))
    given_ = encodings.recipe, encodings._folders[0]
    batches = [
        next(ShardStream(place, pipeline.framing, batch_size=5, silhouettes=False, encoded=given_).batches())
        for place in (shards, copy)
    ]
    for name in ("target", "regions", "boxes", "object_boxes", "seeds", "view_mask", "features", "view_features"):
        values = [getattr(batch, name) for batch in batches]
        assert torch.equal(*values), name
    assert batches[0].view_mask.sum() == sum(num for some in VIEWS.values() for views in some for num in views)
    assert torch.equal(batches[0].cameras.nan_to_num(9), batches[1].cameras.nan_to_num(9))


def test_the_loss_and_its_gradient_are_those_without_encodings(pipeline, shards, encodings, monkeypatch) -> None:
    plain, given_ = inputs_with(encodings, pipeline, shards)
    batch = collate(plain)
    draws = draw(torch.arange(len(plain)), batch.num_objects, pipeline.latent_shape, "uniform", 0.3, 0.3, 0.3)
    assert draws.hidden.any()
    assert draws.bare.any()
    module = DenoisingLoss(pipeline, 0.1)
    expected = module(batch, draws)
    expected.backward()
    gradients = {name: weight.grad.clone() for name, weight in module.named_parameters() if weight.grad is not None}
    module.zero_grad()
    found = stack([one.encoded for one in given_], batch.objects.shape[1], in_memory)
    encoder = pipeline.object_encoder

    def to_codes(pixels: torch.Tensor, sides: Any = None) -> torch.Tensor:
        if sides is None:  # the picture of nothing
            return codes_of(encoder, encodings.nothing[None])
        return codes_of(
            encoder, found["features"].flatten(0, 1), replace(sides, views=found["view_features"].flatten(0, 1))
        )

    monkeypatch.setattr(encoder, "forward", to_codes)
    monkeypatch.setattr(pipeline, "to_latent", lambda _: found["latent"])
    loss = module(replace(collate(given_), regions=batch.regions), draws)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=2e-3, atol=0)
    assert {name for name, weight in module.named_parameters() if weight.grad is not None} == set(gradients)
    moved = 0
    for name, weight in module.named_parameters():
        if name in gradients:
            size = gradients[name].norm()
            assert (weight.grad - gradients[name]).norm() <= 0.01 * size + 1e-6, name
            moved += bool(size > 1e-5)
    assert moved > 20
    assert gradients["object_encoder.projector.weight"].norm() > 1e-5


def test_training_goes_as_without(pipeline, shards, encodings, tmp_path) -> None:
    model = save_model(tmp_path / "model", pipeline)
    losses = []
    for kept in ([], ["--encoded", str(encodings._folders[0].parent)]):
        out = tmp_path / f"run{len(kept)}"
        argv = ["--shards", str(shards), "--out", str(out), "--init", str(model), "--steps", "6", "--rotation", "0"]
        argv += ["--batch-size", "4", "--unconditional-dropout", "0.3", "--val-samples", "0", "--threads", "1"]
        assert train.main([*argv, *kept]) == 0
        losses.append([json.loads(line)["loss"] for line in (out / "history.jsonl").read_text().splitlines()])
    assert losses[0] != losses[1], "half precision"
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-3)


def test_room_in_a_batch_is_told(pipeline, shards, encodings) -> None:
    _, given_ = inputs_with(encodings, pipeline, shards)
    found = stack([one.encoded for one in given_], 3, in_memory)
    num_bytes = sum(values.numel() * values.element_size() for values in found.values())
    assert num_bytes == len(given_) * encodings.num_bytes(num_objects=3, num_views=2)


def test_objects_that_are_not_there_do_not_matter(pipeline, shards, encodings) -> None:
    _, given_ = inputs_with(encodings, pipeline, shards)
    found = stack([one.encoded for one in given_], 3, in_memory)
    for one, features in zip(given_, found["features"], strict=True):
        num = len(one.boxes)
        assert not features[num:].any()
        assert np.array_equal(features[:num].numpy(), one.encoded.features)


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        ({"encoder": {"kind": "conv", "resolution": 28, "patch": 4, "code_channels": 16, "trunk": None}}, {"latent"}),
        ({"autoencoder": {"kind": "patches", "patch": 2}, "backbone": {"latent_channels": 12}}, {"features"}),
    ],
    ids=["all of the object encoder trains", "no autoencoder"],
)
def test_only_what_is_frozen_is_kept(shards, tmp_path, parts, names) -> None:
    values = yaml.safe_load(LATENT)
    for name, changes in parts.items():
        values[name] = changes if "kind" in changes else values[name] | changes
        values[name] = {k: v for k, v in values[name].items() if v is not None}
    pipeline = pipeline_of(yaml.dump(values))
    encodings = encode_all(pipeline, shards, tmp_path)
    _, given_ = inputs_with(encodings, pipeline, shards)
    assert stack([one.encoded for one in given_], 3, in_memory).keys() == names
    assert (given_[0].objects.size == 0) == ("features" in names)


def test_a_model_without_a_frozen_part_has_nothing_to_keep(mini) -> None:
    with pytest.raises(UserError, match="nothing to keep, as a model of preset `mini` has neither an autoencoder nor"):
        recipe_of(build(load_preset(str(mini))))


def test_what_changes_from_epoch_to_epoch_is_refused(pipeline) -> None:
    with pytest.raises(UserError, match=r"framing.flip is 0.5; expected 0"):
        recipe_of(preset(framing={"flip": 0.5}))
    with pytest.raises(UserError, match="--cutouts mix: changes from epoch to epoch"):
        recipe_of(pipeline, cutouts="mix")


# --- variants ---


TURNED = AugmentSettings(rotation=30, flip=0.5, colour=0.1)


def test_variants_are_drawn_of_seed_and_key_alone(shards, tmp_path) -> None:
    pipeline = preset(framing={"margin_min": 1.1, "margin_max": 1.4})
    recipe = recipe_of(pipeline, augment=TURNED, variants=3, seed=5)
    encodings = encode_all(pipeline, shards, tmp_path, recipe)
    stored = open_shards(shards).sample(4)
    alone = write_tar(tmp_path / "alone.tar", [("s4", sample(4, 2, VIEWS["train-000001"][1]))])
    again = inputs_of(open_shards(alone).sample(0), pipeline.framing, recipe)
    for variant in range(3):
        found = read(encodings, shards, 4, variant)
        expected = inputs_of(stored, pipeline.framing, recipe)[variant]
        assert np.array_equal(expected.objects, again[variant].objects), "neighbours do not matter"
        (made,) = encode_samples(pipeline, [[expected]], 2)
        assert np.array_equal(found.object_boxes, expected.object_boxes)
        np.testing.assert_allclose(found.features, made[0].features, rtol=HALF, atol=HALF)
    firsts = [read(encodings, shards, 4, variant).features for variant in range(3)]
    assert not np.array_equal(firsts[0], firsts[1])
    assert not np.array_equal(firsts[1], firsts[2])
    other = inputs_of(stored, pipeline.framing, replace(recipe, seed=6))
    assert not np.array_equal(other[0].objects, again[0].objects)


def test_margins_of_variants_spread_as_trainings_do(shards) -> None:
    pipeline = preset(framing={"margin_min": 1.1, "margin_max": 1.4})
    stored = open_shards(shards).sample(0)
    (plain,) = inputs_of(stored, pipeline.framing, recipe_of(pipeline))
    drawn = inputs_of(stored, pipeline.framing, recipe_of(pipeline, variants=40))
    sides = np.array([one.object_boxes[0, 2] - one.object_boxes[0, 0] for one in drawn])
    margins = sides / (plain.object_boxes[0, 2] - plain.object_boxes[0, 0]) * 1.25
    assert margins.min() < 1.15
    assert margins.max() > 1.35
    assert abs(margins.mean() - 1.25) < 0.05


def test_variants_are_changed_as_training_changes(shards) -> None:
    pipeline = preset()
    stored = open_shards(shards).sample(0)

    def brightness(augment: AugmentSettings) -> np.ndarray[Any, Any]:
        made = inputs_of(stored, pipeline.framing, recipe_of(pipeline, augment=augment, variants=40))
        return np.array([[p[p[..., 3] == 255][:, :3].mean() for p in one.objects] for one in made])

    plain, recoloured = brightness(AugmentSettings()), brightness(AugmentSettings(colour=0.5, colour_chance=0.5))
    assert np.ptp(plain, axis=0).max() == 0, "there is one margin"
    for k in range(2):
        changed = recoloured[:, k] != plain[0, k]
        assert 8 < changed.sum() < 32, "half of 40, +- 3.8 standard deviations"
        assert np.std(recoloured[changed, k]) > 15
    assert (recoloured[:, 0] != plain[0, 0]).tolist() != (recoloured[:, 1] != plain[0, 1]).tolist()


def test_training_takes_each_variant_as_often(shards, tmp_path) -> None:
    pipeline = preset(framing={"margin_min": 1.1, "margin_max": 1.4})
    encodings = encode_all(pipeline, shards, tmp_path, recipe_of(pipeline, variants=4))
    stored = open_shards(shards).sample(0)
    inputs = as_given(inputs_of(stored, pipeline.framing, recipe_of(pipeline))[0])
    known = {read(encodings, shards, 0, variant).object_boxes.tobytes(): variant for variant in range(4)}
    assert len(known) == 4
    rng = np.random.default_rng(0)
    drawn = [known[encodings.put_into(inputs, stored, 0, 0, rng).object_boxes.tobytes()] for _ in range(400)]
    counts = np.bincount(drawn, minlength=4)
    assert (counts > 70).all(), counts  # 100 +- 3.5 standard deviations


# --- encoding a shard ---


def test_a_sample_that_cannot_be_read_costs_itself_alone(pipeline, shards, encodings, tmp_path) -> None:
    samples = [(f"s{i}", sample(i, n, VIEWS["train-000000"][i])) for i, n in enumerate(OBJECTS["train-000000"])]
    samples[1][1]["bg.jpg"] = b"no photo"
    write_tar(tmp_path / "train-000000.tar", samples)
    (shard,) = find_shards(tmp_path)
    recipe = encodings.recipe
    path = tmp_path / recipe.folder_name / file_name(shard)
    made = encode_shard(pipeline, recipe, shard, path, batch_size=2)
    ((key, why),) = made.errors
    assert key == "s1"
    assert "key s1, bg.jpg: not a JPEG" in why
    table = open_shards(tmp_path)
    stored = [table.sample(index) for index in range(3)]
    found = open_encodings(table, recipe, tmp_path)
    for index in (0, 2):
        ours, theirs = found.read(stored[index], 0, index, 0), read(encodings, shards, index)
        np.testing.assert_allclose(ours.features, theirs.features, rtol=HALF, atol=HALF)
    with pytest.raises(UserError, match="key s1: not encoded, as the sample could not be read"):
        found.read(stored[1], 0, 1, 0)
    kept = find_encoded(recipe, shard, path)
    assert kept is not None
    assert [key for key, _ in kept.errors] == ["s1"]


def test_shards_of_a_server_give_the_same(pipeline, shards, encodings, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    handler = partial(SimpleHTTPRequestHandler, directory=str(shards))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        there = find_shards(f"http://127.0.0.1:{server.server_port}")
        recipe = encodings.recipe
        for shard in there:
            path = tmp_path / recipe.folder_name / file_name(shard)
            made = encode_shard(pipeline, recipe, shard, path, batch_size=2)
            assert find_encoded(recipe, shard, path) == made
            assert path.read_bytes() == (encodings._folders[0] / path.name).read_bytes()
        open_encodings(ShardTable(there), recipe, tmp_path)
        server.shutdown()


def test_bytes_do_not_depend_on_threads_and_a_second_run_finds_them(pipeline, shards, tmp_path) -> None:
    recipe = recipe_of(pipeline)
    shard = find_shards(shards)[0]
    paths = [tmp_path / f"{threads}" / file_name(shard) for threads in (1, 3)]
    for path, threads in zip(paths, (1, 3), strict=True):
        made = encode_shard(pipeline, recipe, shard, path, batch_size=2, threads=threads)
        assert find_encoded(recipe, shard, path) == made
        assert find_encoded(replace(recipe, seed=1), shard, path) is None
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert find_encoded(recipe, shard, tmp_path / "none") is None
    # Without an index it is the samples' headers that tell.
    bare = replace(shard, url=str(shutil.copy(shard.url, tmp_path / "bare.tar")), num_samples=None, sha256="")
    assert find_encoded(recipe, bare, paths[0]) == made
    samples = [(f"t{i}", sample(i, n, VIEWS["train-000000"][i])) for i, n in enumerate(OBJECTS["train-000000"])]
    write_tar(tmp_path / "bare.tar", samples)
    assert bare.path.stat().st_size == shard.size
    assert find_encoded(recipe, bare, paths[0]) is None
    assert find_encoded(recipe, replace(shard, sha256="0" * 64), paths[0]) is None
    with pytest.raises(UserError, match=r"its SHA-256 is not that of index.json"):
        encode_shard(pipeline, recipe, replace(shard, sha256="0" * 64), paths[0], batch_size=2)


def test_values_that_half_precision_cannot_hold_are_refused(shards, tmp_path) -> None:
    pipeline = preset()
    with torch.no_grad():
        pipeline.object_encoder.trunk.layernorm.weight.mul_(1e6)
    shard = find_shards(shards)[0]
    with pytest.raises(UserError, match="features that half precision cannot hold"):
        encode_shard(pipeline, recipe_of(pipeline), shard, tmp_path / "a.safetensors", batch_size=2)
    assert not list(tmp_path.iterdir()), "whole, or not at all"


def test_a_batch_without_encodings_has_none() -> None:
    assert stack([None, None], 2, in_memory) == {}
