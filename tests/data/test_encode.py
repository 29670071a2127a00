"""`pics-data encode`: the same files as without Ray, exactly once, however often it is killed; what it refuses."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import ray
import torch
import yaml

from pics_common.errors import UserError
from pics_data.encode.job import ShardEncoder, encode, encode_summary
from pics_data.encode.options import EncodeConfig
from pics_data.options import RayOptions
from pics_data.pipeline import engine
from pics_model.augment import AugmentSettings
from pics_model.encode import encode_shard, recipe_of
from pics_model.encoded import file_name, open_encodings
from pics_model.infer import load_model
from pics_model.shard_set import find_shards
from pics_model.shard_table import open_shards
from pics_model.snapshot import save_model
from tests.data.kills_for_tests import Run
from tests.model.models_for_tests import LATENT, pipeline_of
from tests.model.shards_for_tests import make_members, write_index, write_shards, write_tar

pytestmark = pytest.mark.usefixtures("same_threads_for_later_tests")
DAMAGED = "train-000000.tar"  # in its eighth sample
COUNTS = {f"train-{number:06}.tar": 20 for number in range(9)} | {"val-000000.tar": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "latent", pipeline_of(LATENT))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_shards(tmp_path_factory.mktemp("encode") / "shards", COUNTS, size=(48, 64))
    samples = [(f"s{i:06}", make_members(i, size=(48, 64))) for i in range(COUNTS[DAMAGED])]
    samples[7][1]["obj1.png"] = b"no picture"
    write_tar(folder / DAMAGED, samples)
    write_index(folder, COUNTS)
    return folder


@pytest.fixture(scope="module")
def one_ray() -> Iterator[str]:
    """Where a Ray of this process answers, that all tests here run on."""
    with engine(RayOptions(workers=2)):
        yield ray.get_runtime_context().gcs_address


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def encoded_plainly(model: Path, shards: Path, out: Path, batch_size: int) -> dict[str, bytes]:
    """The files as this process makes them, without Ray."""
    torch.set_num_threads(1)
    pipeline = load_model(model)
    recipe = recipe_of(pipeline)
    for shard in find_shards(shards):
        encode_shard(pipeline, recipe, shard, out / file_name(shard), batch_size=batch_size)
    return files_of(out)


def test_a_run_that_was_killed_is_taken_up_again(model: Path, shards: Path, tmp_path: Path, one_ray: str) -> None:
    out = tmp_path / "out"
    options = ["--model", str(model), "--out", str(out), "--batch-size", "3"]
    with Run(["encode", str(shards), *options, "--address", one_ray]) as killed:
        assert killed.wait_until(lambda: bool(list(out.glob("encoded-*/*.safetensors"))))
        killed.kill("driver")
    (folder,) = out.iterdir()
    begun = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    assert 0 < len(begun) < len(COUNTS), "it was killed in the middle"
    config = EncodeConfig(str(shards), model, out=out, batch_size=3)
    resumed = encode(config)
    assert resumed.folder == folder
    assert (resumed.samples, resumed.shards, resumed.kept_shards) == (sum(COUNTS.values()), len(COUNTS), len(begun))
    assert {name: (folder / name).stat().st_mtime_ns for name in begun} == begun, "what was whole is left alone"
    assert files_of(folder) == encoded_plainly(model, shards, tmp_path / "plainly", 3), "and nothing else is there"
    again = encode(config)
    assert (again.kept_shards, again.seconds) == (len(COUNTS), 0)
    summary = encode_summary(again)
    assert [key for key, _ in again.errors] == [key for key, _ in resumed.errors] == ["s000007"]
    assert f"samples       182 of 183 in {len(COUNTS)} shards" in summary
    assert "not encoded   s000007: " in summary
    assert f"resumed       {len(COUNTS)} shards were whole" in summary


def test_an_actor_encodes_beside_the_shards_and_names_damage(model: Path, shards: Path, tmp_path: Path) -> None:
    counts = {name: COUNTS[name] for name in (DAMAGED, "train-000001.tar")}
    for name in counts:
        shutil.copy(shards / name, tmp_path)
    cut = tmp_path / "train-000001.tar"
    cut.write_bytes(cut.read_bytes()[:50_000])
    write_index(tmp_path, counts)
    config = EncodeConfig(str(tmp_path), model, variants=2, rotation=30)
    recipe = recipe_of(load_model(model), augment=AugmentSettings(rotation=30.0), variants=2)
    actor = ShardEncoder(config, recipe)
    folder = tmp_path / recipe.folder_name
    good, bad = (
        {"number": number, "shard": json.dumps(asdict(shard)), "path": str(folder / file_name(shard))}
        for number, shard in enumerate(find_shards(tmp_path))
    )
    assert [key for key, _ in json.loads(actor(good)["made"])["errors"]] == ["s000007"]
    with pytest.raises(UserError, match=r"train-000001.tar: cut off"):
        actor(bad)
    assert [path.name for path in folder.iterdir()] == ["train-000000.safetensors"]
    cut.unlink()
    write_index(tmp_path, {DAMAGED: counts[DAMAGED]})
    table, pipeline = open_shards(tmp_path), load_model(model)
    encodings = open_encodings(table, recipe_of(pipeline, augment=AugmentSettings(rotation=30.0)))
    assert encodings.read(table.sample(8), 0, 8, 1).features is not None
    with pytest.raises(UserError, match=r"made with another rotation, 30 there and none here"):
        open_encodings(table, recipe_of(pipeline))
    with pytest.raises(UserError, match=r"changed since the start, or another one on this node"):
        ShardEncoder(config, replace(recipe, trunk="0" * 64))


def test_what_has_no_effect_or_cannot_be_is_refused_before_anything_is_written(
    model: Path, shards: Path, tmp_path: Path
) -> None:
    base = EncodeConfig(str(shards), model, out=tmp_path / "out")
    conv = {"kind": "conv", "resolution": 28, "patch": 4, "code_channels": 16}
    values = yaml.safe_load(LATENT) | {"encoder": conv}
    trains = save_model(tmp_path / "conv", pipeline_of(yaml.dump(values)))
    values |= {"autoencoder": {"kind": "patches", "patch": 2}}
    values["backbone"]["latent_channels"] = 12
    tiny = save_model(tmp_path / "tiny", pipeline_of(yaml.dump(values)))
    for config, words in (
        (replace(base, rotation=30), "no effect without --variants"),
        (replace(base, seed=3), "no effect without --variants"),
        (replace(base, model=trains, variants=2), "--variants 2: no effect, as all of this model's object encoder"),
        (replace(base, model=tiny), "nothing to keep, as a model of preset `latent` has neither an autoencoder nor"),
        (replace(base, model=tmp_path), "no model_index.json here or in model/"),
        (replace(base, folder=str(tmp_path / "none")), "does not exist"),
        (replace(base, folder="s3://bucket/shards", out=None), "--out is missing"),
        (replace(base, variants=2, rotation=200), "rotation"),
    ):
        with pytest.raises(UserError, match=words):
            encode(config)
    with pytest.raises(UserError, match="--batch-size 0: expected 1 to"):
        replace(base, batch_size=0)
    assert not (tmp_path / "out").exists()
