"""How ranks share a model: DDP, where each holds all of it, or FSDP2, where each holds a part of every weight."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from pics_common.errors import UserError
from pics_model.denoising import DenoisingLoss
from pics_model.ranks import Ranks

Parallel = Literal["ddp", "fsdp"]

# What is gathered, used and given up again at a time: layers in which a few percent of the weights are.
UNITS = frozenset({"InteractionBlock", "ResnetBlock2D", "Dinov2Layer", "Dinov2WithRegistersLayer"})


def shared_out(module: DenoisingLoss, ranks: Ranks, how: Parallel) -> nn.Module:
    """The module as all ranks train it together: what is called in a step. Must stand before its optimiser is made, as
    FSDP puts parts of weights in the place of weights.

    Raises `UserError` for FSDP where there is one process.
    """
    if how == "ddp":
        return DistributedDataParallel(module) if ranks.size > 1 else module
    if not dist.is_initialized():
        raise UserError("--parallel fsdp: shares a model among processes; start it with torchrun")
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    for part in (module.backbone, module.object_encoder):
        for layer in [layer for layer in part.modules() if type(layer).__name__ in UNITS]:
            fully_shard(layer, mesh=mesh)
        # Each is the root of its own: validation calls them apart from the module.
        fully_shard(part, mesh=mesh)
    return module


@contextmanager
def let_go(model: nn.Module) -> Iterator[None]:
    """Inside, `model` can be trained; afterwards not any more, and no longer holds the process group.

    DDP's reducer would be the last to hold it. It would then end gloo's threads while it has Python's lock, for which
    one of these may be waiting to free a tensor: a process in ten that ended soon after a step never did.
    """
    try:
        yield
    finally:
        if isinstance(model, DistributedDataParallel):
            del model.logger, model.reducer


@contextmanager
def synchronised(model: nn.Module, now: bool) -> Iterator[None]:
    """Inside, gradients are exchanged after the backward pass; or, if not `now`, only added up on each rank."""
    waiting: AbstractContextManager[object] = nullcontext()
    if isinstance(model, DistributedDataParallel) and not now:
        waiting = model.no_sync()
    for part in model.children():
        if isinstance(part, FSDPModule):
            part.set_requires_gradient_sync(now)
    with waiting:
        yield


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which ranks hold parts; any other tensor itself. Every rank must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All of each tensor, without gradients. Every rank must call it."""
    return {name: whole(tensor.detach()).contiguous() for name, tensor in tensors.items()}


def parted(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor, as `like` is parted; the tensor itself where `like` is whole."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
