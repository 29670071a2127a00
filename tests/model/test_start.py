"""A model out of trained parts: old weights by name, new ones from relatives or neutral, every one accounted for."""

import json
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel

from pics_common.errors import UserError
from pics_model.infer import load_model
from pics_model.interaction import InteractionBlock
from pics_model.objects import Interactions
from pics_model.presets import load_preset
from pics_model.start import main, start
from tests.model.stable_diffusion_for_tests import write_base, write_dino

SMALL = ("object_resolution: 224", "object_resolution: 28")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    return write_base(folder / "base"), write_dino(folder / "dino")


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """sd21 with small object pictures: a code of 5 tokens."""
    path = tmp_path_factory.mktemp("preset") / "small.yaml"
    text = (load_preset.__globals__["FOLDER"] / "sd21.yaml").read_text()
    path.write_text(text.replace(*SMALL).replace("resolution: 224\n", "resolution: 28\n"))
    return path


@pytest.fixture(scope="module")
def made(folders, preset):
    torch.manual_seed(0)
    return start(*map(str, folders), load_preset(str(preset)))


def no_objects(codes):
    """No region at all: the blocks do what is left of a stock block without cross-attention."""
    return Interactions(codes, torch.zeros(*codes.shape[:2], 64, 64, dtype=torch.bool))


def test_every_weight_has_an_origin_and_those_by_name_are_the_bases(made, folders) -> None:
    pipeline, origins = made
    names = {
        f"{part}.{name}"
        for part in ("backbone", "object_encoder", "autoencoder")
        for name in getattr(pipeline, part).state_dict()
    }
    assert names == set(origins)
    unet = UNet2DConditionModel.from_pretrained(folders[0], subfolder="unet").state_dict()
    by_name = {name: words for name, (kind, words) in origins.items() if kind == "by name" and ".unet." in name}
    assert {words.removeprefix("unet.") for words in by_name.values()} == set(unet)
    state = pipeline.backbone.state_dict()
    for name, words in by_name.items():
        assert torch.equal(state[name.removeprefix("backbone.")], unet[words.removeprefix("unet.")])


def test_where_no_object_is_the_model_starts_as_the_base_without_its_text(made, folders) -> None:
    """The ControlNet is silent and background tokens are left alone, so the stock U-Net whose cross-attention says
    nothing must come out."""
    pipeline, _ = made
    torch.manual_seed(1)
    latent, codes = torch.randn(2, 4, 8, 8), torch.randn(2, 2, 5, 24)
    stock = UNet2DConditionModel.from_pretrained(folders[0], subfolder="unet")
    for name, weight in stock.named_parameters():
        if ".attn2.to_out.0." in name:
            weight.data.zero_()
    with torch.no_grad():
        expected = stock(latent, 500, codes[:, 0]).sample
        found = pipeline.backbone(latent, torch.tensor(500), torch.rand(2, 4, 64, 64), no_objects(codes))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_where_one_object_covers_all_it_starts_as_the_bases_cross_attention(made, folders) -> None:
    pipeline, _ = made
    torch.manual_seed(2)
    latent, codes = torch.randn(1, 4, 8, 8), torch.randn(1, 1, 5, 24)
    stock = UNet2DConditionModel.from_pretrained(folders[0], subfolder="unet")
    objects = Interactions(codes, torch.ones(1, 1, 64, 64, dtype=torch.bool))
    with torch.no_grad():
        expected = stock(latent, 3, codes[:, 0]).sample
        found = pipeline.backbone(latent, torch.tensor(3), torch.rand(1, 4, 64, 64), objects)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_learned_tau_starts_at_the_presets(folders, preset, tmp_path) -> None:
    path = tmp_path / "learned.yaml"
    path.write_text(preset.read_text().replace("  tau: 0.5\n", "  tau: 0.3\n  learn_tau: true\n"))
    pipeline, origins = start(*map(str, folders), load_preset(str(path)))
    blocks = [m for m in pipeline.backbone.modules() if isinstance(m, InteractionBlock)]
    assert all(block.tau.item() == pytest.approx(0.3) for block in blocks)
    assert sum(name.endswith(".log_tau") for name in origins) == len(blocks)


def test_the_gate_starts_as_the_mean_of_the_cross_attentions_heads(made) -> None:
    pipeline, _ = made
    block = next(m for m in pipeline.backbone.modules() if isinstance(m, InteractionBlock))
    x, code = torch.randn(7, block.gate_q.in_features), torch.randn(5, 24)
    query, key = block.attn2.to_q(block.norm2(x)), block.attn2.to_k(code)
    heads = [q @ k.T / q.shape[-1] ** 0.5 for q, k in zip(query.chunk(2, -1), key.chunk(2, -1), strict=True)]
    gate = block.gate_q(block.norm2g(x)) @ block.k_proj(code).T / 24**0.5
    torch.testing.assert_close(gate, sum(heads) / 2, atol=1e-5, rtol=1e-4)


def test_the_command_writes_a_model_that_opens_and_composes(folders, preset, tmp_path, capsys) -> None:
    base, dino = folders
    out = tmp_path / "model"
    line = ["--base", str(base), "--dino", str(dino), "--preset", str(preset), "--out", str(out)]
    assert main(line) == 0
    assert "relative" in capsys.readouterr().out
    origins = json.loads((out / "origins.json").read_text())
    assert len(origins) > 500
    pipeline = load_model(out)
    assert pipeline.framing.resolution == 64
    assert pipeline.config.objective == "epsilon"
    white = torch.ones(3, 40, 56)
    thing = torch.cat([torch.rand(3, 20, 20), torch.ones(1, 20, 20)])
    made = pipeline(white, [thing, thing], boxes=[(2, 2, 20, 20), (12, 8, 30, 20)], num_inference_steps=2, generator=0)
    assert made.images[0].size == (56, 40)
    with pytest.raises(UserError, match="exists already"):
        main(line)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"use_linear_projection": False}, "key `use_linear_projection` is False"),
        ({"attention_head_dim": 2}, "key `attention_head_dim`"),
    ],
)
def test_what_is_no_stable_diffusion_2_is_refused_by_its_key(folders, preset, tmp_path, changes, said) -> None:
    base = write_base(tmp_path / "base", **changes)
    with pytest.raises(UserError, match=said):
        start(str(base), str(folders[1]), load_preset(str(preset)))


def test_a_folder_without_its_parts_or_with_half_of_them_is_one_line(folders, preset, tmp_path) -> None:
    base = write_base(tmp_path / "base")
    weights = base / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for folder, part in ((base, "unet/"), (tmp_path, "unet/")):
        with pytest.raises(UserError, match=part) as error:
            start(str(folder), str(folders[1]), load_preset(str(preset)))
        assert "\n" not in str(error.value)
    shutil.rmtree(base)
    write_base(base)
    (base / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="vae/"):
        start(str(base), str(folders[1]), load_preset(str(preset)))


def test_views_and_words_start_without_effect_and_have_one_once_their_weights_are_not_zero(
    folders, preset, made, tmp_path
) -> None:
    base, dino = folders
    out = tmp_path / "model"
    line = ["--base", str(base), "--dino", str(dino), "--preset", str(preset), "--out", str(out)]
    assert main([*line, "--views", "2", "--texts"]) == 0
    pipeline = load_model(out)
    white, thing = torch.ones(3, 40, 56), torch.cat([torch.rand(3, 20, 20), torch.ones(1, 20, 20)])

    def compose(views, texts):
        boxes = [(2, 2, 20, 20), (12, 8, 30, 20)]
        return pipeline(
            white, [thing, thing], boxes=boxes, views=views, texts=texts, num_inference_steps=1, generator=0,
            output_type="pt",
        ).images[0]  # fmt: skip

    given = ([[thing.flip(1)], [thing.flip(2), thing]], ["a big dog", ""])
    nothing, silent = compose(None, None), compose(*given)
    assert torch.equal(nothing, silent)
    torch.nn.init.normal_(pipeline.object_encoder.sides.join.to_out.weight)
    said = compose(None, given[1])
    assert not torch.equal(said, nothing)
    assert not torch.equal(compose(*given), said)
    assert not torch.equal(compose(None, ["a small cat", ""]), said)
    assert torch.equal(compose(None, ["", ""]), nothing)
    plain, _ = made
    for more, words in (({"views": given[0]}, "views: this model"), ({"texts": given[1]}, "texts: this model")):
        with pytest.raises(UserError, match=words):
            plain(white, [thing, thing], boxes=[(2, 2, 9, 9)] * 2, **more)
