"""How much memory and time does the conversion of a published checkpoint take, and the way back?

    python benchmarks/convert.py [--gigabytes 1.5]

Writes checkpoints of the published layout with random weights: without and with the optimizer's states that the
authors' file has, and in half precision; converts each in a process of its own, and back in another. Beside it what is
commonly done: `torch.load` of all, and safetensors' `save_file`. Memory is the process's peak as the kernel counts it,
mapped pages of the file and all imported libraries included. Exit code 1 if a conversion takes more than 1.3 times the
file, or gives other bits on the way back.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pics_model.published_file import read_checkpoint
from tests.model.published_for_tests import Layout, shapes_of, weights_of, write_checkpoint

ROOT = Path(__file__).resolve().parents[1]
MOST = 1.3  # times the file
LAYOUT = Layout(
    model_channels=128, channel_mult=(1, 2, 4, 4), attention=(True, True, True, False), transformer_depth=1,
    context=512, vae_ch=64, vae_mult=(1, 2, 4, 4), vae_blocks=2, vit_width=768, vit_depth=1, vit_heads=12, vit_mlp=2048,
    vit_side=37,
)  # fmt: skip
COMMON = """
import sys, torch
from safetensors.torch import save_file
state = torch.load(sys.argv[1], weights_only=False)["state_dict"]
save_file(state, sys.argv[2])
"""
OURS = "import sys; from pics_model.convert import main; main(sys.argv[1:])"
PEAK = "\nprint('\\nVmHWM', [line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"


@dataclass(frozen=True)
class Ran:
    seconds: float
    peak: int
    """Bytes."""


def sized(gigabytes: float) -> Layout:
    """The layout, with as many layers in its DINOv2 as make its weights so large, in float32."""

    def size(layout: Layout) -> int:
        return sum(torch.Size(shape).numel() for shape in shapes_of(layout).values()) * 4

    layer = size(replace(LAYOUT, vit_depth=2)) - size(LAYOUT)
    return replace(LAYOUT, vit_depth=max(1, round((gigabytes * 1e9 - size(LAYOUT)) / layer)))


def write(path: Path, layout: Layout, dtype: torch.dtype, optimizer: bool) -> int:
    weights = weights_of(layout, dtype=dtype)
    states = {}
    if optimizer:  # AdamW's two averages of what the authors train: ControlNet, decoder, projector
        trained = [value for name, value in weights.items() if name.startswith("control_model.") or "output" in name]
        states = {i: {"exp_avg": v.clone(), "exp_avg_sq": v.clone()} for i, v in enumerate(trained)}
    write_checkpoint(path, weights, optimizer_states=[{"state": states}])
    return path.stat().st_size


def run(code: str, *words: object) -> Ran:
    start = time.monotonic()
    command = [sys.executable, "-c", code + PEAK, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"failed: {done.stderr}")
    return Ran(time.monotonic() - start, int(done.stdout.split("VmHWM")[1]) * 1024)


def same(first: Path, second: Path) -> bool:
    """Whether two checkpoints hold the same bits under the same names, `blend_mlp` aside."""
    one, other = read_checkpoint(first).weights, read_checkpoint(second).weights
    names = [name for name in one if "blend_mlp" not in name]
    return names == list(other) and all(torch.equal(one[name], other[name]) for name in names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.5)
    layout = sized(parser.parse_args().gigabytes)
    table = Table(title="Conversion")
    for column in ("what", "file, GB", "seconds", "peak, GB", "times the file"):
        table.add_column(column, justify="left" if column == "what" else "right")
    imported = run(OURS.replace("main(sys.argv[1:])", "main")).peak
    good = True

    def add(what: str, size: int, ran: Ran, limit: bool) -> None:
        nonlocal good
        good &= not limit or ran.peak <= MOST * size
        row = (f"{size / 1e9:.2f}", f"{ran.seconds:.1f}", f"{ran.peak / 1e9:.2f}", f"{ran.peak / size:.2f}")
        table.add_row(what, *row)

    with tempfile.TemporaryDirectory() as folder:
        path, model, back = (Path(folder) / name for name in ("pics.ckpt", "model", "back.ckpt"))
        for what, dtype, optimizer in (
            ("float32", torch.float32, False),
            ("float32, with optimizer", torch.float32, True),
            ("float16", torch.float16, False),
            ("bfloat16", torch.bfloat16, False),
        ):
            size = write(path, layout, dtype, optimizer)
            add(what, size, run(OURS, "--checkpoint", path, "--out", model), limit=True)
            ran = run(OURS, "--back", "--model", model, "--out", back)
            add(f"{what}, back", back.stat().st_size, ran, limit=True)
            if not same(path, back):
                sys.exit(f"{what}: other bits on the way back")
            if dtype == torch.float32:
                add(f"{what}, torch.load and save_file", size, run(COMMON, path, Path(folder) / "state"), limit=False)
            shutil.rmtree(model)
            back.unlink()
    Console().print(table)
    print(f"of each peak, {imported / 1e9:.2f} GB are the imported libraries; the same bits came back each time")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
