"""Pairs of pictures -> rows and means: beside each metric on its own, in any batch, with all that may be lacking."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pics_common.errors import UserError
from pics_model.metrics.embeddings import cosine
from pics_model.metrics.inception import fit_side
from pics_model.metrics.lpips import lpips_distance, masked_lpips
from pics_model.metrics.measure import Pair, Sets, fid_of, measure, measure_fid, measure_rows
from pics_model.metrics.networks import Networks, load_networks
from pics_model.metrics.pixels import as_pictures, masked_psnr, masked_ssim, psnr, ssim
from pics_model.metrics.score import BETTER
from pics_model.metrics.weights import ALEXNET, INCEPTION
from tests.model.metrics_for_tests import write_all

PIXELS = Networks()
DOCS = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def pairs(num: int = 5, height: int = 40, width: int = 48) -> Iterator[Pair]:
    random = np.random.default_rng(0)
    for i in range(num):
        truth = random.integers(0, 256, (height, width + i, 3), dtype=np.uint8)
        noise = random.integers(-20, 21, truth.shape)
        result = np.clip(truth + noise, 0, 255).astype(np.uint8)
        region = np.zeros(truth.shape[:2], bool)
        region[8:30, 10 : 30 + i] = True
        yield Pair(f"k{i}", result, truth, region, "a b" if i % 2 else "")


def tensors(pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
    result, truth = (torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255 for x in (pair.result, pair.truth))
    return result, truth, torch.from_numpy(pair.region)[None]


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> Networks:
    return load_networks(write_all(tmp_path_factory.mktemp("weights")))


@pytest.fixture(scope="module")
def light(networks) -> Networks:
    """Without FID, whose network takes most of the time."""
    return replace(networks, inception=None, metrics=tuple(name for name in BETTER if name != "fid"))


def test_a_row_has_each_metric_as_it_is_on_its_own(light) -> None:
    networks = light
    measured = measure(pairs(), networks, batch=2)
    assert [row.key for row in measured.rows] == [f"k{i}" for i in range(5)]
    with torch.inference_mode():
        for pair, row in zip(pairs(), measured.rows, strict=True):
            result, truth, region = tensors(pair)
            maps = networks.lpips(result, truth)
            clip, dino = ([part.pictures([x[0]]) for x in (result, truth)] for part in (networks.clip, networks.dino))
            expected = {
                "psnr": psnr(result, truth),
                "ssim": ssim(result, truth),
                "lpips": lpips_distance(maps),
                "mpsnr": masked_psnr(result, truth, region),
                "mssim": masked_ssim(result, truth, region),
                "mlpips": masked_lpips(maps, region),
                "clip": cosine(*clip),
                "dinov2": cosine(*dino),
            }
            if pair.words:
                expected["clip_text"] = cosine(clip[0], networks.clip.words([pair.words]))
            for name, value in expected.items():
                assert row.values[name] == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name
            lacking = {name for name, value in row.values.items() if value is None}
            assert lacking == {"dreamsim"} | ({"clip_text"} if not pair.words else set())
            assert set(row.why) == lacking


def test_no_row_depends_on_its_batch(light) -> None:
    alone, together = (list(measure_rows(pairs(), light, Sets(), batch)) for batch in (1, 5))
    for a, b in zip(alone, together, strict=True):
        assert {k: v is None for k, v in a.values.items()} == {k: v is None for k, v in b.values.items()}
        for name, value in a.values.items():
            assert value is None or value == pytest.approx(b.values[name], rel=1e-4, abs=1e-6), name


def test_means_and_reasons_of_all_metrics_are_told(light) -> None:
    scores = {score.name: score for score in measure(pairs(12), light).scores}
    assert tuple(scores) == light.metrics
    assert scores["psnr"].count == 12
    low, high = scores["psnr"].interval
    assert low < scores["psnr"].value < high
    assert "docs/metrics.md" in scores["dreamsim"].why
    assert scores["clip_text"].why.startswith("6 of 12 left out: no words")


def test_fid_gathers_results_and_truths_apart_and_refuses_small_sets(networks) -> None:
    sets = Sets()
    given = list(pairs(3))
    list(measure_rows(given, networks, sets, batch=2))
    with torch.inference_mode():
        for side, gathered in (("result", sets.results), ("truth", sets.truths)):
            seen = [networks.inception(fit_side(as_pictures(getattr(pair, side)))) for pair in given]
            expected = torch.cat(seen).mean(0)
            close = 1e-4 * float(expected.abs().max())
            torch.testing.assert_close(gathered.mean.float(), expected, rtol=1e-3, atol=close)
            assert gathered.count == 3
    assert measure_fid(Networks(), sets).why == "not asked for"
    score = measure_fid(networks, sets)
    assert (score.value, score.why) == (None, "3 pictures; FID needs at least 2049, for a covariance of full rank")


def test_fid_of_sets_that_are_no_pairs_counts_the_smaller(networks) -> None:
    given = list(pairs(3))
    score = fid_of((pair.result for pair in given[:2]), (pair.truth for pair in given), networks, batch=2)
    assert score.why == "2 pictures; FID needs at least 2049, for a covariance of full rank"
    with pytest.raises(UserError, match=r"truth 0: pictures .*expected values in \[0, 1\]"):
        fid_of([], [torch.full((3, 8, 8), 2.0)], networks)


def test_pairs_are_read_as_they_are_needed() -> None:
    """Constant memory: never more than a batch is ahead of the rows."""
    taken = 0

    def counted() -> Iterator[Pair]:
        nonlocal taken
        for pair in pairs(9):
            taken += 1
            yield pair

    for made, _ in enumerate(measure_rows(counted(), PIXELS, Sets(), batch=3), 1):
        assert taken <= made + 2
        assert not torch.is_inference_mode_enabled(), "whoever takes rows may be training"


def test_identical_pictures_are_said_and_not_averaged() -> None:
    given = list(pairs(4))
    given[1] = Pair("k1", given[1].truth, given[1].truth, given[1].region)
    measured = measure(given, PIXELS)
    row, score = measured.rows[1], measured.scores[0]
    assert row.values["psnr"] is None
    assert "infinite" in row.why["psnr"]
    assert "infinite" in row.why["mpsnr"]
    assert row.values["ssim"] == pytest.approx(1)
    assert score.count == 3
    assert score.why.startswith("1 of 4 left out: the pictures are identical, their PSNR infinite")
    json.dumps([row.values for row in measured.rows], allow_nan=False)


def test_pictures_that_are_identical_in_the_region_alone() -> None:
    pair = next(iter(pairs(1)))
    result = np.where(pair.region[..., None], pair.truth, pair.result)
    row = measure([Pair("k", result, pair.truth, pair.region)], PIXELS).rows[0]
    assert row.values["psnr"] is not None
    assert row.why["mpsnr"] == "within the region the pictures are identical, their PSNR infinite"


@pytest.mark.parametrize(
    ("region", "why"),
    [
        (None, "no region"),
        (np.zeros((40, 48), bool), "the region is empty"),
    ],
)
def test_without_a_region_the_other_metrics_still_run(light, region, why) -> None:
    pair = next(iter(pairs(1)))
    row = measure([Pair("k", pair.result, pair.truth, region)], light).rows[0]
    for name in ("mpsnr", "mssim", "mlpips"):
        assert (row.values[name], row.why[name]) == (None, why)
    assert None not in (row.values["psnr"], row.values["ssim"], row.values["lpips"])


def test_a_region_at_the_border_has_no_window_for_ssim() -> None:
    pair = next(iter(pairs(1)))
    region = np.zeros((40, 48), bool)
    region[:5] = True
    row = measure([Pair("k", pair.result, pair.truth, region)], PIXELS).rows[0]
    assert row.values["mpsnr"] is not None
    assert row.why["mssim"].startswith("the region lies within 5 pixels of the border")


def test_pictures_too_small_for_a_window_or_a_network(light) -> None:
    small = [Pair(pair.key, pair.result[:9, :9], pair.truth[:9, :9], pair.region[:9, :9]) for pair in pairs(1)]
    row = measure(small, light).rows[0]
    assert "smaller than SSIM's window of 11" in row.why["ssim"]
    assert "31 pixels that AlexNet needs" in row.why["mlpips"]
    assert row.values["psnr"] is not None


def test_tensors_and_arrays_give_the_same_rows() -> None:
    arrays = list(pairs(2))
    as_tensors = [Pair(p.key, tensors(p)[0][0], tensors(p)[1], torch.from_numpy(p.region)) for p in arrays]
    assert measure(arrays, PIXELS).rows == measure(as_tensors, PIXELS).rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"result": np.zeros((30, 48, 3), np.uint8)}, "the result is 48 x 30, the truth 48 x 40; expected pictures of"),
        ({"result": np.zeros((40, 48, 3), np.float64)}, "expected uint8"),
        ({"result": np.zeros((2, 40, 48, 3), np.uint8)}, "2 pictures; expected one"),
        ({"result": torch.full((3, 40, 48), -0.5)}, r"expected values in \[0, 1\]"),
        ({"region": np.zeros((40, 40), bool)}, r"expected bool \[40, 48\]"),
        ({"region": np.ones((40, 48), np.float32)}, r"float32 \[40, 48\]; expected bool"),
    ],
)
def test_a_pair_that_cannot_be_is_named(change, message) -> None:
    pair = next(iter(pairs(1)))
    values = {"result": pair.result, "truth": pair.truth, "region": pair.region} | change
    with pytest.raises(UserError, match=f"^sample broken: .*{message}"):
        measure([Pair("broken", **values)], PIXELS)


def test_pictures_of_two_sizes_can_be_compared_by_embeddings(networks) -> None:
    chosen = Networks(metrics=("clip", "dinov2"), clip=networks.clip, dino=networks.dino)
    pair = next(iter(pairs(1)))
    row = measure([Pair("k", pair.result, pair.truth[:30, :30])], chosen).rows[0]
    assert set(row.values) == {"clip", "dinov2"}
    assert all(-1 <= value <= 1 for value in row.values.values())


def test_no_pairs_give_no_numbers() -> None:
    measured = measure([], PIXELS)
    assert measured.rows == []
    assert {score.why for score in measured.scores} == {"no samples"}


def test_the_page_tells_every_metric_and_every_file() -> None:
    page = DOCS.read_text()
    for name in BETTER:
        row = re.search(rf"^\| `{name}` \|.*$", page, re.MULTILINE)
        assert row, name
        assert f"| {BETTER[name]} |" in row[0], name
    for file in (ALEXNET, INCEPTION):
        assert file.name in page
        assert file.url in page
