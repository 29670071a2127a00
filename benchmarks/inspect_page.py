"""How long `pics-data inspect` takes, and its memory: python benchmarks/inspect_page.py [SAMPLES ...]

For each number of samples (10,000, 100,000 and 1,000,000 unless given), makes a folder with the tables, marks, index
and rejects that a build of so many samples of five sources has, with values spread like those of real photos. All tars
are one tar of a few rendered scenes again and again, so that every row of the tables has pictures. Then runs the
command on it in a process of its own and prints its seconds (wall and CPU) and its peak memory.
"""

import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from pics_data.config import BuildConfig
from pics_data.decompose import decompose_all
from pics_data.records import Composition, Reject, Sample
from pics_data.reject_file import RejectFile
from pics_data.sample_table import write_table
from pics_data.shards import ShardMark, tar_member
from pics_data.sources import scenes

COUNTS = (10_000, 100_000, 1_000_000)
SAMPLES_A_SHARD = 1000
CATEGORIES = [f"category {i}" for i in range(1200)]  # as many as LVIS has
SOURCES = {"lvis": 3.0, "viton_hd": 6.0, "objects365": 1.0, "cityscapes": 18.0, "bdd100k": 18.0}  # and their weights
LICENCES = ["", *(f"http://creativecommons.org/licenses/{kind}/2.0/" for kind in ("by", "by-sa", "by-nc", "by-nc-nd"))]
REJECTS = 0.03  # of the samples


def main() -> None:
    counts = [int(text.replace(",", "")) for text in sys.argv[1:]] or COUNTS
    print(f"{'samples':>10} {'wall s':>8} {'CPU s':>8} {'peak MB':>8}  page")
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="pics-inspect-") as folder:
            make_folder(Path(folder), count)
            wall, cpu, megabytes, page_bytes = run(Path(folder))
        print(f"{count:10,} {wall:8.1f} {cpu:8.1f} {megabytes:8.0f}  {page_bytes / 1e6:.1f} MB", flush=True)


def run(folder: Path) -> tuple[float, float, float, int]:
    """Wall seconds, CPU seconds and peak megabytes of the command, and the bytes of its page."""
    page = folder / "page.html"
    code = (
        "import resource, sys; from pics_data import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    argv = [sys.executable, "-c", code, "inspect", str(folder), "--out", str(page)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    wall = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, int(done.stdout.split()[-1]) / 1024, page.stat().st_size


def make_folder(folder: Path, count: int) -> None:
    """What a build of `count` samples leaves, less the plan."""
    few = {sample.key: _in_tar(sample) for sample in _scenes(8)}
    keys = [key for _, key in zip(range(SAMPLES_A_SHARD), cycle(few), strict=False)]
    tar = folder / "scenes.tar"
    tar.write_bytes(b"".join(few[key] for key in keys) + bytes(1024))
    digest = hashlib.sha256(tar.read_bytes()).hexdigest()
    (folder / "parts").mkdir()
    rng = np.random.default_rng(0)
    shardlist = []
    for number in range(-(-count // SAMPLES_A_SHARD)):
        source = list(SOURCES)[number % len(SOURCES)]
        shard = f"{'val' if number % 20 == 19 else 'train'}-{source}-{number:06d}"
        here = min(SAMPLES_A_SHARD, count - number * SAMPLES_A_SHARD)
        split = shard.partition("-")[0]
        metas = [
            {"key": key, "num_bytes": len(few[key]), **random_meta(rng, source, split, f"{number}-{i // 2}")}
            for i, key in enumerate(keys[:here])
        ]
        write_table(str(folder / "parts" / f"{shard}.parquet"), metas)
        mark = ShardMark(shard, here, tar.stat().st_size, digest)
        (folder / "parts" / f"{shard}.json").write_bytes(orjson.dumps(asdict(mark)))
        (folder / f"{shard}.tar").hardlink_to(tar)
        entry = {"url": f"{shard}.tar", "nsamples": here, "filesize": mark.num_bytes, "sha256": digest}
        shardlist.append({**entry, "split": split, "source": source, "weight": SOURCES[source]})
    tar.unlink()
    index = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": "pics-mixture", "shardlist": shardlist}
    (folder / "index.json").write_bytes(orjson.dumps(index))
    with RejectFile(folder / "rejects.parquet") as rejects:
        for i in range(int(REJECTS * count)):
            reason = ("missing photo", "broken photo", "empty mask", "above --max-gap")[i % 4]
            rejects.add(Reject(f"lvis-{i}", ("plan", "decompose", "decompose", "filter")[i % 4], reason, f"{i}.jpg"))


def _scenes(count: int) -> list[Sample]:
    config = BuildConfig(num_scenes=count)
    photos = scenes.photos(config.scene_settings(), count)
    pairs = [replace(photo, instances=tuple(sorted(photo.instances, key=lambda o: -o.area)[:2])) for photo in photos]
    plan = (Composition(f"scenes-{i}", "", "train", photo, 0.1, i) for i, photo in enumerate(pairs))
    return [sample for sample in decompose_all(plan, config) if isinstance(sample, Sample)]


def _in_tar(sample: Sample) -> bytes:
    return b"".join(tar_member(f"{sample.key}.{name}", data) for name, data in sample.members.items())


def random_meta(rng: np.random.Generator, source: str, split: str, photo_id: str) -> dict[str, Any]:
    """Metadata of a sample that was never made: two objects, one time in ten three."""
    height, width = int(rng.integers(300, 641)), int(rng.integers(300, 641))
    objects = [_random_object(rng) for _ in range(3 if rng.random() < 0.1 else 2)]
    relations = []
    for i in range(len(objects)):
        for j in range(i + 1, len(objects)):
            gap = round(float(rng.exponential(12)), 2) if rng.random() < 0.2 else 0.0
            contact = 0 if gap else int(rng.lognormal(5, 1.5))
            overlap = int(contact * rng.random()) if rng.random() < 0.5 else 0
            relations.append({"objects": [i, j], "box_iou": float(rng.beta(1, 6)), "gap_px": gap, "contact_px": contact,
                              "overlap_px": overlap, "front": None})  # fmt: skip
    photo = {"id": photo_id, "file_name": f"{photo_id}.jpg", "width": width, "height": height,
             "license": LICENCES[int(rng.integers(5))], "url": f"http://images.example/{photo_id}.jpg"}  # fmt: skip
    return {
        "source": source, "split": split, "photo": photo, "size": [height, width], "objects": objects,
        "relations": relations, "seed": int(rng.integers(2**48)),
    }  # fmt: skip


def _random_object(rng: np.random.Generator) -> dict[str, Any]:
    cut = rng.random() < 0.4
    return {
        "id": str(rng.integers(2**31)), "category": CATEGORIES[min(int(rng.pareto(0.8) * 3), 1199)],
        "area": round(float(np.clip(rng.lognormal(-2.7, 1), 0.0117, 0.95)), 6), "box": [1, 2, 30, 40],
        "parts": 1 + int(rng.geometric(0.8)) - 1, "holes": int(rng.geometric(0.9)) - 1,
        "border": round(float(rng.beta(1, 6)), 4) if cut else 0.0, "edge": round(float(rng.beta(2, 14)), 4),
    }  # fmt: skip


if __name__ == "__main__":
    main()
