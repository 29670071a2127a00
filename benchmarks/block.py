"""What does an interaction block cost, beside the published form and the least that its arithmetic could take?

    python benchmarks/block.py

At the four sizes of Stable Diffusion, two boxes that cover half of the picture. `published` is the published block:
every expert on every token, and keys and values of the codes at each call; `dense` is the same with the overlap expert
of the form at hand. Ours routes, with what is derived of the codes and the indices kept as in inference; `experts` is
what it takes of that without self-attention and feed-forward. All with fused attention, one process, in turn.
Then the cost by the number of objects.
"""

import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pics_common.errors import run_command
from pics_common.recipe import parse_recipe
from pics_model.interaction import InteractionBlock, OverlapForm
from pics_model.objects import Interactions
from pics_model.ranks import one_process_group

SIZES = ((320, 64), (640, 32), (1280, 16), (1280, 8))  # channels, tokens a side
HEAD, CODE_CHANNELS, CODE_TOKENS = 64, 1024, 257


@dataclass(frozen=True, slots=True)
class BlockConfig:
    """Times interaction blocks."""

    rounds: int = 5
    """Times that each is timed; the median is printed."""
    batch: int = 1
    threads: int = 0


def two_boxes(side: int = 64) -> Tensor:
    """[1, 2, side, side] bool: 43 % of a picture exclusive to one of two boxes, 8 % in both."""
    regions = torch.zeros(1, 2, side, side, dtype=torch.bool)
    unit = side // 16
    regions[0, 0, 2 * unit : 12 * unit, unit : 8 * unit] = True
    regions[0, 1, 4 * unit : 14 * unit, 6 * unit : 14 * unit] = True
    return regions


def spread_boxes(num_objects: int, side: int = 64) -> Tensor:
    """[1, K, side, side] bool: K boxes in K / 2 pairs; pairs do not touch, and the cover is the same for any K."""
    regions = torch.zeros(1, num_objects, side, side, dtype=torch.bool)
    height = side // (num_objects // 2)
    for k in range(num_objects):
        top, left = (k // 2) * height, (k % 2) * side // 4
        regions[0, k, top : top + height, left : left + side // 2] = True
    return regions


class Published(torch.nn.Module):
    """The published form on the weights of one of our blocks: every expert on every token, then masks."""

    def __init__(self, block: InteractionBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, codes: Tensor, masks: Tensor) -> Tensor:
        """x [B, N, C], codes [B, 2, M, D], masks [B, 2, N] bool."""
        b = self.block
        x = x + b.attn1(b.norm1(x))
        y = b.norm2(x)
        exclusive = [b.attn2(y, codes[:, k]) for k in range(2)]
        query = b.gate_q(b.norm2g(x))
        answers = []
        for k in range(2):
            key, value = b.k_proj(b.norm_c(codes[:, k])), b.v_proj(codes[:, k])
            answers.append(F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0])
        scores = torch.stack([(query * a).sum(-1) for a in answers], 1) / math.sqrt(query.shape[-1])
        alpha = (scores / b.tau).softmax(1)
        blended = sum(alpha[:, k, :, None] * answers[k] for k in range(2))
        overlap = b.blend_out(blended) if b.overlap == "blend" else b.attn_bg(b.norm2b(b.attn2(y, blended)), x)
        one, other = masks[:, 0, :, None], masks[:, 1, :, None]
        x = x + exclusive[0] * (one & ~other) + exclusive[1] * (other & ~one) + overlap * (one & other)
        out: Tensor = x + b.ff(b.norm3(x))
        return out


def make_block(channels: int, overlap: OverlapForm, device: torch.device) -> InteractionBlock:
    """With random weights, as in the model: heads of 64 channels, codes of 1024."""
    torch.manual_seed(0)
    stock = BasicTransformerBlock(channels, channels // HEAD, HEAD, cross_attention_dim=CODE_CHANNELS)
    return InteractionBlock(stock, CODE_CHANNELS, overlap, tau=0.5, placement=False).to(device).eval()


def alternate(works: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each, taken in turn so that the machine's moods hit all alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            repeats = 0
            while not repeats or time.perf_counter() - start < 0.2:  # small blocks several times
                work()
                repeats += 1
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                times[name].append((time.perf_counter() - start) / repeats)
    return {name: statistics.median(values) for name, values in times.items()}


def flops(work: Callable[[], object]) -> int:
    """Floating point operations of matrix products and attention, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def product_speed(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """Floating point operations a second of a large matrix product, the best of many."""
    side = 1024 if device.type == "cpu" else 8192
    a = torch.randn(side, side, device=device, dtype=dtype)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def against_published(config: BlockConfig, device: torch.device, dtype: torch.dtype) -> Table:
    """Both overlap forms at the four sizes, beside the dense computation of the same form and the published block."""
    speed = product_speed(device, dtype)
    table = Table(title=f"a block, {device.type}, {dtype}, {speed / 1e9:.0f} GFLOP/s in a large product, ms")
    columns = "form, channels, tokens, published, dense, ours, of published, of dense, of FLOPs, floor, experts, error"
    for name in columns.split(", "):
        table.add_column(name, justify="right")
    for form in ("blend_attend", "blend"):
        ratios: list[tuple[float, float]] = []
        for channels, side in SIZES:
            block = make_block(channels, form, device).to(dtype)  # type: ignore[arg-type]
            published = Published(make_block(channels, "blend_attend", device).to(dtype))
            dense = Published(block)
            x = torch.randn(config.batch, side * side, channels, device=device, dtype=dtype)
            codes = torch.randn(config.batch, 2, CODE_TOKENS, CODE_CHANNELS, device=device, dtype=dtype)
            objects = Interactions(codes, two_boxes().expand(config.batch, -1, -1, -1).to(device), keep=True)
            masks = objects.routing(side * side).covered
            works = {
                "published": lambda b=published, x=x, c=codes, m=masks: b(x, c, m),
                "dense": lambda b=dense, x=x, c=codes, m=masks: b(x, c, m),
                "ours": lambda b=block, x=x, o=objects: b(x, cross_attention_kwargs={"interactions": o}),
                "experts": lambda b=block, x=x, o=objects: b.interact(x, o),
            }
            error = (works["ours"]() - works["dense"]()).abs().max()  # type: ignore[operator]
            times = alternate(works, config.rounds, device)
            count = {name: flops(works[name]) for name in ("dense", "ours")}
            ratios.append((times["published"] / times["ours"], times["dense"] / times["ours"]))
            shown = [f"{times[work] * 1e3:.1f}" for work in ("published", "dense", "ours")]
            table.add_row(
                form, str(channels), str(side * side), *shown,
                *(f"{ratio:.2f}" for ratio in ratios[-1]), f"{count['dense'] / count['ours']:.2f}",
                f"{count['ours'] / speed * 1e3:.1f}", f"{times['experts'] * 1e3:.1f}", f"{error:.0e}",
            )  # fmt: skip
        means = [f"{statistics.geometric_mean(values):.2f}" for values in zip(*ratios, strict=True)]
        table.add_row(form, "", "", "", "", "mean", *means, end_section=True)
    return table


def by_objects(config: BlockConfig, device: torch.device, dtype: torch.dtype) -> Table:
    """Cost by the number of objects, at the same cover."""
    table = Table(title="a block by the number of objects K at the same total cover, ms (and of K = 2)")
    for name in ("form", "channels", "tokens", "K = 2", "K = 4", "K = 8", "K = 16"):
        table.add_column(name, justify="right")
    for form in ("blend_attend", "blend"):
        for channels, side in SIZES:
            x = torch.randn(config.batch, side * side, channels, device=device, dtype=dtype)
            works = {}
            for num in (2, 4, 8, 16):
                # One each: a block keeps what it derives of one picture's objects.
                block = make_block(channels, form, device).to(dtype)  # type: ignore[arg-type]
                codes = torch.randn(config.batch, num, CODE_TOKENS, CODE_CHANNELS, device=device, dtype=dtype)
                regions = spread_boxes(num).expand(config.batch, -1, -1, -1).to(device)
                objects = Interactions(codes, regions, keep=True)
                works[str(num)] = lambda b=block, x=x, o=objects: b(x, cross_attention_kwargs={"interactions": o})
            times = alternate(works, config.rounds, device)
            shown = [f"{t * 1e3:.1f} ({t / times['2']:.2f})" for t in times.values()]
            table.add_row(form, str(channels), str(side * side), *shown)
    return table


def main() -> int:
    config = parse_recipe(BlockConfig, sys.argv[1:], prog="block")
    with one_process_group(config.threads) as ranks, torch.inference_mode():
        device = torch.device(ranks.device)
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        for table in (against_published(config, device, dtype), by_objects(config, device, dtype)):
            Console(width=150).print(table)
        if device.type == "cuda":
            print(f"most memory at once: {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")
    return 0


if __name__ == "__main__":
    run_command(main)
