"""SAM: equal to transformers' own processor and a plain call of the model; drawn objects are found in their place."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from transformers import Sam2Model, SamModel, SamProcessor
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from pics_common.errors import UserError
from pics_data.predict import check_predictor, load_predictor
from pics_data.predict.regions import Box, clean, clipped, grid_points
from pics_data.predict.sam import BOX_MARGIN, PROMPTS_AT_ONCE, PhotoSettings, SamPredictor, load
from pics_data.predict.weights import weights_digest
from tests.data.checkpoints_for_tests import bright_sam, random_sam, random_sam2

SIZES = [(90, 160), (160, 90), (300, 301), (40, 33), (5, 400)]  # height, width


pytestmark = pytest.mark.usefixtures("same_threads_for_later_tests")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sam")
    return {
        "random": random_sam(root / "random"),
        "bright": bright_sam(root / "bright"),
        "sam2": random_sam2(root / "sam2"),
    }


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours, so that resizing is no matter of luck."""
    small = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def random_boxes(count: int, height: int, width: int) -> list[Box]:
    rng = np.random.default_rng(count)
    boxes = []
    for _ in range(count):
        x, y = rng.uniform(0, width * 0.7), rng.uniform(0, height * 0.7)
        boxes.append((x, y, rng.uniform(width * 0.1, width - x), rng.uniform(height * 0.1, height - y)))
    return boxes


def truth(folder: Path, rgb: np.ndarray, **prompts: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """transformers' way: masks [N, M, H, W] bool at the photo's size, scores [N, M], logits [N, M, h, w]."""
    processor = SamProcessor(SamImageProcessorPil.from_pretrained(folder))
    inputs = processor(images=rgb, return_tensors="pt", **prompts).to(torch.float32)
    sizes = {name: inputs.pop(name) for name in ("original_sizes", "reshaped_input_sizes")}
    with torch.inference_mode():
        output = SamModel.from_pretrained(folder).eval()(**inputs, multimask_output=True)
    masks = processor.post_process_masks(output.pred_masks, **sizes)
    return masks[0].numpy(), output.iou_scores[0].numpy(), output.pred_masks[0].numpy()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_model_sees_what_transformers_would_show_it(folders: dict[str, Path], height: int, width: int) -> None:
    predictor = load(str(folders["random"]), "cpu", 1)
    rgb = photo(height, width)
    inputs = SamImageProcessorPil.from_pretrained(folders["random"])(rgb, return_tensors="pt")
    encoded = predictor.encode(rgb)
    assert encoded.inner == tuple(inputs["reshaped_input_sizes"][0])
    expected = predictor.model.get_image_embeddings(inputs["pixel_values"].float())
    torch.testing.assert_close(encoded.embeddings, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_masks_of_boxes_equal_transformers_own(folders: dict[str, Path], height: int, width: int) -> None:
    rgb, boxes = photo(height, width), random_boxes(5, height, width)
    corners = [[x, y, x + w, y + h] for x, y, w, h in boxes]
    masks, scores, _ = truth(folders["random"], rgb, input_boxes=[corners])
    predicted = list(load_predictor("sam", str(folders["random"])).masks_of_boxes(rgb, boxes))
    assert len(predicted) == len(boxes)
    for box, mask, options, score in zip(boxes, predicted, masks, scores, strict=True):
        expected = clean(clipped(options[score.argmax()], box, BOX_MARGIN))
        assert mask.shape == (height, width)
        assert np.count_nonzero(mask != expected) <= 1e-3 * mask.size


def test_each_prompt_reaches_its_own_place(folders: dict[str, Path]) -> None:
    """The comparison above can tell boxes apart: other boxes, in the same order, get other logits."""
    predictor, rgb = load(str(folders["random"]), "cpu", 1), photo(90, 160)
    encoded = predictor.encode(rgb)
    corners = np.array([[10.0, 10.0, 60.0, 50.0], [80.0, 20.0, 150.0, 80.0]])
    both, _ = predictor.decode(encoded, boxes=corners)
    for i in (0, 1):
        alone, _ = predictor.decode(encoded, boxes=corners[i : i + 1])
        torch.testing.assert_close(alone[0], both[i], atol=1e-4, rtol=1e-4)
    assert (both[0] - both[1]).abs().mean() > 0.1


def test_more_boxes_than_one_forward_takes_keep_their_order(folders: dict[str, Path]) -> None:
    predictor, rgb = load(str(folders["random"]), "cpu", 1), photo(90, 160)
    boxes = random_boxes(PROMPTS_AT_ONCE + 3, 90, 160)
    many = list(predictor.masks_of_boxes(rgb, boxes))
    assert len(many) == len(boxes)
    for i in (0, PROMPTS_AT_ONCE - 1, PROMPTS_AT_ONCE, PROMPTS_AT_ONCE + 2):
        alone = next(iter(predictor.masks_of_boxes(rgb, [boxes[i]])))
        assert np.count_nonzero(alone != many[i]) <= 1e-3 * alone.size


def test_no_box_costs_nothing(folders: dict[str, Path]) -> None:
    predictor = load_predictor("sam", str(folders["random"]))
    assert list(predictor.masks_of_boxes(np.zeros((1, 1, 0), np.uint8), [])) == []


def test_objects_of_a_photo_are_the_best_distinct_masks_of_the_grid(folders: dict[str, Path]) -> None:
    """Brute force from transformers' masks of all points: thresholds, then suppression by IoU, one by one."""
    settings = PhotoSettings(4, min_score=0.0, min_stability=0.7, stability_offset=0.2, max_iou=0.6, min_share=0.05)
    rgb = photo(128, 96)
    found = list(load(str(folders["random"]), "cpu", 1, settings).masks_of_photo(rgb))
    points = [[[point] for point in grid_points(4, 96, 128).tolist()]]
    masks, scores, logits = truth(folders["random"], rgb, input_points=points)
    masks, scores = masks.reshape(-1, 128, 96), scores.ravel()
    logits = logits.reshape(-1, 32, 32)[:, :, :24]  # the rest shows padding
    kept: list[int] = []
    for i in sorted(range(len(masks)), key=lambda i: (-scores[i], i)):
        low = logits[i] > 0
        stable = (logits[i] > 0.2).sum() / max(1, (logits[i] > -0.2).sum())
        overlaps = [(low & (logits[k] > 0)).sum() / (low | (logits[k] > 0)).sum() for k in kept]
        if scores[i] >= 0 and stable >= 0.7 and 0.05 <= low.mean() <= 0.9 and max(overlaps, default=0) <= 0.6:
            kept.append(i)
    assert len(kept) >= 3
    assert [score for _, score in found] == pytest.approx([min(1.0, scores[i]) for i in kept], abs=1e-4)
    for (mask, _), i in zip(found, kept, strict=True):
        assert np.count_nonzero(clean(masks[i]) != mask) <= 2e-3 * mask.size


@pytest.mark.parametrize("limit", [{"min_score": 99.0}, {"min_stability": 1.1}, {"max_share": 0.0}, {"max_objects": 0}])
def test_each_limit_of_the_grid_has_an_effect(folders: dict[str, Path], limit: dict[str, Any]) -> None:
    settings = PhotoSettings(points_per_side=2, **{"min_score": -9.0, "min_stability": 0.0, **limit})
    assert list(load(str(folders["random"]), "cpu", 1, settings).masks_of_photo(photo(128, 96))) == []


def drawn(height: int, width: int, *ellipses: tuple[int, int, int, int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Bright ellipses (centre x, y, half axes) on dark, and their silhouettes."""
    rgb = np.full((height, width, 3), 25, np.uint8)
    silhouettes = []
    for x, y, a, b in ellipses:
        mask = cv2.ellipse(np.zeros((height, width), np.uint8), (x, y), (a, b), 0, 0, 360, 1, -1)
        rgb[mask > 0] = (235, 245, 240)
        silhouettes.append(mask > 0)
    return rgb, silhouettes


def box_of(mask: np.ndarray) -> Box:
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    return (x, y, w, h)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """How far, in pixels, the outline of one mask is from the other's at most (Hausdorff)."""

    def outline(mask: np.ndarray) -> np.ndarray:
        return (mask & ~cv2.erode(mask.view(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)).astype(np.uint8)

    a, b = outline(a), outline(b)
    return max(float(cv2.distanceTransform(1 - q, cv2.DIST_L2, 5)[p > 0].max()) for p, q in ((a, b), (b, a)))


@pytest.mark.parametrize(("height", "width"), [(90, 128), (128, 70), (100, 100)])
def test_drawn_ellipses_are_found_within_two_pixels(folders: dict[str, Path], height: int, width: int) -> None:
    """The model sees patches of 4 x 4 of its 256 pixels, that is 2 of a photo of 128."""
    ellipses = [(width // 3, height // 3, 18, 12), (2 * width // 3, 3 * height // 4, 13, 16)]
    rgb, silhouettes = drawn(height, width, *ellipses)
    predicted = load_predictor("sam", str(folders["bright"])).masks_of_boxes(rgb, [box_of(s) for s in silhouettes])
    for mask, silhouette in zip(predicted, silhouettes, strict=True):
        assert distance(mask, silhouette) <= 2.0


def test_a_mask_does_not_leave_its_enlarged_box(folders: dict[str, Path]) -> None:
    rgb, (silhouette,) = drawn(100, 128, (64, 50, 40, 30))
    box = (50.0, 40.0, 20.0, 20.0)
    mask = next(iter(load_predictor("sam", str(folders["bright"])).masks_of_boxes(rgb, [box])))
    assert np.array_equal(mask, clipped(silhouette, box, BOX_MARGIN))


def test_a_box_with_nothing_in_it_gets_an_empty_mask(folders: dict[str, Path]) -> None:
    rgb, _ = drawn(100, 128, (30, 30, 10, 10))
    mask = next(iter(load_predictor("sam", str(folders["bright"])).masks_of_boxes(rgb, [(80.0, 60.0, 30.0, 30.0)])))
    assert mask.shape == (100, 128)
    assert not mask.any()


@pytest.mark.parametrize(
    ("ellipse", "is_found"), [((60, 50, 25, 20), True), ((60, 50, 2, 1), False), ((64, 50, 150, 150), False)]
)
def test_an_object_is_found_without_annotation_unless_it_is_tiny_or_the_whole_photo(
    folders: dict[str, Path], ellipse: tuple[int, int, int, int], is_found: bool
) -> None:
    rgb, (silhouette,) = drawn(100, 128, ellipse)
    found = list(load(str(folders["bright"]), "cpu", 1, PhotoSettings(points_per_side=3)).masks_of_photo(rgb))
    # All points give the same mask three times: one is left of them, with the best score.
    assert len(found) == is_found
    if is_found:
        assert distance(found[0][0], silhouette) <= 2.0
        assert found[0][1] == pytest.approx(0.94)


def test_a_photo_gets_the_same_masks_whatever_came_before(folders: dict[str, Path]) -> None:
    boxes = random_boxes(3, 90, 160)
    predictor: SamPredictor = load(str(folders["random"]), "cpu", 1)
    first = list(predictor.masks_of_boxes(photo(90, 160), boxes))
    list(predictor.masks_of_boxes(photo(50, 50, seed=1), random_boxes(7, 50, 50)))
    for other in (predictor, load(str(folders["random"]), "cpu", 1)):
        assert all(map(np.array_equal, first, other.masks_of_boxes(photo(90, 160), boxes)))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_sam2_equals_a_plain_call_of_its_model(folders: dict[str, Path], height: int, width: int) -> None:
    """SAM 2 sees the photo stretched to a square; its own processor needs torchvision, so this is done by hand."""
    rgb, boxes = photo(height, width), random_boxes(4, height, width)
    model = Sam2Model.from_pretrained(folders["sam2"]).eval()
    pixels = torch.from_numpy(rgb).permute(2, 0, 1)[None].float()
    pixels = torch.nn.functional.interpolate(pixels, (128, 128), mode="bilinear", antialias=True).round() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (pixels - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes])
    corners = corners * torch.tensor([128 / width, 128 / height, 128 / width, 128 / height])
    with torch.inference_mode():
        output = model(pixel_values=pixels, input_boxes=corners[None].float(), multimask_output=True)
    logits = torch.nn.functional.interpolate(output.pred_masks[0], (height, width), mode="bilinear")
    predicted = load_predictor("sam", str(folders["sam2"])).masks_of_boxes(rgb, boxes)
    for i, mask in enumerate(predicted):
        best = (logits[i, output.iou_scores[0, i].argmax()] > 0).numpy()
        # Pillow rounds the resized picture in two steps, which some of a random network's edges feel.
        assert np.count_nonzero(mask != clean(clipped(best, boxes[i], BOX_MARGIN))) <= 0.02 * mask.size


def test_torchvision_is_not_needed(folders: dict[str, Path]) -> None:
    list(load_predictor("sam", str(folders["sam2"])).masks_of_photo(photo(50, 50)))
    assert "torchvision" not in sys.modules


def test_heavy_packages_are_imported_only_when_used() -> None:
    heavy = ("torch", "transformers", "onnxruntime", "rembg", "ray")
    program = f"import sys, pics_data.predict.stage; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("kind", "weights", "words"),
    [
        ("sam", "facebook/sam-vit-base", "torch and transformers are not installed"),
        ("rembg", "u2net.onnx", "onnxruntime is not installed"),
        ("rembg", "u2net", "rembg and onnxruntime are not installed"),
    ],
)
def test_missing_packages_are_named(tmp_path: Path, kind: str, weights: str, words: str) -> None:
    """In a Python whose packages are this one's but for those."""
    for path in Path(np.__file__).parents[1].iterdir():
        if path.name not in ("torch", "transformers", "onnxruntime", "rembg"):
            (tmp_path / path.name).symlink_to(path)
    program = f"from pics_data.predict import load_predictor as load; load({kind!r}, {weights!r})"
    places = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, env=places)
    assert f"UserError: --masks {kind}: {words}; pip install 'pics-compositing[masks]'" in done.stderr


def copy_without(source: Path, target: Path, *names: str) -> Path:
    target.mkdir()
    for path in source.iterdir():
        if path.name not in names:
            (target / path.name).write_bytes(path.read_bytes())
    return target


def test_the_digest_of_weights_tells_contents_and_not_places(folders: dict[str, Path], tmp_path: Path) -> None:
    digest = weights_digest("sam", str(folders["random"]))
    folder = copy_without(folders["random"], tmp_path / "elsewhere")
    assert weights_digest("sam", str(folder)) == digest
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.5, 0.5, 0.5]}))
    assert weights_digest("sam", str(folder)) != digest
    assert weights_digest("sam", str(folders["sam2"])) != digest


@pytest.mark.parametrize("weights", ["", "no/such/folder", "pics-compositing-no-such-owner/no-such-model", "nothing"])
def test_missing_weights_name_both_ways(weights: str) -> None:
    for ask in (check_predictor, load_predictor):
        with pytest.raises(UserError) as error:
            ask("sam", weights)
        for words in ("--mask-weights", "config.json, preprocessor_config.json and model.safetensors"):
            assert words in str(error.value)
        assert "hub id such as facebook/sam-vit-base" in str(error.value)
        assert "\n" not in str(error.value)


def refusal(folder: Path, kind: Any = "sam") -> str:
    with pytest.raises(UserError) as error:
        load_predictor(kind, str(folder))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_says_which(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = copy_without(folders["random"], tmp_path / "sam", name)
    assert f"no {name}" in refusal(folder)


def test_a_pickle_is_refused_and_converting_it_is_explained(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_without(folders["random"], tmp_path / "sam", "model.safetensors")
    model = SamModel.from_pretrained(folders["random"])
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    message = refusal(folder)
    assert "pytorch_model.bin is a pickle" in message
    # The line that it gives does what it says.
    exec(message[message.index("from transformers") :], {})
    load_predictor("sam", str(folder))
    assert "is a pickle" in refusal(folder / "pytorch_model.bin")


def test_weights_that_are_not_all_there_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """transformers would fill the gap with random numbers."""
    from safetensors.torch import load_file, save_file

    folder = copy_without(folders["random"], tmp_path / "sam")
    tensors = load_file(folder / "model.safetensors")
    del tensors["mask_decoder.upscale_conv1.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert "1 weights are missing, such as mask_decoder.upscale_conv1.weight" in refusal(folder)


def test_weights_cut_off_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_without(folders["random"], tmp_path / "sam")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert "cannot be loaded" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("config.json", {"model_type": "dinov2"}, "model_type dinov2; expected sam, sam2, sam2_video"),
        ("preprocessor_config.json", {"image_std": [1, 2]}, "image_std"),
        ("preprocessor_config.json", {"image_std": [1, 0, 1]}, "image_std"),
        ("config.json", None, "config.json: cannot be read"),
    ],
)
def test_settings_of_no_use_are_refused(
    folders: dict[str, Path], tmp_path: Path, name: str, change: dict[str, Any] | None, words: str
) -> None:
    folder = copy_without(folders["random"], tmp_path / "sam")
    values = json.loads((folder / name).read_text())
    (folder / name).write_text("{" if change is None else json.dumps({**values, **change}))
    assert words in refusal(folder)


def test_real_photos_pass(folders: dict[str, Path], shared_data: Path) -> None:
    settings = PhotoSettings(points_per_side=4, min_score=-9.0, min_stability=0.0)
    predictor = load(str(folders["random"]), "cpu", 1, settings)
    for path in sorted((shared_data / "coco_mini").rglob("*.jpg"))[:3]:
        rgb = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        height, width = rgb.shape[:2]
        for mask in predictor.masks_of_boxes(rgb, random_boxes(3, height, width)):
            assert mask.shape == (height, width)
        assert all(mask.shape == (height, width) for mask, _ in predictor.masks_of_photo(rgb))
