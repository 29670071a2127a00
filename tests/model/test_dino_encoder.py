"""DINOv2 as object encoder: any size, registers, folders whole and broken, the frozen trunk, the golden codes."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from pics_common.errors import UserError
from pics_model.dino_encoder import IMAGENET_MEAN, IMAGENET_STD, DinoObjectEncoder, resample_positions

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 7}
TRAINED = 35  # pixels a side: a position table of 5 x 5
KINDS = ["dinov2", "dinov2_with_registers"]


def write_dino(folder: Path, kind: str = "dinov2", **values: object) -> Path:
    """A random DINOv2 in transformers' layout."""
    torch.manual_seed(3)
    sizes = {**SIZES, "image_size": TRAINED, **values}
    made = Dinov2Model(Dinov2Config(**sizes)) if kind == "dinov2" else registers(sizes)
    for weight in made.parameters():  # zeros and ones, as many start, would hide what is left out
        torch.nn.init.normal_(weight, std=0.3)
    made.save_pretrained(folder)
    return folder


def registers(sizes: dict) -> Dinov2WithRegistersModel:
    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes, num_register_tokens=3))


def pictures(num: int, size: int) -> Tensor:
    return torch.rand(num, 4, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def tokens_of(folder: Path, kind: str, images: Tensor) -> Tensor:
    """What transformers' own model says of the pictures, normalised the ordinary way."""
    model = (Dinov2Model if kind == "dinov2" else Dinov2WithRegistersModel).from_pretrained(folder).eval()
    pixels = ((images[:, :3] + 1) / 2 - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[
        :, None, None
    ]
    with torch.no_grad():
        return model(pixels).last_hidden_state


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_gives_the_models_own_tokens_without_registers(tmp_path, kind) -> None:
    folder = write_dino(tmp_path, kind)
    encoder = DinoObjectEncoder.from_dino(folder, code_channels=10, resolution=TRAINED)
    images = pictures(2, TRAINED)
    theirs = tokens_of(folder, kind, images)
    ours = encoder.features(images)
    assert ours.shape == (2, 26, 24)
    torch.testing.assert_close(ours[:, 0], theirs[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours[:, 1:], theirs[:, -25:], atol=1e-5, rtol=1e-4)
    assert encoder(images).shape == (2, 26, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_it_saves_and_loads(tmp_path, kind) -> None:
    encoder = DinoObjectEncoder.from_dino(write_dino(tmp_path / "dino", kind), code_channels=10, resolution=21)
    encoder.save_pretrained(tmp_path / "saved")
    again = DinoObjectEncoder.from_pretrained(tmp_path / "saved")
    images = pictures(2, 21)
    assert encoder.grid == again.grid == 3
    torch.testing.assert_close(again(images), encoder(images), atol=1e-5, rtol=1e-4)
    assert not any(weight.requires_grad for weight in again.trunk.parameters())


def test_the_golden_position_table_is_read_as_published() -> None:
    """Every point of the table, the slow way: the cubic kernel of A = -0.75 at the scale of (grid + 0.1) / n."""
    n, grid = 9, 4
    table = torch.randn(1, 1 + n * n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = resample_positions(table.float(), grid)
    assert torch.equal(got[:, 0], table[:, 0].float())
    square = table[0, 1:].view(n, n, 2)

    def weights(place: int) -> Tensor:
        centre = (place + 0.5) * n / (grid + 0.1) - 0.5
        out = torch.zeros(n, dtype=torch.float64)
        for tap in range(int(centre // 1) - 1, int(centre // 1) + 3):
            far = abs(centre - tap)
            near = 1.25 * far**3 - 2.25 * far**2 + 1 if far <= 1 else -0.75 * (far**3 - 5 * far**2 + 8 * far - 4)
            out[min(max(tap, 0), n - 1)] += near
        return out

    rows = torch.stack([weights(i) for i in range(grid)])
    expected = torch.einsum("ay,bx,yxc->abc", rows, rows, square).flatten(0, 1).float()
    torch.testing.assert_close(got[0, 1:], expected, atol=1e-5, rtol=1e-4)


def test_a_table_of_the_right_size_stays() -> None:
    table = torch.randn(1, 17, 8)
    assert resample_positions(table, 4) is table


def test_with_registers_the_table_is_smoothed() -> None:
    table = torch.randn(1, 1 + 64, 8)
    square = table[:, 1:].transpose(1, 2).unflatten(2, (8, 8))
    expected = F.interpolate(square, size=(4, 4), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    assert torch.equal(resample_positions(table, 4, published=False)[:, 1:], expected)


def test_the_trunk_stays_as_it_is_in_training() -> None:
    encoder = DinoObjectEncoder(trunk={"model_type": "dinov2", **SIZES}, resolution=21, code_channels=6).train()
    assert encoder.training
    assert not any(module.training for module in encoder.trunk.modules())
    encoder(pictures(2, 21)).sum().backward()
    assert {name for name, weight in encoder.named_parameters() if weight.grad is not None} == {
        "projector.weight",
        "projector.bias",
    }


def test_alpha_does_not_matter() -> None:
    encoder = DinoObjectEncoder(trunk={"model_type": "dinov2", **SIZES}, resolution=21, code_channels=6)
    images = pictures(1, 21)
    other = images.clone()
    other[:, 3] = 0
    assert torch.equal(encoder(images), encoder(other))


@pytest.mark.parametrize(
    ("trunk", "resolution", "words"),
    [
        ({"model_type": "clip"}, 21, "model_type is 'clip'"),
        ({"model_type": "dinov2", "depth": 3}, 21, "unknown key `trunk.depth`"),
        ({"model_type": "dinov2", **SIZES, "hidden_size": "wide"}, 21, "trunk cannot be"),
        ({"model_type": "dinov2", **SIZES, "num_attention_heads": 7}, 21, "multiple of its 7"),
        ({"model_type": "dinov2", **SIZES, "patch_size": [7, 7]}, 21, "patch_size"),
        ({"model_type": "dinov2", **SIZES}, 22, "multiple of the trunk's patch, 7"),
        ({"model_type": "dinov2", **SIZES}, 0, "multiple of the trunk's patch, 7"),
    ],
)
def test_trunks_that_cannot_be(trunk, resolution, words) -> None:
    with pytest.raises(UserError, match=words) as caught:
        DinoObjectEncoder(trunk=trunk, resolution=resolution)
    assert "\n" not in str(caught.value)


def spoil(folder: Path, how: str) -> None:
    weights = folder / "model.safetensors"
    if how == "cut off":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "half a header":
        weights.write_bytes(weights.read_bytes()[:40])
    elif how == "a pickle instead":
        torch.save(load_file(weights), folder / "pytorch_model.bin")
        weights.unlink()
    elif how == "no weights":
        weights.unlink()
    elif how == "no configuration":
        (folder / "config.json").unlink()
    elif how == "half a configuration":
        (folder / "config.json").write_text((folder / "config.json").read_text()[:60])
    else:
        values = json.loads((folder / "config.json").read_text())
        values |= {"another model": {"model_type": "vit"}, "too deep": {"num_hidden_layers": 3}}.get(how, {})
        values |= {"too wide": {"hidden_size": 48}}.get(how, {})
        (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("cut off", "cannot be loaded"),
        ("half a header", "cannot be loaded"),
        ("a pickle instead", "expected safetensors"),
        ("no weights", "expected safetensors"),
        ("no configuration", "expected config.json"),
        ("half a configuration", "expected config.json"),
        ("another model", "model_type 'vit'; expected dinov2 or dinov2_with_registers"),
        ("too deep", "no weight encoder.layer.2"),
        ("too wide", "cannot be loaded"),
    ],
)
def test_broken_folders_are_one_line(tmp_path, how, words) -> None:
    spoil(write_dino(tmp_path), how)
    with pytest.raises(UserError, match=words) as caught:
        DinoObjectEncoder.from_dino(tmp_path, resolution=21)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        DinoObjectEncoder.from_dino(tmp_path / "gone")


def test_a_picture_size_that_the_patch_does_not_divide(tmp_path) -> None:
    with pytest.raises(UserError, match="multiple of the trunk's patch, 7"):
        DinoObjectEncoder.from_dino(write_dino(tmp_path), resolution=20)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_from_the_start(tmp_path, dtype) -> None:
    folder = write_dino(tmp_path)
    exact = DinoObjectEncoder.from_dino(folder, code_channels=10, resolution=21, views=True)
    half = DinoObjectEncoder.from_dino(folder, code_channels=10, resolution=21, views=True, dtype=dtype)
    assert {weight.dtype for weight in half.parameters()} == {dtype}
    images = pictures(2, 21)
    torch.testing.assert_close(half.features(images).float(), exact.features(images), atol=0.1, rtol=0.1)
