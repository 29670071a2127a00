"""Near-duplicate photos dropped by a whole build: within a split, across splits and across the sources of a mixture."""

import shutil
from pathlib import Path
from typing import Any

import cv2
import pyarrow.parquet as pq
import pytest
import yaml

from pics_data import cli
from tests.data.photos_for_tests import DrawnSet, draw_set


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    return int(ended.value.code or 0)


def copy_photos(drawn: DrawnSet, pairs: list[tuple[int, int]], quality: int) -> None:
    """Makes photos copies of others, with the others' annotations: (copy, original)."""
    for copy, original in pairs:
        pixels = cv2.imread(str(drawn.photo(original)))
        cv2.imwrite(str(drawn.photo(copy)), pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])

    def take_over(document: dict[str, Any]) -> None:
        ids = [image["id"] for image in document["images"]]
        for copy, original in pairs:
            kept = [a for a in document["annotations"] if a["image_id"] != ids[copy]]
            taken = [a for a in document["annotations"] if a["image_id"] == ids[original]]
            renamed = [{**a, "id": 10**6 + 100 * copy + i, "image_id": ids[copy]} for i, a in enumerate(taken)]
            document["annotations"] = kept + renamed

    drawn.rewrite(take_over)


def recipe(path: Path, source: str, drawn: DrawnSet) -> Path:
    path.write_text(yaml.safe_dump(drawn.recipe(source)))
    return path


@pytest.mark.usefixtures("one_ray")
def test_of_near_duplicates_one_stays(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    drawn = draw_set(tmp_path / "coco", num_photos=24)
    copy_photos(drawn, [(1, 0), (2, 0), (20, 7)], quality=70)
    other = draw_set(tmp_path / "lvis", num_photos=6, seed=9)
    shutil.copy(drawn.photo(5), other.photo(3))  # the same photo in the other data set, under another name
    mix = [recipe(tmp_path / "a.yaml", "coco", drawn), recipe(tmp_path / "b.yaml", "lvis", other)]
    argv = [
        "build",
        "--mix",
        *map(str, mix),
        "--val-fraction",
        "0.3",
        "--object-size",
        "32",
        "--max-reject-fraction",
        "1",
    ]
    out = tmp_path / "shards"
    assert run(*argv, "--out", str(out), "--duplicates", "drop") == 0
    said = capfd.readouterr().out
    assert "4 near duplicate (plan)" in said
    assert "4 left out" in said
    rejects = [row for row in pq.read_table(out / "rejects.parquet").to_pylist() if row["reason"] == "near duplicate"]
    ids = [image["id"] for image in drawn.document["images"]]
    others = [image["id"] for image in other.document["images"]]
    groups = [{f"coco-{ids[i]}" for i in (0, 1, 2)}, {f"coco-{ids[i]}" for i in (7, 20)}]
    groups.append({f"coco-{ids[5]}", f"lvis-{others[3]}"})
    split = {
        f"{row['source']}-{row['photo_id']}": row["split"]
        for path in sorted(out.glob("plan/0*.parquet"))
        for row in pq.read_table(path).to_pylist()
    }
    dropped = {row["key"]: row["detail"].removeprefix("of ") for row in rejects}
    for group in groups:
        (stays,) = group - dropped.keys()
        assert all(dropped[key] == stays for key in group - {stays})
        assert stays in split
    assert not dropped.keys() & split.keys()

    # The fingerprints are found again, and the same shards come out.
    files = {path: path.stat().st_mtime_ns for path in out.glob("fingerprints/*")}
    assert files
    (out / "recipe.json").unlink()
    for path in [*out.glob("*.tar"), *out.glob("*.parquet"), *out.glob("parts/*"), out / "index.json"]:
        path.unlink()
    (out / "parts").rmdir()
    assert run(*argv, "--out", str(out), "--duplicates", "drop") == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("fingerprints/*")} == files
