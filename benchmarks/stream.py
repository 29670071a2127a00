"""How many samples a second reach the training process, beside what else there is, and beside decoding alone?

    pics-data build --recipe pipelines/coco.yaml --out shards ...     # any shards of pairs; see docs/streaming.md
    python benchmarks/stream.py --shards shards

At the published sizes: photo 512 px, two objects of 224 px, two regions, hint; objects turned, mirrored and recoloured
as published. By 0, 1 and 2 loader processes:

- ours: `ShardStream`, batches as training takes them, without silhouettes;
- the same, and the hint made in floats on the CPU: where there is a GPU, that is its work;
- webdataset: plain `WebDataset` and `WebLoader`, the same functions on a sample, the same batches;
- published: the published loader, re-enacted (published_loader.py), a `DataLoader` over WebDataset;
- photos alone: torch's own way, files in a folder opened by Pillow, resized, to float; no objects, no regions;
- decoding: photo and cut-outs of each sample by our own decoders, and nothing else: the floor; also with masks.

Then, of 1,000 shards: seconds from the start to the first batch, and memory of all processes by shards open.

Expected: at least 4 times the published loader on two workers, and at least 60 % of decoding. Where others use the
machine, CPU time tells more than samples a second.
"""

import gc
import io
import json
import multiprocessing
import os
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import webdataset
from memory import pss_mb
from PIL import Image
from published_loader import sample as published_sample
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from pics_common.errors import UserError, run_command
from pics_common.recipe import parse_recipe
from pics_model.augment import AugmentSettings, draw_looks
from pics_model.inputs import FramingSettings, Inputs, compose, hint
from pics_model.packed import pack
from pics_model.pictures import read_mask, read_object, read_photo
from pics_model.shard_reader import decode
from pics_model.shard_table import open_shards
from pics_model.stream import PREFETCH, ShardStream

FRAMING = FramingSettings(resolution=512, object_resolution=224, frame="photo", region="box")
AUGMENT = AugmentSettings(rotation=15, rotation_chance=0.5, flip=0.2, colour=0.1, colour_chance=0.3)
BATCH = 16
KINDS = ("bg.jpg", "obj0.png", "obj1.png", "mask0.png", "mask1.png")


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """Times loaders."""

    shards: Path
    """Folder of shards of samples with two objects or more."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Numbers of loader processes; none at all leaves speed out."""
    seconds: float = 6.0
    """That each loader is timed for, after its first batches."""
    rounds: int = 2
    """Times in turn; the best of each counts."""
    many: int = 1000
    """Shards for start-up and memory; 0 leaves that out."""
    only: tuple[str, ...] = ()
    """Names of loaders to time, all by default."""


class Members:
    """A sample of WebDataset as `pics_model.shard_reader` takes one."""

    def __init__(self, sample: dict[str, Any]) -> None:
        self.members = {kind: value for kind, value in sample.items() if not kind.startswith("__")}
        self.key = self.where = sample["__key__"]
        self.num_objects = next(k for k in count() if f"obj{k}.png" not in self.members)

    def read(self, kind: str) -> bytes:
        return self.members[kind]


def ours(folder: Path, workers: int, with_hint: bool = False) -> Iterator[int]:
    stream = ShardStream(
        folder, FRAMING, batch_size=BATCH, num_workers=workers, split="all", augment=AUGMENT, silhouettes=False
    )
    for batch in stream.batches():
        if with_hint:
            hint(batch.target, batch.regions, batch.valid)
        yield len(batch.keys)


def plain_webdataset(folder: Path, workers: int) -> Iterator[int]:
    def inputs(sample: dict[str, Any]) -> Inputs:
        stored = Members(sample)
        rng = np.random.default_rng()
        looks = draw_looks(rng, stored.num_objects, AUGMENT)
        example, lean = decode(stored, framing=FRAMING)  # type: ignore[arg-type]
        return compose(example, FRAMING, rng, 0, looks, lean)

    dataset = _webdataset(folder).shuffle(100).map(inputs).batched(BATCH, collation_fn=pack, partial=False)
    loader = webdataset.WebLoader(dataset, batch_size=None, **_workers(workers))
    return (len(packed.unpack("cpu").keys) for packed in loader)


def published(folder: Path, workers: int) -> Iterator[int]:
    dataset = _webdataset(folder).shuffle(100).map(lambda s: published_sample({kind: s[kind] for kind in KINDS}))
    return (len(batch["target"]) for batch in DataLoader(dataset, BATCH, drop_last=True, **_workers(workers)))


class PhotoFolder(Dataset[torch.Tensor]):
    """Photos as torchvision's ImageFolder gives them, resized and as floats."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*.jpg"))

    def __len__(self) -> int:
        return 10**6  # an epoch that does not end while it is timed

    def __getitem__(self, index: int) -> torch.Tensor:
        with self.files[index % len(self.files)].open("rb") as file:
            picture = Image.open(file).convert("RGB").resize((512, 512), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def photos_alone(folder: Path, workers: int) -> Iterator[int]:
    dataset = PhotoFolder(folder / "photos")
    return (len(batch) for batch in DataLoader(dataset, BATCH, shuffle=True, drop_last=True, **_workers(workers)))


def _decode(members: dict[str, bytes], masks: bool) -> None:
    photo = read_photo(members["bg.jpg"], "")
    for k in range(2):
        read_object(members[f"obj{k}.png"], "", on_white=True)
        if masks:
            read_mask(members[f"mask{k}.png"], "", photo.shape[:2])


def _decode_forever(members: list[dict[str, bytes]], masks: bool, done: Any) -> None:
    cv2.setNumThreads(0)
    while True:
        for each in members:
            _decode(each, masks)
        with done.get_lock():
            done.value += len(members)


def decoding(folder: Path, workers: int, masks: bool = False) -> Iterator[int]:
    """Bytes in memory -> arrays, in processes that give nothing back; or in this one."""
    table = open_shards(folder)
    members = []
    for index in range(min(len(table), 200)):
        stored = table.sample(index)
        members.append({kind: stored.read(kind) for kind in KINDS})
    if not workers:
        while True:
            for each in members:
                _decode(each, masks)
                yield 1
    context = multiprocessing.get_context("fork")
    done = context.Value("q", 0)
    parts = [members[worker::workers] for worker in range(workers)]
    processes = [context.Process(target=_decode_forever, args=(part, masks, done), daemon=True) for part in parts]
    try:
        for process in processes:
            process.start()
        last = 0
        while True:
            time.sleep(0.05)
            now = done.value
            yield now - last
            last = now
    finally:
        for process in processes:
            process.kill()
            process.join()


LOADERS: dict[str, Callable[[Path, int], Iterator[int]]] = {
    "ours": ours,
    "ours, hint in floats on the CPU": partial(ours, with_hint=True),
    "webdataset, our functions": plain_webdataset,
    "published": published,
    "photos alone": photos_alone,
    "decoding": decoding,
    "decoding, masks too": partial(decoding, masks=True),
}


def _webdataset(folder: Path) -> Any:
    tars = [str(path) for path in sorted(folder.glob("*.tar"))]
    return webdataset.WebDataset(tars, shardshuffle=len(tars), empty_check=False).repeat()


def _workers(workers: int) -> dict[str, Any]:
    more = {"prefetch_factor": PREFETCH, "multiprocessing_context": "fork", "worker_init_fn": _one_thread}
    return {"num_workers": workers} | (more if workers else {})


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def cpu_seconds() -> float:
    """What this process and those that it has started have used by now, the system's work for them included."""
    total = 0.0
    for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")
    return total


def measure(counts: Iterator[int], seconds: float) -> tuple[float, float]:
    """Samples a second, and CPU milliseconds a sample, once as much has come as may have been made ahead of need."""
    for _ in islice(counts, 2 * PREFETCH + 1):
        pass
    begin, used, num = time.perf_counter(), cpu_seconds(), 0
    while (took := time.perf_counter() - begin) < seconds:
        num += next(counts)
    return num / took, (cpu_seconds() - used) / num * 1000


def speed(config: BenchConfig, folder: Path) -> None:
    chosen = {name: make for name, make in LOADERS.items() if not config.only or name in config.only}
    rates: dict[tuple[str, int], float] = {}
    costs: dict[tuple[str, int], float] = {}
    for _ in range(config.rounds):
        for name, make in chosen.items():
            for workers in config.workers:
                counts = make(folder, workers)
                rate, cost = measure(counts, config.seconds)
                rates[name, workers] = max(rates.get((name, workers), 0.0), rate)
                costs[name, workers] = min(costs.get((name, workers), cost), cost)
                del counts
                gc.collect()
    table = Table(title=f"samples a second (CPU milliseconds a sample), batches of {BATCH}")
    for column in ("loader", *(f"{workers} workers" for workers in config.workers)):
        table.add_column(column, justify="left" if column == "loader" else "right")
    for name in chosen:
        table.add_row(name, *(f"{rates[name, w]:.0f} ({costs[name, w]:.1f})" for w in config.workers))
    for other in ("published", "decoding", "decoding, masks too"):
        if "ours" in chosen and other in chosen:
            cells = (
                f"{rates['ours', w] / rates[other, w]:.2f} ({costs[other, w] / costs['ours', w]:.2f})"
                for w in config.workers
            )
            table.add_row(f"ours / {other}", *cells)
    Console().print(table)


def repeated(shards: Path, folder: Path, num_samples: int = 960) -> Path:
    """The shards, as often as it takes for a long epoch, and their photos as files."""
    folder.mkdir()
    table = open_shards(shards)
    (folder / "photos").mkdir()
    for index in range(min(len(table), 400)):
        (folder / "photos" / f"{index:04}.jpg").write_bytes(table.sample(index).read("bg.jpg"))
    entries = []
    for number in range(-(-num_samples // len(table)) * len(table.shards)):
        shard = table.shards[number % len(table.shards)]
        name = f"train-{number:06}.tar"
        shutil.copyfile(shard.path, folder / name)
        entries.append({"url": name, "nsamples": table.counts[number % len(table.shards)]})
    (folder / "index.json").write_text(json.dumps({"shardlist": entries}))
    return folder


def many_shards(shards: Path, folder: Path, num_shards: int, per_shard: int = 1000) -> Path:
    """Shards of `per_shard` samples each: one that is written and links to it."""
    folder.mkdir()
    stored = open_shards(shards).sample(0)
    with tarfile.open(folder / "train-000000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(per_shard):
            for kind in stored.members:
                data = stored.read(kind)
                info = tarfile.TarInfo(f"{number:08}.{kind}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    for number in range(1, num_shards):
        os.link(folder / "train-000000.tar", folder / f"train-{number:06}.tar")
    entries = [{"url": f"train-{number:06}.tar", "nsamples": per_shard} for number in range(num_shards)]
    (folder / "index.json").write_text(json.dumps({"shardlist": entries}))
    return folder


def probe(folder: Path, cache: Path, workers: int, group: int, out: Any) -> None:
    """Opens shards in a process of its own and says how long that takes, and what memory is held as more are opened."""
    begin = time.perf_counter()
    stream = ShardStream(
        folder, FRAMING, batch_size=BATCH, num_workers=workers, cache=cache, silhouettes=False, shuffle_shards=group
    )
    opened = time.perf_counter() - begin
    batches = stream.batches()
    next(batches)
    first = time.perf_counter() - begin
    rows, seen, begin = [], 1, time.perf_counter()
    for target in (1, 64, 256):
        for _ in range(target - seen):
            next(batches)
        seen = target
        order = stream.order
        touched = {order.sample(order.entry(position)[1])[0] for position in range(seen * BATCH)}
        own = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
        rows.append((len(touched), sum(pss_mb(pid) or 0 for pid in own)))
    out.put((opened, first, (seen - 1) * BATCH / (time.perf_counter() - begin), rows))


def start_up(config: BenchConfig, shards: Path, folder: Path) -> None:
    many = many_shards(shards, folder / "many", config.many)
    table = Table(title=f"{config.many:,} shards of 1,000 samples, 2 workers")
    for column in ("", "opened after", "first batch after", "samples/s of the next 255", "shards opened: MB in all"):
        table.add_column(column, justify="left" if not column else "right")
    context = multiprocessing.get_context("spawn")
    bare = many_shards(shards, folder / "bare", config.many)
    (bare / "index.json").unlink()
    for name, place, cache, group in (
        ("index.json, nothing saved", many, "a", 0),
        ("index.json, again", many, "a", 0),
        ("index.json, 16 shards at a time", many, "b", 16),
        ("bare tars, nothing saved", bare, "c", 0),
        ("bare tars, again", bare, "c", 0),
    ):
        out = context.SimpleQueue()
        process = context.Process(target=probe, args=(place, folder / "cache" / cache, 2, group, out))
        process.start()
        opened, first, pace, rows = out.get()
        process.join()
        memory = ", ".join(f"{number}: {mb:.0f}" for number, mb in rows)
        table.add_row(name, f"{opened:.2f} s", f"{first:.2f} s", f"{pace:.0f}", memory)
    Console().print(table)


def main() -> int:
    config = parse_recipe(BenchConfig, sys.argv[1:], prog="stream")
    unknown = set(config.only) - set(LOADERS)
    if unknown:
        raise UserError(f"--only {' '.join(sorted(unknown))}: expected some of {', '.join(LOADERS)}")
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="pics-bench-") as name:
        folder = Path(name)
        if config.workers:
            speed(config, repeated(config.shards, folder / "shards"))
        if config.many:
            start_up(config, config.shards, folder)
    return 0


if __name__ == "__main__":
    run_command(main)
