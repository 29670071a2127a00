"""Photos with two objects, drawn by a seed, and ways of damaging them and their COCO annotations.

A photo is drawn with two overlapping ellipses whose masks are known. A `Damage` then changes its file, its entry in
`images` or its annotations.
"""

import os
import socket
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from tests.data.photos_for_tests import HEIGHT, WIDTH, uncompressed

FIRST_ID = 10_000


@dataclass
class Draft:
    """A photo that is about to be damaged. `shown` [H, W, 3] and `masks` [H, W] are the truth of its sample."""

    number: int
    rng: np.random.Generator
    shown: NDArray[np.uint8]
    masks: dict[str, NDArray[np.bool_]]  # by annotation id
    image: dict[str, Any]
    annotations: list[dict[str, Any]]
    file_name: str
    data: bytes
    place: Callable[[Path], None] | None = None  # makes what stands in place of the file
    more_images: list[dict[str, Any]] = field(default_factory=list)

    @property
    def other_ids(self) -> tuple[str, str]:
        """The photo's id before all damage, and that of no photo, which `image_id` may get."""
        return str(FIRST_ID + self.number), str(FIRST_ID + self.number + 50_000)


Damage = Callable[[Draft], None]


def jpeg(rgb: NDArray[np.uint8] | Image.Image, **options: Any) -> bytes:
    return encoded(rgb, "JPEG", **{"quality": 95, "subsampling": 0, **options})


def encoded(rgb: NDArray[np.uint8] | Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    (rgb if isinstance(rgb, Image.Image) else Image.fromarray(rgb)).save(file, kind, **options)
    return file.getvalue()


def draw(number: int, seed: int, width: int = WIDTH, height: int = HEIGHT) -> Draft:
    """A photo with two ellipses of which each covers more than 1.2 % and neither box lies in the other."""
    rng = np.random.default_rng([seed, number])
    small = rng.integers(60, 200, (4, 5, 3), dtype=np.uint8)
    rgb = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    image_id, annotations, masks = FIRST_ID + number, [], {}
    for j in range(2):
        centre = (int(width * (0.36 + 0.24 * j)) + int(rng.integers(-3, 4)), height // 2 + int(rng.integers(-6, 7)))
        outline = cv2.ellipse2Poly(centre, (width // 5, height // 6 + 4 * j), 0, 0, 360, 15).astype(float)
        cv2.fillPoly(rgb, [outline.astype(np.int32)], [(230, 40, 40), (40, 60, 230)][j])
        polygon = outline.ravel().tolist()
        rle = coco_mask.frPyObjects([polygon], height, width)[0]
        mask = coco_mask.decode(rle).astype(bool)
        forms: list[Any] = [[polygon], {"size": [height, width], "counts": rle["counts"].decode()}, uncompressed(mask)]
        annotation_id = image_id * 10 + j
        masks[str(annotation_id)] = mask
        annotations.append(
            {
                "id": annotation_id,
                "image_id": image_id,
                "category_id": j + 1,
                "bbox": coco_mask.toBbox(rle).tolist(),
                "area": float(coco_mask.area(rle)),
                "iscrowd": 0,
                "segmentation": forms[(number + 2 * j) % 3],
            }
        )
    name = f"{number:05d}.jpg"
    image = {"id": image_id, "file_name": name, "width": width, "height": height, "coco_url": f"http://x/{name}"}
    return Draft(number, rng, rgb, masks, image, annotations, name, jpeg(rgb))


# The file: cut, overwritten, no picture.


def cut(first: Callable[[bytes], int], last: Callable[[bytes], int], **options: Any) -> Damage:
    """Cuts the JPEG off, somewhere from byte `first` to before byte `last`."""

    def damage(draft: Draft) -> None:
        data = jpeg(draft.shown, **options)
        draft.data = data[: int(draft.rng.integers(first(data), last(data)))]

    return damage


def scan_of(data: bytes) -> int:
    """Where the compressed pixels begin."""
    return data.index(b"\xff\xda") + 14


def overwritten(num_bytes: int, what: Callable[[np.random.Generator, int], bytes], whole: bool = False) -> Damage:
    """Overwrites bytes in a row: of the pixels, or anywhere if `whole`."""

    def damage(draft: Draft) -> None:
        data = draft.data
        begin = int(draft.rng.integers(0 if whole else scan_of(data), len(data) - num_bytes - 2))
        draft.data = data[:begin] + what(draft.rng, num_bytes) + data[begin + num_bytes :]

    return damage


def contents(make: Callable[[Draft], bytes]) -> Damage:
    """Another file under the photo's name."""

    def damage(draft: Draft) -> None:
        draft.data = make(draft)

    return damage


def picture(kind: str, change: Callable[[Image.Image], Image.Image] = lambda image: image, **options: Any) -> Damage:
    """The photo in another format, after `change`; what that shows on white is the truth."""

    def damage(draft: Draft) -> None:
        image = change(Image.fromarray(draft.shown))
        draft.data = encoded(image, kind, **options)
        rgba = image.convert("RGBA")
        draft.shown = np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))

    return damage


def see_through(image: Image.Image) -> Image.Image:
    """A photo whose left edge is transparent, as a stripe that turns to full colour."""
    alpha = np.full((image.height, image.width), 255, np.uint8)
    alpha[:, :8] = np.arange(0, 256, 32)
    image = image.convert("RGB")
    image.putalpha(Image.fromarray(alpha))
    return image


def palette_with_transparency(image: Image.Image) -> Image.Image:
    paletted = image.quantize(64)
    paletted.info["transparency"] = 3
    return paletted


def deep_grey(draft: Draft) -> None:
    grey = cv2.cvtColor(draft.shown, cv2.COLOR_RGB2GRAY)
    draft.data = cv2.imencode(".png", grey.astype(np.uint16) * 257)[1].tobytes()
    draft.shown = np.repeat(grey[..., None], 3, axis=2)


def deep_colour(draft: Draft) -> None:
    deep = cv2.cvtColor(draft.shown, cv2.COLOR_RGB2BGR).astype(np.uint16) * 257
    draft.data = cv2.imencode(".png", deep)[1].tobytes()


def float_tiff(draft: Draft) -> bytes:
    return encoded(Image.fromarray(cv2.cvtColor(draft.shown, cv2.COLOR_RGB2GRAY).astype(np.float32)), "TIFF")


def animated(kind: str, **options: Any) -> Damage:
    """The photo as the first of three pictures."""

    def damage(draft: Draft) -> None:
        others = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("lime", "black")]
        draft.data = encoded(draft.shown, kind, save_all=True, append_images=others, **options)

    return damage


def ycck(draft: Draft) -> bytes:
    """As Adobe writes CMYK: inverted, colours as brightness and chroma. Pillow writes CMYK, inverted; so here its
    channels are what they must be in the file, and the marker then says what they are."""
    stored = cv2.cvtColor(255 - draft.shown, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    channels = np.dstack([255 - stored, np.zeros(stored.shape[:2], np.uint8)])
    data = jpeg(Image.frombytes("CMYK", (channels.shape[1], channels.shape[0]), channels.tobytes()))
    at = data.index(b"Adobe") + 11
    return data[:at] + b"\2" + data[at + 1 :]


# EXIF.

UNTURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def exif_of(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def tagged_as_stored(orientation: int) -> Damage:
    """Annotated in the frame of the stored pixels, COCO's way: no reader may turn it."""
    return contents(lambda draft: jpeg(draft.shown, exif=exif_of(orientation)))


def tagged_as_shown(orientation: int) -> Damage:
    """Annotated in the frame of the picture as EXIF turns it, and of another size than the stored one."""
    return contents(
        lambda draft: jpeg(Image.fromarray(draft.shown).transpose(UNTURN[orientation]), exif=exif_of(orientation))
    )


def bad_exif(make: Callable[[np.random.Generator], bytes]) -> Damage:
    return contents(lambda draft: jpeg(draft.shown, exif=b"Exif\0\0" + make(draft.rng)))


def tag(kind: int, count: int, value: bytes) -> bytes:
    """EXIF with nothing but an orientation of some type."""
    return (
        b"II*\0\x08\0\0\0\x01\0\x12\x01" + kind.to_bytes(2, "little") + count.to_bytes(4, "little") + value + bytes(4)
    )


# Bombs: small files of enormous pictures.


def sized_header(data: bytes, marker: bytes, form: str, width: int, height: int) -> bytes:
    """A file whose header says another size."""
    at = data.index(marker) + (4 if form == "png" else 5)
    size = (
        width.to_bytes(4, "big") + height.to_bytes(4, "big")
        if form == "png"
        else height.to_bytes(2, "big") + width.to_bytes(2, "big")
    )
    data = data[:at] + size + data[at + len(size) :]
    if form == "png":
        crc = zlib.crc32(data[at - 4 : at + 13])
        data = data[: at + 13] + crc.to_bytes(4, "big") + data[at + 17 :]
    return data


def claims_its_size(side: int, make: Callable[[Draft], bytes]) -> Damage:
    """A bomb that the annotation's size does not betray."""

    def damage(draft: Draft) -> None:
        draft.data = make(draft)
        draft.image.update(width=side, height=side)
        for annotation in draft.annotations:
            annotation["area"] = float(side * side) / 4

    return damage


def zeros_png(side: int) -> Callable[[Draft], bytes]:
    made: list[bytes] = []

    def make(_: Draft) -> bytes:
        if not made:
            made.append(encoded(Image.new("1", (side, side)), "PNG"))
        return made[0]

    return make


# What is no file.


def instead(make: Callable[[Path], None]) -> Damage:
    def damage(draft: Draft) -> None:
        draft.place = make

    return damage


def make_socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{folder}/{path.name}")  # of a socket's path, 107 bytes are left
    os.close(folder)


def make_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**36)


def make_unreadable(path: Path) -> None:
    path.write_bytes(b"x")
    path.chmod(0)


# Names.


def named(pattern: str) -> Damage:
    """Another name, `#` in it being the photo's number, in annotation and folder."""

    def damage(draft: Draft) -> None:
        draft.file_name = pattern.replace("#", f"{draft.number:05d}")
        draft.image["file_name"] = draft.file_name

    return damage


def listed_as(make: Callable[[Draft], Any]) -> Damage:
    """Another `file_name` than the file has."""

    def damage(draft: Draft) -> None:
        draft.image["file_name"] = make(draft)

    return damage


# Entries of `images` and of `annotations`.


def entry(**changes: Any) -> Damage:
    """Changes the photo's entry; a function is given the value that stands there."""

    def damage(draft: Draft) -> None:
        change(draft.image, changes)

    return damage


def first(**changes: Any) -> Damage:
    """Changes the first annotation; a function is given the value that stands there."""

    def damage(draft: Draft) -> None:
        change(draft.annotations[0], changes)

    return damage


def change(values: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        values[key] = value(values[key]) if callable(value) else value


def lacking(key: str, of: str) -> Damage:
    def damage(draft: Draft) -> None:
        del (draft.image if of == "image" else draft.annotations[0])[key]

    return damage


def identified(image_id: Callable[[int], Any], annotated: Callable[[int], Any] | None = None) -> Damage:
    """Another `id` of the photo, and the same or another `image_id` in its annotations."""

    def damage(draft: Draft) -> None:
        number = draft.image["id"]
        draft.image["id"] = image_id(number)
        for annotation in draft.annotations:
            annotation["image_id"] = (annotated or image_id)(number)

    return damage


def outline(make: Callable[[Draft, list[float]], Any]) -> Damage:
    """Another segmentation of the first object, made of its polygon."""

    def damage(draft: Draft) -> None:
        mask = next(iter(draft.masks.values()))
        contour = max(cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
        draft.annotations[0]["segmentation"] = make(draft, contour.astype(float).ravel().tolist())

    return damage


def rle(make: Callable[[list[int]], Any], size: Callable[[int, int], Any] = lambda h, w: [h, w]) -> Damage:
    """Another RLE of the first object; `make` is given its runs."""

    def damage(draft: Draft) -> None:
        mask = next(iter(draft.masks.values()))
        counts = make(uncompressed(mask)["counts"])
        draft.annotations[0]["segmentation"] = {"size": size(*mask.shape), "counts": counts}

    return damage


def scribble(draft: Draft, _: list[float]) -> Any:
    """100,000 points anywhere: an outline of millions of pixels, for whose rasterising some gigabytes are needed."""
    return [draft.rng.integers(-90, 180, 200_000).astype(float).tolist()]


def finely_drawn(draft: Draft) -> None:
    """An outline of 100,000 points, as somebody's tracing tool may leave: long, and right."""
    height, width = draft.shown.shape[:2]
    angle = np.linspace(0, 2 * np.pi, 100_000, endpoint=False)
    points = np.stack([width * 0.36 + 19 * np.cos(angle), height * 0.5 + 12 * np.sin(angle)], axis=1)
    polygon = points.round(3).ravel().tolist()
    _replace_mask(draft, coco_mask.frPyObjects([polygon], height, width)[0], [polygon])


def everywhere(draft: Draft) -> None:
    """An object that covers the whole photo, though its box does not say so."""
    mask = np.ones(draft.shown.shape[:2], np.uint8, order="F")
    box = draft.annotations[0]["bbox"]
    _replace_mask(draft, coco_mask.encode(mask), uncompressed(mask))
    draft.annotations[0]["bbox"] = box


def _replace_mask(draft: Draft, run_lengths: Any, segmentation: Any) -> None:
    own = draft.annotations[0]
    draft.masks[str(own["id"])] = coco_mask.decode(run_lengths).astype(bool)
    own.update(
        segmentation=segmentation,
        bbox=coco_mask.toBbox(run_lengths).tolist(),
        area=float(coco_mask.area(run_lengths)),
    )


def again(draft: Draft) -> None:
    """The first annotation twice."""
    draft.annotations.append(dict(draft.annotations[0]))


def crowded(draft: Draft) -> None:
    """Five thousand small objects besides the two large ones."""
    for i in range(5000):
        x, y = float(draft.rng.integers(0, WIDTH - 4)), float(draft.rng.integers(0, HEIGHT - 4))
        polygon = [x, y, x + 4, y, x + 4, y + 4, x, y + 4]
        small = {"bbox": [x, y, 4.0, 4.0], "area": 16.0, "segmentation": [polygon], "iscrowd": 0, "category_id": 1}
        draft.annotations.append({**small, "id": f"{draft.image['id']}-small-{i}", "image_id": draft.image["id"]})


def second_entry(**changes: Any) -> Damage:
    """Another entry of `images` with the same id."""

    def damage(draft: Draft) -> None:
        draft.more_images.append({**draft.image, **changes})

    return damage
