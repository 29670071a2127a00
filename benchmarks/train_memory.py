"""How much memory, and how much work, do training and inference take, by preset, batch, precision and what is trained?

    python benchmarks/train_memory.py [--preset sd21]

Counted from shapes: every operation of a whole step runs on tensors that have shapes and no numbers, and what is alive
is added up. A GPU adds what its libraries hold (about 0.5 GB) and what its allocator cannot use. Where there is a GPU,
`--measure` runs the same steps on it as well and prints what the allocator held at most.
"""

import sys
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

from pics_common.errors import UserError, run_command
from pics_common.recipe import parse_recipe
from pics_model.autoencoder import latent_stride
from pics_model.backbone import prepare
from pics_model.objects import Interactions
from pics_model.pipeline import PICSPipeline
from pics_model.presets import build, load_preset
from pics_model.trainable import Trains, choose_trainable

GB = 1e9


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """Prints a table of memory."""

    preset: str = "sd21"
    batches: tuple[int, ...] = (1, 4, 16)
    objects: int = 2
    measure: bool = False
    """Also runs each step on the GPU."""


class Alive(TorchDispatchMode):
    """Adds up the bytes of all storages that operations make, while they live; `peak` is the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_flatten(out)[0]:
            if isinstance(value, Tensor):
                self.note(value)
        return out

    def note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self.known:
            return
        self.known.add(storage._cdata)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, storage._cdata, size)

    def _gone(self, which: int, size: int) -> None:
        self.known.discard(which)
        self.now -= size


@dataclass(frozen=True, slots=True)
class Case:
    """One way to train, or to sample where `trains` is None."""

    trains: Trains | None
    batch: int
    bf16: bool
    checkpointing: bool = False

    @property
    def name(self) -> str:
        what = "sample" if self.trains is None else f"train {self.trains}"
        return f"{what}, {'bf16' if self.bf16 else 'fp32'}{', checkpointing' if self.checkpointing else ''}"


def objects_of(pipeline: PICSPipeline, case: Case, num_objects: int, device: str) -> Interactions:
    """Boxes of a quarter of the picture each, in a row, that overlap by a third; their routing has real numbers."""
    side = pipeline.framing.resolution
    regions = torch.zeros(case.batch, num_objects, side, side, dtype=torch.bool)
    boxes = torch.zeros(case.batch, num_objects, 4)
    for k in range(num_objects):
        x = round(side * min(0.15 + k / 3 * 0.7, 0.5))
        regions[:, k, side // 4 : side * 3 // 4, x : x + side // 2] = True
        boxes[:, k] = torch.tensor([x / side, 0.25, x / side + 0.5, 0.75])
    encoder = pipeline.object_encoder.config
    patch = encoder["trunk"]["patch_size"] if "trunk" in encoder else encoder["patch"]
    tokens = 1 + (encoder["resolution"] // patch) ** 2
    codes = torch.zeros(case.batch, num_objects, tokens, encoder["code_channels"])
    objects = Interactions(codes, regions.to(device), boxes.to(device))
    levels = pipeline.backbone.config.attention_levels
    grid = side // latent_stride(pipeline.autoencoder, pipeline.config.patch)
    prepare(nn.Module(), objects, [(grid >> level) ** 2 for level in range(len(levels))])
    return objects


def step(pipeline: PICSPipeline, case: Case, objects: Interactions, device: str) -> None:
    """Two steps of AdamW on the backbone, the second with its memory, or one denoising call with guidance's two halves
    already in the batch. Codes and latents are taken as given."""
    backbone = pipeline.backbone
    trained = [weight for weight in backbone.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained) if case.trains else None
    dtype = torch.bfloat16 if case.bf16 and not case.trains else torch.float32
    for _ in range(2 if optimizer else 1):
        codes = torch.zeros(objects.codes.shape, device=device, dtype=dtype)
        given = Interactions(codes, objects.regions, objects.boxes, routes=objects.routes, _places=objects._places)
        latent = torch.zeros(case.batch, *pipeline.latent_shape, device=device, dtype=dtype)
        hint = torch.zeros(case.batch, 4, *[pipeline.framing.resolution] * 2, device=device, dtype=dtype)
        times = torch.zeros(case.batch, dtype=torch.int64, device=device)
        with torch.autocast(device, torch.bfloat16, enabled=case.bf16 and optimizer is not None):
            out = backbone(latent, times, hint, given)
        if optimizer is not None:
            out.float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()


def ready(preset: str, case: Case, place: Any) -> PICSPipeline:
    """A pipeline without numbers, but for its backbone, whose are made in the context `place`."""
    with torch.device("meta"):
        pipeline = build(load_preset(preset))
        if case.trains:
            choose_trainable(pipeline, case.trains)
    if case.checkpointing:
        pipeline.backbone.enable_gradient_checkpointing()
    if case.trains is None:
        pipeline.backbone.requires_grad_(False)
    dtype = torch.bfloat16 if case.bf16 and case.trains is None else torch.float32
    with place:
        for module in pipeline.backbone.modules():
            for name, weight in module.named_parameters(recurse=False):
                made = nn.Parameter(torch.zeros(weight.shape, dtype=dtype), requires_grad=weight.requires_grad)
                setattr(module, name, made)
            for name, value in module.named_buffers(recurse=False):
                setattr(module, name, torch.zeros(value.shape, dtype=value.dtype))
    return pipeline


def counted(preset: str, case: Case, num_objects: int) -> tuple[float, float, dict[str, float]]:
    """GB of the backbone's weights, GB at most in a step, and GB of each other part."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    pipeline = ready(preset, case, fake)
    objects = objects_of(pipeline, case, num_objects, "cpu")
    alive = Alive()
    for weight in pipeline.backbone.parameters():
        alive.note(weight)
    weights = alive.now
    with fake, alive, torch.set_grad_enabled(case.trains is not None):
        step(pipeline, case, objects, "cpu")
    parts = {name: getattr(pipeline, name) for name in ("object_encoder", "autoencoder")}
    others = {
        name: sum(w.numel() * (2 if case.bf16 else 4) for w in part.parameters()) / GB
        for name, part in parts.items()
        if part is not None
    }
    return weights / GB, alive.peak / GB, others


def work(preset: str, case: Case, num_objects: int) -> float:
    """TFLOP of a sample in a step. Not counted along with memory: the counter keeps tensors alive."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    pipeline = ready(preset, case, fake)
    objects = objects_of(pipeline, case, num_objects, "cpu")
    with fake, torch.set_grad_enabled(case.trains is not None), FlopCounterMode(display=False) as flops:
        step(pipeline, case, objects, "cpu")
    return flops.get_total_flops() / case.batch / (2 if case.trains else 1) / 1e12


def measured(preset: str, case: Case, num_objects: int) -> float:
    """GB that the GPU's allocator held at most in the same step."""
    pipeline = ready(preset, case, torch.device("cuda"))
    objects = objects_of(pipeline, case, num_objects, "cuda")
    torch.cuda.reset_peak_memory_stats()
    try:
        with torch.set_grad_enabled(case.trains is not None):
            step(pipeline, case, objects, "cuda")
    except torch.OutOfMemoryError:
        return float("inf")
    return torch.cuda.max_memory_allocated() / GB


def main() -> int:
    config = parse_recipe(BenchConfig, sys.argv[1:], prog="train_memory")
    if config.measure and not torch.cuda.is_available():
        raise UserError("--measure: there is no GPU here; without it, memory is counted from shapes")
    ways: list[tuple[Trains | None, bool, bool]] = [
        ("all", False, False), ("all", True, False), ("all", True, True), ("published", True, False),
        ("published", True, True), ("interaction", True, True), ("lora", True, True), (None, False, False),
        (None, True, False),
    ]  # fmt: skip
    print(f"{config.preset}, {config.objects} objects: GB of U-Net and ControlNet at most in a step, from shapes\n")
    head = ["", "TFLOP a sample", "weights", *(f"batch {batch}" for batch in config.batches)]
    if config.measure:
        head += [f"measured {batch}" for batch in config.batches]
    print("| " + " | ".join(head) + " |\n" + "| --- " * len(head) + "|")
    others: dict[str, dict[str, float]] = {}
    for trains, bf16, checkpointing in ways:
        cases = [Case(trains, batch, bf16, checkpointing) for batch in config.batches]
        found = [counted(config.preset, case, config.objects) for case in cases]
        tflop = work(config.preset, cases[0], config.objects)
        row = [f"{tflop:.3f}", f"{found[0][0]:.2f}", *(f"{peak:.2f}" for _, peak, _ in found)]
        if config.measure:
            row += [f"{measured(config.preset, case, config.objects):.2f}" for case in cases]
        print(f"| {cases[0].name} | " + " | ".join(row) + " |", flush=True)
        others["bf16" if bf16 else "fp32"] = found[0][2]
    print()
    for precision, parts in others.items():
        said = ", ".join(f"{name.replace('_', ' ')} {size:.2f} GB" for name, size in parts.items())
        print(f"beside it, in {precision}: {said}; none of either with encodings, or while offloaded in sampling")
    return 0


if __name__ == "__main__":
    run_command(main)
