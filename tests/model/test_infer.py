"""Inference: one picture a job, the same in any batch, nothing touched outside the regions, bad jobs named."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pics_common.errors import UserError
from pics_model.dino_encoder import DinoObjectEncoder
from pics_model.infer import InferConfig, load_model, main, run
from pics_model.inputs import compose
from pics_model.jobs import Job, load_job, read_jobs
from pics_model.paste_back import region_union
from pics_model.presets import build, load_preset
from pics_model.snapshot import save_model
from tests.model.test_jobs import write_job


@pytest.fixture(scope="module")
def model(mini, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    run = tmp_path_factory.mktemp("run")
    save_model(run / "model", build(load_preset(str(mini))))
    return run


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> Path:
    """Five jobs with two and three objects."""
    folder = tmp_path_factory.mktemp("jobs")
    for i in range(5):
        write_job(folder / f"job{i}", seed=i, num_objects=2 + i % 2)
    return folder


def infer(*words: object) -> int:
    return main([str(word) for word in [*words, "--threads", 1]])


def pictures(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}


def test_a_job_is_the_same_in_any_batch_and_order(model, jobs, tmp_path) -> None:
    for size in (1, 2, 5):
        assert infer("--model", model, "--jobs", jobs, "--out", tmp_path / str(size), "--batch-size", size) == 0
    one = pictures(tmp_path / "1")
    assert len(one) == 5
    for size in (2, 5):
        other = pictures(tmp_path / str(size))
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert infer("--model", model, "--jobs", jobs / "job3", "--out", tmp_path / "alone") == 0
    assert np.array_equal(pictures(tmp_path / "alone")["job3"], one["job3"])


def test_a_picture_of_a_real_size_model_is_the_same_in_any_batch(jobs) -> None:
    """At this size kernels do sum in another order in a batch: about one picture in eight then differs by a bit."""
    torch.manual_seed(0)
    pipeline = build(load_preset("tiny"))
    examples = [load_job(job) for job in read_jobs(jobs)] * 4
    seeds = list(range(len(examples)))
    alone = [
        pipeline.compose_examples([example], [seed], 2)[0][0] for example, seed in zip(examples, seeds, strict=True)
    ]
    together = pipeline.compose_examples(examples, seeds, 2)[0]
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_the_seed_matters_only_inside_the_regions(model, jobs, tmp_path) -> None:
    for seed in (0, 1):
        assert infer("--model", model, "--jobs", jobs, "--out", tmp_path / str(seed), "--seed", seed) == 0
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
    assert infer("--model", model, "--jobs", tmp_path / "jobs", "--out", out) == 1
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
    assert infer(*line) == 0
    assert len(pictures(tmp_path)) == 3


def test_who_is_in_front_is_drawn_if_asked_for(model, jobs, tmp_path) -> None:
    line = ["--model", model, "--jobs", jobs, "--out", tmp_path, "--steps", 2, "--interactions"]
    assert infer(*line) == 0
    assert sorted(pictures(tmp_path / "interactions")) == sorted(pictures(tmp_path)) == [f"job{i}" for i in range(5)]


def test_a_saved_model_comes_back(model, mini_shards) -> None:
    torch.manual_seed(0)
    again = load_model(model)
    examples = [load_job(job) for job in read_jobs(mini_shards, "val")]
    once, twice = (again.compose_examples(examples, [1, 2, 3])[0] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(once, twice, strict=True))


def test_models_of_every_make_open_in_a_fresh_process(tmp_path) -> None:
    """Diffusers finds a saved part only if its module happens to be imported: here all have been."""
    torch.manual_seed(0)
    small = {"model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    pipeline = build(load_preset("flow"))
    pipeline.register_modules(object_encoder=DinoObjectEncoder(small, resolution=28, code_channels=64))
    save_model(tmp_path / "a", pipeline)
    code = "import sys; from pics_model.infer import load_model; load_model(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("content", [None, "{}", "no json"])
def test_a_folder_without_a_model_is_one_line(tmp_path, content) -> None:
    if content is not None:
        (tmp_path / "model_index.json").write_text(content)
    with pytest.raises(UserError) as error:
        load_model(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--batch-size", "0"], "--batch-size 0: expected 1 or more"),
        (["--steps", "0"], "--steps 0: expected 1 or more"),
        (["--steps", "1001"], "--steps 1001: .* has 1000 timesteps"),
        (["--limit", "0"], "--limit 0: expected 1 or more"),
        (["--out", __file__], "--out .*test_infer.py: cannot be written"),
        (["--out", "/dev/null/x"], "--out /dev/null/x: cannot be written"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(model, jobs, tmp_path, more, said) -> None:
    with pytest.raises(UserError, match=said):
        infer("--model", model, "--jobs", jobs, "--out", tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_says_what_it_made(model, jobs, tmp_path) -> None:
    def interrupted(_views):
        raise KeyboardInterrupt

    config = InferConfig(model=model, jobs=jobs, out=tmp_path, batch_size=1)
    (first, second, *_) = read_jobs(jobs)
    with pytest.raises(KeyboardInterrupt):
        run(config, load_model(model), [first, second, Job("third", interrupted)])
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [entry["picture"] for entry in results] == [f"{name}.png" for name in pictures(tmp_path)]


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_model_whose_weights_are_pickled_is_refused_unread(model, tmp_path) -> None:
    folder, mark = tmp_path / "model", tmp_path / "was_run"
    shutil.copytree(model / "model", folder)
    (folder / "backbone" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "backbone" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Malicious(mark)))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("backbone/diffusion_pytorch_model.safetensors", lambda data: data[:5000]),
        ("backbone/config.json", lambda _: b"{}"),
        ("object_encoder/config.json", lambda _: b"no json"),
        ("model_index.json", lambda data: data.replace(b'"Backbone"', b'"Nothing"')),
        ("model_index.json", lambda data: data.replace(b'"context": 1.5', b'"context": 0.5')),
    ],
)
def test_a_damaged_model_is_named_in_one_line(model, tmp_path, capfd, file, harm) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model / "model", folder)
    (folder / file).write_bytes(harm((folder / file).read_bytes()))
    with pytest.raises(UserError, match=f"--model {folder}: cannot be loaded"):
        load_model(folder)
    assert capfd.readouterr().err == ""
