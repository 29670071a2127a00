"""The diffusion transformer: its flow, its start, its order; that it samples, saves and checkpoints as others do."""

from dataclasses import asdict
from typing import Any

import pytest
import torch

from pics_common.errors import UserError
from pics_model.backbone import interaction_layers
from pics_model.flow_transformer import FlowTransformer, precondition
from pics_model.inputs import Batch, FramingSettings
from pics_model.objects import Interactions
from pics_model.pipeline import PICSPipeline
from pics_model.presets import FOLDER, load_preset
from pics_model.presets.check import make
from pics_model.stream import ShardStream

SIZES: dict[str, Any] = {"sample_size": 8, "num_layers": 2, "num_heads": 2, "head_channels": 16, "code_channels": 16}


def small(seed: int = 0, **changes: Any) -> FlowTransformer:
    torch.manual_seed(seed)
    return FlowTransformer(**(SIZES | changes)).eval()


def shaken(model: FlowTransformer) -> FlowTransformer:
    """Away from the silent start, at which many differences are none."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model


def objects(num: int = 2, num_objects: int = 2, channels: int = 16) -> Interactions:
    generator = torch.Generator().manual_seed(2)
    regions = torch.zeros(num, num_objects, 32, 32, dtype=torch.bool)
    for k in range(num_objects):
        regions[:, k, 4 + 5 * k : 20 + 5 * k, 6:22] = True
    boxes = torch.tensor([0.1, 0.1, 0.8, 0.8]).expand(num, num_objects, 4)
    return Interactions(torch.randn(num, num_objects, 17, channels, generator=generator), regions, boxes)


def inputs(num: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(num, 48, 8, 8, generator=generator), torch.randn(num, 4, 32, 32, generator=generator)


SHARES = torch.tensor([0.0, 0.05, 0.3, 0.5, 0.8, 1.0])[:, None]


def gaussian_pictures(std: float) -> tuple[torch.Tensor, torch.Tensor]:
    """x_t and the flow of many pictures of one normal pixel, [shares of noise, 200,000]."""
    generator = torch.Generator().manual_seed(4)
    clean, noise = (torch.randn(200_000, generator=generator, dtype=torch.float64) for _ in range(2))
    return (1 - SHARES) * std * clean + SHARES * noise, noise - std * clean


def test_it_starts_with_the_best_guess_that_is_linear_in_the_noisy_picture() -> None:
    noisy, flow = gaussian_pictures(0.5)
    slope = (noisy * flow).mean(1) / noisy.square().mean(1)  # of a regression
    latent, where = inputs(6)
    out = small(picture_std=0.5)(latent, 1000 * SHARES[:, 0], where, objects(6))
    torch.testing.assert_close(out, slope[:, None, None, None].float() * latent, atol=0.01, rtol=0.02)


@pytest.mark.parametrize("std", [0.3, 0.5, 1.0])
def test_what_the_network_sees_and_has_to_say_has_unit_variance_at_all_noise_levels(std) -> None:
    noisy, flow = gaussian_pictures(std)
    keep, scale, add = precondition(SHARES.double(), std)
    torch.testing.assert_close((scale * noisy).std(1), torch.ones(6, dtype=torch.float64), atol=0.01, rtol=0)
    left = (flow - keep * noisy) / add
    torch.testing.assert_close(left.std(1), torch.ones(6, dtype=torch.float64), atol=0.01, rtol=0)
    assert (left * noisy).mean(1).abs().max() < 0.02  # what is left is news


@pytest.mark.parametrize("patch_size", [1, 2])
@pytest.mark.parametrize("overlap", ["blend", "blend_attend"])
def test_one_answer_for_a_timestep_or_one_each(patch_size, overlap) -> None:
    model = shaken(small(patch_size=patch_size, overlap=overlap))
    latent, where = inputs()
    with torch.no_grad():
        both = model(latent, torch.tensor(300.0), where, objects())
        each = model(latent, torch.tensor([300.0, 300.0]), where, objects())
        other = model(latent, torch.tensor([300.0, 900.0]), where, objects())
    assert both.shape == latent.shape
    assert torch.equal(both, each)
    torch.testing.assert_close(both[0], other[0])
    assert not torch.allclose(both[1], other[1])


def test_all_that_it_is_given_matters_and_the_order_of_objects_does_not() -> None:
    model = shaken(small())
    latent, where = inputs()
    things = objects()
    turned = Interactions(things.codes.flip(1), things.regions.flip(1), things.boxes)
    changed = Interactions(things.codes + 1, things.regions, things.boxes)
    with torch.no_grad():
        timestep = torch.tensor(400.0)
        out = model(latent, timestep, where, things)
        torch.testing.assert_close(model(latent, timestep, where, turned), out, atol=1e-5, rtol=0)
        assert not torch.allclose(model(latent, timestep, where, changed), out)
        assert not torch.allclose(model(latent, timestep, -where, objects()), out)


def test_hint_pixels_lie_in_the_tokens_that_they_cover() -> None:
    """Before any token has seen another, a pixel of the hint moves the token of its own place alone."""
    model = small()
    latent, where = inputs(1)
    other = where.clone()
    other[0, 0, 13, 22] += 1  # latents are 4 pixels wide: row 3, column 5
    seen = []
    model.transformer.pos_embed.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        for hint in (where, other):
            model(latent, torch.tensor(500.0), hint, objects(1))
    moved = (seen[0] - seen[1]).abs().sum(-1)[0].nonzero().flatten().tolist()
    assert moved == [3 * 8 + 5]


def test_layers_are_named_in_the_order_in_which_they_run() -> None:
    model = small(num_layers=12)
    ran = []
    for name in interaction_layers(model):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    with torch.no_grad():
        model(inputs()[0], torch.tensor(1.0), inputs()[1], objects())
    assert len(ran) == 12
    assert ran == interaction_layers(model)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = shaken(small())
        if checkpointing:
            model.enable_gradient_checkpointing()
        latent, where = inputs()
        model(latent, torch.tensor(500.0), where, objects()).square().mean().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=lambda said, name=name: f"{name}: {said}")


def test_objects_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"codes have shape .* expected \[pictures, objects, tokens, 16\]"):
        small()(inputs()[0], torch.tensor(1.0), inputs()[1], objects(channels=8))


def flow_pipeline(**changes: Any) -> PICSPipeline:
    preset = load_preset("flow")
    torch.manual_seed(0)
    return PICSPipeline(
        backbone=shaken(make("backbone", preset.backbone | {"num_layers": 2, "num_heads": 2} | changes)),
        object_encoder=make("encoder", preset.encoder),
        scheduler=make("schedule", preset.schedule),
        patch=4,
        preset="flow",
        guidance=preset.guidance,
        steps=3,
        framing=asdict(FramingSettings(**preset.framing)),
    )


@pytest.fixture(scope="module")
def batch(mini_shards) -> Batch:
    framing = flow_pipeline().framing
    return next(iter(ShardStream(mini_shards, framing, batch_size=2, num_workers=0).batches()))


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(2)]


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_pipeline_samples_it_and_what_was_saved_samples_the_same(batch, tmp_path, guidance) -> None:
    pipeline = flow_pipeline()
    assert pipeline.config.objective == "flow"
    made = pipeline.sample(batch, generators(), guidance=guidance, read=True)
    assert made.pictures.shape == (2, 3, 64, 64)
    assert made.pictures.isfinite().all()
    assert [readout.layer for readout in made.readouts[0][:2]] == interaction_layers(pipeline.backbone)
    pipeline.save_pretrained(tmp_path)
    again = PICSPipeline.from_pretrained(tmp_path, use_safetensors=True)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(again.sample(batch, generators(), guidance=guidance).latents, made.latents)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_model_that_knows_the_picture_ends_there(batch, monkeypatch, steps) -> None:
    pipeline = flow_pipeline()
    clean = torch.randn(2, *pipeline.latent_shape, generator=torch.Generator().manual_seed(5))

    def know(seen: torch.Tensor, timestep: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        t = (timestep / 1000)[:, None, None, None]
        keep, scale, add = precondition(t, pipeline.backbone.config.picture_std)
        noisy = seen[:, : clean.shape[1]] / scale
        return (((noisy - clean) / t - keep * noisy) / add,)

    monkeypatch.setattr(pipeline.backbone.transformer, "forward", know)
    made = pipeline.sample(batch, generators(), steps=steps)
    torch.testing.assert_close(made.latents, clean, atol=1e-4, rtol=0)


WRONG = {
    "kind: transformer": ("kind: mamba", "key `backbone.kind` is 'mamba'; expected unet or transformer"),
    "kind: flow": ("kind: ddim", "unknown key `schedule.shift`"),
    "sample_size: 16": ("sample_size: 8", "key `backbone.sample_size` is 8; expected framing.resolution in latents"),
    "patch_size: 1": ("patch_size: 3", "key `backbone.patch_size` is 3; expected 1 or more, dividing sample_size, 16"),
    "hint_stride: 4": ("hint_stride: 8", "key `backbone.hint_stride` is 8; expected 4, the pixels a side of a latent"),
    "head_channels: 32": ("head_channels: 0", "key `backbone.head_channels` is 0; expected a multiple of 4"),
    "latent_channels: 48": ("latent_channels: 4", "key `backbone.latent_channels` is 4; expected 48"),
    "placement: true": ("picture_std: 0", "key `backbone.picture_std` is 0; expected a number above 0"),
    "tau: 0.5": ("tau: 0", "key `backbone.tau` is 0; expected a number above 0"),
    "num_train_timesteps: 1000": ("num_train_timesteps: 500", "`schedule.num_train_timesteps` is 500; expected 1000"),
    "kind: flow\n": ("kind: flow\n  use_dynamic_shifting: true\n", "`schedule.use_dynamic_shifting` is True"),
}


@pytest.mark.parametrize("right", WRONG)
def test_a_preset_that_cannot_work_is_named_with_its_key(tmp_path, right) -> None:
    wrong, said = WRONG[right]
    text = (FOLDER / "flow.yaml").read_text()
    assert right in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(right, wrong, 1))
    with pytest.raises(UserError, match=f"preset {path}: .*{said}") as error:
        load_preset(str(path))
    assert "\n" not in str(error.value)


def test_a_transformer_is_for_flow_matching_alone(tmp_path) -> None:
    text = (FOLDER / "flow.yaml").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text[: text.index("schedule:")] + "schedule: {kind: ddim}\n")
    with pytest.raises(UserError, match=r"key `schedule\.kind` is 'ddim'; expected flow, for a transformer"):
        load_preset(str(path))
