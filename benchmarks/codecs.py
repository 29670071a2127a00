"""What do the encoders cost, in time and in bytes? Each step of photo -> sample beside its alternatives, on one core.

    python benchmarks/codecs.py [--photos FOLDER] [--num 60]

Times are CPU milliseconds of one process, bytes are means. Without `--photos` it renders scenes of 512 px to work on;
with it, it takes the folder's JPEG files and draws an outline on each, as no annotation is read here.

Expected, before measuring:
- decoding is the floor, whoever does it: all use libjpeg-turbo, Pillow loses by its copies;
- PNG: filters matter more than deflate's level, as photographs repeat nothing;
- masks: packing to bits first makes deflate cheap;
- shrinking: INTER_AREA is best, and slow where the ratio is no whole number.
What came: all of it, and two surprises. Run lengths alone beat zlib's levels 1 to 5 in bytes too, not only in time.
And of a step timed alone, up to two thirds was the system clearing fresh memory: pics_common/allocator.py, which
is on here, takes that out.
"""

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pics_common.allocator import keep_freed_memory
from pics_data import codecs
from pics_data.cutout import on_white, premultiply, shrink, square_crop
from pics_data.measure import bounding_box
from pics_data.photofile import decode_photo
from pics_data.records import Photo

Picture = NDArray[np.uint8]
ROUNDS = 3
MAX_PIXELS = 100_000_000
RLE = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE, cv2.IMWRITE_PNG_FILTER]


def main() -> None:
    """Prints a table a step, then the floor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of JPEG files, searched to any depth")
    parser.add_argument("--num", type=int, default=60)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    keep_freed_memory()
    files = _photo_files(options.photos, options.num) if options.photos else _rendered_files(min(options.num, 12))
    photos = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files]
    masks = [_outline(photo, seed) for seed, photo in enumerate(photos)]
    print(f"{len(files)} photos of {np.mean([len(data) for data in files]) / 1000:.0f} KB")

    decoding = _decoding(files)
    squares = _cutting(photos, masks)
    encoding = _pngs([on_white(square, 224) for square in squares])
    packing = _masks(masks)
    _resized(photos)
    print(f"\nfloor of a sample with two objects, decode + encode alone: {decoding + 2 * (encoding + packing):.2f} ms")


def _decoding(files: Sequence[bytes]) -> float:
    _title("JPEG -> pixels (first: ours, which alone notices a damaged middle)")
    sizes = {data: Image.open(io.BytesIO(data)).size for data in files}
    colour: int = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    taken = _row("decode_photo", lambda data: decode_photo(Photo("", "", "", *sizes[data]), data, MAX_PIXELS)[0], files)
    _row("Pillow", lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), files)
    _row("OpenCV", lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), colour), files)
    return taken


def _cutting(photos: Sequence[Picture], masks: Sequence[NDArray[np.bool_]]) -> list[Picture]:
    _title("photo, mask -> premultiplied square -> at most 224 px (PSNR: to Lanczos, where it shrinks)")
    crops = [square_crop(bounding_box(mask), np.random.default_rng(i)) for i, mask in enumerate(masks)]
    items = list(zip(photos, masks, crops, strict=True))
    _row("premultiply", lambda item: premultiply(*item), items)
    squares = [premultiply(*item) for item in items]
    large = [square for square in squares if len(square) > 224]
    best = [_lanczos(square) for square in large]
    ways: dict[str, Callable[[Picture], Picture]] = {
        "ours: linear steps, block means": lambda square: shrink(square, 224, 224),
        "OpenCV INTER_AREA": lambda square: cv2.resize(square, (224, 224), interpolation=cv2.INTER_AREA),
        "OpenCV INTER_LINEAR": lambda square: cv2.resize(square, (224, 224), interpolation=cv2.INTER_LINEAR),
        "Pillow LANCZOS": _lanczos,
    }
    for name, way in ways.items():
        _row(name, way, large, lambda made: f"{np.mean([_psnr(a, b) for a, b in zip(made, best, strict=True)]):.1f} dB")
    return squares


def _pngs(cutouts: Sequence[Picture]) -> float:
    _title("cut-out -> PNG")
    taken = _row("ours: Paeth, run lengths", codecs.png, cutouts, _mean_bytes)
    _row("OpenCV, run lengths, Sub", lambda c: _opencv(c, [*RLE, cv2.IMWRITE_PNG_FILTER_SUB]), cutouts, _mean_bytes)
    _row("OpenCV, run lengths, Paeth", lambda c: _opencv(c, [*RLE, cv2.IMWRITE_PNG_FILTER_PAETH]), cutouts, _mean_bytes)
    _row(
        "OpenCV, run lengths, all filters",
        lambda c: _opencv(c, [*RLE, cv2.IMWRITE_PNG_ALL_FILTERS]),
        cutouts,
        _mean_bytes,
    )
    for level in (1, 3, 6):
        _row(
            f"OpenCV, level {level}",
            lambda c, n=level: _opencv(c, [cv2.IMWRITE_PNG_COMPRESSION, n]),
            cutouts,
            _mean_bytes,
        )
    _row("Pillow, level 6", _pillow, cutouts, _mean_bytes)
    _row("published: OpenCV, RGB alone", lambda c: _opencv(c[..., :3], []), cutouts, _mean_bytes)
    return taken


def _masks(masks: Sequence[NDArray[np.bool_]]) -> float:
    _title("mask -> PNG")
    grey = [mask.view(np.uint8) * np.uint8(255) for mask in masks]
    bits = [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_COMPRESSION, 6]
    taken = _row("ours: packed to bits, level 6", codecs.mask_png, masks, _mean_bytes)
    _row("OpenCV, 1 bit, level 6", lambda mask: _opencv(mask, bits), grey, _mean_bytes)
    _row("published: OpenCV, 8 bits", lambda mask: _opencv(mask, []), grey, _mean_bytes)
    return taken


def _resized(photos: Sequence[Picture]) -> None:
    _title("--size 512: photo -> 512 px -> JPEG (PSNR: to the resized photo; worst photo)")
    targets = [(max(1, round(h * s)), max(1, round(w * s))) for h, w, s in map(_scale, photos)]
    items = list(zip(photos, targets, strict=True))
    _row("shrink", lambda item: shrink(item[0], *item[1]), items)
    _row("INTER_AREA", lambda item: cv2.resize(item[0], item[1][::-1], interpolation=cv2.INTER_AREA), items)
    small = [shrink(photo, *target) for photo, target in items]

    def described(made: list[bytes]) -> str:
        fidelity = [_psnr(np.asarray(Image.open(io.BytesIO(d))), p) for d, p in zip(made, small, strict=True)]
        return f"{_mean_bytes(made)}  {np.mean(fidelity):.1f} dB, worst {min(fidelity):.1f}"

    for quality in (codecs.RESIZED_JPEG_QUALITY, 90, codecs.JPEG_QUALITY):
        _row(f"quality {quality}, 4:4:4", lambda p, q=quality: codecs.jpeg(p, q), small, described)
    halved = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, cv2.IMWRITE_JPEG_QUALITY]
    _row("quality 90, 4:2:0", lambda p: _opencv(p, [*halved, 90], ".jpg"), small, described)
    thorough = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    chosen = [*thorough, cv2.IMWRITE_JPEG_QUALITY, codecs.RESIZED_JPEG_QUALITY]
    _row("chosen, Huffman tables of its own", lambda p: _opencv(p, chosen, ".jpg"), small, described)


def _row(
    name: str, step: Callable[[Any], Any], items: Sequence[Any], describe: Callable[[Any], str] | None = None
) -> float:
    """Prints and returns the milliseconds that `step` takes an item, the best of some rounds."""
    best = np.inf
    for _ in range(ROUNDS):
        start = time.process_time()
        for item in items:
            step(item)
        best = min(best, time.process_time() - start)
    taken = float(best) / max(1, len(items)) * 1000
    print(f"  {name:<34} {taken:7.3f} ms   {describe([step(item) for item in items]) if describe else ''}")
    return taken


def _title(text: str) -> None:
    print(f"\n{text}")


def _mean_bytes(made: Sequence[bytes]) -> str:
    return f"{np.mean([len(data) for data in made]):8.0f} B"


def _psnr(picture: Picture, truth: Picture) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, ((picture.astype(float) - truth) ** 2).mean())))


def _scale(photo: Picture) -> tuple[int, int, float]:
    height, width = photo.shape[:2]
    return height, width, min(1.0, 512 / max(height, width))


def _lanczos(square: Picture) -> Picture:
    # As CMYK, since Pillow would multiply RGBA by its alpha once more.
    image = Image.frombuffer("CMYK", square.shape[1::-1], square)
    return np.asarray(image.resize((224, 224), Image.Resampling.LANCZOS))


def _opencv(pixels: Picture, settings: list[int], kind: str = ".png") -> bytes:
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    return cv2.imencode(kind, pixels, settings)[1].tobytes()


def _pillow(pixels: Picture) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=6)
    return file.getvalue()


def _photo_files(folder: Path, num: int) -> list[bytes]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:num]
    if not found:
        raise SystemExit(f"error: --photos {folder}: no JPEG file there")
    return [path.read_bytes() for path in found]


def _rendered_files(num: int) -> list[bytes]:
    from pics_data.sources import scenes

    settings = scenes.SceneSettings(seed=1, size=512, meshes="")
    return [codecs.jpeg(scenes.render(photo, settings).rgb) for photo in scenes.photos(settings, num)]


def _outline(photo: Picture, seed: int) -> NDArray[np.bool_]:
    """A wavy silhouette in a photo, of a size and at a place that `seed` decides."""
    rng = np.random.default_rng(seed)
    height, width = photo.shape[:2]
    turn = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    waves = sum(rng.uniform(-0.12, 0.12) * np.cos(n * turn + rng.uniform(0, 6)) for n in range(2, 9))
    radius = rng.uniform(0.15, 0.45) * min(height, width) * (1 + waves)
    centre = rng.uniform(0.35, 0.65, 2) * (width, height)
    corners = np.stack([centre[0] + radius * np.cos(turn), centre[1] + radius * np.sin(turn)], axis=1)
    return cv2.fillPoly(np.zeros((height, width), np.uint8), [corners.round().astype(np.int32)], 1).view(np.bool_)


if __name__ == "__main__":
    main()
