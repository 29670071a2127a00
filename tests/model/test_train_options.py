"""Accumulation, running mean, adapters, FSDP2, validation, and steps that are left out."""

import json
import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pics_common.errors import UserError
from pics_model.checkpoint import best_checkpoint, list_checkpoints, read_state
from pics_model.denoising import DenoisingLoss, draw
from pics_model.ema import Ema
from pics_model.infer import load_model
from pics_model.learner import Learner
from pics_model.lora import is_adapter, merged
from pics_model.optimizer import Optimizer
from pics_model.presets import build, load_preset
from pics_model.snapshot import save_model, with_weights
from pics_model.stream import ShardStream
from pics_model.train import main
from pics_model.trainable import choose_trainable
from tests.model.models_for_tests import LATENT, pipeline_of, write_preset
from tests.model.runs_for_tests import run
from tests.model.shards_for_tests import write_shards


def words(shards: Path, out: Path, *more: object) -> list[str]:
    line = ["--shards", shards, "--out", out, "--batch-size", 4, "--workers", 0, "--threads", 1, "--val-samples", 0]
    return [str(word) for word in [*line, *more]]


def lines(run: Path, name: str = "history.jsonl") -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def saved(model: Path) -> dict[str, torch.Tensor]:
    """Trained parts of a saved model, under the names that checkpoints use."""
    return {f"{part}.{name}": tensor for part in ("backbone", "object_encoder")
            for name, tensor in load_file(model / part / "diffusion_pytorch_model.safetensors").items()}  # fmt: skip


def weights(run: Path, which: int = -1) -> dict[str, torch.Tensor]:
    return load_file(list_checkpoints(run)[which] / "weights.safetensors")


@pytest.fixture(scope="module")
def latent(tmp_path_factory) -> Path:
    """A saved model with autoencoder and DINOv2."""
    folder = tmp_path_factory.mktemp("latent")
    torch.manual_seed(0)
    return save_model(folder / "model", build(load_preset(str(write_preset(folder, LATENT)))))


# --- accumulation and the mean ---


@pytest.mark.parametrize("parts", [2, 4])
def test_a_step_in_parts_is_the_same_step(mini_shards, mini, tmp_path, parts) -> None:
    line = ["--preset", mini, "--steps", 4, "--save-every", 1, "--optimizer", "adamw"]
    assert main(words(mini_shards, tmp_path / "whole", *line)) == 0
    assert main(words(mini_shards, tmp_path / "parts", *line, "--accumulate", parts)) == 0
    ours, theirs = lines(tmp_path / "parts"), lines(tmp_path / "whole")
    assert [entry["loss"] for entry in ours] == pytest.approx([entry["loss"] for entry in theirs], rel=1e-4)
    with pytest.raises(UserError, match=r"--batch-size 4: expected a multiple of the 1 ranks times --accumulate 3"):
        main(words(mini_shards, tmp_path / "none", *line, "--accumulate", 3))


def test_the_model_that_is_saved_is_the_mean_of_the_weights(mini_shards, mini, tmp_path) -> None:
    out = tmp_path / "run"
    line = ["--preset", mini, "--steps", 5, "--save-every", 1, "--keep", 9, "--ema", 3]
    assert main(words(mini_shards, out, *line)) == 0
    torch.manual_seed(0)
    mean = {name: weight.double() for name, weight in DenoisingLoss(build(load_preset(str(mini)))).state_dict().items()}
    for number, checkpoint in enumerate(list_checkpoints(out), 1):
        # Half as much every half-life: 3 samples, but at first a twentieth of those seen.
        stays = 0.5 ** (4 / min(3, 0.05 * 4 * number))
        now = load_file(checkpoint / "weights.safetensors")
        mean |= {name: stays * mean[name] + (1 - stays) * now[name].double() for name in now}
    kept, users = load_file(list_checkpoints(out)[-1] / "mean.safetensors"), saved(out / "model")
    assert kept.keys() < users.keys()
    for name, value in users.items():
        torch.testing.assert_close(value.double(), mean[name], atol=1e-6, rtol=1e-5)
    assert any(not torch.equal(kept[name], weights(out)[name]) for name in kept)
    with pytest.raises(UserError, match=r"--ema 0: .* was made with 3"):
        main(words(mini_shards, out, *line, "--ema", 0, "--resume"))


# --- adapters ---


def with_adapters(seed: int = 0) -> tuple[DenoisingLoss, dict[str, torch.Tensor]]:
    """A model whose adapters are not zero, and its state."""
    pipeline = pipeline_of(LATENT)
    torch.manual_seed(seed)
    choose_trainable(pipeline, "lora", 2)
    module = DenoisingLoss(pipeline)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    return module, module.state_dict()


def test_merged_adapters_are_the_model_with_adapters(mini_shards) -> None:
    module, state = with_adapters()
    pipeline = module.pipeline[0]
    batch = next(ShardStream(mini_shards, pipeline.framing, batch_size=3).batches())
    draws = draw(batch.seeds, batch.num_objects, pipeline.latent_shape)
    plain = with_weights(pipeline, {name: tensor.clone() for name, tensor in merged(state).items()})
    bare = with_weights(pipeline, {n.replace(".base_layer.", "."): t for n, t in state.items() if not is_adapter(n)})
    found, expected, without = (DenoisingLoss(p)(batch, draws) for p in (plain, pipeline, bare))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert abs(without - expected) > 1e-3
    # In sampling, blocks multiply weights beforehand: adapters must be in them.
    pictures = [p.sample(batch, [torch.Generator().manual_seed(i) for i in range(3)], steps=2).pictures
                for p in (plain, pipeline, bare)]  # fmt: skip
    torch.testing.assert_close(pictures[0], pictures[1], atol=1e-4, rtol=1e-4)
    assert (pictures[2] - pictures[1]).abs().max() > 1e-2


def test_adapters_train_and_users_need_not_know(mini_shards, latent, tmp_path) -> None:
    out = tmp_path / "run"
    line = ["--init", latent, "--trains", "lora", "--lora-rank", 2, "--steps", 6, "--save-every", 3]
    assert main(words(mini_shards, out, *line)) == 0
    kept = weights(out)
    assert {name.rpartition(".lora_")[0].rpartition(".")[2] for name in kept if is_adapter(name)} <= {
        "to_q", "to_k", "to_v", "0"}  # fmt: skip
    assert not [name for name in kept if name.endswith("base_layer.weight")]
    before, after = saved(latent), saved(out / "model")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    stock = "unet.down_blocks.0.resnets.0.conv1.weight"
    assert f"backbone.{stock}" not in moved
    assert "backbone.unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight" in moved
    assert "backbone.unet.down_blocks.0.attentions.0.transformer_blocks.0.gate_q.weight" in moved
    # Resumed, it is the same run; and what it made is a model like any other.
    half = tmp_path / "half"
    shutil.copytree(out, half)
    shutil.rmtree(list_checkpoints(half)[-1])
    assert main(words(mini_shards, half, *line, "--resume")) == 0
    assert [name for name in kept if not torch.equal(kept[name], weights(half)[name])] == []
    assert load_model(out).config.preset == "latent"


# --- FSDP2 ---


def test_a_model_that_is_shared_out_trains_as_a_whole_one(mini_shards, latent, tmp_path) -> None:
    line = ["--init", latent, "--optimizer", "adamw", "--steps", 4, "--save-every", 2, "--accumulate", 2, "--ema", 8,
            "--val-samples", 3, "--learning-rate", 1e-3, "--logger", "none"]  # fmt: skip
    one, two = tmp_path / "ddp", tmp_path / "fsdp"
    run(words(mini_shards, one, *line, "--grid-samples", 0), tmp_path / "one", 2)
    run(words(mini_shards, two, *line, "--parallel", "fsdp"), tmp_path / "two", 2)
    for name in ("history.jsonl", "validation.jsonl"):
        for found, expected in zip(lines(two, name), lines(one, name), strict=True):
            assert found == pytest.approx(expected, rel=3e-3)
    for file in ("weights.safetensors", "mean.safetensors"):
        found, expected = (load_file(list_checkpoints(out)[-1] / file) for out in (two, one))
        assert found.keys() == expected.keys()
        for name in found:
            # AdamW's first steps are as long for a gradient of rounding errors as for any other.
            torch.testing.assert_close(found[name], expected[name], atol=5e-3, rtol=0.05)
    # Its checkpoints hold whole weights: one process goes on with them, and what is shared out with that.
    run([*words(mini_shards, two, *line, "--resume"), "--steps", "6", "--grid-samples", "0"], tmp_path / "three")
    run([*words(mini_shards, two, *line, "--resume"), "--steps", "7", "--parallel", "fsdp"], tmp_path / "four", 2)
    assert read_state(list_checkpoints(two)[-1]).samples == 28
    assert saved(two / "model").keys() == saved(latent).keys()


def test_fsdp_refuses_what_it_cannot_do(mini_shards, mini, tmp_path) -> None:
    for more, said in (
        (["--optimizer", "muon"], "--parallel fsdp: Muon needs whole matrices; give --optimizer adamw"),
        (["--optimizer", "adamw"], "--parallel fsdp: .* start it with torchrun"),
    ):
        with pytest.raises(UserError, match=said):
            main(words(mini_shards, tmp_path / "run", "--preset", mini, "--parallel", "fsdp", *more))


# --- validation ---


def test_validation_does_not_depend_on_the_run_but_on_the_model(mini_shards, mini, tmp_path) -> None:
    model = save_model(tmp_path / "model", pipeline_of(mini.read_text()))
    still = ["--init", model, "--learning-rate", 0, "--matrix-rate", 0, "--weight-decay", 0, "--steps", 2]
    found = []
    for number, more in enumerate((["--seed", 1], ["--seed", 2, "--batch-size", 2], ["--min-snr", 5, "--rotation", 0])):
        out = tmp_path / str(number)
        assert main(words(mini_shards, out, *still, "--val-samples", 64, "--grid-samples", 0, *more)) == 0
        found.append(lines(out, "validation.jsonl")[-1]["val_loss"])
    assert found == pytest.approx([found[0]] * 3, rel=1e-5)


def test_validation_weighs_every_sample_and_level_once(mini_shards, mini, tmp_path) -> None:
    """Against a loop over single samples: three of them, at the middles of three thirds of noise."""
    model = save_model(tmp_path / "model", pipeline_of(mini.read_text()))
    still = ["--init", model, "--learning-rate", 0, "--matrix-rate", 0, "--weight-decay", 0, "--steps", 1]
    assert main(words(mini_shards, tmp_path / "run", *still, "--val-samples", 64, "--grid-samples", 0)) == 0
    (found,) = lines(tmp_path / "run", "validation.jsonl")
    pipeline = load_model(model)
    module = DenoisingLoss(pipeline, 0.1)
    batches = ShardStream(mini_shards, pipeline.framing, batch_size=1, split="val").batches()
    totals = dict.fromkeys((0, 1, 2), math.nan)
    for _, batch in zip(range(3), batches, strict=False):
        for band in totals:
            draws = draw(batch.seeds, batch.num_objects, pipeline.latent_shape)
            draws.places = torch.tensor([(band + 0.5) / 3])
            error = module(batch, draws).item()
            name = ("clear", "medium", "noisy")[band]
            if found[f"val_loss_{name}"] == pytest.approx(error, rel=1e-4):
                totals[band] = error
    assert found["val_loss"] == pytest.approx(sum(totals.values()) / 3, rel=1e-4)


def test_pictures_of_held_out_samples_are_kept_and_shown(mini_shards, mini, tmp_path) -> None:
    out = tmp_path / "run"
    line = words(mini_shards, out, "--preset", mini, "--steps", 2, "--save-every", 1, "--val-samples", 3)
    assert main([*line, "--grid-samples", "2"]) == 0
    sheets = sorted((out / "samples").iterdir())
    assert [sheet.name for sheet in sheets] == ["000000000004.png", "000000000008.png"]
    pictures = [cv2.imread(str(sheet)) for sheet in sheets]
    assert pictures[0].shape[0] > 2 * 192
    assert not np.array_equal(*pictures)
    board = EventAccumulator(str(out / "tensorboard"), {"images": 0}).Reload()
    assert [event.step for event in board.Images("samples")] == [4, 8]
    assert [event.step for event in board.Scalars("val_loss")] == [4, 8]


def test_the_best_is_kept_beside_the_newest(mini_shards, mini, tmp_path) -> None:
    out = tmp_path / "run"
    line = ["--preset", mini, "--steps", 12, "--save-every", 1, "--keep", 1, "--schedule", "constant", "--warmup", 8,
            "--matrix-rate", 2, "--grid-samples", 0, "--val-samples", 3]  # fmt: skip
    assert main(words(mini_shards, out, *line)) == 0
    judged = {entry["samples"]: entry["val_loss"] for entry in lines(out, "validation.jsonl")}
    best = min(judged, key=lambda samples: judged[samples])
    assert best < 48, "such learning rates make a model worse"
    assert [int(path.name) for path in list_checkpoints(out)] == [best, 48]
    assert best_checkpoint(out) == list_checkpoints(out)[0]
    trained, users = weights(out, 0), saved(out / "best")
    assert [name for name in trained if not torch.equal(trained[name], users[name])] == []
    assert [name for name in trained if torch.equal(trained[name], saved(out / "model")[name])] == []


def test_shards_without_a_held_out_part_are_trained_on_all_the_same(mini, tmp_path, capsys) -> None:
    shards = write_shards(tmp_path / "shards", {"train-000000.tar": 4}, size=(48, 64))
    line = ["--preset", mini, "--steps", 1, "--val-samples", 3]
    assert main(words(shards, tmp_path / "run", *line)) == 0
    assert "note: no validation: " in capsys.readouterr().out
    assert main(words(shards / "train-000000.tar", tmp_path / "one", *line)) == 0
    assert "note: no validation: " in capsys.readouterr().out
    with pytest.raises(UserError, match="none of split val"):
        main(words(shards, tmp_path / "two", *line, "--val-shards", shards))
    with pytest.raises(UserError, match=r"--val-shards .*: without effect, as --val-samples is 0"):
        main(words(shards, tmp_path / "two", *line, "--val-shards", shards, "--val-samples", 0))


def test_several_sets_of_shards_are_mixed_by_their_weights(mini, tmp_path) -> None:
    """Of ten samples an epoch: each of four once, each of three twice."""
    few = write_shards(tmp_path / "few", {"train-000000.tar": 4, "val-000000.tar": 2}, size=(48, 64))
    many = write_shards(tmp_path / "many", {"train-000000.tar": 3}, size=(48, 64))
    line = words(few, tmp_path / "run", "--preset", mini, "--steps", 1, "--val-samples", 9, "--grid-samples", 0)
    line.insert(line.index("--shards") + 2, str(many))
    assert main([*line, "--weights", "1", "2"]) == 0
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["samples_in_shards"] == 10
    assert about["settings"]["shards"] == [str(few), str(many)]
    assert lines(tmp_path / "run", "validation.jsonl"), "the one that has a held-out part is validated on"
    with pytest.raises(UserError, match="--weights: 1 for 2 of --shards; expected one for each"):
        main([*line, "--weights", "1"])


# --- what is no number ---


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_step(mini_shards, mini, tmp_path) -> None:
    wild = ["--preset", mini, "--steps", 10, "--learning-rate", 1e30, "--matrix-rate", 1e30]
    with pytest.raises(UserError, match=r"no finite number at step \d+; samples s0\d+, .*or leave such steps out with"):
        main(words(mini_shards, tmp_path / "run", *wild, "--warmup", 0))
    assert not list_checkpoints(tmp_path / "run")
    with pytest.raises(UserError, match=r"0 samples and \d+ steps were left out, more than --max-skipped 3"):
        main(words(mini_shards, tmp_path / "two", *wild, "--warmup", 0, "--on-nan", "skip", "--max-skipped", 3))


@pytest.mark.parametrize("careful", [False, True])
def test_a_step_without_a_finite_gradient_is_left_out_and_the_next_is_not(mini_shards, mini, careful) -> None:
    pipeline = pipeline_of(mini.read_text())
    module = DenoisingLoss(pipeline)
    optimizer = Optimizer(module, "muon", 1e-3, 1e-2, 0)
    learner = Learner(module, module, optimizer, Ema(module, 100), bf16=False, clip=1.0)
    batch = next(ShardStream(mini_shards, pipeline.framing, batch_size=2).batches())
    good = draw(batch.seeds, batch.num_objects, pipeline.latent_shape)
    bad = draw(batch.seeds, batch.num_objects, pipeline.latent_shape)
    bad.noise[1, 0, 0, 0] = math.inf

    def state() -> dict[str, torch.Tensor]:
        mine = {name: weight.clone() for name, weight in module.state_dict().items()}
        return mine | {f"mean {name}": mean.clone() for name, mean in learner.ema.means.items()} | optimizer.tensors()

    learner.step(batch, good, 1, 1.0, 2, careful)
    before = {name: tensor.clone() for name, tensor in state().items()}
    step = learner.step(batch, bad, 1, 1.0, 4, careful)
    assert not step.norm.isfinite()
    assert step.moved != careful
    after = state()
    assert all(torch.equal(before[name], after[name]) for name in before) == careful
    if careful:
        assert learner.step(batch, good, 1, 1.0, 6, careful).moved
        assert all(value.isfinite().all() for value in state().values())


def test_a_logger_that_is_not_installed_is_named(mini_shards, mini, tmp_path) -> None:
    with pytest.raises(UserError, match=r"--logger wandb: wandb is not installed; pip install"):
        main(words(mini_shards, tmp_path / "run", "--preset", mini, "--logger", "wandb"))
    assert not (tmp_path / "run").exists()
