"""Saliency networks: what is drawn is found where it was drawn, and a file gives what rembg makes of it."""

import importlib.util
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
import pytest

from pics_common.errors import UserError
from pics_common.saliency import LAYOUTS, REMOTE_SESSIONS, SESSIONS, U2NET, layout_of, to_pixels, to_saliency
from pics_data.predict import check_predictor, load_predictor
from pics_data.predict.regions import clipped
from pics_data.predict.weights import weights_digest
from tests.data.checkpoints_for_tests import bright_onnx

DARK, BRIGHT = 25, (235, 255, 240)
has_rembg = importlib.util.find_spec("rembg") is not None


@pytest.fixture(scope="module")
def u2net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_onnx(tmp_path_factory.mktemp("onnx") / "u2net.onnx")


def drawn(height: int, width: int, *ellipses: tuple[int, int, int, int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Bright ellipses (centre x, y, half axes) on dark, and their silhouettes."""
    rgb = np.full((height, width, 3), DARK, np.uint8)
    silhouettes = []
    for x, y, a, b in ellipses:
        mask = cv2.ellipse(np.zeros((height, width), np.uint8), (x, y), (a, b), 0, 0, 360, 1, -1)
        rgb[mask > 0] = BRIGHT
        silhouettes.append(mask > 0)
    return rgb, silhouettes


def box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    return x, y, w, h


def near(mask: np.ndarray, silhouette: np.ndarray, pixels: int) -> bool:
    """Whether the mask lies between the silhouette made smaller and larger by so many pixels."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    inner, outer = cv2.erode(silhouette.view(np.uint8), disc), cv2.dilate(silhouette.view(np.uint8), disc)
    return bool(mask[inner > 0].all() and not mask[outer == 0].any())


@pytest.mark.parametrize(("height", "width"), [(300, 420), (500, 310), (64, 90)])
def test_drawn_ellipses_are_found_within_two_pixels(u2net: Path, height: int, width: int) -> None:
    ellipses = [
        (width // 3, height // 3, width // 7, height // 9),
        (2 * width // 3, 3 * height // 4, width // 9, height // 11),
    ]
    rgb, silhouettes = drawn(height, width, *ellipses)
    predictor = load_predictor("rembg", str(u2net))
    boxes = [box_of(silhouette) for silhouette in silhouettes]
    for mask, silhouette, box in zip(predictor.masks_of_boxes(rgb, boxes), silhouettes, boxes, strict=True):
        assert near(mask, silhouette, 2)
        assert np.array_equal(mask, clipped(mask, box, 0.0))
    found = sorted((mask for mask, _ in predictor.masks_of_photo(rgb)), key=np.count_nonzero, reverse=True)
    assert len(found) == 2
    for mask, silhouette in zip(found, silhouettes, strict=True):
        assert near(mask, silhouette, 2)


def test_scores_are_mean_saliency_and_come_best_first(u2net: Path) -> None:
    rgb, (_, dim) = drawn(320, 320, (80, 80, 40, 40), (230, 230, 40, 40))
    rgb[dim] = 150  # sigmoid(40 * (150 / 255 - 0.5)) = 0.97
    scores = [score for _, score in load_predictor("rembg", str(u2net)).masks_of_photo(rgb)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1, abs=0.01)
    assert scores[1] == pytest.approx(0.97, abs=0.02)


def test_parts_that_are_tiny_or_the_whole_photo_are_no_objects(u2net: Path) -> None:
    predictor = load_predictor("rembg", str(u2net))
    for ellipse in ((160, 160, 9, 9), (160, 160, 400, 400)):
        rgb, _ = drawn(320, 320, ellipse)
        assert list(predictor.masks_of_photo(rgb)) == []


def test_a_neighbour_beside_the_box_does_not_enter_it(u2net: Path) -> None:
    rgb, silhouettes = drawn(200, 300, (100, 100, 30, 30), (165, 100, 30, 30))
    masks = load_predictor("rembg", str(u2net)).masks_of_boxes(rgb, [box_of(s) for s in silhouettes])
    for mask, silhouette in zip(masks, silhouettes, strict=True):
        assert near(mask, silhouette, 2)


def test_small_and_fractional_boxes_get_masks_of_the_photos_size(u2net: Path) -> None:
    rgb, _ = drawn(50, 40, (20, 20, 10, 10))
    boxes = [(20.4, 20.4, 0.2, 0.2), (0.0, 0.0, 40.0, 50.0), (39.5, 49.5, 0.5, 0.5)]
    masks = list(load_predictor("rembg", str(u2net)).masks_of_boxes(rgb, boxes))
    assert [mask.shape for mask in masks] == [(50, 40)] * 3
    assert masks[0].sum() <= 1
    assert masks[2].sum() <= 1


def test_a_constant_answer_is_no_noise(tmp_path: Path) -> None:
    """rembg divides by its range, 0. As it stands it says 0.5 everywhere: background, by a hair."""
    predictor = load_predictor("rembg", str(bright_onnx(tmp_path / "u2net.onnx", gain=0.0)))
    rgb, _ = drawn(100, 100, (50, 50, 20, 20))
    assert not next(iter(predictor.masks_of_boxes(rgb, [(30.0, 30.0, 40.0, 40.0)]))).any()
    assert list(predictor.masks_of_photo(rgb)) == []


@pytest.mark.parametrize("value", [0.0, 0.2, 0.9, 1.0, float("nan")])
def test_an_answer_without_range_is_taken_as_it_is(value: float) -> None:
    saliency = to_saliency(np.full((8, 8), value, np.float32), (20, 30), U2NET)
    assert saliency.shape == (20, 30)
    assert np.all(saliency == int(255 * np.nan_to_num(value)))


def test_a_black_photo_is_no_division_by_zero(u2net: Path) -> None:
    assert np.isfinite(to_pixels(np.zeros((9, 9, 3), np.uint8), (32, 32), U2NET)).all()
    assert list(load_predictor("rembg", str(u2net)).masks_of_photo(np.zeros((40, 40, 3), np.uint8))) == []


def test_networks_that_answer_with_logits_and_open_sizes_work(tmp_path: Path) -> None:
    rgb, (silhouette,) = drawn(300, 400, (200, 150, 60, 40))
    for name, options in (("birefnet-general.onnx", {"side": 64, "logits": True}), ("isnet.onnx", {"side": "side"})):
        predictor = load_predictor("rembg", str(bright_onnx(tmp_path / name, **options)))
        (found,) = list(predictor.masks_of_photo(rgb))
        assert near(found[0], silhouette, 400 // 64 + 1 if options["side"] == 64 else 2)


def test_pixels_are_scaled_by_the_brightest_of_them() -> None:
    rgb = np.array([[[10, 20, 30], [40, 50, 100]]], np.uint8)
    pixels = to_pixels(rgb, (1, 2), U2NET)
    assert pixels.shape == (1, 3, 1, 2)
    assert pixels[0, :, 0, 1] == pytest.approx([(0.4 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (1.0 - 0.406) / 0.225])


def test_logits_become_probabilities_before_they_are_stretched() -> None:
    answer = np.array([[-2.0, 1.0], [2.0, -2.0]], np.float32)
    middle = (1 / (1 + np.exp(-1.0)) - 1 / (1 + np.exp(2.0))) / (1 / (1 + np.exp(-2.0)) - 1 / (1 + np.exp(2.0)))
    assert to_saliency(answer, (2, 2), LAYOUTS["birefnet"]).tolist() == [[0, int(255 * middle)], [255, 0]]
    assert to_saliency(answer, (2, 2), U2NET).tolist() == [[0, int(255 * 0.75)], [255, 0]]


def test_the_layout_is_known_by_the_files_name() -> None:
    assert layout_of("U2net_human_seg.onnx") == layout_of("mine.onnx") == layout_of("silueta.onnx") == U2NET
    assert layout_of("isnet-anime.onnx") == LAYOUTS["isnet-anime"] != layout_of("isnet-general-use.onnx")
    assert layout_of("BiRefNet-general.onnx").logits
    assert layout_of("bria-rmbg.onnx").side == 1024


def test_photos_and_calls_do_not_depend_on_each_other(u2net: Path) -> None:
    rgb, (silhouette, _) = drawn(200, 300, (100, 100, 30, 30), (200, 100, 30, 30))
    predictor = load_predictor("rembg", str(u2net))
    first = list(predictor.masks_of_boxes(rgb, [box_of(silhouette)]))
    list(predictor.masks_of_photo(drawn(90, 80, (30, 30, 20, 20))[0]))
    again = list(load_predictor("rembg", str(u2net)).masks_of_boxes(rgb, [box_of(silhouette)]))
    assert np.array_equal(first, again)
    assert np.array_equal(first, list(predictor.masks_of_boxes(rgb, [box_of(silhouette)])))


def test_a_file_may_be_a_url(u2net: Path) -> None:
    fsspec.filesystem("memory").pipe_file("/weights/u2net.onnx", u2net.read_bytes())
    rgb, (silhouette,) = drawn(100, 100, (50, 50, 20, 20))
    ((mask, _),) = list(load_predictor("rembg", "memory://weights/u2net.onnx").masks_of_photo(rgb))
    assert near(mask, silhouette, 2)
    assert weights_digest("rembg", "memory://weights/u2net.onnx") == weights_digest("rembg", str(u2net))


def refusal(weights: str) -> str:
    with pytest.raises(UserError) as error:
        load_predictor("rembg", weights)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("weights", ["", "no/such/u2net.onnx", "no-such-session"])
def test_missing_weights_name_both_ways(weights: str) -> None:
    message = refusal(weights)
    for words in ("--mask-weights", "an ONNX file such as u2net.onnx", "the name of a rembg session such as u2net"):
        assert words in message
    with pytest.raises(UserError):
        check_predictor("rembg", weights)


@pytest.mark.parametrize("name", REMOTE_SESSIONS)
def test_sessions_that_send_photos_away_are_refused_by_name(name: str) -> None:
    assert f"{name}: this session sends every photo to a remote service" in refusal(name)


@pytest.mark.parametrize("name", ["u2net.pth", "weights/model.ckpt"])
def test_a_pickle_is_refused_and_exporting_it_is_explained(name: str) -> None:
    assert "a pickle, which is never loaded; export the network once with torch.onnx.export" in refusal(name)


def test_a_file_that_is_no_network_of_this_kind_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"<html>404</html>")
    assert "no ONNX file that can be run" in refusal(str(broken))

    shapes: dict[str, Any] = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"}
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "other", [shapes["x"]], [shapes["y"]])
    other = tmp_path / "other.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), other)
    assert "input [1, 4], output [1, 4]; expected 1 x 3 x S x S -> 1 x 1 x S x S" in refusal(str(other))


@pytest.mark.skipif(has_rembg, reason="rembg is installed")
def test_a_session_without_rembg_says_what_to_install() -> None:
    assert "rembg is not installed; pip install 'pics-compositing[masks]'" in refusal("u2net")


@pytest.mark.skipif(not has_rembg, reason="rembg is not installed")
@pytest.mark.parametrize(
    ("name", "side", "logits"),
    [("u2net", 320, False), ("isnet-general-use", 1024, False), ("birefnet-general", 1024, True)],
)
def test_a_file_gives_what_rembgs_session_of_its_name_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, side: int, logits: bool
) -> None:
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    path = bright_onnx(tmp_path / f"{name}.onnx", side, logits, gain=6.0)
    small = np.random.default_rng(0).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    rgb = cv2.resize(small, (300, 200), interpolation=cv2.INTER_CUBIC)
    by_file, by_name = load_predictor("rembg", str(path)), load_predictor("rembg", name)
    difference = by_file.saliency(rgb).astype(int) - by_name.saliency(rgb)  # type: ignore[attr-defined]
    assert np.abs(difference).max() <= 1
    box = (50.0, 40.0, 120.0, 100.0)
    for a, b in zip(by_file.masks_of_boxes(rgb, [box]), by_name.masks_of_boxes(rgb, [box]), strict=True):
        assert np.count_nonzero(a != b) <= 1e-3 * a.size


@pytest.mark.skipif(not has_rembg, reason="rembg is not installed")
def test_the_names_are_rembgs_own() -> None:
    from rembg.sessions import sessions

    assert set(SESSIONS) | set(REMOTE_SESSIONS) <= set(sessions)
    assert {name for name, session in sessions.items() if not session.is_local()} == set(REMOTE_SESSIONS)


def test_real_photos_pass(u2net: Path, shared_data: Path) -> None:
    predictor = load_predictor("rembg", str(u2net))
    for path in sorted((shared_data / "coco_mini").rglob("*.jpg"))[:3]:
        rgb = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        height, width = rgb.shape[:2]
        masks = [next(iter(predictor.masks_of_boxes(rgb, [(5.5, 5.5, width / 2, height / 2)])))]
        masks += [mask for mask, _ in predictor.masks_of_photo(rgb)]
        assert all(mask.shape == (height, width) for mask in masks)
