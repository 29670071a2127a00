"""How well and how fast are near-duplicate photos found?

    python benchmarks/duplicates.py recall [--photos ../shared/data/coco_mini] [--scenes 300]
    python benchmarks/duplicates.py fingerprints [--photos ../shared/data/coco_mini]
    python benchmarks/duplicates.py pairs [--counts 1e5 1e6 1e7]

`recall` makes copies of real photos in memory, each changed in one way, and says how many are found, and how many
pairs of different photos, and of different rendered scenes, are taken for copies. `fingerprints` says what one photo
costs, beside decoding it whole. `pairs` says what finding the pairs among that many fingerprints costs in time and
memory: random bits, of which 5 % are copies of others with a few bits changed. All times are CPU time of one process.
"""

import argparse
import io
import math
import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw, ImageEnhance

from pics_data import duplicates
from pics_data.fingerprint import FINGERPRINT, Fingerprints, fingerprint
from pics_data.sources import scenes

Picture = Image.Image


def trimmed(left: float, top: float, right: float, bottom: float) -> Callable[[Picture], Picture]:
    """Cuts off these shares of width and height."""

    def change(image: Picture) -> Picture:
        width, height = image.size
        return image.crop(
            (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
        )

    return change


def resized(scale: float) -> Callable[[Picture], Picture]:
    def change(image: Picture) -> Picture:
        size = (round(image.width * scale), round(image.height * scale))
        return image.resize(size, Image.Resampling.LANCZOS)

    return change


def captioned(image: Picture) -> Picture:
    image = image.copy()
    place = (0.03 * image.width, 0.9 * image.height)
    ImageDraw.Draw(image).text(place, "a caption in a corner", fill="white", font_size=image.height // 20)
    return image


COPIES: dict[str, tuple[Callable[[Picture], Picture], int]] = {  # change, JPEG quality
    "JPEG quality 50": (lambda image: image, 50),
    "JPEG quality 20": (lambda image: image, 20),
    "resized to 70 %": (resized(0.7), 90),
    "resized to 30 %": (resized(0.3), 90),
    "trimmed by 3 %, 1.5 % a side": (trimmed(0.015, 0.015, 0.015, 0.015), 90),
    "trimmed by 3 % at two sides": (trimmed(0.03, 0.03, 0, 0), 90),
    "trimmed by 6 %, 3 % a side": (trimmed(0.03, 0.03, 0.03, 0.03), 90),
    "brighter by 10 %": (lambda image: ImageEnhance.Brightness(image).enhance(1.1), 90),
    "darker by 10 %": (lambda image: ImageEnhance.Brightness(image).enhance(0.9), 90),
    "contrast + 20 %": (lambda image: ImageEnhance.Contrast(image).enhance(1.2), 90),
    "grey": (lambda image: image.convert("L").convert("RGB"), 90),
    "a line of text": (captioned, 90),
    "mirrored (not meant to be found)": (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 90),
}


def jpeg(image: Picture, quality: int = 90) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def distances(first: Fingerprints, second: Fingerprints) -> tuple[np.ndarray, np.ndarray]:
    """Differing bits, of the coarse and of the others."""
    differing = first["words"] ^ second["words"]
    coarse = np.bitwise_count(differing[..., 0] & duplicates.COARSE)
    return coarse, np.bitwise_count(differing).sum(axis=-1) - coarse


def is_near(coarse: np.ndarray, fine: np.ndarray) -> np.ndarray:
    return (coarse <= duplicates.COARSE_DISTANCE) & (fine <= duplicates.FINE_DISTANCE)


def recall(folder: Path, num_scenes: int) -> None:
    files = sorted(folder.rglob("*.jpg"))
    photos = [path.read_bytes() for path in files]
    prints = np.array([fingerprint(data) for data in photos])
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in photos]
    print(f"copies of {len(photos)} photos: found, and differing bits (coarse of 40, fine of 216)\n")
    print("| copy | found | coarse, median | 99 % | fine, median | 99 % |\n| --- | --- | --- | --- | --- | --- |")
    for name, (change, quality) in COPIES.items():
        coarse, fine = distances(
            prints, np.array([fingerprint(jpeg(change(picture), quality)) for picture in pictures])
        )
        spread = " | ".join(f"{np.quantile(d, q):.0f}" for d in (coarse, fine) for q in (0.5, 0.99))
        print(f"| {name} | {is_near(coarse, fine).mean():.1%} | {spread} |")
    settings = scenes.SceneSettings(seed=1)
    rendered = [
        fingerprint(jpeg(Image.fromarray(scenes.render(photo, settings).rgb)))
        for photo in scenes.photos(settings, num_scenes)
    ]
    print("\n| different pictures | pairs | taken for copies | nearest: coarse | of all within 6, nearest: fine |")
    print("| --- | --- | --- | --- | --- |")
    for name, found in (("photos", prints), ("scenes", np.array(rendered))):
        i, j = np.triu_indices(len(found), 1)
        coarse, fine = distances(found[i], found[j])
        near = fine[coarse <= duplicates.COARSE_DISTANCE]
        nearest = f"{near.min()} ({len(near)} pairs)" if len(near) else "none"
        print(f"| {len(found)} {name} | {len(i):,} | {is_near(coarse, fine).sum()} | {coarse.min()} | {nearest} |")


def fingerprints(folder: Path) -> None:
    photos = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
    for name, job in (
        ("fingerprint", fingerprint),
        ("decode whole, for comparison", lambda data: Image.open(io.BytesIO(data)).convert("RGB")),
    ):
        job(photos[0])
        start = cpu()
        for data in photos:
            job(data)
        print(f"{name:30s} {(cpu() - start) / len(photos) * 1e3:.2f} ms CPU a photo ({len(photos)} photos)")


def random_fingerprints(count: int) -> tuple[Fingerprints, int]:
    """Random bits; the last 5 % are copies of the first with 3 bits of each word changed. Also the number of copies."""
    random = np.random.default_rng(0)
    prints = np.zeros(count, FINGERPRINT)
    for i in range(4):  # one by one, so that making them is not what takes the most memory
        prints["words"][:, i] = random.integers(0, 2**64, count, np.uint64)
    copies = count // 20
    changed = np.zeros((copies, 4), np.uint64)
    for _ in range(3):
        changed |= np.uint64(1) << random.integers(0, 64, (copies, 4), np.uint64)
    prints["words"][-copies:] = prints["words"][:copies] ^ changed
    prints["pixels"], prints["valid"] = 640 * 480, True
    return prints, copies


def pairs(counts: list[float]) -> None:
    print("| photos | blocks, tables | CPU s | us a photo | memory added, MB | fingerprints and keys, MB | found |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for count in map(int, counts):
        # Each in a process of its own: the memory of a process is known by its highest only.
        process = multiprocessing.get_context("spawn").Process(target=pairs_of, args=(count,))
        process.start()
        process.join()


def pairs_of(count: int) -> None:
    prints, copies = random_fingerprints(count)
    keys = pc.cast(pa.array(np.arange(count)), pa.string())
    is_val = np.zeros(count, bool)
    before, start = peak(), cpu()
    found = duplicates.drop_duplicates(prints, keys, is_val)
    seconds = cpu() - start
    blocks = duplicates.choose_blocks(count, duplicates.COARSE_DISTANCE, duplicates.COARSE_BITS)
    tables = math.comb(blocks, duplicates.COARSE_DISTANCE)
    print(
        f"| {count:,} | {blocks}, {tables} | {seconds:.1f} | {seconds / count * 1e6:.1f} | {peak() - before:.0f} "
        f"| {(prints.nbytes + keys.nbytes) / 1e6:.0f} | {len(found.dropped):,} of {copies:,} |",
        flush=True,
    )


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def cpu() -> float:
    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_utime + use.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["recall", "fingerprints", "pairs"])
    parser.add_argument("--photos", type=Path, default=Path("../shared/data/coco_mini"))
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--counts", type=float, nargs="+", default=[1e5, 1e6, 1e7])
    options = parser.parse_args()
    if options.part == "recall":
        recall(options.photos, options.scenes)
    elif options.part == "fingerprints":
        fingerprints(options.photos)
    else:
        pairs(options.counts)


if __name__ == "__main__":
    main()
