"""Any value anywhere in an annotation file, and any bytes in a label picture: rejects or one clear line, never a crash.

What comes through is planned and taken apart as in a build, in little time and memory.
"""

import copy
import json
import random
import resource
import struct
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pics_common.errors import UserError
from pics_data.config import BuildConfig
from pics_data.decompose import decompose_all
from pics_data.labels import decode_labels, label_instances
from pics_data.records import Photo, Reject, RejectError
from pics_data.sources import records_of
from tests.data.damaged_for_tests import Draft, draw
from tests.data.plain_build import compositions_of, plan_of

PHOTO = "aachen_000000_000019"
ROUNDS = 300
LIMIT_SECONDS = 2.0
LIMIT_KILOBYTES = 500_000
NESTED = json.loads("[" * 200 + "]" * 200)
VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1.5,
        1e300,
        -1e300,
        float("nan"),
        float("inf"),
        2**31 - 1,
        2**63,
        -(2**63) - 1,
        10**400,
    ),
    *("", "a", "\0", "\n", "\ud800", "é", "1", "../x", "x" * 5000, [], {}, [[]], [{}], [None], [1, 2, 3, 4], NESTED),
    *({"size": [72, 96], "counts": [6912]}, {"size": [2**30, 2**30], "counts": [2**60]}, [0] * 5000, [[1.0] * 5000]),
    *([[0, 0, 96, 0, 96, 72]], {"labels": "rgb", "values": [1]}, {"polygons": [], "minus": []}),
]


def picture(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def outlines(draft: Draft) -> list[list[list[int]]]:
    """The outline [x, y] of each object."""
    contours = (cv2.findContours(mask.astype(np.uint8), 0, 1)[0][0] for mask in draft.masks.values())
    return [contour.reshape(-1, 2).tolist() for contour in contours]


def coco(draft: Draft) -> dict[str, Any]:
    image = {**draft.image, "file_name": f"{PHOTO}.jpg"}
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
    return {"images": [image], "annotations": draft.annotations, "categories": categories}


def panoptic(draft: Draft) -> dict[str, Any]:
    segments = [{**a, "id": i + 1} for i, a in enumerate(draft.annotations)]
    entry = {"image_id": draft.image["id"], "file_name": f"{PHOTO}.png", "segments_info": segments}
    document = coco(draft)
    return {**document, "annotations": [entry], "categories": [{**c, "isthing": 1} for c in document["categories"]]}


def cityscapes(draft: Draft) -> dict[str, Any]:
    objects = [{"label": "car", "polygon": outline} for outline in outlines(draft)]
    return {"imgWidth": 96, "imgHeight": 72, "objects": objects}


def scalabel(draft: Draft) -> dict[str, Any]:
    first, second = outlines(draft)
    curve = {"vertices": [[1, 1], [50, 1], [60, 30], [60, 50]], "types": "LCCL"}
    labels = [
        {"id": "1", "category": "car", "poly2d": [{"vertices": first, "types": "L" * len(first)}]},
        {"id": "2", "category": "bus", "poly2d": [{"vertices": second}, curve]},
        {"id": "3", "category": "car", "rle": {"size": [72, 96], "counts": [1000, 900, 5012]}},
        {"id": "4", "category": "car", "box2d": {"x1": 1, "y1": 1, "x2": 50, "y2": 50}},
    ]
    return {
        "config": {"imageSize": {"width": 96, "height": 72}},
        "frames": [{"name": f"{PHOTO}.jpg", "labels": labels}],
    }


SOURCES = {
    "coco": ("a.json", coco),
    "coco_panoptic": ("a.json", panoptic),
    "cityscapes": (f"gtFine/train/aachen/{PHOTO}_gtFine_polygons.json", cityscapes),
    "bdd100k": ("a.json", scalabel),
}


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values in a document, of long lists to the first."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:4]) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*above, key)
        yield from places(inner, (*above, key))


def changed(document: Any, rng: random.Random) -> Any:
    """A copy of which a few values are replaced, gone, or there twice."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice([1, 1, 2, 4])):
        found = list(places(document))
        if not found:
            break
        *above, key = rng.choice(found)
        holder = document
        for step in above:
            holder = holder[step]
        action = rng.random()
        if action < 0.7:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
        elif action < 0.85:
            del holder[key]
        elif isinstance(holder, list):
            holder.append(holder[key])
    return document


def take_apart(config: BuildConfig, folder: Path) -> int:
    """Plans and takes apart what a source gives; returns the number of its records."""
    records = list(records_of(config))
    assert all(isinstance(record, Photo | Reject) for record in records)
    plan = plan_of(records, config, folder)
    return len(records) + sum(1 for _ in decompose_all(compositions_of(plan), config))


@pytest.mark.parametrize("source", SOURCES)
def test_any_value_anywhere_is_a_reject_or_one_clear_line(source: str, tmp_path: Path) -> None:
    name, document_of = SOURCES[source]
    draft = draw(0, seed=1)
    photos = tmp_path / "photos" / "train" / "aachen" if source == "cityscapes" else tmp_path / "photos"
    photos.mkdir(parents=True)
    photo = f"{PHOTO}_leftImg8bit.png" if source == "cityscapes" else f"{PHOTO}.jpg"
    (photos / photo).write_bytes(picture(draft.shown) if source == "cityscapes" else draft.data)
    values = sum((i + 1) * mask.astype(np.uint8) for i, mask in enumerate(draft.masks.values()))
    (tmp_path / f"{PHOTO}.png").write_bytes(picture(np.dstack([values, values * 0, values * 0])))
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    annotations = tmp_path / "gtFine" if source == "cityscapes" else path
    config = BuildConfig(
        source=source,  # type: ignore[arg-type]
        images=(str(tmp_path / "photos"),),
        annotations=(str(annotations),),
        out=str(tmp_path / "out"),
        object_size=32,
        pairs_per_photo=4,
        min_area=0.0,
    )
    document = document_of(draft)
    path.write_text(json.dumps(document))
    assert take_apart(config, tmp_path / "plan") >= 2

    rng = random.Random(source)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(ROUNDS):
        text = json.dumps(changed(document, rng), ensure_ascii=rng.random() < 0.8)
        path.write_bytes(text.encode(errors="surrogatepass"))
        started = time.process_time()
        with suppress(UserError):
            take_apart(config, tmp_path / f"plan{i}")
        assert time.process_time() - started < LIMIT_SECONDS, text
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < LIMIT_KILOBYTES


@pytest.mark.parametrize("form", ["rgb", "bdd", "rgba", "index"])
def test_a_length_that_a_label_picture_only_claims_gets_no_memory(form: str) -> None:
    """OpenCV by itself takes 4 GB here."""
    data = picture(np.zeros((72, 96, 4), np.uint8))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    at = data.index(b"IDAT") - 4
    with pytest.raises(RejectError, match="broken labels"):
        decode_labels(data[:at] + b"\xff" + data[at + 1 :], form, "a.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < LIMIT_KILOBYTES


def parts_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and contents of each part of a PNG."""
    parts, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4])
        parts.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return parts


def png_of(parts: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of these parts, each with its right length and sum."""
    data = b"\x89PNG\r\n\x1a\n"
    for name, text in parts:
        data += struct.pack(">I", len(text)) + name + text + struct.pack(">I", zlib.crc32(name + text))
    return data


def overwritten(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    at = rng.randrange(len(data) or 1)
    changed[at : at + rng.choice([0, 1, 1, 4, 30])] = rng.randbytes(rng.choice([0, 1, 1, 4]))
    return bytes(changed)


@pytest.mark.parametrize("is_sealed", [False, True])
def test_any_bytes_in_a_label_picture_are_labels_or_a_reject(is_sealed: bool) -> None:
    """Changed anywhere; or within its parts, whose sums are then those of what was changed. Sizes stay small here."""
    rng = random.Random(0)
    values = np.zeros((72, 96), np.uint8)
    values[20:40, 20:60] = 7
    file = BytesIO()
    Image.fromarray(values).convert("P").save(file, "PNG")
    files = [file.getvalue(), picture(values), picture(values.astype(np.uint16)), picture(np.dstack([values] * 4))]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reasons: Counter[str] = Counter()
    for _ in range(2000):
        data = rng.choice(files)
        if is_sealed:
            parts = parts_of(data)
            place = rng.randrange(len(parts))
            parts[place] = (parts[place][0], overwritten(parts[place][1], rng))
            data = png_of([parts[place]] * rng.choice([0, 0, 1]) + parts)
        else:
            data = overwritten(data, rng)
        try:
            labels = decode_labels(data, rng.choice(["rgb", "bdd", "rgba", "index"]), "a.png", max_pixels=1_000_000)
            reasons["none"] += 1
            assert sum(region.area for region in label_instances(labels)) == labels.size
        except RejectError as error:
            reasons[error.reason] += 1
    assert set(reasons) <= {"none", "broken labels"}
    assert reasons["broken labels"] > 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < LIMIT_KILOBYTES
