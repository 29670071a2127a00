"""More than a thousand damaged inputs: each kind of damage, what must become of it, and a COCO data set of all of them.

What a build may make of a photo: "sample" (with just the masks that were drawn), "no pair", or the reason of a reject.
"""

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, features

from tests.data.damaged_for_tests import (
    UNTURN,
    Damage,
    Draft,
    again,
    animated,
    bad_exif,
    claims_its_size,
    contents,
    crowded,
    cut,
    deep_colour,
    deep_grey,
    draw,
    encoded,
    entry,
    everywhere,
    finely_drawn,
    first,
    float_tiff,
    identified,
    instead,
    jpeg,
    lacking,
    listed_as,
    make_socket,
    make_sparse,
    make_unreadable,
    named,
    outline,
    overwritten,
    palette_with_transparency,
    picture,
    rle,
    scan_of,
    scribble,
    second_entry,
    see_through,
    sized_header,
    tag,
    tagged_as_shown,
    tagged_as_stored,
    ycck,
    zeros_png,
)
from tests.data.photos_for_tests import HEIGHT, WIDTH, DrawnSet

ANNOTATION, PHOTO_ENTRY = "malformed annotation", "malformed photo entry"
DEEP = "@deep@"  # where the file gets more brackets than any JSON reader goes into
BRACKETS = "[" * 3000 + "]" * 3000


@dataclass(frozen=True)
class Kind:
    """A way of damage, and what becomes of the photo.

    `beside` are the reasons of further rejects, of the photo's annotations or entries, and `nameless` of those that
    cannot say which photo they belong to.
    """

    name: str
    damage: Damage
    outcomes: tuple[str, ...]
    beside: tuple[str, ...] = ()
    nameless: tuple[str, ...] = ()
    is_exact: bool = True  # the sample shows what was drawn
    count: int = 0  # photos of this kind; 0: as many as of most, -1: none


def kind(name: str, damage: Damage, *outcomes: str, **more: Any) -> Kind:
    return Kind(name, damage, outcomes, **more)


def marked(byte: int) -> Callable[[bytes], int]:
    """Where a JPEG's segment of this marker begins."""
    return lambda data: data.index(bytes((0xFF, byte)))


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
NOISE = np.random.Generator.bytes
MAYBE = ("sample", "broken photo")
AVIF = 3 if features.check("avif") else -1  # photos, where Pillow has a decoder

FILES = [
    kind("no bytes", contents(lambda draft: b""), "broken photo"),
    kind("cut in its first bytes", cut(lambda data: 1, marked(0xDB)), "broken photo"),
    kind("cut in its tables", cut(marked(0xDB), lambda data: scan_of(data) - 14), "broken photo"),
    kind("cut in its pixels", cut(scan_of, lambda data: len(data) - 40), "broken photo"),
    kind("cut before its end mark", cut(lambda data: len(data) - 2, len), "broken photo"),
    kind("progressive, cut", cut(marked(0xDB), lambda data: len(data) - 40, progressive=True), "broken photo"),
    kind("noise in its pixels", overwritten(300, NOISE), *MAYBE, is_exact=False),
    kind("zeros in its pixels", overwritten(300, lambda rng, n: bytes(n)), *MAYBE, is_exact=False),
    kind(
        "noise anywhere",
        overwritten(16, NOISE, whole=True),
        *MAYBE,
        *("size mismatch", "photo too large", "unreadable photo"),
        is_exact=False,
    ),
    kind("text", contents(lambda draft: b"photo %d" % draft.number), "broken photo"),
    kind("a web page", contents(lambda draft: b"<!DOCTYPE html><title>404 Not Found</title>" * 9), "broken photo"),
    kind("gzip", contents(lambda draft: gzip.compress(draft.data)), "broken photo"),
    kind("EPS", contents(lambda draft: encoded(draft.shown, "EPS")), "broken photo"),
    kind("DDS", contents(lambda draft: encoded(draft.shown, "DDS")), "broken photo"),
    kind("AVIF, cut", contents(lambda draft: encoded(draft.shown, "AVIF")[:-200]), "broken photo", count=AVIF),
    kind("a huge file", instead(make_sparse), "photo too large", "unreadable photo", count=2),
    kind("bytes after its end", contents(lambda draft: draft.data + draft.rng.bytes(5000)), "sample"),
]
FORMATS = [
    kind("PNG", picture("PNG"), "sample"),
    kind("WebP", picture("WEBP", lossless=True), "sample"),
    kind("GIF", picture("GIF", lambda image: image.quantize(128)), "sample"),
    kind("BMP", picture("BMP"), "sample"),
    kind("AVIF", contents(lambda draft: encoded(draft.shown, "AVIF", quality=100)), "sample", count=AVIF),
    kind("TIFF", picture("TIFF", compression="tiff_lzw"), "sample"),
    kind("grey JPEG", picture("JPEG", lambda image: image.convert("L"), quality=95), "sample"),
    kind("grey PNG", picture("PNG", lambda image: image.convert("L")), "sample"),
    kind("black and white PNG", picture("PNG", lambda image: image.convert("1")), "sample"),
    kind("palette", picture("PNG", lambda image: image.quantize(64)), "sample"),
    kind("palette, transparent", picture("PNG", palette_with_transparency), "sample"),
    kind("transparent PNG", picture("PNG", see_through), "sample"),
    kind("transparent WebP", picture("WEBP", see_through, lossless=True, exact=True), "sample"),
    kind("16 bits, grey", deep_grey, "sample"),
    kind("16 bits, colour", deep_colour, "sample"),
    kind("float TIFF", contents(float_tiff), "unreadable photo"),
    kind("CMYK", contents(lambda draft: jpeg(Image.fromarray(draft.shown).convert("CMYK"))), "sample"),
    kind("YCCK", contents(ycck), "sample"),
    kind("progressive", contents(lambda draft: jpeg(draft.shown, progressive=True)), "sample"),
    kind("animated GIF", animated("GIF"), "sample"),
    kind("animated PNG", animated("PNG"), "sample"),
    kind("animated WebP", animated("WEBP", lossless=True), "sample"),
    kind("MPO", animated("MPO", quality=95, subsampling=0), "sample"),
    kind("colour profile", contents(lambda draft: jpeg(draft.shown, icc_profile=SRGB)), "sample"),
    kind("broken profile", contents(lambda draft: jpeg(draft.shown, icc_profile=draft.rng.bytes(900))), "sample"),
]
EXIF = [
    *(kind(f"EXIF {n}, annotated as stored", tagged_as_stored(n), "sample") for n in range(1, 9)),
    *(kind(f"EXIF {n}, annotated as shown", tagged_as_shown(n), "sample") for n in UNTURN if n >= 5),
    kind("EXIF of nothing", bad_exif(lambda rng: b""), "sample"),
    kind("EXIF of noise", bad_exif(lambda rng: b"II*\0" + rng.bytes(60)), "sample"),
    kind("EXIF that points out", bad_exif(lambda rng: b"II*\0" + rng.bytes(3) + b"\xff"), "sample"),
    kind("orientation 9", bad_exif(lambda rng: tag(3, 1, b"\x09\0\0\0")), "sample"),
    kind("orientation of text", bad_exif(lambda rng: tag(2, 4, b"six\0")), "sample"),
    kind("orientations without end", bad_exif(lambda rng: tag(3, 10**9, b"\0\0\1\0")), "sample"),
    kind("orientation 1 / 0", bad_exif(lambda rng: tag(5, 1, b"\x1a\0\0\0") + bytes(8)), "sample"),
]
BOMBS = [
    kind(
        "PNG header of 65500 x 65500",
        contents(lambda draft: sized_header(encoded(draft.shown, "PNG"), b"IHDR", "png", 65500, 65500)),
        "photo too large",
    ),
    kind(
        "JPEG header of 65500 x 65500",
        contents(lambda draft: sized_header(draft.data, b"\xff\xc0", "jpeg", 65500, 65500)),
        "photo too large",
    ),
    kind("zeros, 20000 x 20000", contents(zeros_png(20000)), "photo too large", count=3),
    kind("zeros, annotated 20000 x 20000", claims_its_size(20000, zeros_png(20000)), "photo too large", count=3),
    kind("zeros, 9000 x 9000", contents(zeros_png(9000)), "size mismatch", count=3),
]
PLACES = [
    kind("missing", instead(lambda path: None), "missing photo"),
    kind("a folder", instead(Path.mkdir), "unreadable photo"),
    kind("a pipe", instead(os.mkfifo), "unreadable photo"),
    kind("a socket", instead(make_socket), "unreadable photo"),
    kind("a device without end", instead(lambda path: path.symlink_to("/dev/zero")), "unreadable photo"),
    kind("a link to nothing", instead(lambda path: path.symlink_to("nothing.jpg")), "missing photo"),
    kind("a link to itself", instead(lambda path: path.symlink_to(path.name)), "unreadable photo"),
    kind("not for us", instead(make_unreadable), "unreadable photo", count=0 if os.geteuid() else -1),
]
NAMES = [
    *(
        kind(f"name {pattern!r}"[:40], named(pattern), "sample", count=4)
        for pattern in (
            *(
                "été-#.jpg",
                "e\u0301te\u0301-#.jpg",
                "\U0001f9a9\U0001f3fd-#.jpg",
                "照片 \u202e#.jpg",
                " # .jpg ",
                "a\tb\nc\r#",
            ),
            *(
                "...#...",
                ".#.jpg",
                "-#.jpg",
                "--out=#",
                "~#.jpg",
                "$HOME `#` 'x' \"y\".jpg",
                "\\..\\#.jpg",
                "c:\\#.jpg",
            ),
            *(
                "%2e%2e%2f#.jpg",
                "#?*[!a].jpg",
                "file:#",
                "#.tar.gz",
                "#",
                "a/b/ c /#.jpg",
                "a/./b//#.jpg",
                "x" * 246 + "#.jpg",
            ),
        )
    ),
    *(
        kind(f"named {name!r}"[:40], listed_as(lambda draft, name=name: name), "missing photo", count=4)
        for name in (
            *(
                "../outside.jpg",
                "a/../../outside.jpg",
                "/etc/hostname",
                "..",
                ".",
                "/",
                "",
                "x" * 5000,
                "y" * 300 + "/z.jpg",
            ),
            *("a\0b.jpg", "a\ud800b.jpg", "s3://bucket/x.jpg", "file:///etc/hostname", None, 7, True, ["a"], {"a": 1}),
        )
    ),
    kind("no file name", lacking("file_name", "image"), "missing photo"),
    kind("NFC for NFD", listed_as(lambda draft: f"\u00e9{draft.number}"), "missing photo"),
]
ENTRIES = [
    kind("wider by one", entry(width=lambda w: w + 1), "size mismatch"),
    kind("lower by one", entry(height=lambda h: h - 1), "size mismatch"),
    kind("turned without EXIF", entry(width=HEIGHT, height=WIDTH), "size mismatch"),
    *(
        kind(f"width {value!r}"[:40], entry(width=value), PHOTO_ENTRY, count=3)
        for value in (0, -96, 96.5, "96", None, True, [96], 2**31, 10**30, float("nan"), float("inf"))
    ),
    kind("no width", lacking("width", "image"), PHOTO_ENTRY),
    kind("no height", lacking("height", "image"), PHOTO_ENTRY),
    kind("no id", lacking("id", "image"), PHOTO_ENTRY, beside=("not in images",)),
    kind("id as text", identified(str), "sample"),
    kind("id as text, in annotations alone", identified(int, str), "sample"),
    kind("id as float", identified(float), "sample"),
    kind("id with a line break", identified(lambda n: f"{n}\nb"), "sample"),
    kind("id with a space", identified(lambda n: f"{n} b"), "sample"),
    kind("id of slashes and dots", identified(lambda n: f"../../{n}.jpg"), "sample"),
    kind("long id", identified(lambda n: f"{n}" + "9" * 300), "sample"),
    *(
        kind(f"id {value!r}"[:40], identified(lambda n, value=value: value), PHOTO_ENTRY, beside=(ANNOTATION,) * 2)
        for value in (None, True, [1], {"a": 1}, float("nan"), "")
    ),
    kind("entry twice", second_entry(), "sample", beside=(PHOTO_ENTRY,)),
    kind("id of two photos", second_entry(file_name="other.jpg"), PHOTO_ENTRY, beside=(PHOTO_ENTRY,)),
    kind("NaN that nobody needs", entry(score=float("nan")), "sample"),
    kind("half a letter that nobody needs", entry(caption="\ud83d"), "sample"),
    kind("too deep", entry(extra=DEEP), "no pair", beside=("not in images",), nameless=(PHOTO_ENTRY,)),
    kind("deep", entry(license=json.loads("[" * 900 + "]" * 900)), "sample"),
]
SILHOUETTES = [
    kind("RLE of another size", rle(lambda runs: [6000], lambda h, w: [60, 100]), "mask size mismatch"),
    kind("RLE turned", rle(lambda runs: runs, lambda h, w: [w, h]), "mask size mismatch"),
    kind("RLE of a size in three", rle(lambda runs: runs, lambda h, w: [h, w, 3]), "mask size mismatch"),
    kind("runs too long", rle(lambda runs: [*runs, 1]), "malformed RLE"),
    kind("runs too short", rle(lambda runs: runs[:-1]), "malformed RLE"),
    kind("negative runs", rle(lambda runs: [runs[0] + 5, -5, *runs[1:]]), "malformed RLE"),
    kind("runs beyond 64 bits", rle(lambda runs: [10**25, -(10**25)]), "malformed RLE"),
    kind("runs that overflow", rle(lambda runs: [2**63 - 1, 2**63 - 1, 2 + runs[0]]), "malformed RLE"),
    *(
        kind(f"counts {text!r}"[:40], rle(lambda runs, text=text: text), "malformed RLE", count=4)
        for text in ("", "\0", "abc", "~~~~", "oooooooooooooooo", "été", "P" * 20000, [1.5])
    ),
    kind("no runs", rle(lambda runs: []), "malformed RLE"),
    kind("empty RLE", rle(lambda runs: [WIDTH * HEIGHT]), "empty mask"),
    kind("RLE of zeros", rle(lambda runs: [*([0] * 1000), *runs]), "sample"),
    *(
        kind(name, outline(make), "malformed polygon")
        for name, make in (
            ("polygon with NaN", lambda draft, points: [[*points, float("nan"), 3.0]]),
            ("polygon with infinity", lambda draft, points: [[*points, float("-inf"), 3.0]]),
            ("polygon of two points", lambda draft, points: [points, points[:4]]),
            ("polygon of one point", lambda draft, points: [points[:2]]),
            ("polygon of odd count", lambda draft, points: [points[:-1]]),
            ("polygon without points", lambda draft, points: [[]]),
            ("polygon out to 1e300", lambda draft, points: [[*points, 1e300, 1e300]]),
            ("polygon out to 1e5", lambda draft, points: [[*points, 1e5, 0.0]]),
        )
    ),
    kind("scribble", outline(scribble), "malformed polygon", count=2),
    kind("no polygon", outline(lambda draft, points: []), "empty mask"),
    kind("polygon beside the photo", outline(lambda draft, points: [[-30.0, 1, -30, 9, -20, 9]]), "empty mask"),
    kind("polygon of one place", outline(lambda draft, points: [[5.0, 5, 5, 5, 5, 5]]), "empty mask"),
    kind("100,000 points", finely_drawn, "sample", count=2),
    kind("everywhere", everywhere, "sample"),
    kind("5,000 more objects", crowded, "sample", count=1),
    *(
        kind(f"segmentation, {name}", outline(make), "no pair", beside=(ANNOTATION,), count=4)
        for name, make in (
            ("null", lambda draft, points: None),
            ("a number", lambda draft, points: 7),
            ("text", lambda draft, points: "polygon"),
            ("NaN", lambda draft, points: float("nan")),
            ("an empty object", lambda draft, points: {}),
            ("an RLE without size", lambda draft, points: {"counts": [9]}),
            ("an RLE of size 'large'", lambda draft, points: {"size": "large", "counts": [9]}),
            ("an RLE without counts", lambda draft, points: {"size": [HEIGHT, WIDTH]}),
            ("an RLE of text in a list", lambda draft, points: {"size": [HEIGHT, WIDTH], "counts": ["9"]}),
            ("an RLE in an RLE", lambda draft, points: {"size": [HEIGHT, WIDTH], "counts": {"counts": [9]}}),
            ("values of a label picture", lambda draft, points: {"labels": "index", "values": [1]}),
            ("polygons of text", lambda draft, points: [list(map(str, points))]),
            ("polygons of null", lambda draft, points: [[*points, None, None]]),
            ("polygons of true", lambda draft, points: [[*points, True, False]]),
            ("polygons of points", lambda draft, points: [[points[:2], points[2:4], points[4:6]]]),
            ("a polygon unnested", lambda draft, points: points),
            ("a polygon nested deep", lambda draft, points: [[[[points]]]]),
            ("a polygon nested 300 deep", lambda draft, points: json.loads("[" * 300 + "]" * 300)),
            ("a polygon in an object", lambda draft, points: [{"points": points}]),
        )
    ),
    kind("segmentation of brackets", first(segmentation=DEEP), "no pair", nameless=(ANNOTATION,)),
]
ANNOTATIONS = [
    *(
        kind(f"bbox {value!r}"[:40], first(bbox=value), "no pair", beside=(ANNOTATION,), count=4)
        for value in (
            *(None, 7, "1234", [], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, -3, 4], [1, 2, 3, None], ["1", "2", "3", "4"]),
            *([float("nan"), 2, 30, 40], [1, 2, float("inf"), 40], [1e300, 2, 30, 40], [1, 2, 1e308, 1e308]),
            *([500, 2, 30, 40], [1, -500, 30, 40], [1, 2, 3000, 40], {"0": 1, "1": 2, "2": 3, "3": 4}),
        )
    ),
    kind("box without width", first(bbox=[40.0, 30.0, 0.0, 20.0]), "no pair"),
    *(
        kind(f"area {value!r}"[:40], first(area=value), "no pair", beside=(ANNOTATION,), count=4)
        for value in (None, "700", -1, float("nan"), float("inf"), 10**400, [700], True)
    ),
    kind("area too small", first(area=3.0), "no pair"),
    kind("area too large", first(area=1e12), "sample"),
    *(
        kind(f"no {key} in an annotation", lacking(key, "annotation"), "no pair", beside=(ANNOTATION,))
        for key in ("id", "image_id", "category_id", "bbox", "area", "segmentation")
    ),
    kind("no iscrowd", lacking("iscrowd", "annotation"), "sample"),
    kind("a crowd", first(iscrowd=1), "no pair"),
    *(
        kind(f"category {value!r}"[:40], first(category_id=value), "no pair", beside=(ANNOTATION,), count=4)
        for value in (99, None, "x", [1], True, {}, 1.5)
    ),
    kind("category as float", first(category_id=1.0), "sample"),
    *(
        kind(f"annotation id {value!r}"[:40], first(id=value), "no pair", beside=(ANNOTATION,), count=4)
        for value in (None, True, [1], {}, "", float("nan"))
    ),
    kind("annotation twice", again, "sample", beside=(ANNOTATION,)),
    kind("ids of other photos' annotations", first(id=1), "sample"),
    kind("annotation of another photo", first(image_id=lambda n: n + 50_000), "no pair", beside=("not in images",)),
    kind("NaN in an annotation", first(score=float("nan")), "sample"),
    kind("half a letter in an annotation", first(caption="\udfff"), "sample"),
]
KINDS = [*FILES, *FORMATS, *EXIF, *BOMBS, *PLACES, *NAMES, *ENTRIES, *SILHOUETTES, *ANNOTATIONS]
USUAL = 6  # photos of a kind that does not say how many


@dataclass(frozen=True)
class DamagedSet:
    """A data set on disk, what each photo in it was, and its kind of damage; None for a photo that is good."""

    drawn: DrawnSet
    photos: list[tuple[Draft, Kind | None]]

    @property
    def good(self) -> DrawnSet:
        """The good photos alone, as another annotation file."""
        document = document_of([draft for draft, damaged in self.photos if damaged is None])
        path = self.drawn.annotations.with_name("good.json")
        path.write_text(text_of(document))
        return DrawnSet(self.drawn.images, path, document)


def damaged_set(folder: Path, num_good: int, seed: int = 0, kinds: list[Kind] | None = None) -> DamagedSet:
    """Draws the good photos and those of each kind, damages these, and writes all of it, well mixed."""
    wanted: list[Kind | None] = [None] * num_good
    for item in KINDS if kinds is None else kinds:
        wanted += [item] * (item.count or USUAL)
    np.random.default_rng(seed).shuffle(wanted)  # type: ignore[arg-type]
    images = folder / "photos"
    images.mkdir(parents=True)
    (folder / "outside.jpg").write_bytes(draw(0, seed).data)
    photos: list[tuple[Draft, Kind | None]] = []
    for number, item in enumerate(wanted):
        draft = draw(number, seed)
        if item is not None:
            item.damage(draft)
        path = images / draft.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.place(path) if draft.place else path.write_bytes(draft.data)
        photos.append((draft, item))
    document = document_of([draft for draft, _ in photos])
    annotations = folder / "instances.json"
    annotations.write_text(text_of(document))
    return DamagedSet(DrawnSet(images, annotations, document), photos)


def document_of(drafts: list[Draft]) -> dict[str, Any]:
    return {
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
        "images": [image for draft in drafts for image in (draft.image, *draft.more_images)],
        "annotations": [annotation for draft in drafts for annotation in draft.annotations],
    }


def text_of(document: dict[str, Any]) -> str:
    return json.dumps(document).replace(f'"{DEEP}"', BRACKETS)
