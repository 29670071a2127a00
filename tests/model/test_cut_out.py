"""Objects in pictures without alpha: cut out by a network where asked for, and only where they need it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pics_common.errors import UserError
from pics_model.cut_out import CutOut, load_cut_out
from pics_model.infer import main
from pics_model.jobs import load_job, read_jobs
from pics_model.pictures import as_object
from pics_model.presets import build, load_preset
from pics_model.snapshot import save_model
from tests.data.checkpoints_for_tests import bright_onnx
from tests.model.models_for_tests import pipeline_of
from tests.model.test_jobs import write_job
from tests.model.test_pipeline import SMALL_SD


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_onnx(tmp_path_factory.mktemp("network") / "bright.onnx", side=64)


def bright_disc(background: int = 20) -> NDArray[np.uint8]:
    """A bright disc of radius 30 on a dark ground, [128, 96, 3], with a speck in a corner."""
    rgb = np.full((128, 96, 3), background, np.uint8)
    cv2.circle(rgb, (48, 64), 30, (240, 220, 200), -1)
    rgb[2:5, 2:5] = 255
    return rgb


def true_disc() -> NDArray[np.bool_]:
    y, x = np.mgrid[:128, :96]
    return np.hypot(x - 48, y - 64) <= 30


def test_the_object_is_cut_out_and_its_ground_is_gone(network: Path) -> None:
    cut = load_cut_out(str(network), 1)
    rgba = as_object(Image.fromarray(bright_disc()), "disc.jpg", cut=cut)
    shown = rgba[..., 3] >= 128
    both, either = (shown & true_disc()).sum(), (shown | true_disc()).sum()
    assert both > 0.9 * either
    assert not rgba[:8, :8, 3].any(), "a speck is no part of it"
    assert (rgba[rgba[..., 3] == 0][:, :3] == 255).all(), "on white"
    assert cut.num_cut == 1
    opaque = Image.fromarray(np.dstack([bright_disc(), np.full((128, 96), 255, np.uint8)]))
    assert (as_object(opaque, "disc.png", cut=cut) == rgba).all()


def test_what_has_alpha_or_stands_on_white_is_left_as_it_is(network: Path) -> None:
    cut = load_cut_out(str(network), 1)
    on_white = Image.fromarray(255 - bright_disc(0) // 2)
    soft = Image.fromarray(np.dstack([bright_disc(), true_disc().astype(np.uint8) * 200]))
    for picture in (on_white, soft):
        assert (as_object(picture, "x", cut=cut) == as_object(picture, "x")).all()
    assert cut.num_cut == 0


@pytest.mark.parametrize(("answer", "words"), [(0, "nothing that stands out"), (255, "nothing but object")])
def test_a_picture_in_which_no_object_is_found_is_named(answer: int, words: str) -> None:
    cut = CutOut(lambda rgb: np.full(rgb.shape[:2], answer, np.uint8))
    with pytest.raises(UserError, match=rf"cup\.jpg: the network finds {words}"):
        as_object(Image.fromarray(bright_disc()), "cup.jpg", cut=cut)


def test_jobs_and_the_pipeline_cut_alike(network: Path, tmp_path: Path) -> None:
    folder = write_job(tmp_path / "job")
    Image.fromarray(bright_disc()).save(folder / "object_1.png")
    cut = load_cut_out(str(network), 1)
    (job,) = read_jobs(folder, cut=cut)
    example = load_job(job)
    assert cut.num_cut == 1
    assert (example.objects[1] == as_object(Image.fromarray(bright_disc()), "x", cut=cut)).all()
    pipeline = pipeline_of(SMALL_SD)
    asked = {"masks": example.masks, "num_inference_steps": 1, "generator": 0, "output_type": "np"}
    pictures = [Image.open(folder / f"object_{k}.png") for k in range(len(example.objects))]
    cut_here = pipeline(example.photo, pictures, cut_out=cut, **asked).images[0]
    (cut_before,) = pipeline.compose_examples([example], [torch.Generator().manual_seed(0)], 1, None)[0]
    assert (cut_here == cut_before).all()
    assert (cut_here != pipeline(example.photo, pictures, **asked).images[0]).any(), "without, all of it is the object"


def _generator():
    import torch

    return torch.Generator().manual_seed(0)


def test_the_command_cuts_and_says_where_it_had_nothing_to_do(
    network: Path, mini: Path, mini_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "run" / "model", build(load_preset(str(mini))))
    folder = write_job(tmp_path / "job")
    words = ["--model", tmp_path / "run", "--jobs", folder, "--steps", 1, "--cut-out", network]
    assert main([str(word) for word in [*words, "--out", tmp_path / "a"]]) == 0
    assert "--cut-out had nothing to do" in capsys.readouterr().err
    Image.fromarray(bright_disc()).save(folder / "object_0.png")
    assert main([str(word) for word in [*words, "--out", tmp_path / "b"]]) == 0
    assert "--cut-out" not in capsys.readouterr().err
    assert main([str(word) for word in [*words[:-2], "--out", tmp_path / "d"]]) == 0
    assert "note: 1 object pictures have neither transparent parts nor a white ground" in capsys.readouterr().err
    for what, said in ((mini_shards, "no effect with shards"), (folder, "no such file")):
        weights = network if what is mini_shards else tmp_path / "none.onnx"
        arguments = ["--model", tmp_path / "run", "--jobs", what, "--out", tmp_path / "c", "--cut-out", weights]
        with pytest.raises(UserError, match=said):
            main([str(word) for word in arguments])
