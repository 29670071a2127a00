"""The authors' checkpoint into a model and back, at sizes of our own: names against diffusers' conversion, values
against the published formulas, goldens, heads, and what is refused."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pics_common.errors import UserError
from pics_model.convert import main
from pics_model.infer import load_model
from pics_model.presets import load_preset
from pics_model.published_convert import account, make_parts
from pics_model.published_facts import Facts
from pics_model.published_file import read_checkpoint
from pics_model.published_names import pieces_of
from pics_model.published_sizes import read_sizes
from tests.model.goldens_for_tests import diffusers_weights, goldens_of, write_goldens
from tests.model.published_for_tests import FULL, Layout, shapes_of, weights_of, write_checkpoint

SMALL = Layout(channel_mult=(1, 2), attention=(True, True), num_res_blocks=1, transformer_depth=1, vit_depth=1)
LAYOUTS = {
    "deeper": Layout(),
    "small": SMALL,
    "attention above only": Layout(
        channel_mult=(1, 1, 2), attention=(True, False, False), num_res_blocks=1, transformer_depth=1, context=24
    ),
    "other parts": Layout(
        channel_mult=(1, 3), attention=(False, True), transformer_depth=3, vae_ch=64, vae_mult=(1, 1, 1), vae_blocks=2,
        hint=(8, 16, 24), vit_width=32, vit_heads=2, vit_patch=28, vit_side=8, vit_mlp=64, swiglu=False,
        num_res_blocks=3,
    ),
}  # fmt: skip


def run(*words: Any) -> int:
    return main([str(word) for word in words])


def converted(folder: Path, layout: Layout, weights: dict[str, Tensor] | None = None, *more: Any) -> Path:
    """The model of a checkpoint of that layout, in `folder`/model."""
    write_checkpoint(folder / "pics.ckpt", weights_of(layout) if weights is None else weights)
    options = more or ("--head-channels", layout.head_channels, "--dino-heads", layout.vit_heads)
    assert run("--checkpoint", folder / "pics.ckpt", "--out", folder / "model", *options) == 0
    return folder / "model"


def stored(folder: Path) -> dict[str, Tensor]:
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Layers so small gain nothing from several, and lose a lot where others use the cores too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


FIRST = "backbone/unet.down_blocks.0.attentions.0.transformer_blocks.0"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A folder with a small checkpoint, pics.ckpt, its model and its goldens. Not to be changed."""
    folder = tmp_path_factory.mktemp("small")
    converted(folder, SMALL)
    write_goldens(folder / "golden.safetensors", goldens_of(weights_of(SMALL), SMALL))
    return folder


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_weight_is_where_diffusers_would_put_it(tmp_path, kind) -> None:
    layout = LAYOUTS[kind]
    weights = weights_of(layout)
    model = converted(tmp_path, layout, weights)
    expected = diffusers_weights(weights, layout)
    backbone = stored(model / "backbone")
    for part in ("unet", "controlnet"):
        found = {key.removeprefix(f"{part}."): value for key, value in backbone.items() if key.startswith(f"{part}.")}
        assert set(found) == set(expected[part])
        for name, value in found.items():
            replaced = part == "controlnet" and name.startswith("conv_in.")
            assert torch.equal(value, torch.zeros_like(value) if replaced else expected[part][name]), name
    found = stored(model / "autoencoder")
    assert set(found) == set(expected["autoencoder"])
    assert all(torch.equal(value, expected["autoencoder"][name]) for name, value in found.items())


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_way_back_gives_the_same_bits(tmp_path, kind) -> None:
    layout = LAYOUTS[kind]
    weights = weights_of(layout)
    model = converted(tmp_path, layout, weights)
    assert run("--back", "--model", model, "--out", tmp_path / "back.ckpt") == 0
    expected = {name: value for name, value in weights.items() if "blend_mlp" not in name}
    for found in (
        torch.load(tmp_path / "back.ckpt", weights_only=True)["state_dict"],
        torch.load(tmp_path / "back.ckpt", weights_only=True, mmap=True)["state_dict"],
        read_checkpoint(tmp_path / "back.ckpt").weights,
    ):
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    again = ("--checkpoint", tmp_path / "back.ckpt", "--out", tmp_path / "again")
    run(*again, "--head-channels", layout.head_channels, "--dino-heads", layout.vit_heads)
    for path in model.rglob("*"):
        assert path.is_dir() or path.read_bytes() == (tmp_path / "again" / path.relative_to(model)).read_bytes()


@pytest.mark.parametrize("kind", LAYOUTS)
def test_goldens_of_any_size_come_out_with_heads_that_they_show(tmp_path, kind, capsys) -> None:
    """Nothing tells the width of a head but the goldens; by rule it would be another."""
    layout = Layout(**{**LAYOUTS[kind].__dict__, "head_channels": 8, "vit_heads": 4})
    weights = weights_of(layout)
    goldens = write_goldens(tmp_path / "g" / "golden.safetensors", goldens_of(weights, layout))
    write_checkpoint(tmp_path / "pics.ckpt", weights)
    assert run("--checkpoint", tmp_path / "pics.ckpt", "--out", tmp_path / "model", "--check", goldens) == 0
    said = capsys.readouterr().out
    assert "FAILED" not in said
    assert "heads of 8 channels in the U-Net: with it the golden block comes out" in said
    assert "4 heads in DINOv2: with it the golden object codes come out" in said
    names = set(load_file(goldens)) - {"object_images", "x", "timestep", "hint", "masks", "vae_pixels"}
    names -= {"block_x", "block_codes", "block_masks"}
    assert len(names) > 10
    assert all(name in said for name in names)


def test_the_published_goldens_come_out(shared_reference, tmp_path, capsys) -> None:
    checkpoint, goldens = shared_reference / "pics-tiny.ckpt", shared_reference / "golden.safetensors"
    assert run("--checkpoint", checkpoint, "--out", tmp_path / "model", "--check", goldens) == 0
    said = capsys.readouterr().out
    assert said.count(" ok ") == 16
    assert "config.json" in said
    shutil.copy(goldens, tmp_path)  # without config.json beside it
    assert run("--model", tmp_path / "model", "--check", tmp_path / "golden.safetensors") == 0
    assert run("--back", "--model", tmp_path / "model", "--out", tmp_path / "back.ckpt") == 0
    expected = read_checkpoint(checkpoint).weights
    found = read_checkpoint(tmp_path / "back.ckpt").weights
    assert list(found) == [name for name in expected if "blend_mlp" not in name]
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    ("name", "failing"),
    [
        ("backbone/unet.conv_out.bias", {"eps", "eps_uncond", "eps_swapped", "ddim4_cfg5_latent"}),
        ("backbone/controlnet.controlnet_mid_block.bias", {"control_4"}),
        (f"{FIRST}.k_proj.weight", {"block_scores", "block_alpha"}),
        ("object_encoder/projector.bias", {"object_codes", "uncond_codes"}),
        ("autoencoder/quant_conv.bias", {"vae_latent_mode"}),
        ("autoencoder/decoder.conv_out.bias", {"ddim4_cfg5_image"}),
    ],
)  # fmt: skip
def test_a_changed_weight_fails_the_check(small, tmp_path, capsys, name, failing) -> None:
    model = shutil.copytree(small / "model", tmp_path / "model")
    part, weight = name.split("/")
    (path,) = (model / part).glob("*.safetensors")
    values = load_file(path)
    values[weight] = values[weight] + 0.01
    save_file(values, path)
    assert run("--model", model, "--check", small / "golden.safetensors") == 1
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert failing <= {line[1].strip() for line in lines}


def test_full_size_is_the_presets() -> None:
    """By shapes alone: the published counts of parameters, and the sizes of `sd21`, which nothing of this read."""
    with torch.device("meta"):
        weights = {name: torch.empty(shape) for name, shape in shapes_of(FULL).items()}

    def millions(prefix: str, inner: str = "") -> float:
        found = [v.numel() for name, v in weights.items() if name.startswith(prefix) and inner in name]
        return round(sum(found) / 1e6, 2)

    assert millions("model.diffusion_model.") == 1010.27
    assert millions("model.diffusion_model.", "blend_mlp") == 48.35
    assert millions("control_model.") == 431.79
    assert millions("control_model.", "blend_mlp") == 23.18
    sizes = read_sizes(weights)
    account(pieces_of(make_parts(sizes, Facts(), 64, 24)), weights)
    preset = load_preset("sd21")
    assert sizes.backbone.items() <= (preset.backbone | {"transformer_depth": 1}).items()
    known = preset.encoder["trunk"]
    assert {key: value for key, value in sizes.trunk.items() if key in known} == {
        key: value for key, value in known.items() if key != "num_attention_heads"
    }
    assert {key: sizes.autoencoder[key] for key in sizes.autoencoder if key in preset.autoencoder} == {
        key: value for key, value in preset.autoencoder.items() if key in sizes.autoencoder
    }


def test_it_is_framed_and_sampled_as_published(small) -> None:
    pipeline = load_model(small / "model")
    framing = pipeline.framing
    assert (framing.frame, framing.region, framing.resolution, framing.object_resolution) == ("photo", "box", 512, 224)
    assert framing.enlarge_min == framing.enlarge_max == 1
    assert (pipeline.config.steps, pipeline.config.guidance) == (50, 5)
    pipeline.scheduler.set_timesteps(50)
    assert pipeline.scheduler.timesteps.tolist() == list(range(981, 0, -20))
    assert pipeline.autoencoder.config.scaling_factor == 0.18215
    assert not any(value.requires_grad for value in pipeline.object_encoder.trunk.parameters())


def heads(folder: Path) -> tuple[int, int]:
    config = json.loads((folder / "object_encoder" / "config.json").read_text())
    return (
        json.loads((folder / "backbone" / "config.json").read_text())["head_channels"],
        config["trunk"]["num_attention_heads"],
    )


def test_where_heads_are_from(small, tmp_path, capsys) -> None:
    """Options, then config.json, then the goldens, then the rule."""
    checkpoint = shutil.copy(small / "pics.ckpt", tmp_path)
    convert = ("--checkpoint", checkpoint, "--out")
    run(*convert, tmp_path / "1")
    assert heads(tmp_path / "1") == (16, 3)
    assert "by rule" in capsys.readouterr().out
    facts = {"config": {"num_head_channels": 8}, "dino": {"num_heads": 6}, "tau": 0.25, "scale_factor": 0.5}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    run(*convert, tmp_path / "2")
    assert heads(tmp_path / "2") == (8, 6)
    assert f"from {tmp_path / 'config.json'}" in capsys.readouterr().out
    model = load_model(tmp_path / "2")
    assert (model.backbone.config.tau, model.autoencoder.config.scaling_factor) == (0.25, 0.5)
    run(*convert, tmp_path / "3", "--head-channels", 4, "--dino-heads", 12)
    assert heads(tmp_path / "3") == (4, 12)
    assert "from --head-channels" in capsys.readouterr().out


def test_heads_of_64_where_they_fit(tmp_path) -> None:
    layout = Layout(model_channels=64, channel_mult=(1, 2), attention=(True, True), num_res_blocks=1,
                    transformer_depth=1, vit_width=128, vit_depth=1, vit_mlp=344)  # fmt: skip
    write_checkpoint(tmp_path / "a.ckpt", weights_of(layout))
    run("--checkpoint", tmp_path / "a.ckpt", "--out", tmp_path / "a")
    assert heads(tmp_path / "a") == (64, 2)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "no JSON"),
        ("[]", "expected keys and values"),
        ('{"tau": "half"}', "key `tau` is 'half'; expected a number above 0"),
        ('{"config": {"num_head_channels": 0}}', "key `config.num_head_channels` is 0"),
        ('{"config": {"num_head_channels": 24}}', r"heads of 24 channels; expected one that divides \[32, 64\]"),
        ('{"dino": {"num_heads": 5}}', "5 heads; expected a number that divides 48"),
    ],
)
def test_a_config_that_cannot_be(small, tmp_path, config, words) -> None:
    checkpoint = shutil.copy(small / "pics.ckpt", tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match=words):
        run("--checkpoint", checkpoint, "--out", tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "pics.ckpt"]


def without(name: str) -> Any:
    return lambda weights: weights.pop(name)


def with_(name: str, *shape: int) -> Any:
    return lambda weights: weights.update({name: torch.zeros(shape)})


U, V, E = "model.diffusion_model", "first_stage_model", "cond_stage_model.model"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without(f"{U}.out.2.bias"), f"1 weights are missing: {U}.out.2.bias"),
        (without(f"{U}.output_blocks.1.1.transformer_blocks.0.attn_bg.to_v.weight"), "attn_bg.to_v.weight"),
        (without(f"{U}.input_blocks.2.0.op.bias"), f"{U}.input_blocks.2.0.op.bias"),
        (without("control_model.zero_convs.3.0.weight"), "missing: control_model.zero_convs.3.0.weight"),
        (without("control_model.input_blocks.0.0.weight"), "missing: control_model.input_blocks.0.0.weight"),
        (without(f"{V}.decoder.mid.attn_1.k.bias"), f"missing: {V}.decoder.mid.attn_1.k.bias"),
        (without(f"{E}.blocks.0.attn.qkv.weight"), f"missing: {E}.blocks.0.attn.qkv.weight"),
        (without(f"{E}.pos_embed"), f"no weight {E}.pos_embed"),
        (without(f"{U}.input_blocks.0.0.weight"), f"no weight {U}.input_blocks.0.0.weight"),
        (with_(f"{U}.label_emb.weight", 3), f"1 weights are left over: {U}.label_emb.weight"),
        (with_(f"{E}.register_tokens", 1, 4, 48), f"left over: {E}.register_tokens"),
        (with_(f"{V}.encoder.down.1.attn.0.q.weight", 3), "left over: .*down.1.attn.0.q.weight"),
        (with_("anything", 3), "left over: anything"),
        (with_(f"{U}.out.2.bias", 5), rf"wrong shape: {U}.out.2.bias \[5\] for our \[4\]"),
        (with_(f"{U}.input_blocks.1.1.proj_in.weight", 32, 32, 1, 1), "proj_in.weight"),
        (with_("control_model.input_blocks.0.0.bias", 31), "control_model.input_blocks.0.0.bias"),
        (with_(f"{E}.pos_embed", 1, 400, 48), r"pos_embed is \[1, 400, 48\]"),
        (with_(f"{E}.pos_embed", 1, 401, 40), r"pos_embed is \[1, 401, 40\]"),
        (with_(f"{E}.blocks.0.mlp.w12.weight", 30, 48), "mlp is 15 wide"),
        (with_(f"{V}.encoder.down.0.block.0.conv1.weight", 40, 32, 3, 3), "multiple of 32"),
        (with_(f"{U}.input_blocks.3.1.transformer_blocks.1.norm1.weight", 64), "numbers of transformer blocks"),
        (lambda weights: weights.clear() or weights.update(a=torch.ones(1)), "expected a published PICS model"),
    ],
)  # fmt: skip
def test_what_is_missing_left_over_or_of_a_wrong_shape_is_named(tmp_path, change, words) -> None:
    weights = weights_of(SMALL)
    change(weights)
    write_checkpoint(tmp_path / "pics.ckpt", weights)
    with pytest.raises(UserError, match=words) as caught:
        run("--checkpoint", tmp_path / "pics.ckpt", "--out", tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["pics.ckpt"]


def test_a_damaged_weight_leaves_nothing_behind(small, tmp_path) -> None:
    data = bytearray((small / "pics.ckpt").read_bytes())
    record = read_checkpoint(small / "pics.ckpt").records[f"{U}.out.2.bias"]
    data[record.offset] ^= 1
    (tmp_path / "pics.ckpt").write_bytes(data)
    with pytest.raises(UserError, match=f"weight {U}.out.2.bias is damaged"):
        run("--checkpoint", tmp_path / "pics.ckpt", "--out", tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["pics.ckpt"]


def test_what_lies_beside_the_model_is_kept(tmp_path, capsys) -> None:
    beside = {"betas": torch.linspace(0.00085**0.5, 0.012**0.5, 1000).pow(2), "alphas_cumprod": torch.rand(1000),
              "logvar": torch.zeros(1000), "model_ema.decay": torch.tensor(0.9999),
              "model_ema.num_updates": torch.tensor(7, dtype=torch.int32),
              "model_ema.diffusion_modelout2bias": torch.rand(4)}  # fmt: skip
    weights = weights_of(SMALL) | beside
    model = converted(tmp_path, SMALL, weights)
    assert "betas" in capsys.readouterr().out
    run("--back", "--model", model, "--out", tmp_path / "back.ckpt")
    found = torch.load(tmp_path / "back.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(found[name], value) for name, value in beside.items())
    assert load_model(model).scheduler.config.trained_betas is None


def test_another_schedule_is_taken_over(tmp_path) -> None:
    betas = torch.linspace(0.001, 0.02, 400, dtype=torch.float64)
    scheduler = load_model(converted(tmp_path, SMALL, weights_of(SMALL) | {"betas": betas})).scheduler
    assert scheduler.config.num_train_timesteps == 400
    torch.testing.assert_close(scheduler.betas.double(), betas, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_bits(tmp_path, dtype) -> None:
    weights = weights_of(SMALL, dtype=dtype)
    model = converted(tmp_path, SMALL, weights)
    assert {value.dtype for part in ("backbone", "object_encoder") for value in stored(model / part).values()} == {
        dtype
    }
    run("--back", "--model", model, "--out", tmp_path / "back.ckpt")
    found = read_checkpoint(tmp_path / "back.ckpt").weights
    assert all(torch.equal(value, weights[name]) and value.dtype == dtype for name, value in found.items())
    goldens = goldens_of({name: value.float() for name, value in weights.items()}, SMALL)
    assert run("--model", model, "--check", write_goldens(tmp_path / "golden.safetensors", goldens)) == 0


def test_large_parts_are_written_in_several_files(small, tmp_path) -> None:
    run("--checkpoint", small / "pics.ckpt", "--out", tmp_path / "model", "--shard-gb", 0.002)
    files = list((tmp_path / "model" / "backbone").glob("*.safetensors"))
    assert len(files) > 3
    largest = max(v.nbytes for v in stored(small / "model" / "backbone").values())
    assert all(path.stat().st_size < 2e6 + largest + 1e5 for path in files)
    found, expected = load_model(tmp_path / "model").backbone.state_dict(), stored(small / "model" / "backbone")
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    run("--back", "--model", tmp_path / "model", "--out", tmp_path / "back.ckpt")
    run("--back", "--model", small / "model", "--out", tmp_path / "other.ckpt")
    assert (tmp_path / "back.ckpt").read_bytes() == (tmp_path / "other.ckpt").read_bytes()


def test_a_model_that_was_trained_on_goes_back_too(small, tmp_path) -> None:
    pipeline = load_model(small / "model")
    with torch.no_grad():
        pipeline.backbone.unet.conv_out.bias += 1
        pipeline.object_encoder.projector.weight *= 2
    pipeline.save_pretrained(tmp_path / "run" / "model")
    back = ("--back", "--model", tmp_path / "run", "--out")
    with pytest.raises(UserError, match=r"no published.safetensors; .* with --published"):
        run(*back, tmp_path / "back.ckpt")
    run(*back, tmp_path / "back.ckpt", "--published", small / "model")
    weights = weights_of(SMALL)
    found = read_checkpoint(tmp_path / "back.ckpt").weights
    assert torch.equal(found[f"{U}.out.2.bias"], weights[f"{U}.out.2.bias"] + 1)
    assert torch.equal(found["cond_stage_model.projector.weight"], weights["cond_stage_model.projector.weight"] * 2)
    changed = {name for name, value in found.items() if not torch.equal(value, weights[name])}
    assert changed == {f"{U}.out.2.bias", "cond_stage_model.projector.weight"}


def test_what_the_published_model_has_no_place_for_does_not_go_back(small, tmp_path) -> None:
    for number, name in enumerate(("backbone/controlnet.conv_in.bias", "object_encoder/position_embeddings")):
        model = shutil.copytree(small / "model", tmp_path / str(number))
        part, weight = name.split("/")
        (path,) = (model / part).glob("*.safetensors")
        values = load_file(path)
        for key in values:
            if key.endswith(weight):
                values[key] = values[key] + 1
        save_file(values, path)
        with pytest.raises(UserError, match=f"{weight} has been changed"):
            run("--back", "--model", model, "--out", tmp_path / "back.ckpt")
    model = shutil.copytree(small / "model", tmp_path / "more")
    config = json.loads((model / "object_encoder" / "config.json").read_text())
    (model / "object_encoder" / "config.json").write_text(json.dumps(config | {"views": True}))
    with pytest.raises(UserError, match="the model lacks weights"):
        run("--back", "--model", model, "--out", tmp_path / "back.ckpt")
    (path,) = (model / "object_encoder").glob("*.safetensors")
    save_file(load_file(path) | {"sides.more": torch.ones(1)}, path)
    (model / "object_encoder" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"weights that the published one has not .*sides.more"):
        run("--back", "--model", model, "--out", tmp_path / "back.ckpt")
    assert not list(tmp_path.glob("*back*"))


def test_goldens_that_cannot_be_used(small, tmp_path) -> None:
    whole = (small / "golden.safetensors").read_bytes()
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    save_file({"other": torch.ones(1)}, tmp_path / "other")
    for name, words in (("half", "cannot be read"), ("other", "no golden tensors"), ("none", "does not exist")):
        with pytest.raises(UserError, match=words):
            run("--model", small / "model", "--check", tmp_path / name)


def test_a_golden_that_is_not_compared_does_not_pass(small, tmp_path, capsys) -> None:
    goldens = load_file(small / "golden.safetensors")
    goldens["more"] = torch.ones(3)
    del goldens["object_images"]
    save_file(goldens, tmp_path / "golden.safetensors")
    assert run("--model", small / "model", "--check", tmp_path / "golden.safetensors") == 1
    failed = [line.split()[1] for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert sorted(failed) == ["more", "object_codes"]


def test_goldens_of_another_model_are_refused(small, tmp_path) -> None:
    other = Layout(**{**SMALL.__dict__, "context": 56})
    goldens = write_goldens(tmp_path / "golden.safetensors", goldens_of(weights_of(other), other))
    with pytest.raises(UserError, match=r"object_codes is \[2, 257, 56\]; .* \[2, tokens, 40\]"):
        run("--model", small / "model", "--check", goldens)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "no --check"),
        ("--checkpoint a", "no --out"),
        ("--model a", "no --check"),
        ("--back --model a", "no --out"),
        ("--back --model a --out b --check c", "--check has no effect with --back"),
        ("--model a --check b --head-channels 8", "--head-channels has no effect"),
        ("--checkpoint a --out b --model c", "--model has no effect with --checkpoint and --out"),
        ("--checkpoint a --out b --published c", "--published has no effect"),
        ("--checkpoint a --out b --head-channels 0", "--head-channels 0: expected 1"),
        ("--checkpoint nowhere.ckpt --out b", "nowhere.ckpt does not exist"),
        ("--back --model nowhere --out b", "nowhere does not exist"),
    ],
)
def test_options_that_do_not_fit(tmp_path, monkeypatch, words, said) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        run(*words.split())


def test_the_commands_of_the_docs_run(small, tmp_path, monkeypatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "published_weights.md").read_text()
    lines = [line for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    for name in ("pics.ckpt", "golden.safetensors"):
        shutil.copy(small / name, tmp_path)
    shutil.copytree(small / "model", tmp_path / "runs" / "mine" / "model")
    (tmp_path / "runs" / "mine" / "model" / "published.safetensors").unlink()
    monkeypatch.chdir(tmp_path)
    for line in lines:
        assert line.startswith("python -m pics_model.convert ")
        assert run(*line.split()[3:]) == 0
    assert len(lines) == 5
    assert Path("mine.ckpt").read_bytes() == Path("back.ckpt").read_bytes()


def test_nothing_is_overwritten(small, tmp_path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match="exists already"):
        run("--checkpoint", small / "pics.ckpt", "--out", tmp_path / "model")


def test_the_list_of_names_is_in_the_folder(small) -> None:
    with safe_open(small / "model" / "published.safetensors", "pt") as file:
        listed = json.loads(file.metadata()["published"])
        assert set(file.keys()) == {"control_model.input_blocks.0.0.weight", "control_model.input_blocks.0.0.bias",
                                    f"{E}.pos_embed"}  # fmt: skip
    assert [name for name, _ in listed] == [name for name in weights_of(SMALL) if "blend_mlp" not in name]
