"""Weights that are missing are named; those that are damaged, or of another model, are an error and run nothing."""

import hashlib
from importlib.util import find_spec

import pytest
import torch

from pics_common.errors import UserError
from pics_model.metrics.embeddings import load_clip, load_dino, load_dreamsim
from pics_model.metrics.lpips import load_lpips
from pics_model.metrics.networks import load_networks
from pics_model.metrics.score import BETTER
from pics_model.metrics.weights import ALEXNET, INCEPTION, MissingWeightsError, WeightsFile, origin
from tests.model.metrics_for_tests import (
    random_alexnet,
    write_alexnet,
    write_all,
    write_clip,
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("weights"))


def test_missing_weights_are_named_with_where_they_are_from(tmp_path) -> None:
    networks = load_networks(tmp_path)
    assert set(networks.missing) == {"lpips", "mlpips", "fid", "clip", "clip_text", "dinov2", "dreamsim"}
    assert ALEXNET.name in networks.missing["mlpips"]
    assert ALEXNET.url in networks.missing["mlpips"]
    assert INCEPTION.url in networks.missing["fid"]
    assert "clip-vit" in networks.missing["clip"]
    assert "facebook/dinov2" in networks.missing["dinov2"]
    assert networks.metrics == tuple(BETTER)


def test_without_a_folder_of_weights_the_option_is_named() -> None:
    assert all("--weights" in why for why in load_networks(None).missing.values())


def test_an_id_of_the_hub_that_cannot_be_fetched_is_missing_and_no_error(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    networks = load_networks(None, clip="nobody/clip", dino="nobody/dino", metrics=["psnr", "clip", "dinov2"])
    assert "nobody/clip" in networks.missing["clip"]
    assert "nobody/dino" in networks.missing["dinov2"]


def test_networks_that_are_here_are_loaded_and_only_those_asked_for(weights) -> None:
    networks = load_networks(weights, metrics=["lpips", "dinov2"])
    assert networks.lpips is not None
    assert networks.dino is not None
    assert networks.clip is None
    assert networks.missing == {}


@pytest.mark.skipif(find_spec("dreamsim") is not None, reason="dreamsim is installed")
def test_dreamsim_is_missing_without_its_folder_or_its_package(tmp_path) -> None:
    with pytest.raises(MissingWeightsError, match=r"dreamsim is not there; .* see docs/metrics\.md"):
        load_dreamsim(tmp_path, "cpu")
    (tmp_path / "dreamsim").mkdir()
    with pytest.raises(MissingWeightsError, match="pip install dreamsim"):
        load_dreamsim(tmp_path, "cpu")


def test_weights_that_are_not_the_published_ones_are_said(tmp_path, weights) -> None:
    networks = load_networks(weights, metrics=["lpips", "fid", "clip"])
    for name, file in (("lpips", ALEXNET), ("fid", INCEPTION)):
        assert networks.origins[name].startswith(f"{weights / file.name}, not the published file (its SHA-256 begins")
    assert networks.origins["clip"] == str(weights / "clip")
    path = tmp_path / "weights"
    path.write_bytes(b"published")
    published = WeightsFile(f"net-{hashlib.sha256(b'published').hexdigest()[:8]}.pth", "")
    assert origin(path, published) == str(path)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown 'pnsr'; expected some of psnr, ssim"):
        load_networks(None, metrics=["pnsr"])


class Evil:
    """Runs when unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("code of a file of weights ran",))


@pytest.mark.parametrize("content", ["cut", "text", "code", "list", "lacking", "shape"])
def test_damaged_weights_are_an_error_and_run_nothing(tmp_path, content) -> None:
    path = write_alexnet(tmp_path) / ALEXNET.name
    state = random_alexnet()
    if content == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif content == "text":
        path.write_text("<html>not found</html>")
    elif content == "lacking":
        del state["features.6.bias"]
    elif content == "shape":
        state["features.0.weight"] = torch.zeros(64, 3, 7, 7)
    if content in ("code", "list", "lacking", "shape"):
        torch.save({"code": {"a": Evil()}, "list": [1, 2]}.get(content, state), path)
    with pytest.raises(UserError, match=f"weights .*{ALEXNET.name}.*fetch it again"):
        load_lpips(tmp_path)


def test_a_folder_of_another_model_is_an_error(weights) -> None:
    with pytest.raises(UserError, match=r"config\.json is of model_type 'dinov2'; expected clip"):
        load_clip(weights / "dinov2")
    with pytest.raises(UserError, match=r"config\.json is of model_type 'clip'; expected dinov2"):
        load_dino(weights / "clip")


@pytest.mark.parametrize("lacking", [["vocab.json", "merges.txt"], ["config.json"], ["model.safetensors"]])
def test_a_clip_that_lacks_a_file_is_an_error(tmp_path, lacking) -> None:
    write_clip(tmp_path)
    for name in lacking:
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"CLIP {tmp_path}.*expected"):
        load_clip(tmp_path)


def test_a_clip_that_is_cut_short_is_an_error(tmp_path) -> None:
    path = write_clip(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=f"CLIP {tmp_path}: cannot be loaded"):
        load_clip(tmp_path)


@pytest.mark.parametrize("load", [load_clip, load_dino])
def test_a_damaged_folder_is_an_error(tmp_path, load) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=str(tmp_path)):
        load(tmp_path)
