"""Resuming: killed at any step, on one rank or two, or continued on another number of them, a run is the same run."""

import json
import random
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pics_model.checkpoint import list_checkpoints, read_state
from tests.model.runs_for_tests import run, start

STEPS = 24


def words(shards: Path, preset: Path, out: Path, *more: object) -> list[str]:
    line = ["--shards", shards, "--preset", preset, "--out", out, "--batch-size", 4, "--workers", 0, "--threads", 1,
            "--steps", STEPS, "--keep", 100, "--ema", 40, "--val-samples", 3, "--grid-samples", 0,
            "--logger", "none"]  # fmt: skip
    return [str(word) for word in [*line, *more]]


def tensors(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = list_checkpoints(run)[-1]
    return {f"{file.stem}/{name}": tensor for file in sorted(checkpoint.glob("*.safetensors"))
            for name, tensor in load_file(file).items()}  # fmt: skip


def lines(run: Path, name: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def whole(request, mini_shards, mini, tmp_path_factory) -> tuple[int, Path]:
    """The number of ranks, and a run without a break; it is told, validated and saved at every step."""
    out = tmp_path_factory.mktemp("exact") / "whole"
    run(words(mini_shards, mini, out, "--save-every", 1), out.with_suffix(".log"), request.param)
    return request.param, out


def test_killed_ten_times_it_is_the_same_run_bit_for_bit(whole, mini_shards, mini, tmp_path) -> None:
    num_ranks, expected = whole
    out, log = tmp_path / "run", tmp_path / "log"
    line = words(mini_shards, mini, out, "--save-every", 1, "--resume")
    rng = random.Random(num_ranks)
    kills = sorted(rng.sample(range(1, STEPS), 10))
    for kill in kills:
        going = start(line, log, num_ranks)
        going.wait_until(lambda kill=kill: len(list_checkpoints(out)) >= kill)
        going.kill()
        assert kill <= len(list_checkpoints(out)) < STEPS or kill == kills[-1], going.said
    run(line, log, num_ranks)
    found, wanted = tensors(out), tensors(expected)
    assert found.keys() == wanted.keys()
    assert {name.partition("/")[0] for name in found} == {"weights", "optimizer", "mean"}
    assert [name for name in found if not torch.equal(found[name], wanted[name])] == []
    for name in ("history.jsonl", "validation.jsonl"):
        assert lines(out, name) == lines(expected, name)
        assert [entry["step"] for entry in lines(out, name)] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("whole", [1], indirect=True)
def test_other_ranks_and_workers_go_on_with_the_same_batches(whole, mini_shards, mini, tmp_path) -> None:
    """Losses are those of the run without a break: sums of the same numbers in another order."""
    _, expected = whole
    out, log = tmp_path / "run", tmp_path / "log"
    for num_ranks, workers, until in ((2, 0, 7), (1, 2, 13), (4, 1, 19), (1, 0, STEPS)):
        line = words(mini_shards, mini, out, "--save-every", 1, "--resume", "--workers", workers)
        going = start(line, log, num_ranks)
        if until < STEPS:
            going.wait_until(lambda until=until: len(list_checkpoints(out)) >= until)
            going.kill()
        else:
            assert going.wait() == [0] * num_ranks, going.said
    for name, key in (("history.jsonl", "loss"), ("validation.jsonl", "val_loss")):
        found, wanted = lines(out, name), lines(expected, name)
        assert [entry["samples"] for entry in found] == [4 * step for step in range(1, STEPS + 1)]
        assert [entry[key] for entry in found] == pytest.approx([entry[key] for entry in wanted], rel=2e-3)


@pytest.mark.parametrize("whole", [1], indirect=True)
def test_what_ran_is_told_for_each_start(whole, mini_shards, mini, tmp_path) -> None:
    num_ranks, _ = whole
    out, log = tmp_path / "run", tmp_path / "log"
    run(words(mini_shards, mini, out, "--steps", 2), log, num_ranks)
    run(words(mini_shards, mini, out, "--steps", 3, "--resume"), log, num_ranks)
    about = json.loads((out / "run.json").read_text())
    assert [begun["step"] for begun in about["begun"]] == [0, 2]
    for begun in about["begun"]:
        assert begun["ranks"] == num_ranks
        assert begun["versions"]["torch"] == torch.__version__.partition("+")[0] or begun["versions"]["torch"]
        assert re.fullmatch(r"[0-9a-f]{40}\+?|None", str(begun["commit"]))
    assert about["settings"]["steps"] == 3
    assert about["samples_in_shards"] == 7


def test_a_rank_that_dies_brings_the_others_down_with_the_reason(mini_shards, mini, tmp_path) -> None:
    line = words(mini_shards, mini, tmp_path / "run", "--steps", 100_000, "--val-samples", 0)
    going = start(line, tmp_path / "log", 2)
    going.wait_until(lambda: (tmp_path / "run" / "history.jsonl").is_file())
    dying = going.ranks[1]
    assert dying.pid is not None
    dying.kill()
    codes = going.wait(seconds=15)
    assert codes == [2, -signal.SIGKILL]
    assert "error: rank 0: another rank has ended; what it said is above, or the system killed it" in going.said
    assert "Traceback" not in going.said


@pytest.fixture
def damaged(mini_shards, tmp_path) -> Path:
    """The shards, with one photo broken."""
    shards = tmp_path / "shards"
    shutil.copytree(mini_shards, shards)
    tar = shards / "train-000001.tar"
    data = tar.read_bytes()
    at = data.index(b"\xff\xd8\xff", data.index(b"s000005.bg.jpg"))
    tar.write_bytes(data[:at] + bytes(200) + data[at + 200 :])
    return shards


def test_a_sample_that_cannot_be_read_ends_all_ranks(damaged, mini, tmp_path) -> None:
    going = start(words(damaged, mini, tmp_path / "run", "--steps", 50), tmp_path / "log", 2)
    assert going.wait(seconds=30) == [2, 2]
    errors = [line for line in going.said.splitlines() if line.startswith("error:")]
    assert any(re.search(r"train-000001.tar, key s000005, bg.jpg: ", line) for line in errors), going.said


def test_what_is_left_out_is_told_counted_and_the_same_on_any_ranks(damaged, mini, tmp_path) -> None:
    """Fourteen samples are two epochs of seven: the broken one comes up twice, and twice another stands in."""
    line = ["--on-damage", "skip", "--steps", 14, "--batch-size", 2, "--save-every", 14, "--val-samples", 0]
    runs = [run(words(damaged, mini, tmp_path / f"run{num}", *line), tmp_path / f"log{num}", num) for num in (1, 2)]
    for going in runs:
        notes = [line for line in going.said.splitlines() if line.startswith("note: left out:")]
        assert len(notes) == 4
        assert all("train-000001.tar, key s000005, bg.jpg: " in note for note in notes)
        assert "left out: 0 steps whose gradient was no number, 4 samples not readable" in going.said
    one, two = (lines(tmp_path / f"run{num}", "history.jsonl") for num in (1, 2))
    assert [entry["loss"] for entry in two] == pytest.approx([entry["loss"] for entry in one], rel=2e-3)
    going = start(words(damaged, mini, tmp_path / "run3", *line, "--max-skipped", 3), tmp_path / "log3", 2)
    assert going.wait(seconds=60) == [2, 2]
    assert going.said.count("error: 4 samples and 0 steps were left out, more than --max-skipped 3") == 2


def test_a_run_does_not_go_on_with_other_data_or_another_order(whole, damaged, mini, tmp_path) -> None:
    _, expected = whole
    out = tmp_path / "run"
    shutil.copytree(expected, out)
    for more, said in (
        (["--shards", damaged / "train-000000.tar"], "error: shards: the run began with other data: `train-0000"),
        (["--seed", 3], "error: --seed 3: the run began with 0; go on with that"),
        (["--shuffle-shards", 1], "error: --shuffle-shards 1: the run began with 0; go on with that"),
    ):
        line = words(damaged, mini, out, "--steps", 30, "--resume", *more)
        log = tmp_path / f"log{more[0]}"
        assert start(line, log).wait() == [2]
        assert said in log.read_text()


def test_checkpoints_say_where_they_stand(whole) -> None:
    _, out = whole
    for number, path in enumerate(list_checkpoints(out), 1):
        state = read_state(path)
        assert state.samples == 4 * number
        assert state.stream["samples_seen"] == state.samples
        assert state.settings["steps"] == STEPS
        assert set(state.sha256) == {file.name for file in path.glob("*.safetensors")}
        assert state.val_loss == pytest.approx(lines(out, "validation.jsonl")[number - 1]["val_loss"])
