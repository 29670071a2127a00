"""A whole build against the same functions without Ray, against the way of the published builder, and the floor.

    python benchmarks/build.py [--images train2017 val2017 --annotations a.json b.json] [--copies 40] [--size 512]

Without photos of yours it renders some. Each photo is used `--copies` times under other names, so that a run is long
enough. In turn, on the same photos:

- published: one process, a pair a photo, written as the published shards are described: OpenCV reads the photo,
  pycocotools the masks, Pillow writes RGB cut-outs and 8-bit masks, webdataset's ShardWriter the tars. It is a
  re-enactment from that description, without the published code.
- bare: `build_shard`, the function that a Ray task calls, in plain processes that take shards in turn.
- build: `pics-data build`; Ray's start is told apart.
- floor: each photo decoded once and its sample's pictures encoded once, and nothing else.

Expected: the build at least three times the published way for each sample, four times where a photo gives several, and
at least 0.8 of the bare loop, as a task of Ray is a whole shard.
"""

import argparse
import io
import itertools
import json
import multiprocessing
import os
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from pics_data import codecs
from pics_data.build import build
from pics_data.config import BuildConfig
from pics_data.mixture import Member, members_of
from pics_data.photofile import decode_photo
from pics_data.pipeline import build_shard
from pics_data.plan import Plan, make_plan, read_shard_plan, shards_of
from pics_data.predict.rle import mask_to_rle
from pics_data.records import Composition
from pics_data.sources import records_of, scenes

PUBLISHED = 500  # samples made the published way: it is slow, and its speed is the same throughout


def render_photos(folder: Path, count: int = 120, side: int = 560) -> tuple[list[str], list[str]]:
    """Rendered photos as a COCO data set: for whoever has no other."""
    settings = scenes.SceneSettings(size=side)
    (folder / "rendered").mkdir()
    images, annotations = [], []
    for number, photo in enumerate(scenes.photos(settings, count)):
        pixels = scenes.render(photo, settings)
        noise = np.random.default_rng(number).normal(0, 4, pixels.rgb.shape)  # photographs have grain
        rgb = np.clip(pixels.rgb + noise, 0, 255).astype(np.uint8)
        Image.fromarray(rgb).save(folder / "rendered" / f"{number}.jpg", quality=93)
        images.append({"id": number, "width": side, "height": side, "file_name": f"{number}.jpg"})
        for mask in pixels.masks:
            if mask.any():
                box = list(map(float, cv2.boundingRect(mask.astype(np.uint8))))
                item = {"id": len(annotations), "image_id": number, "category_id": 1, "bbox": box}
                annotations.append({**item, "area": float(mask.sum()), "segmentation": mask_to_rle(mask)})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "rendered.json").write_text(json.dumps(document))
    return [str(folder / "rendered")], [str(folder / "rendered.json")]


def copy_photos(images: list[str], annotations: list[str], copies: int, folder: Path) -> BuildConfig:
    """The same photos `copies` times: links to the files, and annotations under other ids."""
    (folder / "photos").mkdir()
    documents = [json.loads(Path(path).read_bytes()) for path in annotations]
    merged: dict[str, Any] = {"images": [], "annotations": [], "categories": documents[0]["categories"]}
    for copy, document in itertools.product(range(copies), documents):
        for image in document["images"]:
            found = next(
                Path(place) / image["file_name"] for place in images if (Path(place) / image["file_name"]).exists()
            )
            name = f"{copy}-{image['file_name']}"
            (folder / "photos" / name).symlink_to(found.resolve())
            merged["images"].append({**image, "id": f"{copy}-{image['id']}", "file_name": name})
        for item in document["annotations"]:
            merged["annotations"].append(
                {**item, "id": f"{copy}-{item['id']}", "image_id": f"{copy}-{item['image_id']}"}
            )
    (folder / "copied.json").write_text(json.dumps(merged))
    return BuildConfig(source="coco", images=(str(folder / "photos"),), annotations=(str(folder / "copied.json"),))


def published_way(plan: Plan, folder: Path) -> None:
    """The first samples as the published shards hold them, one after the other."""
    import webdataset
    from pycocotools import mask as coco_mask

    rng = np.random.default_rng(0)
    with webdataset.ShardWriter(str(folder / "%06d.tar"), maxcount=1000, verbose=0) as writer:
        for composition in compositions_of(plan)[:PUBLISHED]:
            photo = composition.photo
            rgb = cv2.cvtColor(cv2.imread(photo.path), cv2.COLOR_BGR2RGB)
            sample: dict[str, Any] = {"__key__": composition.key, "bg.jpg": Path(photo.path).read_bytes()}
            for i, item in enumerate(photo.instances):
                rles = item.segmentation
                if isinstance(rles, list):
                    rles = coco_mask.merge(coco_mask.frPyObjects(rles, photo.height, photo.width))
                elif isinstance(rles["counts"], list):
                    rles = coco_mask.frPyObjects(rles, photo.height, photo.width)
                mask = coco_mask.decode(rles)
                sample[f"obj{i}.png"] = png(published_cutout(rgb, mask, rng))
                sample[f"mask{i}.png"] = png(mask * np.uint8(255))
            writer.write(sample)


def published_cutout(rgb: Any, mask: Any, rng: np.random.Generator) -> Any:
    """The object on white, its box enlarged by 1.1 to 1.4 and padded to a square, 224 px."""
    x, y, w, h = cv2.boundingRect(mask)
    ratio = rng.uniform(1.1, 1.4)
    left, top = max(0, int(x - w * (ratio - 1) / 2)), max(0, int(y - h * (ratio - 1) / 2))
    right, bottom = min(rgb.shape[1], int(left + w * ratio)), min(rgb.shape[0], int(top + h * ratio))
    white = rgb * mask[..., None] + 255 * (1 - mask[..., None])
    crop = white[top:bottom, left:right].astype(np.uint8)
    side = max(crop.shape[:2])
    square = np.full((side, side, 3), 255, np.uint8)
    down, across = (side - crop.shape[0]) // 2, (side - crop.shape[1]) // 2
    square[down : down + crop.shape[0], across : across + crop.shape[1]] = crop
    return cv2.resize(square, (224, 224))


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def compositions_of(plan: Plan) -> list[Composition]:
    return [composition for n in range(plan.num_shards) for composition in read_shard_plan(plan.folder, n)]


def bare_loop(plan: Plan, members: list[Member], folder: Path, workers: int) -> None:
    """Every shard by `build_shard`, in plain processes."""
    jobs = [(n, shard, plan.folder, str(folder), members[m].config) for n, shard, m in shards_of(plan, members)]
    if workers == 1:
        for job in jobs:
            build_shard(*job)
        return
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        pool.starmap(build_shard, jobs, chunksize=1)


def floor(plan: Plan, folder: Path, size: int) -> float:
    """CPU seconds to decode each photo once and to encode each sample's pictures once."""
    seconds = 0.0
    cv2.setNumThreads(1)
    for _, of_photo in itertools.groupby(compositions_of(plan), key=lambda c: c.photo.id):
        photo = next(of_photo).photo
        data = Path(photo.path).read_bytes()
        seconds += spent(lambda photo=photo, data=data: decode_photo(photo, data, 10**9))
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            for info in tar:
                kind = info.name.partition(".")[2]
                if kind.startswith(("obj", "mask")) or (kind == "bg.jpg" and size):
                    seconds += encoding(kind, tar.extractfile(info).read())  # type: ignore[union-attr]
    return seconds


def encoding(kind: str, data: bytes) -> float:
    """CPU seconds to encode a member's pixels again."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if kind == "bg.jpg":
        rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        return spent(lambda: codecs.jpeg(rgb, codecs.RESIZED_JPEG_QUALITY))
    if kind.startswith("mask"):
        return spent(lambda: codecs.mask_png(pixels > 0))
    rgba = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA)
    return spent(lambda: codecs.png(rgba))


def spent(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def timed(work: Callable[[], Any]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def new_folder(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def run(config: BuildConfig, pairs: int, folder: Path, rounds: int) -> None:
    """Prints a table row for each way to make the samples of `config` with `pairs` compositions a photo."""
    config = replace(config, pairs_per_photo=pairs, shard_samples=200, out=str(folder / "shards"))
    members = members_of(config)
    plan = make_plan(members, lambda member: records_of(member.config), config, new_folder(folder / "plan"))
    count, cores = plan.num_samples, os.cpu_count() or 1
    rates: dict[str, list[float]] = {}
    sizes: dict[str, float] = {}
    for _ in range(rounds):
        if pairs == 1:
            way = "published way, 1 process"
            made = min(count, PUBLISHED)
            rates.setdefault(way, []).append(
                made / timed(lambda: published_way(plan, new_folder(folder / "published")))
            )
            sizes[way] = sum(path.stat().st_size for path in (folder / "published").iterdir()) / made
        for workers in (1, cores):
            way = f"bare loop, {workers} process{'es' if workers > 1 else ''}"
            out = new_folder(folder / "bare")
            rates.setdefault(way, []).append(count / timed(lambda out=out, n=workers: bare_loop(plan, members, out, n)))
            shutil.rmtree(folder / "shards", ignore_errors=True)
            started = time.monotonic()
            result = build(replace(config, workers=workers))
            all_seconds = time.monotonic() - started
            way = f"pics-data build, {workers} worker{'s' if workers > 1 else ''}"
            rates.setdefault(way, []).append(count / result.seconds)
            rates.setdefault(way + ", Ray's start and planning counted", []).append(count / all_seconds)
            sizes[way] = result.num_bytes / count
    least = floor(plan, folder / "shards", config.size)
    rates[f"floor: decode + encode alone, {cores} cores"] = [cores * count / least]
    for way, found in rates.items():
        size = f"{sizes[way] / 1e3:.0f} KB" if way in sizes else ""
        print(f"| {pairs} | {way} | {statistics.median(found):.1f} | {size} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", default=[], help="folders of photos of a COCO data set")
    parser.add_argument("--annotations", nargs="+", default=[], help="its annotation files")
    parser.add_argument("--copies", type=int, default=40, help="how often each photo is used")
    parser.add_argument("--pairs", type=int, nargs="+", default=[1, 4], help="compositions a photo")
    parser.add_argument("--size", type=int, default=0, help="longest side of the stored photo")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, of which the median counts")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images, annotations = given.images, given.annotations
        if not images:
            images, annotations = render_photos(folder)
        config = replace(copy_photos(images, annotations, given.copies, folder), size=given.size)
        print("| pairs a photo | way | samples/s | bytes a sample |")
        print("| ---: | --- | ---: | ---: |")
        for pairs in given.pairs:
            run(config, pairs, folder, given.rounds)


if __name__ == "__main__":
    main()
