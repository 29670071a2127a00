"""Training: it learns, resumes exactly, ends when told to, and refuses what cannot work."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pics_common.errors import UserError
from pics_model.checkpoint import list_checkpoints, read_state
from pics_model.denoising import DenoisingLoss
from pics_model.presets import build, load_preset
from pics_model.train import main
from tests.model.runs_for_tests import start


def words(shards: Path, mini: Path, out: Path, *more: object) -> list[str]:
    line = ["--shards", shards, "--preset", mini, "--out", out, "--batch-size", 4, "--workers", 0, "--threads", 1]
    return [str(word) for word in [*line, *more]]


def tensors(run: Path, which: int = -1) -> dict[str, torch.Tensor]:
    checkpoint = list_checkpoints(run)[which]
    return load_file(checkpoint / "weights.safetensors") | load_file(checkpoint / "optimizer.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def wait_for(path: Path, going: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not path.is_file() and going() and time.monotonic() < deadline:
        time.sleep(0.01)


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


def test_a_module_that_draws_by_itself_draws_the_same_after_a_break(mini_shards, mini, tmp_path) -> None:
    """Dropout in a model of the user's own, say: the global generator too is a function of the samples seen."""
    drawn: list[float] = []

    def draw(module: torch.nn.Module, *_: object) -> None:
        if isinstance(module, DenoisingLoss):
            drawn.append(torch.rand(()).item())

    hook = torch.nn.modules.module.register_module_forward_hook(draw)
    try:
        line = ["--save-every", 3, "--val-samples", 0]
        assert main(words(mini_shards, mini, tmp_path / "whole", *line, "--steps", 6)) == 0
        whole = drawn.copy()
        shutil.rmtree(list_checkpoints(tmp_path / "whole")[-1])
        drawn.clear()
        torch.manual_seed(12345)
        assert main(words(mini_shards, mini, tmp_path / "whole", *line, "--steps", 6, "--resume")) == 0
    finally:
        hook.remove()
    assert len(set(whole)) == 6
    assert drawn == whole[3:]


def test_loader_workers_change_nothing(whole_run, mini_shards, mini, tmp_path) -> None:
    line = words(mini_shards, mini, tmp_path / "run", "--steps", 20, "--save-every", 10)
    line[line.index("--workers") + 1] = "2"
    assert main(line) == 0
    assert same(tensors(tmp_path / "run"), tensors(whole_run))


def test_resuming_a_finished_run_changes_nothing(whole_run, mini_shards, mini) -> None:
    before = tensors(whole_run)
    assert main(words(mini_shards, mini, whole_run, "--steps", 20, "--resume")) == 0
    assert same(tensors(whole_run), before)


def test_history_is_the_same_wherever_checkpoints_stand(mini_shards, mini, tmp_path) -> None:
    """Losses are told in means; none may be lost between the last line and a checkpoint."""
    line = ["--steps", 16, "--save-every", 6, "--keep", 9]
    assert main(words(mini_shards, mini, tmp_path / "whole", *line)) == 0
    assert [entry["step"] for entry in losses(tmp_path / "whole")] == [6, 10, 12, 16]
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "whole", again)
    shutil.rmtree(list_checkpoints(again)[-1])
    history = again / "history.jsonl"
    history.write_text(history.read_text() + '{"step": 17, "sam')  # killed while it wrote
    assert main(words(mini_shards, mini, again, *line, "--resume")) == 0
    assert losses(again) == losses(tmp_path / "whole")


def test_tensorboard_keeps_what_a_resumed_run_had_before(whole_run, mini_shards, mini, tmp_path) -> None:
    half = tmp_path / "half"
    shutil.copytree(whole_run, half)
    shutil.rmtree(list_checkpoints(half)[-1])
    assert main(words(mini_shards, mini, half, "--steps", 20, "--save-every", 10, "--resume")) == 0
    board = EventAccumulator(str(half / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == [40, 80]


def test_old_checkpoints_and_leftovers_go_and_the_model_is_never_older_than_the_last(whole_run, mini_shards, mini,
                                                                                     tmp_path) -> None:  # fmt: skip
    out = tmp_path / "run"
    (out / "checkpoints" / ".000000000004.partial").mkdir(parents=True)
    assert main(words(mini_shards, mini, out, "--steps", 3, "--save-every", 1, "--keep", 1)) == 0
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["000000000012"]
    # A run that is killed between the two makes both again: a checkpoint of the last step says that all is done.
    for run in (out, whole_run):
        model = max(p.stat().st_mtime_ns for p in (run / "model").rglob("*.safetensors"))
        assert model <= (list_checkpoints(run)[-1] / "state.json").stat().st_mtime_ns


def test_every_weight_moves(whole_run, mini) -> None:
    """Encoder blocks, gates, ControlNet and object encoder alike; only the zero convolution in front stays."""
    torch.manual_seed(0)
    pipeline = build(load_preset(str(mini)))
    start = {f"{part}.{name}": weight for part in ("backbone", "object_encoder")
             for name, weight in getattr(pipeline, part).state_dict().items()}  # fmt: skip
    end = load_file(list_checkpoints(whole_run)[-1] / "weights.safetensors")
    assert start.keys() - end.keys() == {"backbone.controlnet.conv_in.weight", "backbone.controlnet.conv_in.bias"}
    assert not [name for name in end if torch.equal(start[name], end[name])]


@pytest.mark.parametrize(("ranks", "whole_group"), [(1, False), (1, True), (2, False)])
def test_told_to_end_it_saves_and_a_resumed_run_goes_on(mini_shards, mini, tmp_path, ranks, whole_group) -> None:
    """Where machines are lent, SIGTERM comes first; to the process alone, or to its loader workers as well."""
    out = tmp_path / "run"
    line = words(mini_shards, mini, out, "--steps", 100_000, "--save-every", 100_000)
    line[line.index("--workers") + 1] = "2"
    if ranks > 1:  # torchrun passes it on to its ranks
        run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        process = subprocess.Popen([*run, "-m", "pics_model.train", *line], text=True, start_new_session=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        wait_for(out / "history.jsonl", lambda: process.poll() is None)
        process.terminate()
        output, _ = process.communicate(timeout=90)
    else:
        going = start(line, tmp_path / "log")
        going.wait_until((out / "history.jsonl").is_file)
        going.end(whole_group)
        assert going.wait() == [143]
        output = going.said
        assert "Traceback" not in output
    (checkpoint,) = list_checkpoints(out)
    steps = read_state(checkpoint).samples // 4
    assert f"told to end by SIGTERM at step {steps} of 100000; saved, go on with --resume" in output
    assert (out / "model" / "model_index.json").is_file()


def test_an_error_in_the_middle_ends_the_process(mini_shards, mini, tmp_path) -> None:
    """Loader workers, which do not hear SIGTERM, must not keep it: here nobody reads its lines any more."""
    line = words(mini_shards, mini, tmp_path / "run", "--steps", 100_000, "--log-every", 0)
    line[line.index("--workers") + 1] = "1"
    process = subprocess.Popen([sys.executable, "-m", "pics_model.train", *line], text=True, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 1
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--steps", "0"], "--steps 0: expected 1 or more"),
        (["--save-every", "0"], "--save-every 0: expected 1 or more"),
        (["--keep", "0"], "--keep 0: expected 1 or more"),
        (["--batch-size", "0"], "--batch-size 0: expected 1 or more"),
        (["--learning-rate", "-1"], "--learning-rate -1.0: expected 0 or more"),
        (["--object-dropout", "1.5"], "--object-dropout 1.5: expected 0 to 1"),
        (["--unconditional-dropout", "-1"], "--unconditional-dropout -1.0: expected 0 to 1"),
        (["--min-snr", "-1"], "--min-snr -1.0: expected 0 or more"),
        (["--out", __file__], "--out .*test_train.py: cannot be written"),
    ],
)
def test_a_value_that_cannot_work_is_refused_at_the_start(mini_shards, mini, tmp_path, more, said) -> None:
    with pytest.raises(UserError, match=said):
        main([*words(mini_shards, mini, tmp_path / "run"), *more])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--resume", "--preset", "huge"], "expected one of"),
        (["--resume", "--shards", "/nowhere"], "/nowhere: does not exist"),
        (["--steps", "20"], "holds a run; --resume continues it"),
        (
            ["--resume", "--preset", "tiny"],
            "made with another model than --preset tiny: `backbone.block_out_channels` was",
        ),
        (["--resume", "--trains", "interaction"], "--trains interaction: .* was made with all"),
        (["--resume", "--batch-size", "3"], "no multiple of it"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(whole_run, mini_shards, mini, more, said) -> None:
    before = tensors(whole_run)
    with pytest.raises(UserError, match=said) as error:
        main([*words(mini_shards, mini, whole_run), *more])
    assert "\n" not in str(error.value)
    assert same(tensors(whole_run), before)


def test_a_preset_that_changed_under_its_name_is_refused(whole_run, mini_shards, mini, tmp_path) -> None:
    path = tmp_path / "mini.yaml"
    path.write_text(mini.read_text().replace("object_resolution: 16}", "object_resolution: 16, context: 1.6}"))
    with pytest.raises(UserError, match=r"another model than --preset .*: `framing.context` was 1.5 and is 1.6"):
        main([*words(mini_shards, path, whole_run), "--resume"])
    path.write_text(mini.read_text())  # the same, elsewhere
    assert main([*words(mini_shards, path, whole_run, "--steps", 20), "--resume"]) == 0


@pytest.mark.parametrize("name", ["extra", "lacking"])
def test_a_checkpoint_with_other_weights_is_refused(whole_run, mini_shards, mini, tmp_path, name) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole_run, copy)
    path = list_checkpoints(copy)[-1] / "weights.safetensors"
    weights = load_file(path)
    if name == "extra":
        weights["extra"] = torch.zeros(2)
    else:
        weights["lacking"] = weights.pop(next(iter(weights)))
    save_file(weights, path)
    state = json.loads((path.parent / "state.json").read_text())
    state["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (path.parent / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"weights\.safetensors: weight `.*remove its folder to resume from before"):
        main(words(mini_shards, mini, copy, "--steps", 30, "--resume"))


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["cut off", "one bit", "gone"])
def test_a_damaged_checkpoint_is_named(whole_run, mini_shards, mini, tmp_path, file, damage) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole_run, copy)
    path = list_checkpoints(copy)[-1] / file
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-1000] if damage == "cut off" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=rf"{file}: (damaged|unreadable).*; remove its folder to resume from before"):
        main(words(mini_shards, mini, copy, "--steps", 30, "--resume"))


WRONG_PRESETS = {
    "guidance: 1.0": ("guidence: 1.0", "unknown key `guidence`, no key `guidance`"),
    "autoencoder: {patch: 4}": ("autoencoder: {patch: 3}", "key `autoencoder.patch` is 3; expected a power of two"),
    "{patch: 4}": ("{kind: jpeg}", "key `autoencoder.kind` is 'jpeg'; expected patches or kl"),
    "steps: 3": ("steps: 1001", "key `steps` is 1001; expected 1 to 1000"),
    "overlap: blend": ("overlup: blend", "unknown key `backbone.overlup`"),
    "blend\n": ("blond\n", "key `backbone.overlap` is 'blond'; expected blend or blend_attend"),
    "tau: 0.5": ("tau: much", "key `backbone.tau` is 'much'; expected a number"),
    "latent_channels: 48": ("latent_channels: 47", "key `backbone.latent_channels` is 47; expected 48"),
    "head_channels: 8": ("head_channels: 7", r"`backbone.block_out_channels` is \[16, 32\]; .* of head_channels, 7"),
    "norm_num_groups: 8": ("norm_num_groups: 12", "expected multiples of norm_num_groups, 12"),
    "[8, 8, 16]": ("[8, 8]", "key `backbone.hint_channels`"),
    "[16, 32]": ("[]", r"key `backbone.block_out_channels` is \[\]; expected a list"),
    "[true, true]": ("[true]", "key `backbone.attention_levels`"),
    "{resolution: 32": ("{resolution: 36", "key `framing.resolution` is 36; expected a multiple of 8"),
    "object_resolution: 16": ("object_resolution: 20", "`encoder.resolution` is 16; .*object_resolution, 20"),
    "resolution: 32,": ("resolution: 32, context: 1,", "framing: expected .* enlarge_max <= context"),
    "{resolution: 32,": ("{resolution: 32, region: disc,", "framing: region is 'disc'; expected box or silhouette"),
    "width: 8": ("width: 8, views: true", "key `encoder.views` is True; expected true where framing.views is above 0"),
    "{resolution: 16,": ("{resolution: 16, text_channels: 8,", "key `encoder.text_channels` is 8; expected 0"),
    "code_channels: 16, width": ("code_channels: 8, width", "`encoder.code_channels` is 8; .*code_channels, 16"),
    "encoder: {resolution: 16, patch: 4": ("encoder: {resolution: 16, patch: 3", "key `encoder.patch` is 3"),
    "prediction_type: sample": ("prediction_type: noise", "key `schedule.prediction_type` is 'noise'"),
    "squaredcos_cap_v2": ("linnear", "key `schedule`: linnear is not implemented"),
}


@pytest.mark.parametrize("right", WRONG_PRESETS)
def test_a_preset_that_cannot_work_is_named_with_its_key(mini, tmp_path, right) -> None:
    wrong, said = WRONG_PRESETS[right]
    path = tmp_path / "mine.yaml"
    assert right in mini.read_text()
    path.write_text(mini.read_text().replace(right, wrong))
    with pytest.raises(UserError, match=f"preset {path}: .*{said}") as error:
        load_preset(str(path))
    assert "\n" not in str(error.value)
