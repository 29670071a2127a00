"""Training: it learns, resumes exactly, runs on several ranks, survives kill -9, and refuses what cannot work."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pics_common.errors import UserError
from pics_model.checkpoint import list_checkpoints
from pics_model.presets import build, load_preset
from pics_model.train import main


def words(shards: Path, mini: Path, out: Path, *more: object) -> list[str]:
    line = ["--shards", shards, "--preset", mini, "--out", out, "--batch-size", 4, "--workers", 0, "--threads", 1]
    return [str(word) for word in [*line, *more]]


def tensors(run: Path, which: int = -1) -> dict[str, torch.Tensor]:
    checkpoint = list_checkpoints(run)[which]
    return load_file(checkpoint / "weights.safetensors") | load_file(checkpoint / "optimizer.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole_run(mini_shards, mini, tmp_path_factory) -> Path:
    """Twenty steps without a break, checkpoints after ten and twenty."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert main(words(mini_shards, mini, out, "--steps", 20, "--save-every", 10)) == 0
    return out


def test_the_run_leaves_a_model_its_history_and_what_ran(whole_run) -> None:
    assert [p.name for p in list_checkpoints(whole_run)] == ["000000000040", "000000000080"]
    assert (whole_run / "model" / "model_index.json").is_file()
    assert not [p for p in whole_run.rglob("*") if p.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    assert [entry["samples"] for entry in losses(whole_run)] == [40, 80]
    about = json.loads((whole_run / "run.json").read_text())
    assert about["samples_in_shards"] == 7
    assert about["settings"]["steps"] == 20
    assert list((whole_run / "tensorboard").iterdir())


def test_a_resumed_run_ends_with_the_same_bits(whole_run, mini_shards, mini, tmp_path) -> None:
    half = tmp_path / "half"
    shutil.copytree(whole_run, half)
    shutil.rmtree(list_checkpoints(half)[-1])  # as if it had been stopped after step ten
    assert main(words(mini_shards, mini, half, "--steps", 20, "--save-every", 10, "--resume")) == 0
    assert same(tensors(half), tensors(whole_run))
    assert losses(half) == losses(whole_run)


def test_loader_workers_change_nothing(whole_run, mini_shards, mini, tmp_path) -> None:
    line = words(mini_shards, mini, tmp_path / "run", "--steps", 20, "--save-every", 10)
    line[line.index("--workers") + 1] = "2"
    assert main(line) == 0
    assert same(tensors(tmp_path / "run"), tensors(whole_run))


def test_resuming_a_finished_run_changes_nothing(whole_run, mini_shards, mini) -> None:
    before = tensors(whole_run)
    assert main(words(mini_shards, mini, whole_run, "--steps", 20, "--resume")) == 0
    assert same(tensors(whole_run), before)


def test_every_weight_moves(whole_run, mini) -> None:
    """Encoder blocks, gates, ControlNet and object encoder alike; only the zero convolution in front stays."""
    torch.manual_seed(0)
    pipeline = build(load_preset(str(mini)))
    start = {f"{part}.{name}": weight for part in ("backbone", "object_encoder")
             for name, weight in getattr(pipeline, part).state_dict().items()}  # fmt: skip
    end = load_file(list_checkpoints(whole_run)[-1] / "weights.safetensors")
    assert start.keys() == end.keys()
    still = {name for name in start if torch.equal(start[name], end[name])}
    assert still == {"backbone.controlnet.conv_in.weight", "backbone.controlnet.conv_in.bias"}


def launch(*line: str, ranks: int = 1) -> subprocess.Popen[str]:
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    start = run if ranks > 1 else [sys.executable]
    return subprocess.Popen([*start, "-m", "pics_model.train", *line], text=True, start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


def test_two_ranks_train_as_one_does(whole_run, mini_shards, mini, tmp_path) -> None:
    """Four samples a step, shared out or not: the same gradient, up to the order of its sums."""
    done = launch(*words(mini_shards, mini, tmp_path / "run", "--steps", 20, "--save-every", 10), ranks=2)
    output, _ = done.communicate(timeout=120)
    assert done.returncode == 0, output
    one, two = losses(whole_run), losses(tmp_path / "run")
    assert [entry["samples"] for entry in one] == [entry["samples"] for entry in two]
    assert [entry["loss"] for entry in two] == pytest.approx([entry["loss"] for entry in one], rel=1e-3)


def test_killed_without_warning_it_goes_on_as_if_nothing_had_been(whole_run, mini_shards, mini, tmp_path) -> None:
    out = tmp_path / "run"
    line = words(mini_shards, mini, out, "--steps", 20, "--save-every", 1, "--keep", 30)
    process = launch(*line)
    deadline = time.monotonic() + 90
    while len(list_checkpoints(out)) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    reached = len(list_checkpoints(out))
    assert 3 <= reached < 20
    (out / "checkpoints" / ".000000009999.partial").mkdir()  # what a killed write leaves
    assert main([*line, "--resume"]) == 0
    assert same(tensors(out), tensors(whole_run))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--resume", "--preset", "huge"], "expected one of"),
        (["--resume", "--shards", "/nowhere"], "/nowhere: does not exist"),
        (["--steps", "20"], "holds a run; --resume continues it"),
        (["--resume", "--preset", "tiny"], "made with preset"),
        (["--resume", "--batch-size", "3"], "no multiple of it"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(whole_run, mini_shards, mini, more, said) -> None:
    before = tensors(whole_run)
    with pytest.raises(UserError, match=said) as error:
        main([*words(mini_shards, mini, whole_run), *more])
    assert "\n" not in str(error.value)
    assert same(tensors(whole_run), before)


def test_a_damaged_checkpoint_is_named(whole_run, mini_shards, mini, tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole_run, copy)
    weights = list_checkpoints(copy)[-1] / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"weights\.safetensors: unreadable"):
        main(words(mini_shards, mini, copy, "--steps", 30, "--resume"))


def test_a_preset_with_an_unknown_key_is_named(mini, tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(mini.read_text().replace("guidance:", "guidence:"))
    with pytest.raises(UserError, match="unknown key `guidence`, no key `guidance`"):
        load_preset(str(path))
