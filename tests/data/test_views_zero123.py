"""Zero-1-to-3: equal to the steps written out by hand; cameras, batches and pictures as promised; bad folders."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModelWithProjection

from pics_common.errors import UserError
from pics_data.records import RejectError
from pics_data.views import Cutout, Picture, ViewCamera, draw_cameras, zero123
from pics_data.views.zero123.generate import RADIUS, noise_of, pose_of
from pics_data.views.zero123.network import Condition, Network, decode, denoise, encode
from pics_data.views.zero123.network import load as load_network
from pics_data.views.zero123.picture import SIDE, VISIBLE, cut_out, frame, resample, unframe
from pics_data.views.zero123.weights import find_weights
from tests.data.zero123_for_tests import PROJECTIONS, WIDTH, Layout, hub_of, random_zero123

LAYOUTS: tuple[Layout, ...] = ("kxic", "bennyguo")


pytestmark = pytest.mark.usefixtures("same_threads_for_later_tests")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("zero123")
    return {layout: random_zero123(root / layout, layout) for layout in LAYOUTS}


@pytest.fixture(scope="module")
def network(folders: dict[str, Path]) -> Network:
    return load_network(find_weights(str(folders["kxic"])), "cpu", 1)


def ellipse(size: int, half_axes: tuple[float, float], centre: tuple[float, float] | None = None) -> Picture:
    """A two-coloured ellipse with smooth edges: each pixel's alpha is the covered share of 8 x 8 points in it."""
    x0, y0 = centre or (size / 2, size / 2)
    at = (np.arange(size * 8) + 0.5) / 8
    inside = ((at - x0) / half_axes[0]) ** 2 + ((at[:, None] - y0) / half_axes[1]) ** 2 <= 1
    rgba = np.empty((size, size, 4), np.uint8)
    rgba[..., :3] = (200, 60, 30)
    rgba[: int(y0), :, :3] = (40, 80, 170)
    rgba[..., 3] = np.rint(255 * inside.reshape(size, 8, size, 8).mean(axis=(1, 3)))
    return rgba


def on(colour: int, rgba: Picture) -> np.ndarray:
    """A picture over one shade of grey, [n, n, 3] float."""
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + colour * (1 - alpha)


def objects(count: int) -> list[Cutout]:
    return [Cutout(f"key{i}", i % 2, ellipse(60 + 10 * i, (20 + 3 * i, 15))) for i in range(count)]


def middle(rgb: np.ndarray) -> np.ndarray:
    """A saliency that always finds a disc: what is left to compare are colours, smooth in what the network says."""
    return ellipse(rgb.shape[0], (90, 90))[..., 3]


def made(folder: Path, cutouts: Sequence[Cutout], cameras: Sequence[Sequence[ViewCamera]], **settings: Any) -> Any:
    load = zero123.load(str(folder), **{"num_steps": 2, "saliency": middle, **settings})
    return list(load(cutouts, cameras))


# The network


def written_out(
    folder: Path, rgb: np.ndarray, camera: ViewCamera, noise: np.ndarray, num_steps: int, scale: float
) -> np.ndarray:
    """One view, step by step as the paper and its code have them; diffusers for single networks only."""
    pixels = torch.from_numpy(rgb / 127.5 - 1).float().permute(2, 0, 1)[None]
    clip = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder").eval()
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    tensors = load_file(folder / "cc_projection/diffusion_pytorch_model.safetensors")
    mean, std = torch.tensor([0.4815, 0.4578, 0.4082]), torch.tensor([0.2686, 0.2613, 0.2758])
    small = torch.nn.functional.interpolate(pixels, (224, 224), mode="bicubic", align_corners=True) / 2 + 0.5
    turn = math.radians(camera.azimuth)
    change = [math.radians(-camera.elevation), math.sin(turn), math.cos(turn), RADIUS * (camera.distance - 1)]
    with torch.no_grad():
        embedding = clip((small - mean.view(3, 1, 1)) / std.view(3, 1, 1)).image_embeds[0]
        joined = torch.cat([embedding, torch.tensor(change)])
        token = tensors["projection.weight"] @ joined + tensors["projection.bias"]
        latent = vae.encode(pixels).latent_dist.mean
        # A quarter of the noise's variance at the first of 1000 steps, nearly all at the last: the square roots of the
        # betas lie evenly.
        signal = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
        x = torch.from_numpy(noise)[None]
        for step in range(num_steps):
            now = (num_steps - 1 - step) * (1000 // num_steps) + 1
            before = now - 1000 // num_steps
            seen = torch.cat([x, latent], 1)
            answer = unet(seen, now, token.view(1, 1, -1)).sample
            if scale != 1:
                blind = torch.cat([x, torch.zeros_like(latent)], 1)
                nothing = unet(blind, now, torch.zeros(1, 1, WIDTH)).sample
                answer = nothing + scale * (answer - nothing)
            a, b = signal[now], signal[max(before, 0)]
            clean = (x - (1 - a).sqrt() * answer) / a.sqrt()
            x = b.sqrt() * clean + (1 - b).sqrt() * answer
        return vae.decode(x / vae.config.scaling_factor).sample[0].clamp(-1, 1).numpy()


@pytest.mark.parametrize(("num_steps", "scale"), [(1, 1.0), (1, 3.0), (3, 3.0), (2, 1.0), (2, 0.0)])
def test_a_view_equals_its_steps_written_out(
    folders: dict[str, Path], network: Network, num_steps: int, scale: float
) -> None:
    framed = frame(ellipse(80, (30, 18)))
    camera = ViewCamera(100.0, 20.0, 1.1)
    noise = np.random.default_rng(0).standard_normal((4, 32, 32), dtype=np.float32)
    condition = encode(network, torch.from_numpy(framed.rgb.copy()).permute(2, 0, 1)[None] / 127.5 - 1)
    latents = denoise(
        network, condition, torch.tensor([pose_of(camera)]), torch.from_numpy(noise)[None], num_steps, scale
    )
    expected = written_out(folders["kxic"], framed.rgb, camera, noise, num_steps, scale)
    np.testing.assert_allclose(decode(network, latents)[0], expected, atol=2e-3)
    assert expected.std() > 0.1


def test_clip_sees_the_cutout_as_in_training(folders: dict[str, Path], network: Network) -> None:
    """Fine detail, where filters differ: bicubic by hand, Keys' kernel of -0.75, corners on corners."""
    rgb = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.float64)
    at = np.linspace(0, SIDE - 1, 224)
    matrix = np.zeros((224, SIDE))
    for tap in range(-1, 3):
        x = np.abs(at - np.floor(at) - tap)
        near = (-0.75 + 2) * x**3 - (-0.75 + 3) * x**2 + 1
        far = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
        columns = np.clip(np.floor(at).astype(int) + tap, 0, SIDE - 1)
        np.add.at(matrix, (np.arange(224), columns), np.where(x <= 1, near, np.where(x < 2, far, 0)))
    small = np.stack([matrix @ rgb[..., c] @ matrix.T for c in range(3)]) / 255
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    pixels = (small - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)
    clip = CLIPVisionModelWithProjection.from_pretrained(folders["kxic"] / "image_encoder").eval()
    with torch.no_grad():
        expected = clip(torch.from_numpy(pixels[None]).float()).image_embeds
    found = encode(network, torch.from_numpy(rgb).float().permute(2, 0, 1)[None] / 127.5 - 1).embedding
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def eight(network: Network) -> tuple[Condition, torch.Tensor, torch.Tensor]:
    pictures = torch.rand(2, 3, SIDE, SIDE, generator=torch.manual_seed(0)) * 2 - 1
    known = encode(network, pictures)
    which = [0, 1, 0, 1, 1, 0, 0, 1]
    condition = Condition(known.embedding[which], known.latent[which])
    poses = torch.tensor([pose_of(ViewCamera(45.0 * i, 5.0 * i)) for i in range(8)])
    return condition, poses, torch.randn(8, 4, 32, 32)


def test_a_batch_of_eight_equals_eight_batches_of_one(network: Network) -> None:
    condition, poses, noise = eight(network)
    together = decode(network, denoise(network, condition, poses, noise, 3, 3.0))
    for i in range(8):
        alone = Condition(condition.embedding[i : i + 1], condition.latent[i : i + 1])
        single = denoise(network, alone, poses[i : i + 1], noise[i : i + 1], 3, 3.0)
        torch.testing.assert_close(decode(network, single)[0], together[i], atol=1e-4, rtol=0)


@pytest.mark.parametrize("part", ["embedding", "latent", "azimuth", "elevation", "distance"])
def test_all_that_a_view_is_told_reaches_the_network(network: Network, part: str) -> None:
    condition, _, noise = eight(network)
    first = Condition(condition.embedding[:1], condition.latent[:1])
    camera = ViewCamera(40.0, 10.0, 1.0)
    other, moved = first, camera
    match part:
        case "embedding":
            other = Condition(condition.embedding[1:2], first.latent)
        case "latent":
            other = Condition(first.embedding, condition.latent[1:2])
        case _:
            moved = ViewCamera(**{"azimuth": 40.0, "elevation": 10.0, part: {"distance": 1.2}.get(part, 80.0)})
    pictures = [
        decode(network, denoise(network, known, torch.tensor([pose_of(at)]), noise[:1], 2, 1.0))
        for known, at in ((first, camera), (first, camera), (other, moved))
    ]
    torch.testing.assert_close(pictures[0], pictures[1], atol=0, rtol=0)
    assert float((pictures[0] - pictures[2]).abs().max()) > 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_half_precision_on_a_gpu_gives_nearly_the_same(folders: dict[str, Path]) -> None:
    cutouts, cameras = objects(2), [draw_cameras(3, (i,)) for i in range(2)]
    slow, fast = (made(folders["kxic"], cutouts, cameras, device=device) for device in ("cpu", "cuda"))
    difference = np.abs(np.array(slow[0]).astype(int) - np.array(fast[0])).mean()
    assert difference < 2


# Cameras and noise


@settings(deadline=None)
@given(
    st.floats(0, 360),
    st.floats(-60, 60),
    st.floats(1.5, 2.2),
    st.floats(0, 360),
    st.floats(-25, 25),
    st.floats(0.8, 1.3),
)
def test_poses_are_the_changes_between_two_cameras_in_space(
    start: float, height: float, radius: float, azimuth: float, climb: float, distance: float
) -> None:
    """Cameras as points, z upwards, that look at the origin; to the right is what the first camera sees there."""

    def position(turn: float, up: float, far: float) -> np.ndarray:
        turn, up = math.radians(turn), math.radians(up)
        return far * np.array([math.cos(up) * math.cos(turn), math.cos(up) * math.sin(turn), math.sin(up)])

    first = position(start, height, radius)
    right = np.cross(-first, [0, 0, 1])
    assert right @ position(start + 1, height, radius) > 0
    second = position(start + azimuth, height + climb, radius + RADIUS * (distance - 1))
    polar = [math.acos(camera[2] / np.linalg.norm(camera)) for camera in (first, second)]
    turned = math.atan2(second[1], second[0]) - math.atan2(first[1], first[0])
    nearer = np.linalg.norm(second) - np.linalg.norm(first)
    expected = [polar[1] - polar[0], math.sin(turned), math.cos(turned), nearer]
    np.testing.assert_allclose(pose_of(ViewCamera(azimuth, climb, distance)), expected, atol=1e-6)


def test_every_view_of_every_object_has_noise_of_its_own() -> None:
    rgba = ellipse(16, (5, 5))
    cutouts = [Cutout(key, index, rgba) for key in ("a", "b") for index in (0, 1)]
    shape = (4, 32, 32)
    draws = [noise_of(cutout, view, seed, shape) for cutout in cutouts for view in (0, 1) for seed in (0, 1)]
    close = np.corrcoef([draw.ravel() for draw in draws]) - np.eye(len(draws))
    assert np.abs(close).max() < 0.1
    assert all(abs(draw.mean()) < 0.1 and abs(draw.std() - 1) < 0.05 for draw in draws)
    np.testing.assert_array_equal(draws[0], noise_of(Cutout("a", 0, ellipse(9, (3, 3))), 0, 0, shape))


# Many objects


def assert_same(found: Any, expected: Any) -> None:
    """Alike up to the last bit of a colour."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert [picture.shape for picture in a] == [picture.shape for picture in b]
        assert all(np.abs(p.astype(int) - q).max() <= 1 for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_views_do_not_depend_on_the_batch(folders: dict[str, Path], batch: int) -> None:
    cutouts = objects(4)
    cameras = [draw_cameras(count, (count,)) for count in (3, 0, 2, 4)]
    found = made(folders["kxic"], cutouts, cameras, batch=batch)
    assert [len(views) for views in found] == [3, 0, 2, 4]
    for cutout, views in zip(cutouts, found, strict=True):
        assert all(view.shape == cutout.rgba.shape and view.dtype == np.uint8 for view in views)
    assert_same(found, made(folders["kxic"], cutouts, cameras, batch=8))


def test_views_do_not_depend_on_the_order_of_objects(folders: dict[str, Path]) -> None:
    cutouts, cameras = objects(3), [draw_cameras(2, (i,)) for i in range(3)]
    backwards = made(folders["kxic"], cutouts[::-1], cameras[::-1], batch=4)
    assert_same(backwards[::-1], made(folders["kxic"], cutouts, cameras, batch=4))


def test_another_camera_seed_or_guidance_gives_another_view(folders: dict[str, Path]) -> None:
    cutouts = objects(1)

    def view(camera: ViewCamera, **settings: Any) -> np.ndarray:
        return made(folders["kxic"], cutouts, [[camera]], **settings)[0][0].astype(int)

    first = view(ViewCamera(40.0, 10.0))
    np.testing.assert_array_equal(first, view(ViewCamera(40.0, 10.0)))
    for other in (
        view(ViewCamera(140.0, 10.0)),
        view(ViewCamera(40.0, 10.0), seed=1),
        view(ViewCamera(40.0, 10.0), guidance_scale=1.0),
        view(ViewCamera(40.0, 10.0), num_steps=3),
    ):
        assert np.abs(first - other).max() > 1


def test_an_empty_cutout_is_rejected_and_its_neighbours_are_not(folders: dict[str, Path]) -> None:
    good, cameras = objects(2), draw_cameras(3, (0,))
    haze = np.full((40, 40, 4), VISIBLE - 1, np.uint8)
    empty = [Cutout("none", 0, np.zeros((30, 30, 4), np.uint8)), Cutout("haze", 0, haze)]
    found = made(folders["kxic"], [empty[0], good[0], empty[1], good[1]], [cameras] * 4, batch=2)
    assert [error.reason for error in (found[0], found[2])] == ["empty cut-out"] * 2
    assert_same([found[1], found[3]], made(folders["kxic"], good, [cameras] * 2))


def test_a_view_without_an_object_rejects_its_object_alone(folders: dict[str, Path]) -> None:
    calls: list[int] = []

    def fourth_is_empty(rgb: np.ndarray) -> np.ndarray:
        calls.append(0)
        return np.zeros(rgb.shape[:2], np.uint8) if len(calls) == 4 else middle(rgb)

    cameras = draw_cameras(2, (0,))
    found = made(folders["kxic"], objects(3), [cameras] * 3, saliency=fourth_is_empty)
    assert isinstance(found[1], RejectError)
    assert (found[1].reason, found[1].detail) == ("empty view", "view 2 of 2")
    assert [len(found[i]) for i in (0, 2)] == [2, 2]


def test_objects_are_handed_out_as_soon_as_they_are_done(folders: dict[str, Path]) -> None:
    """A long list of cut-outs is not held in memory: here the third is only looked at after the first came out."""
    looked_at: list[int] = []

    class Watched(list[Cutout]):
        def __iter__(self) -> Iterator[Cutout]:
            for i in range(len(self)):
                looked_at.append(i)
                yield self[i]

    generator = zero123.load(str(folders["kxic"]), num_steps=1, batch=2, saliency=middle)
    next(generator(Watched(objects(3)), [draw_cameras(2, (0,))] * 3))
    assert looked_at == [0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_saliency_an_object_is_found_on_white(folders: dict[str, Path], layout: Layout) -> None:
    """Random blobs on a white that the decoder was given; what is background is what `cut_out` calls so."""
    views = made(folders[layout], objects(2), [draw_cameras(2, (0,))] * 2, saliency=None)
    for view in (view for of_object in views for view in of_object):
        assert 0.05 < (view[..., 3] > 127).mean() < 0.95


# Pictures


@settings(deadline=None)
@given(st.integers(12, 300), st.floats(0.1, 0.45), st.floats(0.1, 0.45), st.floats(-0.04, 0.04), st.floats(-0.04, 0.04))
def test_an_object_is_framed_as_published_and_comes_back_in_its_place(
    size: int, a: float, b: float, dx: float, dy: float
) -> None:
    rgba = ellipse(size, (a * size, b * size), (size * (0.5 + dx), size * (0.5 + dy)))
    framed = frame(rgba)
    shown = np.argwhere((framed.rgb < 255 - 40).any(axis=2))
    extent = shown.max(axis=0) - shown.min(axis=0) + 1
    pixel = 200 / (2 * max(a, b) * size)  # of the cut-out, in those of the picture
    assert max(extent) == pytest.approx(200, abs=2 + 2 * pixel)
    assert np.abs((shown.max(axis=0) + shown.min(axis=0) + 1) / 2 - SIDE / 2).max() <= 1 + pixel
    back = unframe(resample(rgba, framed.window, SIDE), framed)
    assert back.shape == rgba.shape
    assert np.abs(back[..., 3].astype(int) - rgba[..., 3]).mean() < 255 * 0.6 / size + 1.5
    if size >= 64:
        solid = (back[..., 3] == 255) & (rgba[..., 3] == 255)
        assert np.abs(back.astype(int) - rgba)[solid].mean() < 8


def test_what_is_transparent_lends_no_colour(folders: dict[str, Path]) -> None:
    rgba = ellipse(90, (30, 20))
    rgba[rgba[..., 3] == 0, :3] = (255, 0, 255)
    np.testing.assert_array_equal(frame(rgba).rgb, frame(ellipse(90, (30, 20))).rgb)


@settings(deadline=None)
@given(st.integers(-30, 30), st.integers(-30, 30), st.integers(1, 60))
def test_a_window_of_whole_pixels_is_a_slice(left: int, top: int, side: int) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (24, 24, 4), dtype=np.uint8)
    rgba[..., 3] = 255
    around = np.pad(rgba, ((100, 100), (100, 100), (0, 0)))
    expected = around[100 + top : 100 + top + side, 100 + left : 100 + left + side]
    np.testing.assert_array_equal(resample(rgba, (left, top, side), side), expected)


def test_a_tiny_object_takes_no_more_memory_than_a_large_one() -> None:
    """The window of its view in the cut-out is 16,000 pixels a side."""
    rgba = np.zeros((1000, 1000, 4), np.uint8)
    rgba[400:403, 500:502] = 255
    framed = frame(rgba)
    back = unframe(resample(rgba, framed.window, SIDE), framed)
    assert back[..., 3].astype(int).sum() == pytest.approx(6 * 255, rel=0.05)
    y, x = np.argwhere(back[..., 3] > 127).mean(axis=0)
    assert (y, x) == (401, 500.5)


@pytest.mark.parametrize(("half_axes", "margin"), [((120, 30), 1.0), ((40, 125), 1.1), ((110, 110), 1.4)])
def test_a_view_that_has_outgrown_the_cutout_is_not_cut_off(half_axes: tuple[int, int], margin: float) -> None:
    size = 100
    framed = frame(ellipse(size, (size / margin / 2, size / margin / 4)))
    view = ellipse(SIDE, half_axes)
    area = (view[..., 3] / 255).sum()
    back = unframe(view, framed)
    assert back.shape == (size, size, 4)
    scale = min(size / margin / 200, size / 2 / max(half_axes))
    assert (back[..., 3] / 255).sum() == pytest.approx(area * scale**2, rel=0.02)


SHAPES = [((90.0, 60.0), None), ((12.0, 95.0), None), ((60.0, 60.0), (100.0, 150.0)), ((5.0, 40.0), None)]


@pytest.mark.parametrize(("half_axes", "centre"), SHAPES)
def test_a_shape_on_white_is_cut_out_again(half_axes: tuple[float, float], centre: tuple[float, float] | None) -> None:
    truth = ellipse(SIDE, half_axes, centre)
    picture = np.rint(on(255, truth)).astype(np.uint8)
    found = cut_out(picture)
    error = np.abs(found[..., 3].astype(int) - truth[..., 3])
    edge = np.count_nonzero((truth[..., 3] > 0) & (truth[..., 3] < 255))
    assert error.sum() < 12 * edge
    assert error.max() < 60
    # It is the same picture on white, and without white edges on black.
    assert np.abs(on(255, found) - picture).max() <= 16
    assert np.abs(on(0, found) - on(0, truth)).max() < 60


def test_noise_and_specks_of_the_background_are_no_object() -> None:
    truth = ellipse(SIDE, (80, 50))
    rng = np.random.default_rng(0)
    picture = np.clip(on(255, truth) + rng.normal(0, 2.5, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    picture[20:23, 30:33] = 90
    found = cut_out(picture)[..., 3]
    assert np.abs(found.astype(int) - truth[..., 3]).mean() < 0.5
    assert not found[:40].any()


def test_white_within_an_object_is_the_objects() -> None:
    picture = np.full((SIDE, SIDE, 3), 255, np.uint8)
    cv2.circle(picture, (128, 128), 90, (60, 90, 40), -1)
    cv2.circle(picture, (140, 120), 30, (255, 255, 255), -1)
    cv2.rectangle(picture, (110, 0), (120, 60), (10, 10, 10), -1)  # an object may touch the border
    found = cut_out(picture)
    assert tuple(found[120, 140]) == (255, 255, 255, 255)
    assert found[1, 115, 3] == 255
    assert not found[[5, 250], [5, 250], 3].any()


def test_background_does_not_leak_in_through_corners() -> None:
    """A slanted outline of one pixel, whose pixels touch at corners only."""
    picture = np.full((SIDE, SIDE, 3), 255, np.uint8)
    rows, columns = np.indices((SIDE, SIDE)) - 128
    picture[np.abs(rows) + np.abs(columns) == 60] = 0
    found = cut_out(picture)
    assert tuple(found[128, 128]) == (255, 255, 255, 255)
    assert not found[100, 60, 3]


def test_saliency_takes_the_place_of_white() -> None:
    """A white object, which nothing else finds."""
    picture = np.full((SIDE, SIDE, 3), 255, np.uint8)
    with pytest.raises(RejectError, match="empty view"):
        cut_out(picture)
    np.testing.assert_array_equal(cut_out(picture, middle)[..., 3], middle(picture))
    with pytest.raises(RejectError, match="view without background"):
        cut_out(np.full((SIDE, SIDE, 3), 90, np.uint8))


# Weights


def refusal(folder: object, **settings: Any) -> str:
    with pytest.raises(UserError) as error:
        zero123.load(str(folder), **settings)
    message = str(error.value)
    assert "\n" not in message
    assert "--view-weights" in message
    return message


@pytest.fixture(params=LAYOUTS)
def copy(folders: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder to spoil, of each layout."""
    return Path(shutil.copytree(folders[request.param], tmp_path / request.param))


def projection_of(folder: Path) -> Path:
    return folder / PROJECTIONS[folder.name][0] / "diffusion_pytorch_model.safetensors"


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_both_layouts_of_the_same_weights_give_the_same_views(folders: dict[str, Path]) -> None:
    """And the code that stands in both is not run: it would end this process."""
    cutouts, cameras = objects(2), [draw_cameras(2, (i,)) for i in range(2)]
    assert_same(*(made(folders[layout], cutouts, cameras) for layout in LAYOUTS))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_of_half_precision_alone_is_read(tmp_path: Path, folders: dict[str, Path], layout: Layout) -> None:
    half = random_zero123(tmp_path / layout, layout, variant="fp16")
    cutouts, cameras = objects(1), [draw_cameras(2, (0,))]
    assert_same(made(half, cutouts, cameras), made(folders[layout], cutouts, cameras))


def test_folders_of_older_versions_are_read(copy: Path, folders: dict[str, Path]) -> None:
    """Other names in the autoencoder's attention, a buffer of CLIP's that is none any more, schedules that clip."""
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    path = copy / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    for name in [name for name in tensors if "attentions" in name]:
        for new, old in older.items():
            if new in name:
                tensors[name.replace(new, old)] = tensors.pop(name)
                break
    save_file(tensors, path, {"format": "pt"})
    path = copy / "image_encoder/model.safetensors"
    tensors = load_file(path)
    tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(tensors, path, {"format": "pt"})
    change(copy / "scheduler/scheduler_config.json", clip_sample=True, steps_offset=0, skip_prk_steps=True)
    change(copy / "unet/config.json", upcast_attention=None, use_linear_projection=None, _diffusers_version="0.18.2")
    cutouts, cameras = objects(1), [draw_cameras(2, (0,))]
    assert_same(made(copy, cutouts, cameras), made(folders[copy.name], cutouts, cameras))


def test_weights_in_several_files_are_read(copy: Path, folders: dict[str, Path]) -> None:
    unet = UNet2DConditionModel.from_pretrained(copy / "unet")
    (copy / "unet/diffusion_pytorch_model.safetensors").unlink()
    unet.save_pretrained(copy / "unet", max_shard_size="60KB")
    assert len(list((copy / "unet").glob("*-of-*.safetensors"))) > 2
    cutouts, cameras = objects(1), [draw_cameras(2, (0,))]
    assert_same(made(copy, cutouts, cameras), made(folders[copy.name], cutouts, cameras))
    digest = zero123.weights_digest(str(copy))
    last = max((copy / "unet").glob("*-of-*.safetensors"))
    save_file({name: tensor + 1 for name, tensor in load_file(last).items()}, last, {"format": "pt"})
    assert zero123.weights_digest(str(copy)) != digest


@pytest.mark.parametrize("part", ["unet", "vae", "image_encoder", "projection", "scheduler", "model_index.json"])
def test_a_folder_that_lacks_a_part_says_which(copy: Path, part: str) -> None:
    path = copy / (PROJECTIONS[copy.name][0] if part == "projection" else part)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    message = refusal(copy)
    if part == "projection":
        assert "expected either cc_projection or clip_camera_projection among its folders" in message
        assert "found image_encoder, scheduler, unet, vae" in message
    else:
        assert part in message
        assert "no " in message


@pytest.mark.parametrize("part", ["unet", "vae", "image_encoder", "projection"])
def test_weights_cut_off_name_their_file(copy: Path, part: str) -> None:
    names = {"unet": "unet/diffusion_pytorch_model", "vae": "vae/diffusion_pytorch_model"}
    path = projection_of(copy)
    if part != "projection":
        path = copy / f"{names.get(part, 'image_encoder/model')}.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    message = refusal(copy)
    assert str(path) in message
    assert "cannot be" in message


@pytest.mark.parametrize(("part", "name"), [("unet", "conv_in.weight"), ("image_encoder", "visual_projection.weight")])
def test_weights_that_are_not_all_there_are_refused(copy: Path, part: str, name: str) -> None:
    """The libraries would go on with random numbers."""
    path = next((copy / part).glob("*.safetensors"))
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path, {"format": "pt"})
    assert f"1 weights are missing, such as {name}" in refusal(copy)


@pytest.mark.parametrize(
    ("file", "key", "value", "words"),
    [
        ("unet/config.json", "in_channels", 4, "in_channels is 4; expected 8, a noisy latent and the cut-out's"),
        ("unet/config.json", "out_channels", 8, "out_channels is 8; expected 4"),
        ("unet/config.json", "cross_attention_dim", 1024, "cross_attention_dim is 1024; expected 12"),
        ("vae/config.json", "latent_channels", 16, "latent_channels is 16; expected 4"),
        ("image_encoder/config.json", "projection_dim", None, "projection_dim is None; expected a width"),
        ("unet/config.json", "norm_num_groups", 7, "cannot be loaded"),
        ("unet/config.json", "down_block_types", ["NoBlock"], "cannot be loaded"),
        ("scheduler/scheduler_config.json", "beta_schedule", "none", "no schedule that DDIM can run"),
        ("model_index.json", "unet", ["diffusers", "UNet3DConditionModel"], "expected UNet2DConditionModel"),
    ],
)
def test_parts_of_another_size_or_kind_name_the_file(copy: Path, file: str, key: str, value: Any, words: str) -> None:
    change(copy / file, **{key: value})
    message = refusal(copy)
    assert words in message
    assert file.split("/")[0] in message


@pytest.mark.parametrize("name", ["unet/config.json", "model_index.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_a_damaged_configuration_names_the_file(copy: Path, name: str, text: str) -> None:
    (copy / name).write_text(text)
    assert str(copy / name) in refusal(copy)


@pytest.mark.parametrize("shape", [(12, 12), (12, 16 + 14), (16, 12)])
def test_a_projection_of_another_width_is_refused(copy: Path, shape: tuple[int, int]) -> None:
    """The second is the one with six degrees of freedom."""
    layer = PROJECTIONS[copy.name][3]
    save_file({f"{layer}.weight": torch.zeros(shape), f"{layer}.bias": torch.zeros(12)}, projection_of(copy))
    message = refusal(copy)
    assert f"{layer}.weight {list(shape)}; expected {layer}.bias [12] and {layer}.weight [12, 16]" in message
    assert str(projection_of(copy)) in message


def test_a_projection_with_other_names_is_refused(copy: Path) -> None:
    save_file({"linear.weight": torch.zeros(12, 16)}, projection_of(copy))
    assert "holds linear.weight [12, 16]; expected" in refusal(copy)


def test_both_projections_at_once_are_refused(copy: Path) -> None:
    for name in ("cc_projection", "clip_camera_projection"):
        (copy / name).mkdir(exist_ok=True)
    assert "expected either cc_projection or clip_camera_projection" in refusal(copy)


def test_pickles_alone_are_refused_and_converting_them_is_explained(copy: Path) -> None:
    expected = made(copy, objects(1), [draw_cameras(1, (0,))])
    for path in copy.glob("*/*.safetensors"):
        stem = "pytorch_model" if path.stem == "model" else path.stem
        torch.save(load_file(path), path.with_name(f"{stem}.bin"))
        path.unlink()
    message = refusal(copy)
    assert "unet/diffusion_pytorch_model.bin is a pickle, which is never loaded" in message
    assert "weights_only=True" in message
    # The line that it gives does what it says.
    exec(message[message.index("import torch") :], {})
    assert_same(made(copy, objects(1), [draw_cameras(1, (0,))]), expected)
    assert "is a pickle, which is never loaded" in refusal(copy / "unet/diffusion_pytorch_model.bin")


@pytest.mark.parametrize("weights", ["", "no/such/folder", "pics-compositing-no-such-owner/no-such-model", "nothing"])
def test_missing_weights_name_both_ways(weights: str) -> None:
    with pytest.raises(UserError) as error:
        zero123.check(weights)
    assert str(error.value) == refusal(weights)
    assert "a folder in diffusers' layout, or a hub id such as ashawkey/zero123-xl-diffusers" in str(error.value)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("s3://bucket/zero123", "not read from a URL"),
        (__file__, "is a file"),
        ("ashawkey/stable-zero123-diffusers", "Stable Zero123 encodes cameras in another way"),
        ("models/stable_zero123", "expected zero123 or zero123-xl"),
    ],
)
def test_what_is_no_folder_of_zero123_is_refused(weights: str, words: str) -> None:
    assert words in refusal(weights)


def from_hub(folder: Path, cache: Path) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """What becomes of the hub id of a folder, in a process of its own, and what it fetched."""
    program = "from pics_data.views import zero123; print(zero123.weights_digest('owner/model'))"
    with hub_of(folder) as (address, fetched):
        places = {"HF_ENDPOINT": address, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-c", program]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **places}), fetched


def test_of_a_hub_id_only_configurations_and_safetensors_are_fetched(copy: Path, tmp_path: Path) -> None:
    (copy / "unet/diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    (copy / "unet/diffusion_pytorch_model.fp16_ema.safetensors").write_bytes(b"another variant")
    (copy / "safety_checker").mkdir()
    (copy / "safety_checker/model.safetensors").write_bytes(b"not asked for")
    done, fetched = from_hub(copy, tmp_path / "cache")
    assert done.stdout.strip() == zero123.weights_digest(str(copy)), done.stderr
    stems = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}
    stems[PROJECTIONS[copy.name][0]] = "diffusion_pytorch_model"
    expected = {f"{part}/{name}" for part in stems for name in ("config.json", f"{stems[part]}.safetensors")}
    assert fetched == expected | {"model_index.json", "scheduler/scheduler_config.json"}


def test_a_hub_id_of_pickles_is_refused_and_converting_them_is_explained(copy: Path, tmp_path: Path) -> None:
    for path in list(copy.glob("*/*.safetensors")):
        path.rename(path.with_suffix(".bin"))
    done, fetched = from_hub(copy, tmp_path / "cache")
    assert "--view-weights owner/model: no unet/diffusion_pytorch_model.safetensors, and pickles are" in done.stderr
    assert "`hf download owner/model --local-dir zero123` and convert them: import torch;" in done.stderr
    assert not [name for name in fetched if not name.endswith(".json")]


def test_the_digest_of_weights_tells_contents_and_not_places(copy: Path, folders: dict[str, Path]) -> None:
    digest = zero123.weights_digest(str(folders[copy.name]))
    assert zero123.weights_digest(str(copy)) == digest
    change(copy / "scheduler/scheduler_config.json", beta_end=0.02)
    assert zero123.weights_digest(str(copy)) != digest


def test_weights_that_make_no_pictures_reject_every_object(copy: Path) -> None:
    path = copy / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["decoder.conv_in.bias"][:] = torch.nan
    save_file(tensors, path, {"format": "pt"})
    found = made(copy, objects(2), [draw_cameras(1, (0,))] * 2)
    assert [error.reason for error in found] == ["view not finite"] * 2


def test_a_gpu_that_is_not_there_is_told_of(folders: dict[str, Path]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="--gpus-per-worker: torch sees no GPU here"):
        zero123.load(str(folders["kxic"]), "cuda")


def test_heavy_packages_are_imported_only_when_used() -> None:
    heavy = ("torch", "diffusers", "transformers", "ray", "huggingface_hub")
    program = f"import sys, pics_data.views.zero123; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_missing_packages_are_named(tmp_path: Path) -> None:
    """In a Python whose packages are this one's but for those."""
    for path in Path(np.__file__).parents[1].iterdir():
        if path.name not in ("diffusers", "safetensors"):
            (tmp_path / path.name).symlink_to(path)
    program = "from pics_data.views import zero123; zero123.check('owner/model')"
    places = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, env=places)
    words = "diffusers and safetensors are not installed; pip install 'pics-compositing[views]'"
    assert f"UserError: --views zero123: {words}" in done.stderr
