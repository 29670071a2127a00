"""LoRA (Hu et al. 2021): what is trained of a large matrix W is a product of two thin ones, W + B A. Adapters are
those of peft; models for users hold W + B A in the place of W, and need no peft."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pics_common.errors import require_packages

# Stock attention; what the interaction adds is trained as it is.
TARGETS = r".*\.(attn1|attn2)\.(to_q|to_k|to_v|to_out\.0)"


def add_lora(backbone: nn.Module, rank: int) -> None:
    """Puts adapters beside the attention of all transformer blocks, which freezes all else of `backbone`. They change
    nothing at first: B is zero, A comes from torch's global generator.

    Raises `UserError` if peft is missing.
    """
    require_packages("--trains lora", "peft", extra="lora")
    from peft import LoraConfig, inject_adapter_in_model

    # Without `lora_alpha` equal to the rank the product would be scaled.
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS), backbone)


def is_adapter(name: str) -> bool:
    """Whether a weight of that name is one of the adapters' own."""
    return ".lora_" in name


def merged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state with adapters as the state of the model without them: W + B A under W's own name."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if is_adapter(name):
            continue
        plain = name.replace(".base_layer.", ".")
        if plain != name and name.endswith(".weight"):
            stem = name.removesuffix("base_layer.weight")
            down, up = (tensors[f"{stem}lora_{which}.default.weight"] for which in "AB")
            tensor = (tensor.float() + up.float() @ down.float()).to(tensor.dtype)
        out[plain] = tensor
    return out


def weight_of(layer: Any) -> Tensor:
    """The matrix that a linear layer stands for, with its adapter's share if it has one."""
    if not hasattr(layer, "get_delta_weight"):
        weight: Tensor = layer.weight
        return weight
    shares = [layer.get_delta_weight(adapter) for adapter in layer.active_adapters]
    return torch.stack([layer.weight, *shares]).sum(0)
