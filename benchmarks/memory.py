"""Does the memory of any process grow while a long build runs?

    python benchmarks/memory.py shards [--shards 160] [--shard-samples 30] [--workers 2]
    python benchmarks/memory.py window [--counts 1000 4096 12288]

`shards` builds photos of 640 x 480 with the real command, and reads twice a second what the driver, each worker and
Ray's daemons hold; it prints that by the number of whole shards, and the growth over the last 50. `window` builds
shards of one tiny sample, many of them, to say what the driver holds of each shard that Ray knows of at a time
(`pics_data.pipeline.WINDOW`). Memory is PSS, the kernel's own account: pages of its own, and its share of the others.
Photos are drawn once and stand under many names.
"""

import argparse
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from drawn import draw_coco

from pics_common import storage
from pics_data.pipeline import WINDOW
from tests.data.kills_for_tests import Run

DRAWN = 200  # different photos
PERIOD = 0.5  # seconds between two looks
LAST = 50  # shards over which growth is measured
NOISE = 3.0  # MB over that many shards which are not called growth
KINDS = (
    ("worker", "ray::Map(work)"),
    ("raylet", "/raylet/raylet "),
    ("gcs", "/gcs/gcs_server "),
    ("Ray's agents", ""),  # all other processes
)


@dataclass
class Watched:
    """What was seen: for each process, under a name, (whole shards, MB) at each look."""

    looks: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    seconds: float = 0.0

    def growth(self, name: str, last: int) -> float:
        """MB more after `last` shards, by a straight line through the looks at the last so many; each look counts the
        same."""
        looks = np.array(self.looks[name])
        shards, mb = looks[looks[:, 0] >= looks[:, 0].max() - last].T
        return float(np.polyfit(shards, mb, 1)[0] * last) if len(set(shards)) > 2 else 0.0

    def at(self, name: str, low: int, high: int) -> float | None:
        """The median of what a process held while `low` to `high` shards were whole, in MB."""
        mb = [value for shards, value in self.looks[name] if low <= shards < high]
        return float(np.median(mb)) if mb else None


def pss_mb(pid: int) -> float | None:
    """The proportional set size of a process in MB; None where it is ending, or has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0) or None


def repeated(folder: Path, photos: int, width: int, height: int) -> list[str]:
    """`photos` photos of which `DRAWN` differ, the others being links to them; as options of the command."""
    drawn = min(DRAWN, photos)
    images, annotations = draw_coco(folder / "drawn", drawn, width, height)
    document = json.loads(annotations.read_text())
    own = defaultdict(list)
    for annotation in document["annotations"]:
        own[annotation["image_id"]].append(annotation)
    links = folder / "photos"
    links.mkdir()
    listed, annotated = [], []
    for i, image in zip(range(1, photos + 1), itertools.cycle(document["images"]), strict=False):
        name = f"{i:08d}.jpg"
        (links / name).hardlink_to(images / image["file_name"])
        listed.append({**image, "id": i, "file_name": name})
        annotated += [{**a, "image_id": i, "id": 10 * i + a["id"] % 10} for a in own[image["id"]]]
    path = folder / "instances.json"
    path.write_text(json.dumps({**document, "images": listed, "annotations": annotated}))
    return ["--images", str(links), "--annotations", str(path)]


def watch(argv: list[str], out: Path, log: Path) -> Watched:
    """Runs the command to its end and looks at its processes."""
    seen = Watched()
    names: dict[int, str] = {}
    with Run(argv, log) as run:
        while run.driver.poll() is None:
            names[run.driver.pid] = "driver"
            processes = {process.pid: process.command for process in run.look()}
            for pid, command in processes.items():
                kind = next(kind for kind, mark in KINDS if mark in command)
                if kind == "worker" and not names.get(pid, "").startswith("worker"):
                    names[pid] = f"worker {sum(name.startswith('worker') for name in names.values()) + 1}"
                elif kind != "worker":
                    names.setdefault(pid, kind)  # a worker at rest keeps its name
            whole = sum(name.endswith(".json") for name in storage.list_names(str(out / "parts")))
            held: dict[str, float] = defaultdict(float)
            for pid in (run.driver.pid, *processes):
                if (mb := pss_mb(pid)) is not None:
                    held[names[pid]] += mb
            for name, mb in held.items():
                seen.looks[name].append((whole, mb))
            time.sleep(PERIOD)
        seen.seconds = time.monotonic() - run.started
        if run.wait():
            sys.exit(log.read_text())
    return seen


def at_work(seen: Watched, total: int) -> Watched:
    """Without the looks before the first shard and after the last, when processes start and end."""
    looks = {name: [look for look in looks if 0 < look[0] < total] for name, looks in seen.looks.items()}
    return Watched(defaultdict(list, {name: kept for name, kept in looks.items() if kept}), seen.seconds)


def shards(arguments: argparse.Namespace, folder: Path) -> None:
    """Prints what each process holds by the number of whole shards, and whether anything grew."""
    inputs = repeated(folder, arguments.shards * arguments.shard_samples, 640, 480)
    out = folder / "shards"
    settings = ["--shard-samples", str(arguments.shard_samples), "--workers", str(arguments.workers), "--out", str(out)]
    seen = watch(["build", "--source", "coco", *inputs, *settings, "--val-fraction", "0"], out, folder / "log")
    total = len(list(out.glob("*.tar")))
    seen = at_work(seen, total)
    size = sum(path.stat().st_size for path in out.glob("*.tar")) / total / 1e6
    print(
        f"{arguments.shards} shards of {arguments.shard_samples} samples and {size:.0f} MB, "
        f"{arguments.workers} workers, {seen.seconds:.0f} s; MB (PSS) by whole shards\n"
    )
    names = ["driver", *sorted(name for name in seen.looks if name.startswith("worker"))]
    names += [kind for kind, _ in KINDS if kind in seen.looks]
    step = max(10, total // 8)
    rows = [["whole shards", *names]]
    for low in range(1, total, step):
        row = [seen.at(name, low, low + step) for name in names]
        rows.append([f"{low}-{min(low + step - 1, total)}", *("-" if mb is None else f"{mb:.1f}" for mb in row)])
    grown = {name: seen.growth(name, LAST) for name in names}
    rows.append([f"growth over the last {LAST}", *(f"{mb:+.1f}" for mb in grown.values())])
    print_table(rows)
    growing = [name for name, mb in grown.items() if mb > NOISE]
    print(
        f"\nGrows: {', '.join(growing)}" if growing else f"\nNothing grew by more than {NOISE:g} MB over {LAST} shards."
    )


def window(arguments: argparse.Namespace, folder: Path) -> None:
    """Prints what the driver holds at most in each window of shards of one tiny sample, for builds of several sizes."""
    most: dict[int, list[float]] = {}
    for count in arguments.counts:
        place = folder / str(count)
        place.mkdir()
        inputs = repeated(place, count, 64, 48)
        out = place / "shards"
        settings = ["--out", str(out), "--shard-samples", "1", "--object-size", "16", "--workers", "2"]
        argv = ["build", "--source", "coco", *inputs, *settings, "--val-fraction", "0"]
        looks = at_work(watch(argv, out, place / "log"), count).looks["driver"]
        windows = [[mb for whole, mb in looks if whole // WINDOW == i] for i in range(-(-count // WINDOW))]
        most[count] = [max(window, default=0.0) for window in windows]
        shutil.rmtree(place)
    print(f"MB (PSS) of the driver at most; Ray knows of {WINDOW} shards at a time\n")
    width = max(len(windows) for windows in most.values())
    rows = [["shards", *(f"window {i + 1}" for i in range(width))]]
    for count, windows in most.items():
        rows.append([str(count), *(f"{mb:.0f}" for mb in windows), *[""] * (width - len(windows))])
    print_table(rows)
    (few, first), (many, second) = sorted((min(count, WINDOW), windows[0]) for count, windows in most.items())[:2]
    if many > few:
        print(f"\n{(second - first) * 1024 / (many - few):.1f} KB of each shard that Ray knows of at a time")


def print_table(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(" | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("shards", "window"))
    parser.add_argument("--shards", type=int, default=160)
    parser.add_argument("--shard-samples", type=int, default=30)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 4096, 12288])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pics-memory-") as folder:
        {"shards": shards, "window": window}[arguments.what](arguments, Path(folder))


if __name__ == "__main__":
    main()
