"""Photos for benchmarks, drawn on the spot in the layout of COCO: textured ground, three discs of which two touch."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

GRAIN = 24  # pixels of the ground's texture; with some noise on top, a file has the size of a real photo's


def draw_coco(folder: Path, num_photos: int, width: int = 640, height: int = 480, seed: int = 0) -> tuple[Path, Path]:
    """Writes photos and their annotations below `folder`; returns the folder of photos and the annotation file.

    What is there already is taken as it is. The same numbers give the same files.
    """
    photos, annotations = folder / "photos", folder / "instances.json"
    if not annotations.is_file():
        photos.mkdir(parents=True, exist_ok=True)
        document = describe(num_photos, width, height, seed)
        for image in document["images"]:
            own = [a for a in document["annotations"] if a["image_id"] == image["id"]]
            picture = _draw(own, width, height, np.random.default_rng([seed, image["id"]]))
            cv2.imwrite(str(photos / image["file_name"]), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
        annotations.write_text(json.dumps(document))
    return photos, annotations


def describe(num_photos: int, width: int, height: int, seed: int = 0) -> dict[str, Any]:
    """The annotation document of `num_photos` photos."""
    images, annotations = [], []
    for i in range(1, num_photos + 1):
        rng = np.random.default_rng([seed, num_photos, i])
        images.append({"id": i, "file_name": f"{i:08d}.jpg", "width": width, "height": height})
        for j, across in enumerate((0.22, 0.40, 0.78)):
            radius = height * rng.uniform(0.18, 0.24)
            x, y = width * across, height * rng.uniform(0.4, 0.6)
            angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
            outline = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1).round(2)
            low, high = outline.min(0), outline.max(0)
            annotations.append(
                {
                    "id": 10 * i + j,
                    "image_id": i,
                    "category_id": 1 + j % 2,
                    "bbox": [*low.tolist(), *(high - low).round(2).tolist()],
                    "area": round(float(np.pi * radius**2), 1),
                    "iscrowd": 0,
                    "segmentation": [outline.ravel().tolist()],
                }
            )
    categories = [{"id": 1, "name": "disc"}, {"id": 2, "name": "ball"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def _draw(annotations: list[dict[str, Any]], width: int, height: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    picture = _texture(width, height, rng)
    for annotation in annotations:
        mask = np.zeros((height, width), np.uint8)
        outline = np.array(annotation["segmentation"][0]).reshape(-1, 2)
        cv2.fillPoly(mask, [outline.round().astype(np.int32)], 1)
        cv2.copyTo(_texture(width, height, rng), mask, picture)
    noise = rng.integers(0, 24, (height, width, 1), dtype=np.uint8)
    return cv2.add(picture, cv2.merge([noise] * 3))


def _texture(width: int, height: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    coarse = rng.integers(0, 255, (height // GRAIN + 2, width // GRAIN + 2, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
