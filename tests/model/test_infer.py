"""Inference: one picture a job, the same in any batch, nothing touched outside the regions, bad jobs named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pics_common.errors import UserError
from pics_model.checkpoint import save_snapshot
from pics_model.infer import load_model, main
from pics_model.inputs import compose, region_union
from pics_model.jobs import load_job, read_jobs
from pics_model.presets import build, load_preset
from tests.model.test_jobs import write_job


@pytest.fixture(scope="module")
def model(mini, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    run = tmp_path_factory.mktemp("run")
    save_snapshot(run, build(load_preset(str(mini))))
    return run


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> Path:
    """Five jobs with two and three objects."""
    folder = tmp_path_factory.mktemp("jobs")
    for i in range(5):
        write_job(folder / f"job{i}", seed=i, num_objects=2 + i % 2)
    return folder


def pictures(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}


def test_a_job_is_the_same_in_any_batch_and_order(model, jobs, tmp_path) -> None:
    for size in (1, 2, 5):
        line = ["--model", model, "--jobs", jobs, "--out", tmp_path / str(size), "--batch-size", size]
        assert main([str(word) for word in line]) == 0
    one = pictures(tmp_path / "1")
    assert len(one) == 5
    for size in (2, 5):
        other = pictures(tmp_path / str(size))
        assert all(np.array_equal(one[name], other[name]) for name in one)
    alone = ["--model", model, "--jobs", jobs / "job3", "--out", tmp_path / "alone"]
    assert main([str(word) for word in alone]) == 0
    assert np.array_equal(pictures(tmp_path / "alone")["job3"], one["job3"])


def test_the_seed_matters_only_inside_the_regions(model, jobs, tmp_path) -> None:
    for seed in (0, 1):
        line = ["--model", model, "--jobs", jobs, "--out", tmp_path / str(seed), "--seed", seed]
        assert main([str(word) for word in line]) == 0
    first, second = pictures(tmp_path / "0"), pictures(tmp_path / "1")
    framing = load_model(model).framing
    for job in read_jobs(jobs):
        example = load_job(job)
        inner, (x0, y0, x1, y1) = region_union(compose(example, framing, None))
        outside = np.ones(example.photo.shape[:2], bool)
        outside[y0:y1, x0:x1] = ~inner
        assert np.array_equal(first[job.name][outside], example.photo[outside])
        assert not np.array_equal(first[job.name], second[job.name])


def test_a_bad_job_is_named_and_the_others_are_done(model, jobs, tmp_path, capsys) -> None:
    shutil.copytree(jobs, tmp_path / "jobs")
    (tmp_path / "jobs" / "job1" / "object_0.png").unlink()
    (tmp_path / "jobs" / "job4" / "image.jpg").write_bytes(b"no picture")
    out = tmp_path / "out"
    assert main(["--model", str(model), "--jobs", str(tmp_path / "jobs"), "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert "job1" in said
    assert "object_0.png" in said
    assert "job4" in said
    assert sorted(pictures(out)) == ["job0", "job2", "job3"]
    results = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {entry["job"]: entry["status"] for entry in results} == {
        "job0": "ok", "job1": "failed", "job2": "ok", "job3": "ok", "job4": "failed"}  # fmt: skip


def test_shards_are_jobs_too(model, mini_shards, tmp_path) -> None:
    line = ["--model", model, "--jobs", mini_shards, "--split", "val", "--out", tmp_path, "--guidance", 2.0]
    assert main([str(word) for word in line]) == 0
    assert len(pictures(tmp_path)) == 3


def test_a_saved_model_comes_back(model, mini_shards) -> None:
    torch.manual_seed(0)
    again = load_model(model)
    examples = [load_job(job) for job in read_jobs(mini_shards, "val")]
    once, twice = (again(examples, [1, 2, 3]) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(once, twice, strict=True))


@pytest.mark.parametrize("content", [None, "{}", "no json"])
def test_a_folder_without_a_model_is_one_line(tmp_path, content) -> None:
    if content is not None:
        (tmp_path / "model_index.json").write_text(content)
    with pytest.raises(UserError) as error:
        load_model(tmp_path)
    assert str(tmp_path) in str(error.value)
