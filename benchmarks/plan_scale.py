"""Planning at 1, 3 and 10 times the size of LVIS (1.3 million instances of 100,000 photos): time, and memory.

    python benchmarks/plan_scale.py [--annotations lvis_val_100.json] [--scales 1 3 10]

Makes annotation files by repeating a small one (LVIS' own, or a drawn one of the same kind) under other ids, and plans
each in a process of its own. Memory is the most that the process held at any time, as /proc counts it every 50 ms.
The floor is the least that any reader must do: parse every element once with orjson.

Expected: time grows with the file, memory does not, as photos and rows pass through buckets on disk.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson

PHOTOS, INSTANCES = 100_000, 1_300_000
PAGE = 4096


def drawn_annotations(num_photos: int = 100) -> dict[str, Any]:
    """Annotations like those of LVIS: 13 objects a photo, polygons of some 40 points."""
    rng = np.random.default_rng(0)
    images = [
        {"id": i, "width": 640, "height": 480, "coco_url": f"http://x/val2017/{i}.jpg"} for i in range(num_photos)
    ]
    annotations = []
    for i in range(num_photos * INSTANCES // PHOTOS):
        x, y = rng.uniform(0, 500), rng.uniform(0, 350)
        w, h = rng.uniform(10, 640 - x), rng.uniform(10, 480 - y)
        turn = np.linspace(0, 2 * math.pi, 40)
        outline = np.stack([x + w / 2 * (1 + np.cos(turn)), y + h / 2 * (1 + np.sin(turn))], axis=1)
        annotations.append(
            {
                "id": i,
                "image_id": i % num_photos,
                "category_id": int(rng.integers(1, 1200)),
                "bbox": [x, y, w, h],
                "area": w * h * math.pi / 4,
                "segmentation": [outline.round(2).ravel().tolist()],
            }
        )
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": f"c{i}"} for i in range(1200)],
    }


def write_repeated(document: dict[str, Any], instances: int, path: Path) -> tuple[int, int]:
    """Writes `document` as often as it takes, under other ids; returns its photos and instances."""
    times = -(-instances // len(document["annotations"]))
    highest = 1 + max(max(int(e["id"]) for e in document[key]) for key in ("images", "annotations"))

    def write_all(file: Any, key: str, ids: tuple[str, ...]) -> None:
        for again in range(times):
            shifted = ({**e, **{name: e[name] + again * highest for name in ids}} for e in document[key])
            if key == "images":  # another photo needs another file
                shifted = ({**e, "coco_url": f"http://x/val2017/{e['id']}.jpg", "file_name": ""} for e in shifted)
            file.write((b"," if again else b"") + b",".join(map(orjson.dumps, shifted)))

    with path.open("wb") as file:
        file.write(b'{"categories":' + orjson.dumps(document["categories"]) + b',"images":[')
        write_all(file, "images", ("id",))
        file.write(b'],"annotations":[')
        write_all(file, "annotations", ("id", "image_id"))
        file.write(b"]}")
    return times * len(document["images"]), times * len(document["annotations"])


def plan(path: Path) -> None:
    """Plans the photos of an annotation file and prints what it took, as JSON."""
    from pics_data.config import BuildConfig
    from pics_data.mixture import Member
    from pics_data.plan import make_plan
    from pics_data.sources import records_of

    peak = watch_memory()
    config = BuildConfig(source="lvis", images=(str(path.parent),), annotations=(str(path),), check_photos=False)
    started, cpu = time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        made = make_plan([Member("", 1.0, config)], lambda member: records_of(member.config), config, Path(folder))
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    took = {"seconds": time.monotonic() - started, "cpu": time.process_time() - cpu, "peak": peak[0]}
    print(json.dumps({**took, "samples": made.num_samples, "shards": made.num_shards, "bytes": size}))


def watch_memory() -> list[int]:
    """A list whose only value is the most bytes that this process has held so far."""
    peak = [0]

    def watch() -> None:
        while True:
            peak[0] = max(peak[0], int(Path("/proc/self/statm").read_text().split()[1]) * PAGE)
            time.sleep(0.05)

    threading.Thread(target=watch, daemon=True).start()
    return peak


def floor(document: dict[str, Any], instances: int) -> float:
    """CPU seconds to parse each annotation of a file of so many once."""
    texts = [orjson.dumps(item) for item in document["annotations"]]
    started = time.process_time()
    for text in texts:
        orjson.loads(text)
    return (time.process_time() - started) * instances / len(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, help="a small LVIS file to repeat; none: drawn ones")
    parser.add_argument("--scales", type=int, nargs="+", default=[1, 3, 10])
    parser.add_argument("--folder", type=Path, help="where the files are made, 0.8 GB for each scale; none: temporary")
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plan:
        plan(given.plan)
        return
    document = json.loads(given.annotations.read_bytes()) if given.annotations else drawn_annotations()
    print("| scale | photos | instances | file | samples | wall | CPU | floor | peak memory | plan |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for scale in given.scales:
            path = Path(folder) / "lvis.json"
            photos, instances = write_repeated(document, scale * INSTANCES, path)
            command = [sys.executable, __file__, "--plan", str(path)]
            took = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            least = floor(document, instances)
            print(
                f"| {scale} | {photos:,} | {instances:,} | {path.stat().st_size / 1e9:.2f} GB | {took['samples']:,} "
                f"| {took['seconds']:.0f} s | {took['cpu']:.0f} s | {least:.0f} s | {took['peak'] / 1e6:.0f} MB "
                f"| {took['bytes'] / 1e6:.0f} MB |",
                flush=True,
            )


if __name__ == "__main__":
    main()
