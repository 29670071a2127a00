"""A small COCO data set made on the spot: drawn photos with polygons, both kinds of RLE and a crowd."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from pics_data.config import BuildConfig

WIDTH, HEIGHT = 96, 72


@dataclass(frozen=True)
class DrawnSet:
    """Folder of photos, annotation file, and the annotation document as it was written."""

    images: Path
    annotations: Path
    document: dict[str, Any]

    def config(self, out: Path, **settings: Any) -> BuildConfig:
        images, annotations = (str(self.images),), (str(self.annotations),)
        return BuildConfig(source="coco", images=images, annotations=annotations, out=str(out), **settings)

    def argv(self, out: Path, *more: str) -> list[str]:
        paths = ["--images", str(self.images), "--annotations", str(self.annotations), "--out", str(out)]
        return ["build", "--source", "coco", *paths, *more]

    def recipe(self, source: str = "coco", **settings: Any) -> dict[str, Any]:
        """What a recipe file for these photos says."""
        return {"source": source, "images": [str(self.images)], "annotations": [str(self.annotations)], **settings}

    def photo(self, i: int) -> Path:
        return self.images / self.document["images"][i]["file_name"]

    def rewrite(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Changes the document and writes it again."""
        change(self.document)
        self.annotations.write_text(json.dumps(self.document))


def write_recipes(folder: Path, **recipes: dict[str, Any]) -> tuple[Path, ...]:
    """Writes `<name>.yaml` for each recipe, to be mixed."""
    for name, recipe in recipes.items():
        (folder / f"{name}.yaml").write_text(json.dumps(recipe))  # which is YAML, too
    return tuple(folder / f"{name}.yaml" for name in recipes)


def draw_set(folder: Path, num_photos: int = 12, seed: int = 0) -> DrawnSet:
    """Writes `num_photos` photos of 96 x 72 with three discs each, of which the first two overlap, and a crowd."""
    rng = np.random.default_rng(seed)
    images = folder / "photos"
    images.mkdir(parents=True)
    document: dict[str, Any] = {
        "info": {"note": 'brackets in strings: ]}[{ "quoted" \\'},
        "licenses": [{"id": 4, "url": "https://creativecommons.org/licenses/by/4.0/"}],
        "categories": [{"id": 1, "name": "disc"}, {"id": 7, "name": "ball, with \\ and ]"}],
        "images": [],
        "annotations": [],
    }
    for i in range(num_photos):
        rgb = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        image_id, name = 1000 + 7 * i, f"photo{i:03d}.jpg"
        for j in range(3):
            centre = (20 + 14 * j + int(rng.integers(0, 5)), 30 + int(rng.integers(0, 10)))
            outline = cv2.ellipse2Poly(centre, (12, 9 + j), 0, 0, 360, 20).astype(float)
            cv2.fillPoly(rgb, [outline.astype(np.int32)], tuple(int(v) for v in rng.integers(0, 255, 3)))
            document["annotations"].append(_annotation(image_id, j, outline, crowd=False))
        document["annotations"].append(_annotation(image_id, 3, outline + 5, crowd=True))
        document["images"].append(
            {
                "id": image_id,
                "file_name": name,
                "width": WIDTH,
                "height": HEIGHT,
                "license": 4,
                "coco_url": f"http://x/{name}",
            }
        )
        quality = [cv2.IMWRITE_JPEG_QUALITY, 90]
        cv2.imwrite(str(images / name), cv2.cvtColor(cv2.GaussianBlur(rgb, (5, 5), 0), cv2.COLOR_RGB2BGR), quality)
    rng.shuffle(document["annotations"])  # as in COCO, where they stand in any order
    made = DrawnSet(images, folder / "instances.json", document)
    made.rewrite(lambda _: None)
    return made


def _annotation(image_id: int, j: int, outline: np.ndarray, *, crowd: bool) -> dict[str, Any]:
    polygon = outline.ravel().tolist()
    rle = coco_mask.merge(coco_mask.frPyObjects([polygon], HEIGHT, WIDTH))
    x, y, w, h = coco_mask.toBbox(rle).tolist()
    forms: list[Any] = [
        [polygon],
        {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()},
        uncompressed(coco_mask.decode(rle)),
        uncompressed(coco_mask.decode(rle)),
    ]
    return {
        "id": image_id * 10 + j,
        "image_id": image_id,
        "category_id": 1 if j else 7,
        "bbox": [x, y, w, h],
        "area": float(coco_mask.area(rle)),
        "iscrowd": int(crowd),
        "segmentation": forms[j],
    }


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed RLE of a mask [H, W]."""
    flat = mask.astype(np.uint8).ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    ends = [*edges, len(flat)]
    return {"size": list(mask.shape), "counts": [end - start for start, end in zip([0, *edges], ends, strict=True)]}
