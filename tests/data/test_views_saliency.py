"""A saliency network for the pictures that Zero-1-to-3 makes: from the option to the alpha of a view."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pics_common.errors import UserError
from pics_common.saliency import THRESHOLD, alpha_of, providers_of
from pics_data.config import BuildConfig
from pics_data.mixture import identity, members_of
from pics_data.options import ViewOptions, ViewsConfig
from pics_data.views import Cutout, Picture, ViewCamera, zero123
from pics_data.views.check import check_generator
from pics_data.views.job import add_views
from pics_data.views.stage import load_generator
from tests.data.checkpoints_for_tests import bright_onnx
from tests.data.photos_for_tests import draw_set
from tests.data.plain_build import build_plainly
from tests.data.zero123_for_tests import random_zero123

pytestmark = pytest.mark.usefixtures("same_threads_for_later_tests")

GAIN = -20.0  # what is dark stands out
CAMERAS = [[ViewCamera(60, 10), ViewCamera(200, 0)]] * 2


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_zero123(tmp_path_factory.mktemp("zero123") / "weights")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the very size of the pictures that it is asked about, so that its answer can be written out."""
    return bright_onnx(tmp_path_factory.mktemp("onnx") / "u2net.onnx", side=256, gain=GAIN)


@pytest.fixture(scope="module")
def options(weights: Path, network: Path) -> ViewOptions:
    return ViewOptions("zero123", num_views=2, view_weights=str(weights), view_steps=2, view_saliency=str(network))


def objects() -> list[Cutout]:
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (2, 64, 64, 4), np.uint8)
    rgba[..., 3] = 0
    rgba[:, 12:52, 16:48, 3] = 255
    return [Cutout(f"key{k}", 0, one) for k, one in enumerate(rgba)]


def written_out(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What the network of `bright_onnx` says of a picture, stretched to the whole range."""
    says = 1 / (1 + np.exp(-GAIN * (rgb.astype(np.float64).mean(2) / max(rgb.max(), 1) - 0.5)))
    return ((says - says.min()) / (says.max() - says.min()) * 255).astype(np.uint8)


def pictures_of(answers: Iterator[Any]) -> list[Picture]:
    return [picture for pictures in answers for picture in pictures]


def test_the_network_of_the_option_cuts_out_the_views(options: ViewOptions) -> None:
    found = pictures_of(load_generator(options, BuildConfig())(objects(), CAMERAS))
    generate = zero123.load(options.view_weights, num_steps=2, saliency=written_out)
    for view, expected in zip(found, pictures_of(generate(objects(), CAMERAS)), strict=True):
        assert np.abs(view.astype(int) - expected).max() <= 2
    plain = pictures_of(load_generator(replace(options, view_saliency=""), BuildConfig())(objects(), CAMERAS))
    assert all(np.abs(a[..., 3].astype(int) - b[..., 3]).mean() > 5 for a, b in zip(found, plain, strict=True))


def test_haze_and_specks_are_no_object_and_a_soft_edge_stays() -> None:
    saliency = np.full((60, 60), THRESHOLD - 60, np.uint8)
    saliency[5, 50] = 255
    saliency[20:40, 20:40] = 255
    saliency[30, 30] = 0
    saliency[19, 20:40] = 90
    alpha = alpha_of(saliency)
    expected = np.zeros((60, 60), np.uint8)
    expected[19:41, 19:41] = THRESHOLD - 60
    expected[19, 20:40] = 90
    expected[20:40, 20:40] = 255
    expected[30, 30] = THRESHOLD
    assert (alpha == expected).all()
    assert not alpha_of(np.full((60, 60), THRESHOLD - 1, np.uint8)).any()


BAD = {
    "missing.onnx": "--view-saliency .*missing.onnx: no such file",
    "u2net.pth": "--view-saliency u2net.pth: a pickle, which is never loaded",
    "withoutbg": "sends every photo to a remote service",
}


@pytest.mark.parametrize("name", BAD)
def test_a_network_of_no_use_is_told_before_any_work(options: ViewOptions, tmp_path: Path, name: str) -> None:
    given = str(tmp_path / name) if name.endswith(".onnx") else name
    with pytest.raises(UserError, match=BAD[name]):
        check_generator(replace(options, view_saliency=given), [BuildConfig()])


def test_a_file_that_is_no_network_is_told(options: ViewOptions, tmp_path: Path) -> None:
    (tmp_path / "u2net.onnx").write_bytes(b"not a network")
    with pytest.raises(UserError, match=r"--view-saliency .*u2net\.onnx: no ONNX file that can be run"):
        load_generator(replace(options, view_saliency=str(tmp_path / "u2net.onnx")), BuildConfig())


def test_a_gpu_that_the_installed_runtime_cannot_use_is_told() -> None:
    assert providers_of("cpu", "--view-saliency") == ("CPUExecutionProvider",)
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime can use a GPU here")
    with pytest.raises(UserError, match=r"--view-saliency: .* needs onnxruntime-gpu"):
        providers_of("cuda", "--view-saliency")


def test_without_effect_it_is_refused(options: ViewOptions) -> None:
    config = BuildConfig(views="inflate", view_saliency=options.view_saliency)
    with pytest.raises(UserError, match="--view-saliency has no effect without --views zero123"):
        config.check()


def test_what_the_network_says_counts_and_not_where_it_lies(options: ViewOptions, tmp_path: Path) -> None:
    def identity_with(path: Path) -> Any:
        more = {"views": "zero123", "view_weights": options.view_weights, "view_saliency": str(path)}
        return identity(members_of(BuildConfig(**more)))

    here = Path(options.view_saliency)
    moved = tmp_path / "moved.onnx"
    moved.write_bytes(here.read_bytes())
    other = bright_onnx(tmp_path / "other.onnx", side=256, gain=-21)
    assert identity_with(moved) == identity_with(here) != identity_with(other)


def test_shards_made_with_one_network_are_not_finished_with_another(options: ViewOptions, tmp_path: Path) -> None:
    drawn = draw_set(tmp_path / "drawn", num_photos=2)
    build_plainly(drawn.config(tmp_path / "plain", object_size=32))
    out = tmp_path / "out"
    out.mkdir()
    config = ViewsConfig(folder=str(tmp_path / "plain"), out=str(out), **asdict(options))
    (out / "views.json").write_text('{"view_saliency": "the digest of another"}')
    with pytest.raises(UserError, match=r"made otherwise .*view_saliency the digest of another there"):
        add_views(config)
