"""CLIP and DINOv2 of random weights, beside transformers' own models and preprocessing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BitImageProcessorPil, CLIPImageProcessorPil, CLIPModel, Dinov2Model

from pics_model.metrics.embeddings import cosine, load_clip, load_dino, resize_and_crop
from tests.model.metrics_for_tests import (
    write_all,
    write_dino,
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("weights"))


def as_bytes(picture: Tensor) -> np.ndarray:
    return (picture * 255).round().byte().permute(1, 2, 0).numpy()


def of_bytes(picture: Tensor) -> Tensor:
    return torch.from_numpy(as_bytes(picture)).permute(2, 0, 1) / 255


def smooth(height: int, width: int) -> Tensor:
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(height, width), mode="bicubic", antialias=True)[0].clamp(0, 1)


@pytest.mark.parametrize("size", [(40, 64), (64, 40), (32, 32), (20, 33)])
def test_pictures_are_prepared_as_transformers_prepares_them(size) -> None:
    picture = of_bytes(smooth(*size))
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28})
    expected = processor(as_bytes(picture), return_tensors="pt", do_normalize=False).pixel_values
    torch.testing.assert_close(resize_and_crop(picture, 32, 28), expected, rtol=0, atol=3 / 255)


def test_clip_embeds_as_transformers_does(weights) -> None:
    clip, model = load_clip(weights / "clip"), CLIPModel.from_pretrained(weights / "clip")
    batch = [of_bytes(smooth(40, 64)), of_bytes(smooth(32, 32))]
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pixels = torch.cat([processor(as_bytes(x), return_tensors="pt").pixel_values for x in batch])
    words = clip.tokenizer(["a b", "x y z"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        whole = model(pixel_values=pixels, **words)
        torch.testing.assert_close(clip.pictures(batch)[:1], whole.image_embeds[:1], rtol=0, atol=0.02)
        # The second is of the tower's size, and no rounding of resized bytes is between the two.
        torch.testing.assert_close(clip.pictures(batch)[1:], whole.image_embeds[1:], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(clip.words(["a b", "x y z"]), whole.text_embeds, rtol=1e-4, atol=1e-5)
        assert clip.words(["a " * 50]).isfinite().all(), "longer than the tower reads"


@pytest.mark.parametrize(
    ("trained", "size", "closeness"),
    [
        (224, (256, 256), 1e-5),
        (224, (40, 64), 0.01),  # the other resizes bytes
        (56, (256, 256), 0.02),  # the other resamples the position table a little differently from DINOv2's authors
    ],
)
def test_dino_embeds_the_class_token(tmp_path, trained, size, closeness) -> None:
    write_dino(tmp_path, side=trained)
    batch = [of_bytes(smooth(*size))]
    processor = BitImageProcessorPil(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    pixels = processor(as_bytes(batch[0]), return_tensors="pt").pixel_values
    with torch.inference_mode():
        token = Dinov2Model.from_pretrained(tmp_path)(pixels).pooler_output
        ours = load_dino(tmp_path).pictures(batch)
    assert cosine(ours, F.normalize(token, dim=1)).item() > 1 - closeness
    assert ours.norm(dim=1).item() == pytest.approx(1, abs=1e-5)
