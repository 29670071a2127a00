"""Whole builds of photos that have boxes, or nothing: a real predictor in Ray actors makes the silhouettes."""

import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from pics_data import cli
from tests.data.checkpoints_for_tests import bright_onnx, bright_sam
from tests.data.plain_build import digests

SIZE = 96


def draw(folder: Path, number: int) -> list[np.ndarray]:
    """Writes a dark photo with two bright bars, aslant and side by side: their boxes overlap, they do not touch."""
    rng = np.random.default_rng(number)
    rgb = rng.integers(0, 40, (SIZE, SIZE, 3), dtype=np.uint8)
    masks = []
    for shift in (0, 26):
        mask = np.zeros((SIZE, SIZE), np.uint8)
        place = rng.integers(0, 6, 2) + np.array([shift, shift // 3])
        corners = np.array([[10, 60], [44, 12], [56, 20], [22, 70]]) + place
        cv2.fillPoly(mask, [corners.astype(np.int32)], 1)
        rgb[mask > 0] = rng.integers(215, 255, 3)
        masks.append(mask > 0)
    folder.mkdir(exist_ok=True, parents=True)
    cv2.imwrite(str(folder / f"photo{number}.png"), rgb)
    return masks


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    return int(ended.value.code or 0)


def masks_in(out: Path) -> dict[str, list[np.ndarray]]:
    """The silhouettes of each sample, by file name of its photo."""
    found: dict[str, list[np.ndarray]] = {}
    for tar in out.glob("*.tar"):
        with tarfile.open(tar) as file:
            members = {name: file.extractfile(name).read() for name in file.getnames()}  # type: ignore[union-attr]
        for name, data in members.items():
            if name.endswith("meta.json"):
                key = name.partition(".")[0]
                pngs = [members[f"{key}.mask{i}.png"] for i in (0, 1)]
                masks = [cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE) > 0 for png in pngs]
                found[json.loads(data)["photo"]["file_name"]] = masks
    return found


def agree(found: list[np.ndarray], drawn: list[np.ndarray]) -> bool:
    """Whether two silhouettes are the drawn ones, in any order, but for a pixel or two along the outline."""
    scores = [[(a & b).sum() / (a | b).sum() for b in drawn] for a in found]
    return bool(np.max(scores, axis=1).min() > 0.8 and np.argmax(scores[0]) != np.argmax(scores[1]))


@pytest.mark.usefixtures("one_ray")
def test_photos_without_annotation(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    drawn = {f"photo{i}.png": draw(tmp_path / "photos" / "deep", i) for i in range(5)}
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    model = bright_onnx(tmp_path / "u2net.onnx", side=96)
    out = tmp_path / "shards"
    argv = [
        "build",
        "--source",
        "folder",
        "--images",
        str(tmp_path / "photos"),
        "--out",
        str(out),
        "--val-fraction",
        "0",
    ]
    argv += ["--masks", "rembg", "--mask-weights", str(model), "--object-size", "32"]
    assert run(*argv) == 0
    said = capfd.readouterr().out
    assert "samples       5 in 1 shards" in said
    found = masks_in(out)
    assert found.keys() == drawn.keys()
    assert all(agree(found[name], drawn[name]) for name in drawn)
    rejects = pq.read_table(out / "rejects.parquet").to_pylist()
    assert [(reject["stage"], reject["key"]) for reject in rejects] == [("plan", "folder-broken")]
    assert len(list((out / "annotated").iterdir())) == 1

    # The same in a second folder, and in the first one after its shards are lost: no byte differs.
    before = digests(out)
    (out / "index.json").unlink()
    (out / "train-000000.tar").unlink()
    assert run(*argv) == 0
    assert digests(out) == before
    assert run("verify", str(out)) == 0


@pytest.mark.usefixtures("one_ray")
def test_boxes_without_silhouettes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    images, annotations, drawn = [], [], {}
    for i in range(4):
        masks = drawn[f"photo{i}.png"] = draw(tmp_path / "photos", i)
        images.append({"id": i, "width": SIZE, "height": SIZE, "file_name": f"images/v1/patch0/photo{i}.png"})
        for k, mask in enumerate(masks):
            box = cv2.boundingRect(mask.astype(np.uint8))
            annotations.append({"id": 10 * i + k, "image_id": i, "category_id": 1, "bbox": list(map(float, box))})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "bar"}]}
    (tmp_path / "objects365.json").write_text(json.dumps(document))
    argv = ["build", "--source", "objects365", "--images", str(tmp_path / "photos"), "--out", str(tmp_path / "shards")]
    argv += ["--annotations", str(tmp_path / "objects365.json"), "--val-fraction", "0", "--object-size", "32"]
    assert run(*argv) == 2
    assert "--masks sam or rembg" in capfd.readouterr().err
    assert run(*argv, "--masks", "sam", "--mask-weights", str(tmp_path / "nothing")) == 2
    assert "--mask-weights" in capfd.readouterr().err
    assert not (tmp_path / "shards").exists()

    model = bright_sam(tmp_path / "sam")
    assert run(*argv, "--masks", "sam", "--mask-weights", str(model)) == 0
    assert "samples       4 in 1 shards" in capfd.readouterr().out
    found = masks_in(tmp_path / "shards")
    assert found.keys() == drawn.keys()
    for name in drawn:  # a prompt finds all that is bright in its box: the neighbour's corner, too
        covered = [[(a & b).sum() / b.sum() for b in drawn[name]] for a in found[name]]
        assert np.max(covered, axis=1).min() > 0.8
    assert run("verify", str(tmp_path / "shards")) == 0
