"""Muon for what is a matrix, AdamW for the rest; or AdamW for all.

Muon (Jordan et al. 2024) gives every direction of a weight matrix the same step, so that fine detail, whose gradients
are small, is learned along with the coarse: a small model that starts from nothing needs far fewer samples. A
convolution's kernel is a matrix of [out channels, all its inputs].
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from pics_common.errors import UserError
from pics_model.muon import Muon
from pics_model.parallel import parted, whole_tensors

OptimizerKind = Literal["muon", "adamw"]
ScheduleKind = Literal["linear", "cosine", "constant"]


def rate(step: int, warmup: int, total: int, schedule: ScheduleKind = "linear") -> float:
    """The learning rate's factor, 0 to 1: rises over `warmup` steps, then falls to zero at `total` as `schedule` says,
    in a straight line or as half a cosine; `constant` stays."""
    rise = (step + 1) / max(warmup, 1)
    left = max(0.0, min(1.0, (total - step) / max(total - warmup, 1)))
    fall = {"linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2, "constant": 1.0}[schedule]
    return min(1.0, rise, fall)


class Optimizer:
    """The optimiser of `module`'s trainable weights. The weights must not be moved to another device afterwards.

    `learning_rate` is AdamW's, `matrix_rate` Muon's (its steps have unit scale, so it is larger).
    """

    def __init__(
        self, module: nn.Module, kind: OptimizerKind, learning_rate: float, matrix_rate: float, weight_decay: float
    ) -> None:
        self.weights = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        matrices = [name for name, weight in self.weights.items() if kind == "muon" and weight.ndim > 1]
        # Muon takes matrices: it gets views of the kernels, which share their memory.
        self.views = {name: nn.Parameter(self.weights[name].detach().flatten(1)) for name in matrices}
        rest = {name: weight for name, weight in self.weights.items() if name not in self.views}
        self.parts: list[tuple[torch.optim.Optimizer, float, list[str]]] = []
        if rest:
            adamw = torch.optim.AdamW(rest.values(), learning_rate, weight_decay=weight_decay, fused=True)
            self.parts.append((adamw, learning_rate, list(rest)))
        if self.views:
            muon = Muon(self.views.values(), matrix_rate, weight_decay)
            self.parts.append((muon, matrix_rate, matrices))

    def step(self, factor: float) -> None:
        """Moves the weights by their gradients, with the learning rates times `factor`, and forgets the gradients."""
        for name, view in self.views.items():
            gradient = self.weights[name].grad
            view.grad = None if gradient is None else gradient.flatten(1)
        for part, rate, _ in self.parts:
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.step()
        self.forget_gradients()

    def forget_gradients(self) -> None:
        """As if there had been no backward pass."""
        for weight in [*self.weights.values(), *self.views.values()]:
            weight.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """All that the optimiser remembers, whole, as `<weight>:<what>`. Every rank must call it."""
        out: dict[str, Tensor] = {}
        for part, _, names in self.parts:
            for index, entry in part.state_dict()["state"].items():
                out |= whole_tensors({f"{names[index]}:{what}": value for what, value in entry.items()})
        return out

    def load(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Takes over what `tensors` returned. Raises `UserError` naming `source` if it belongs to another optimiser."""
        known = {name for _, _, names in self.parts for name in names}
        found: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            name, _, what = key.rpartition(":")
            found.setdefault(name, {})[what] = value
        if found.keys() != known:
            strange = sorted(found.keys() ^ known)[0]
            raise UserError(
                f"checkpoint {source}: only one of it and the model has weight `{strange}`; "
                f"was it made with another preset?"
            )
        for part, _, names in self.parts:
            wanted, kind = ("momentum_buffer", "adamw") if isinstance(part, Muon) else ("exp_avg", "muon")
            state = part.state_dict()
            for index, name in enumerate(names):
                if wanted not in found[name]:
                    raise UserError(f"checkpoint {source}: made with `--optimizer {kind}`; give it to go on")
                like = self.weights[name]
                state["state"][index] = {
                    what: parted(value, like) if value.ndim else value for what, value in found[name].items()
                }
            part.load_state_dict(state)
