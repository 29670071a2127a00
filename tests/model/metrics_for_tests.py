"""Random weights in the very layouts of the published ones: AlexNet, FID's Inception, CLIP, DINOv2."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from pics_model.metrics.inception import Inception
from pics_model.metrics.lpips import CHANNELS
from pics_model.metrics.weights import ALEXNET, INCEPTION

# torchvision's alexnet before its classifier: layer, [out, in, height, width].
ALEXNET_SHAPES = {
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
}
assert tuple(shape[0] for shape in ALEXNET_SHAPES.values()) == CHANNELS


def random_alexnet(seed: int = 0) -> dict[str, Tensor]:
    """Names and shapes of torchvision's file; of the classifier, which nobody reads here, only a stub."""
    random = torch.Generator().manual_seed(seed)
    state = {"classifier.6.bias": torch.zeros(1000)}
    for layer, shape in ALEXNET_SHAPES.items():
        fan_in = shape[1] * shape[2] * shape[3]
        state[f"features.{layer}.weight"] = torch.randn(shape, generator=random) * (2 / fan_in) ** 0.5
        state[f"features.{layer}.bias"] = torch.randn(shape[0], generator=random) * 0.1
    return state


def write_alexnet(folder: Path, seed: int = 0) -> Path:
    """The file as torchvision publishes it, in the folder of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(random_alexnet(seed), folder / ALEXNET.name)
    return folder


def random_inception(seed: int = 0) -> dict[str, Tensor]:
    """FID's network before its classifier, with statistics of normalisation that matter; the published file counts no
    batches."""
    torch.manual_seed(seed)
    network = Inception()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.05, 0.2)
    return {name: w for name, w in network.state_dict().items() if not name.endswith("num_batches_tracked")}


def write_inception(folder: Path, classes: int = 1008, seed: int = 0) -> Path:
    """The file as pytorch-fid publishes it. That one is of 2018, in torch's format of then; so is this."""
    folder.mkdir(parents=True, exist_ok=True)
    state = random_inception(seed)
    state["fc.weight"] = torch.zeros(classes, 2048)
    state["fc.bias"] = torch.zeros(classes)
    torch.save(state, folder / INCEPTION.name, _use_new_zipfile_serialization=False)
    return folder


def write_all(folder: Path) -> Path:
    """A folder of weights with everything that can be here."""
    write_alexnet(folder)
    write_clip(folder / "clip")
    write_dino(folder / "dinov2")
    return write_inception(folder)


def write_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIP of two towers of one layer, for pictures of 32 px, with a tokenizer that knows single letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    sizes: dict[str, Any] = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "projection_dim": 12,
    }  # fmt: skip
    words = {
        "vocab_size": len(tokens), "max_position_embeddings": 12, "bos_token_id": 52, "eos_token_id": 53,
        "pad_token_id": 53,
    }  # fmt: skip
    config = CLIPConfig(
        text_config=sizes | words, vision_config=sizes | {"image_size": 32, "patch_size": 8}, projection_dim=12
    )
    torch.manual_seed(seed)
    model = CLIPModel(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def write_dino(folder: Path, seed: int = 0, side: int = 56) -> Path:
    """A DINOv2 of two layers, trained at `side` px."""
    torch.manual_seed(seed)
    model = Dinov2Model(
        Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=side, mlp_ratio=2)
    )
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    return folder
