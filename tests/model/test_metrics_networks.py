"""LPIPS and FID on random weights in the published layouts, beside independent computations."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics.functional.image.lpips as authors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from pics_common.errors import UserError
from pics_model.metrics.frechet import Gaussian, fid_score, frechet_distance
from pics_model.metrics.inception import Inception, average, fit_side, load_inception
from pics_model.metrics.lpips import LEAST_SIDE, alexnet_features, load_lpips, lpips_distance, lpips_map, masked_lpips
from tests.model.metrics_for_tests import (
    ALEXNET_SHAPES,
    random_alexnet,
    random_inception,
    write_all,
    write_inception,
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def lpips(weights):
    return load_lpips(weights)


def pictures(num: int = 2, height: int = 64, width: int = 72, seed: int = 0) -> Tensor:
    return torch.rand(num, 3, height, width, generator=torch.Generator().manual_seed(seed))


# LPIPS


def written_out(x: Tensor, y: Tensor, spatial: bool) -> Tensor:
    """LPIPS by its formula, a convolution at a time, from the files' own tensors."""
    trunk = random_alexnet()
    folder = authors.__file__.removesuffix("lpips.py")
    heads = torch.load(f"{folder}lpips_models/alex.pth", map_location="cpu", weights_only=True)
    mean, std = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    a, b = ((2 * z - 1 - mean[None, :, None, None]) / std[None, :, None, None] for z in (x, y))
    total = 0
    for i, layer in enumerate(ALEXNET_SHAPES):
        if layer in (3, 6):
            a, b = F.max_pool2d(a, 3, 2), F.max_pool2d(b, 3, 2)
        stride, padding = {0: (4, 2), 3: (1, 2)}.get(layer, (1, 1))
        weight, bias = trunk[f"features.{layer}.weight"], trunk[f"features.{layer}.bias"]
        a, b = (F.conv2d(z, weight, bias, stride, padding).clamp(min=0) for z in (a, b))
        lengths = [torch.linalg.vector_norm(z, dim=1, keepdim=True) + 1e-10 for z in (a, b)]
        difference = (a / lengths[0] - b / lengths[1]) ** 2
        map_ = F.conv2d(difference, heads[f"lin{i}.model.1.weight"])
        total = total + (F.interpolate(map_, x.shape[2:], mode="bilinear") if spatial else map_.mean((2, 3)))
    return total[:, 0]


def test_lpips_is_its_formula(lpips) -> None:
    x, y = pictures(), pictures(seed=1)
    maps = lpips(x, y)
    torch.testing.assert_close(lpips_distance(maps), written_out(x, y, spatial=False), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(lpips_map(maps, 64, 72), written_out(x, y, spatial=True), rtol=1e-4, atol=1e-6)


def test_lpips_is_the_authors(lpips, monkeypatch) -> None:
    def trunk(net: str, pretrained: bool = False) -> nn.Sequential:
        features = alexnet_features()
        state = {name.removeprefix("features."): w for name, w in random_alexnet().items() if name[0] == "f"}
        features.load_state_dict(state)
        return features

    monkeypatch.setattr(authors, "_get_tv_model_features", trunk)
    x, y = pictures(), pictures(seed=1)
    for spatial, ours in ((False, lpips_distance(lpips(x, y))), (True, lpips_map(lpips(x, y), 64, 72))):
        theirs = authors._LPIPS(net="alex", spatial=spatial)(x, y, normalize=True)
        torch.testing.assert_close(ours.flatten(), theirs.flatten(), rtol=1e-3, atol=1e-5)


def test_lpips_of_a_region_is_the_mean_of_the_map_there(lpips) -> None:
    x, y = pictures(), pictures(seed=1)
    region = torch.zeros(2, 64, 72, dtype=torch.bool)
    region[0, 3:9, 60:] = region[1, 20:40, 20:40] = True
    maps = lpips(x, y)
    whole = lpips_map(maps, 64, 72)
    expected = [whole[i][region[i]].mean().item() for i in range(2)]
    np.testing.assert_allclose(masked_lpips(maps, region), expected, rtol=1e-5)
    assert masked_lpips(maps, torch.zeros_like(region)).isnan().all()


def test_lpips_of_a_picture_and_itself_is_0_and_it_is_symmetric(lpips) -> None:
    x, y = pictures(), pictures(seed=1)
    assert lpips_distance(lpips(x, x)).eq(0).all()
    torch.testing.assert_close(lpips_distance(lpips(x, y)), lpips_distance(lpips(y, x)))
    assert lpips_distance(lpips(x, y)).gt(0).all()


def test_the_least_side_of_lpips_is_the_least(lpips) -> None:
    assert lpips_distance(lpips(pictures(1, LEAST_SIDE, LEAST_SIDE), pictures(1, LEAST_SIDE, LEAST_SIDE))).isfinite()
    with pytest.raises(RuntimeError, match="too small"):
        lpips(pictures(1, LEAST_SIDE - 1, 64), pictures(1, LEAST_SIDE - 1, 64))


# FID


def gaussian_of(features: Tensor, batch: int = 1000) -> Gaussian:
    gathered = Gaussian(features.shape[1])
    for part in features.split(batch):
        gathered.add(part)
    return gathered


def test_the_distance_of_gaussians_that_commute_is_its_closed_form() -> None:
    random = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=random, dtype=torch.float64))[0]
    a, b = torch.rand(2, 6, generator=random, dtype=torch.float64)
    mean_a, mean_b = torch.randn(2, 6, generator=random, dtype=torch.float64)
    found = frechet_distance(mean_a, turn @ a.diag() @ turn.T, mean_b, turn @ b.diag() @ turn.T)
    assert found == pytest.approx(float((mean_a - mean_b).square().sum() + (a.sqrt() - b.sqrt()).square().sum()))


def test_the_distance_of_any_gaussians_of_two_channels_is_its_closed_form() -> None:
    """For 2 x 2 matrices the trace of the root of M is (tr M + 2 det(M)^(1/2))^(1/2)."""
    random = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 2, 2, generator=random, dtype=torch.float64)
    a, b = first @ first.T, second @ second.T
    root = ((a @ b).trace() + 2 * (a @ b).det().sqrt()).sqrt()
    zero = torch.zeros(2, dtype=torch.float64)
    assert frechet_distance(zero, a, zero, b) == pytest.approx(float(a.trace() + b.trace() - 2 * root))


def test_fid_is_torchmetrics() -> None:
    class Mean(nn.Module):
        num_features = 12

        def forward(self, x: Tensor) -> Tensor:
            return F.adaptive_avg_pool2d(x.double(), 2).flatten(1)

    reference = FrechetInceptionDistance(feature=Mean(), normalize=True, input_img_size=(3, 8, 8))
    reference.set_dtype(torch.float64)
    reals, fakes = pictures(40, 8, 8), pictures(30, 8, 8, seed=1) ** 2
    reference.update(reals, real=True)
    reference.update(fakes, real=False)
    features = [Mean()(x) for x in (fakes, reals)]
    ours = fid_score(*(gaussian_of(part, 7) for part in features))
    assert ours.value == pytest.approx(float(reference.compute()), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.integers(1, 60), st.integers(0, 2**31))
def test_features_in_batches_are_features_at_once(num, batch, seed) -> None:
    features = np.random.default_rng(seed).normal(1000, 1, (num, 4))  # far from zero: sums of squares would cancel
    gathered = gaussian_of(torch.from_numpy(features), batch)
    np.testing.assert_allclose(gathered.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(gathered.covariance, np.cov(features.T), rtol=1e-8, atol=1e-10)
    assert gathered.count == num


def test_fid_of_a_set_and_itself_is_0_and_too_small_sets_are_refused() -> None:
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    whole, small = gaussian_of(features), gaussian_of(features[:4])
    assert fid_score(whole, whole).value == pytest.approx(0, abs=1e-9)
    assert fid_score(whole, gaussian_of(features[:5])).value is not None
    refused = fid_score(whole, small)
    assert (refused.value, refused.count) == (None, 4)
    assert refused.why == "4 pictures; FID needs at least 5, for a covariance of full rank"


# The kernels (height, width) that are not square, by the ends of the published names.
OBLONG = {
    "branch3x3_2a": (1, 3), "branch3x3_2b": (3, 1), "branch3x3dbl_3a": (1, 3), "branch3x3dbl_3b": (3, 1),
    "branch7x7_2": (1, 7), "branch7x7_3": (7, 1),
    "branch7x7dbl_2": (7, 1), "branch7x7dbl_3": (1, 7), "branch7x7dbl_4": (7, 1), "branch7x7dbl_5": (1, 7),
    "branch7x7x3_2": (1, 7), "branch7x7x3_3": (7, 1),
}  # fmt: skip


def test_the_inception_has_the_published_names_and_number_of_weights() -> None:
    names = Inception().state_dict()
    assert names["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)
    assert names["Mixed_6e.branch7x7dbl_5.conv.weight"].shape == (192, 192, 1, 7)
    assert names["Mixed_5d.branch_pool.conv.weight"].shape == (64, 288, 1, 1)
    kernels = {n.split(".")[1]: tuple(w.shape[2:]) for n, w in names.items() if n.endswith(".conv.weight") and "." in n}
    assert {name: kernel for name, kernel in kernels.items() if kernel[0] != kernel[1]} == OBLONG
    assert sum(name.endswith("conv.weight") for name in names) == 94
    # The published count of Inception v3 without its auxiliary head, less the classifier of 1000 classes.
    assert sum(p.numel() for p in Inception().parameters()) == 23_834_568 - 2_049_000


def test_the_inception_reads_its_file_and_gives_a_feature_a_picture(weights) -> None:
    network = load_inception(weights)
    batch = fit_side(pictures(2, 40, 64))
    with torch.inference_mode():
        features = network(batch)
        torch.testing.assert_close(network(batch[1:]), features[1:], rtol=1e-4, atol=1e-5)
    assert features.shape == (2, 2048)
    assert features.std() > 0
    assert not network.training


def inception_written_out(state: dict[str, Tensor], pictures: Tensor) -> Tensor:
    """FID's network from its weights alone: what follows what is spelled out, kernels and padding are by the shapes."""

    def conv(x: Tensor, name: str, stride: int = 1, pad: bool = True) -> Tensor:
        weight = state[f"{name}.conv.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=[k // 2 for k in weight.shape[2:]] if pad else 0)
        mean, var, gain, bias = (
            state[f"{name}.bn.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.relu((x - mean) / (var + 1e-3).sqrt() * gain + bias)

    def chain(x: Tensor, name: str, *parts: str) -> Tensor:
        for part in parts:
            x = conv(x, f"{name}.{part}")
        return x

    def mean_of_real(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, 1, 1) / F.avg_pool2d(torch.ones_like(x), 3, 1, 1)

    x = conv(2 * pictures - 1, "Conv2d_1a_3x3", 2, pad=False)
    x = conv(conv(x, "Conv2d_2a_3x3", pad=False), "Conv2d_2b_3x3")
    x = conv(conv(F.max_pool2d(x, 3, 2), "Conv2d_3b_1x1"), "Conv2d_4a_3x3", pad=False)
    x = F.max_pool2d(x, 3, 2)
    for m in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        five = chain(x, m, "branch5x5_1", "branch5x5_2")
        three = chain(x, m, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        x = torch.cat([chain(x, m, "branch1x1"), five, three, chain(mean_of_real(x), m, "branch_pool")], 1)
    three = conv(chain(x, "Mixed_6a", "branch3x3dbl_1", "branch3x3dbl_2"), "Mixed_6a.branch3x3dbl_3", 2, pad=False)
    x = torch.cat([conv(x, "Mixed_6a.branch3x3", 2, pad=False), three, F.max_pool2d(x, 3, 2)], 1)
    for m in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        seven = chain(x, m, *(f"branch7x7_{i}" for i in (1, 2, 3)))
        double = chain(x, m, *(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)))
        x = torch.cat([chain(x, m, "branch1x1"), seven, double, chain(mean_of_real(x), m, "branch_pool")], 1)
    three = conv(conv(x, "Mixed_7a.branch3x3_1"), "Mixed_7a.branch3x3_2", 2, pad=False)
    seven = chain(x, "Mixed_7a", *(f"branch7x7x3_{i}" for i in (1, 2, 3)))
    x = torch.cat([three, conv(seven, "Mixed_7a.branch7x7x3_4", 2, pad=False), F.max_pool2d(x, 3, 2)], 1)
    for m, pool in (("Mixed_7b", mean_of_real), ("Mixed_7c", lambda x: F.max_pool2d(x, 3, 1, 1))):
        one, pooled = chain(x, m, "branch1x1"), chain(pool(x), m, "branch_pool")
        three, double = chain(x, m, "branch3x3_1"), chain(x, m, "branch3x3dbl_1", "branch3x3dbl_2")
        forks = [chain(three, m, "branch3x3_2a"), chain(three, m, "branch3x3_2b")]
        forks += [chain(double, m, "branch3x3dbl_3a"), chain(double, m, "branch3x3dbl_3b")]
        x = torch.cat([one, *forks, pooled], 1)
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def test_the_inception_is_what_its_weights_say_written_out(weights) -> None:
    batch = fit_side(pictures(1, 40, 64))
    with torch.inference_mode():
        expected = inception_written_out(random_inception(), batch)
        features = load_inception(weights)(batch)
    assert expected.std() > 1e-3
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_averages_of_the_inception_leave_the_padding_out() -> None:
    assert average(torch.ones(1, 1, 4, 4)).eq(1).all()


def test_torchvisions_own_inception_is_refused(tmp_path) -> None:
    write_inception(tmp_path, classes=1000)
    with pytest.raises(UserError, match="Inception of 1000 classes; expected FID's own, of 1008"):
        load_inception(tmp_path)
