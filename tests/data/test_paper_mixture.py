"""The paper's mixture, as its recipe stands: six data sets in their true layouts, one set of shards, SAM for one."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pics_data import cli
from tests.data import test_bdd100k, test_cityscapes, test_mapillary, test_viton_hd
from tests.data.checkpoints_for_tests import bright_sam
from tests.data.photos_for_tests import draw_set
from tests.data.test_predicted_masks_build import SIZE, draw

PIPELINES = Path(__file__).parents[2] / "pipelines"


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    return int(ended.value.code or 0)


def make_lvis(data: Path) -> None:
    (data / "lvis").mkdir(parents=True)
    for split, first in (("train", 0), ("val", 100_000)):
        drawn = draw_set(data / split, num_photos=6, seed=first)

        def renumber(document: dict[str, Any], first: int = first) -> None:
            for image in document["images"]:
                image["id"] += first
            for annotation in document["annotations"]:
                annotation["image_id"] += first

        drawn.rewrite(renumber)
        (data / "coco").mkdir(exist_ok=True)
        for path in drawn.images.iterdir():
            path.rename(path.with_name(f"{split}-{path.name}"))
        text = (
            drawn.annotations.read_text()
            .replace('"photo', f'"{split}-photo')
            .replace("http://x/", f"http://x/{split}-")
        )
        (data / "lvis" / f"lvis_v1_{split}.json").write_text(text)
        drawn.images.rename(data / "coco" / f"{split}2017")


def make_objects365(data: Path) -> None:
    images, annotations = [], []
    for i in range(3):
        masks = draw(data / "objects365" / "train" / "patch0", i)
        images.append({"id": i, "width": SIZE, "height": SIZE, "file_name": f"images/v2/patch0/photo{i}.png"})
        for k, mask in enumerate(masks):
            box = list(map(float, cv2.boundingRect(mask.astype(np.uint8))))
            annotations.append({"id": 10 * i + k, "image_id": i, "category_id": 1, "bbox": box})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "Bar"}]}
    (data / "objects365" / "zhiyuan_objv2_train.json").write_text(json.dumps(document))


def make_bdd100k(data: Path) -> None:
    for split, number in (("train", 3), ("val", 1)):
        bitmasks = data / "bdd100k" / "labels" / "ins_seg" / "bitmasks" / split
        photos = data / "bdd100k" / "images" / "10k" / split
        bitmasks.mkdir(parents=True)
        photos.mkdir(parents=True)
        for i in range(number):
            rgba = np.zeros((test_bdd100k.HEIGHT, test_bdd100k.WIDTH, 4), np.uint8)
            cv2.circle(rgba, (40 + i, 30), 18, (3, 0, 0, 1), -1)
            cv2.circle(rgba, (62 + i, 34), 14, (1, 0, 1, 1), -1)
            Image.fromarray(rgba).save(bitmasks / f"{split}-{i}.png")
            Image.new("RGB", (rgba.shape[1], rgba.shape[0]), (60, 90, 120)).save(photos / f"{split}-{i}.jpg")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `data` as the recipes name it, and the recipes themselves; only SAM is a small one, without a GPU."""
    data = tmp_path / "data"
    make_lvis(data)
    for i in range(5):
        test_viton_hd.write(data / "viton_hd", f"0000{i}_00", test_viton_hd.person())
    make_objects365(data)
    cars = [
        test_cityscapes.element("car", np.add(test_cityscapes.CAR, [shift, shift // 4]).tolist()) for shift in (0, 40)
    ]
    for split, city, number in (("train", "aachen", 3), ("val", "munster", 1)):
        for i in range(number):
            test_cityscapes.write(data / "cityscapes", split, f"{city}_00000{i}_000019", cars)
    for split, number in (("training", 3), ("validation", 1)):
        for i in range(number):
            values = {"v2.0": test_mapillary.drawn("v2.0", 2)}
            test_mapillary.write_photo(data / "mapillary", split, f"{split}{i}", values)
    test_mapillary.write_config(data / "mapillary", "v2.0")
    make_bdd100k(data)
    shutil.copytree(PIPELINES, tmp_path / "pipelines", ignore=shutil.ignore_patterns("*.py", "cluster"))
    for name in ("objects365.yaml", "paper.yaml"):
        path = tmp_path / "pipelines" / name
        path.write_text(path.read_text().replace("gpus_per_worker: 1", "gpus_per_worker: 0"))
    recipe = tmp_path / "pipelines" / "objects365.yaml"
    recipe.write_text(recipe.read_text().replace("facebook/sam-vit-huge", str(bright_sam(tmp_path / "sam"))))
    monkeypatch.chdir(tmp_path)
    return data


def test_the_paper_s_mixture_is_built_from_its_recipe(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("build", "--recipe", "pipelines/paper.yaml", "--val-fraction", "0", "--object-size", "32") == 0
    assert "0 missing" in capfd.readouterr().out
    index = json.loads(Path("out/paper/index.json").read_text())
    samples: Counter[str] = Counter()
    for entry in index["shardlist"]:
        samples[entry["source"]] += entry["nsamples"]
    assert samples.keys() == {"lvis", "viton_hd", "objects365", "cityscapes", "mapillary", "bdd100k"}
    assert samples["viton_hd"] == 5
    assert samples["objects365"] == 3
    assert samples["cityscapes"] == samples["mapillary"] == samples["bdd100k"] == 4
    assert {entry["source"]: entry["weight"] for entry in index["shardlist"]} == {
        "lvis": 3, "viton_hd": 6, "objects365": 1, "cityscapes": 18, "mapillary": 18, "bdd100k": 18
    }  # fmt: skip
    assert run("verify", "out/paper", "--deep") == 0

    # Training sees a photo of Cityscapes 18 times as often as one of Objects365.
    from pics_model.inputs import FramingSettings
    from pics_model.stream import ShardStream

    stream = ShardStream(Path("out/paper"), FramingSettings(resolution=32, object_resolution=24), batch_size=1)
    weights = {entry["source"]: int(entry["weight"]) for entry in index["shardlist"]}
    assert stream.num_samples == sum(samples[source] * weight for source, weight in weights.items())
