"""Training from saved models and parts of them: what moves, what stays, what is kept, and that every weight learns."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UniPCMultistepScheduler
from safetensors.torch import load_file

from pics_common.errors import UserError
from pics_model.checkpoint import first_difference, list_checkpoints
from pics_model.denoising import DenoisingLoss, draw
from pics_model.infer import load_model
from pics_model.inputs import Batch
from pics_model.objectives import TimestepRule
from pics_model.optimizer import Optimizer
from pics_model.pipeline import PICSPipeline
from pics_model.presets import build, load_preset
from pics_model.snapshot import save_model
from pics_model.stream import ShardStream
from pics_model.train import main
from pics_model.trainable import choose_trainable
from tests.model.conftest import MINI
from tests.model.models_for_tests import FLOW, LATENT, pipeline_of, write_preset

MAKES = {"mini": MINI, "latent": LATENT, "flow": FLOW}
NO_UNET = ("flow", "published")


def words(shards: Path, out: Path, *more: object) -> list[str]:
    line = ["--shards", shards, "--out", out, "--batch-size", 4, "--workers", 0, "--threads", 1, *more]
    return [str(word) for word in line]


def weights(model: Path) -> dict[str, torch.Tensor]:
    """All weights of a saved model, by part and name."""
    return {f"{file.parent.name}.{name}": tensor for file in sorted(model.rglob("*.safetensors"))
            for name, tensor in load_file(file).items()}  # fmt: skip


def moved(before: Path, after: Path) -> set[str]:
    old, new = weights(before), weights(after)
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


def kept(run: Path, which: int = -1) -> dict[str, torch.Tensor]:
    checkpoint = list_checkpoints(run)[which]
    return load_file(checkpoint / "weights.safetensors") | load_file(checkpoint / "optimizer.safetensors")


@pytest.fixture(scope="module")
def latent(tmp_path_factory) -> Path:
    """A saved model with autoencoder and DINOv2."""
    folder = tmp_path_factory.mktemp("latent")
    torch.manual_seed(0)
    return save_model(folder / "model", build(load_preset(str(write_preset(folder, LATENT)))))


def batch_for(shards: Path, pipeline: PICSPipeline) -> Batch:
    return next(iter(ShardStream(shards, pipeline.framing, batch_size=4, num_workers=0).batches()))


def gradients(module: DenoisingLoss, batch: Batch, rule: TimestepRule = "uniform") -> dict[str, torch.Tensor | None]:
    module.zero_grad()
    module(batch, draw(batch.seeds, batch.num_objects, module.pipeline[0].latent_shape, rule)).backward()
    return {name: weight.grad for name, weight in module.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize(
    ("make", "trains"),
    [(make, trains) for make in MAKES for trains in ("all", "interaction", "published") if (make, trains) != NO_UNET],
)
def test_every_weight_that_is_trained_learns(mini_shards, make, trains) -> None:
    """Those of encoder blocks included. What starts silent hides what lies behind it, for a step or two."""
    pipeline = pipeline_of(MAKES[make])
    batch = batch_for(mini_shards, pipeline)
    choose_trainable(pipeline, "all")
    module = DenoisingLoss(pipeline, 0.1)
    optimizer = Optimizer(module, "adamw", 1e-2, 0.0, 0.0)
    for _ in range(4):
        gradients(module, batch)
        optimizer.step(1.0)
    choose_trainable(pipeline, trains)
    found = gradients(module, batch)
    assert [name for name, gradient in found.items() if gradient is None or not gradient.any()] == []
    inside = [name for name in found if "transformer_blocks" in name]
    assert any("k_proj" in name for name in inside)
    if make != "flow":
        assert [name for name in found if "unet.down_blocks" in name and "gate_q" in name]
        assert [name for name in found if "controlnet.down_blocks" in name and "gate_q" in name]


@pytest.mark.parametrize("make", MAKES)
def test_every_weight_has_a_gradient_even_if_objects_meet_nowhere_or_are_not_seen(mini_shards, make) -> None:
    """A weight without one would hang the ranks of a run, which wait for each other's."""
    pipeline = pipeline_of(MAKES[make])
    batch = batch_for(mini_shards, pipeline)
    choose_trainable(pipeline, "all")
    module = DenoisingLoss(pipeline, 0.1)
    alone, nowhere = batch.regions.clone(), torch.zeros_like(batch.regions)
    alone[:, 1:] = False
    for regions in (alone, nowhere):
        batch.regions = regions
        found = gradients(module, batch)
        assert [name for name, gradient in found.items() if gradient is None] == []
        assert all(gradient is not None and gradient.isfinite().all() for gradient in found.values())


def test_what_trains_is_what_was_asked(mini_shards, latent, tmp_path) -> None:
    for trains in ("all", "published", "interaction"):
        run = tmp_path / trains
        assert main(words(mini_shards, run, "--init", latent, "--steps", 8, "--trains", trains)) == 0
        changed = moved(latent, run / "model")
        known = {name.removesuffix(".weight") for name in changed}
        assert not [name for name in changed if name.startswith(("autoencoder.", "object_encoder.trunk."))]
        assert {
            "object_encoder.projector",
            "backbone.unet.down_blocks.0.attentions.0.transformer_blocks.0.gate_q",
        } <= known
        stock = {"unet.up_blocks.1.resnets.0.conv1", "unet.conv_out", "controlnet.mid_block.resnets.0.conv1"}
        stock = {f"backbone.{name}" for name in stock}
        encoder = {"backbone.unet.conv_in", "backbone.unet.down_blocks.0.resnets.0.conv1",
                   "backbone.unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
                   "backbone.unet.time_embedding.linear_1"}  # fmt: skip
        assert (stock <= known) == (trains != "interaction")
        assert not stock & known or trains != "interaction"
        assert encoder <= known if trains == "all" else not encoder & known
        in_checkpoint = load_file(list_checkpoints(run)[-1] / "weights.safetensors")
        assert set(in_checkpoint) == changed


def test_a_run_begins_with_the_weights_it_is_given(mini_shards, latent, tmp_path) -> None:
    still = ["--learning-rate", 0, "--matrix-rate", 0, "--weight-decay", 0, "--steps", 1]
    assert main(words(mini_shards, tmp_path / "run", "--init", latent, *still)) == 0
    assert moved(latent, tmp_path / "run" / "model") == set()
    # A run is a saved model too.
    assert main(words(mini_shards, tmp_path / "on", "--init", tmp_path / "run", *still)) == 0
    assert json.loads((tmp_path / "on" / "run.json").read_text())["settings"]["preset"] == "latent"


@pytest.fixture(scope="module")
def latent_run(mini_shards, latent, tmp_path_factory) -> Path:
    """Six steps of everything at once, checkpoints after three and six."""
    out = tmp_path_factory.mktemp("runs") / "latent"
    assert main(words(mini_shards, out, *ALL_AT_ONCE, "--init", latent)) == 0
    return out


ALL_AT_ONCE = ["--steps", 6, "--save-every", 3, "--trains", "published", "--optimizer", "adamw", "--min-snr", 5,
               "--object-dropout", 0.5, "--unconditional-dropout", 0.2, "--timesteps", "published"]  # fmt: skip


def test_frozen_parts_are_not_in_checkpoints_and_resuming_is_exact(mini_shards, latent, latent_run, tmp_path) -> None:
    assert not [name for name in kept(latent_run) if "trunk" in name or "autoencoder" in name]
    half = tmp_path / "half"
    subprocess.run(["cp", "-r", latent_run, half], check=True)
    subprocess.run(["rm", "-r", list_checkpoints(half)[-1]], check=True)
    assert main(words(mini_shards, half, *ALL_AT_ONCE, "--init", latent, "--resume")) == 0
    whole, resumed = kept(latent_run), kept(half)
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_two_ranks_with_frozen_parts_train_as_one_does(mini_shards, latent, latent_run, tmp_path) -> None:
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line = words(mini_shards, tmp_path / "run", *ALL_AT_ONCE, "--init", latent)
    done = subprocess.run([*run, "-m", "pics_model.train", *line], capture_output=True, text=True, timeout=150,
                          env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = kept(latent_run), kept(tmp_path / "run")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=2e-3, rtol=0.05, msg=lambda said, name=name: name + said)


def test_checkpointing_takes_the_same_steps(mini_shards, latent, latent_run, tmp_path) -> None:
    assert main(words(mini_shards, tmp_path / "run", *ALL_AT_ONCE, "--init", latent, "--checkpointing")) == 0
    one, two = kept(latent_run), kept(tmp_path / "run")
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("make", MAKES)
def test_bfloat16_takes_about_the_same_loss(mini_shards, make) -> None:
    pipeline = pipeline_of(MAKES[make])
    batch = batch_for(mini_shards, pipeline)
    draws = draw(batch.seeds, batch.num_objects, pipeline.latent_shape)
    module = DenoisingLoss(pipeline, 0.1)
    exact = module(batch, draws)
    with torch.autocast("cpu", torch.bfloat16):
        rough = module(batch, draws)
    rough.backward()
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.02)
    assert all(weight.grad.isfinite().all() for weight in module.parameters() if weight.grad is not None)


def test_a_preset_whose_frozen_parts_are_random_says_so(mini_shards, mini, tmp_path, capsys) -> None:
    assert main(words(mini_shards, tmp_path / "mini", "--preset", mini, "--steps", 1)) == 0
    assert "note:" not in capsys.readouterr().out
    preset = write_preset(tmp_path, LATENT)
    assert main(words(mini_shards, tmp_path / "latent", "--preset", preset, "--steps", 1)) == 0
    said = capsys.readouterr().out
    assert [part for part in ("backbone", "object_encoder", "autoencoder") if f"note: {part} is random" in said] == [
        "object_encoder",
        "autoencoder",
    ]


def test_flow_trains_from_a_saved_model(mini_shards, tmp_path) -> None:
    model = save_model(tmp_path / "model", pipeline_of(FLOW))
    line = words(mini_shards, tmp_path / "run", "--init", model, "--steps", 8, "--timesteps", "logit_normal")
    assert main([*line, "--bf16"]) == 0
    assert moved(model, tmp_path / "run" / "model") == set(weights(model))
    with pytest.raises(UserError, match=r"--trains published: .* this model is a FlowTransformer; expected all or"):
        main(words(mini_shards, tmp_path / "other", "--init", model, "--trains", "published"))


def test_what_cannot_begin_is_refused_in_one_line(mini_shards, latent, latent_run, mini, tmp_path) -> None:
    other = load_model(latent)
    with torch.no_grad():
        next(iter(other.autoencoder.parameters())).add_(1)
    strange = save_model(tmp_path / "strange", other)
    other.scheduler = UniPCMultistepScheduler.from_config(other.scheduler.config)
    sampler = save_model(tmp_path / "sampler", other)
    wider = save_model(tmp_path / "wider", pipeline_of(LATENT, tau=0.4))
    resumed = [*ALL_AT_ONCE, "--resume"]
    before = kept(latent_run)
    for out, more, said in (
        (tmp_path / "run", ["--init", latent, "--preset", "tiny"], "--preset tiny: --init .* give one of the two"),
        (tmp_path / "run", ["--init", tmp_path / "nowhere"], "nowhere"),
        (tmp_path / "run", ["--init", sampler], "its scheduler is a UniPCMultistepScheduler, which is only for sampli"),
        (latent_run, [*resumed, "--init", strange], r"the weights of --init .*strange that are not trained are others"),
        (latent_run, [*resumed, "--init", wider], r"another model than --init .*wider: `backbone.tau` was 0.5 and is"),
        (latent_run, [*resumed, "--preset", mini], "another model than --preset"),
    ):
        with pytest.raises(UserError, match=said) as error:
            main(words(mini_shards, out, *more))
        assert "\n" not in str(error.value)
    after = kept(latent_run)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not (tmp_path / "run").exists()


def test_the_first_difference_is_named_with_its_place() -> None:
    one = {"a": {"b": 1, "c": [1, 2]}, "z": 0}
    assert first_difference(one, {"a": {"b": 1, "c": [1, 2]}, "z": 0}) is None
    assert first_difference(one, {"a": {"b": 1, "c": [1, 3]}, "z": 1}) == ("a.c", [1, 2], [1, 3])
    assert first_difference(one, {"a": {"c": [1, 2]}, "z": 0}) == ("a.b", 1, None)
    assert first_difference(one, {"a": 5, "z": 0}) == ("a", {"b": 1, "c": [1, 2]}, 5)
