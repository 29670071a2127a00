"""The pipeline as callers meet it: pictures of any kind and size, schedulers, generators, callbacks, readouts."""

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image

from pics_common.errors import UserError
from pics_model.infer import load_model
from pics_model.pipeline import PICSPipeline
from pics_model.snapshot import save_model
from tests.model.models_for_tests import pipeline_of

SMALL_SD = """
name: small-sd
guidance: 3.0
steps: 4
autoencoder:
  kind: kl
  block_out_channels: [8, 8, 8, 8]
  down_block_types: [DownEncoderBlock2D, DownEncoderBlock2D, DownEncoderBlock2D, DownEncoderBlock2D]
  up_block_types: [UpDecoderBlock2D, UpDecoderBlock2D, UpDecoderBlock2D, UpDecoderBlock2D]
  norm_num_groups: 4
backbone:
  latent_channels: 4
  block_out_channels: [16, 32]
  attention_levels: [true, true]
  layers_per_block: 1
  head_channels: 8
  norm_num_groups: 8
  code_channels: 24
  hint_channels: [4, 4, 8, 8]
  overlap: blend_attend
  placement: false
encoder:
  kind: dino
  resolution: 28
  code_channels: 24
  trunk: {model_type: dinov2, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, patch_size: 14}
framing: {resolution: 64, frame: photo, object_resolution: 28}
schedule: {beta_schedule: scaled_linear, beta_start: 0.00085, beta_end: 0.012, prediction_type: epsilon,
  steps_offset: 1, clip_sample: false, set_alpha_to_one: false}
"""


@pytest.fixture(scope="module")
def pipe() -> PICSPipeline:
    """Latents of an autoencoder, codes of a DINOv2, guidance: sd21's code path, small."""
    return pipeline_of(SMALL_SD)


rng = np.random.default_rng(0)
PHOTO = rng.integers(0, 256, (50, 83, 3), np.uint8)
THING = np.dstack([rng.integers(0, 256, (30, 20, 3), np.uint8), np.full((30, 20), 255, np.uint8)])
BOXES = [(4, 5, 40, 30), (30, 10, 45, 38)]


def mask_of(box) -> np.ndarray:
    mask = np.zeros(PHOTO.shape[:2], bool)
    mask[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = True
    return mask


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def run(pipe, **changes):
    """Two objects in boxes, as arrays."""
    given = {"background": PHOTO, "objects": [THING, THING[::-1]], "boxes": BOXES, "generator": 7, "output_type": "np"}
    return pipe(**(given | changes))


def test_pil_arrays_and_tensors_masks_and_boxes_mean_the_same(pipe) -> None:
    expected = run(pipe).images[0]
    assert expected.shape == PHOTO.shape
    things = [THING, THING[::-1]]
    for background, objects in (
        (Image.fromarray(PHOTO), [Image.fromarray(np.ascontiguousarray(t)) for t in things]),
        (tensor(PHOTO), [tensor(t.copy()) for t in things]),
        (tensor(PHOTO).float() / 255, [t.astype(np.float64) / 255 for t in things]),
    ):
        assert np.array_equal(run(pipe, background=background, objects=objects).images[0], expected)
    masks = [mask_of(box) for box in BOXES]
    for given in (
        masks,
        [torch.from_numpy(m) for m in masks],
        [Image.fromarray(m) for m in masks],
        [m.astype(np.float32) for m in masks],
    ):
        assert np.array_equal(run(pipe, boxes=None, masks=given).images[0], expected)
    mixed = run(pipe, boxes=[BOXES[0], None], masks=[None, masks[1]]).images[0]
    assert np.array_equal(mixed, expected)


def test_the_background_outside_of_the_regions_is_untouched_and_inside_it_is_not(pipe) -> None:
    made = run(pipe).images[0]
    union = mask_of(BOXES[0]) | mask_of(BOXES[1])
    grown = np.zeros_like(union)
    grown[1:50, 0:81] = True  # the two boxes, each enlarged by 1.15 about its middle
    assert np.array_equal(made[~grown], PHOTO[~grown])
    inner = union.copy()
    assert (made[inner] != PHOTO[inner]).any(-1).mean() > 0.9


def test_lists_make_several_pictures_each_from_its_own_generator(pipe) -> None:
    wide = np.ascontiguousarray(PHOTO.transpose(1, 0, 2))
    both = pipe(
        [PHOTO, wide], [[THING, THING], [THING]], boxes=[BOXES, [(3, 3, 30, 40)]], generator=[1, 2], output_type="np"
    )
    assert [image.shape for image in both.images] == [PHOTO.shape, wide.shape]
    alone = pipe(wide, [THING], boxes=[(3, 3, 30, 40)], generator=2, output_type="np").images[0]
    assert np.array_equal(both.images[1], alone)
    one = pipe([PHOTO] * 2, [[THING]] * 2, boxes=[[BOXES[0]]] * 2, generator=torch.Generator().manual_seed(1))
    assert one.images[0].tobytes() != one.images[1].tobytes()


def test_output_types(pipe) -> None:
    array = run(pipe).images[0]
    picture = run(pipe, output_type="pil").images[0]
    assert np.array_equal(np.asarray(picture), array)
    floats = run(pipe, output_type="pt", return_dict=False)[0][0]
    assert torch.equal((floats * 255).round().to(torch.uint8), tensor(array))


def test_schedulers_of_the_same_objective_can_change_places(pipe) -> None:
    """They solve the same equation: with many steps they come to the same latents."""
    kept = pipe.scheduler
    ends = {}

    solvers = {
        "ddim": (DDIMScheduler, 250),
        "dpm": (DPMSolverMultistepScheduler, 100),
        "unipc": (UniPCMultistepScheduler, 100),
        "euler": (EulerDiscreteScheduler, 250),
    }
    for name, (kind, steps) in solvers.items():

        def last(pipeline, step, timestep, tensors, name=name):
            ends[name] = tensors["latents"]

        pipe.scheduler = kind.from_config(kept.config)
        run(pipe, num_inference_steps=steps, guidance_scale=1.0, callback_on_step_end=last)
    pipe.scheduler = kept
    spread = ends["ddim"].std()
    for name in ("dpm", "unipc", "euler"):
        assert (ends[name] - ends["ddim"]).std() < 0.05 * spread, name


def test_a_scheduler_that_draws_noise_draws_each_pictures_own(pipe) -> None:
    kept = pipe.scheduler
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(kept.config)
    once, twice = (run(pipe, generator=3, num_inference_steps=3).images[0] for _ in range(2))
    pair = pipe([PHOTO] * 2, [[THING, THING[::-1]]] * 2, boxes=[BOXES] * 2, generator=[5, 3], num_inference_steps=3)
    pipe.scheduler = kept
    assert np.array_equal(once, twice)
    assert np.array_equal(np.asarray(pair.images[1]), once)


@pytest.mark.parametrize(
    "scheduler", [FlowMatchEulerDiscreteScheduler(), DDIMScheduler(prediction_type="v_prediction")]
)
def test_a_scheduler_of_another_objective_is_refused(pipe, scheduler) -> None:
    kept = pipe.scheduler
    pipe.scheduler = scheduler
    with pytest.raises(UserError, match="trained to predict epsilon"):
        run(pipe)
    pipe.scheduler = kept


def test_a_callback_sees_every_step_and_may_change_the_latents(pipe) -> None:
    seen = []

    def zero(pipeline, step, timestep, tensors):
        seen.append((step, int(timestep)))
        assert tensors["latents"].shape == (1, *pipeline.latent_shape)
        return {"latents": torch.zeros_like(tensors["latents"])}

    changed = run(pipe, callback_on_step_end=zero)
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert sorted((t for _, t in seen), reverse=True) == [t for _, t in seen]
    assert np.array_equal(changed.images[0], run(pipe, callback_on_step_end=zero, generator=8).images[0])


def test_interactions_are_read_out_by_step_layer_and_object(pipe) -> None:
    three = pipe(
        [PHOTO, PHOTO],
        [[THING] * 2, [THING] * 3],
        boxes=[BOXES, [*BOXES, (20, 10, 40, 25)]],
        generator=0,
        return_interactions=True,
    )
    assert three.interactions is not None
    assert [len(readouts) for readouts in three.interactions] == [4 * 10] * 2  # 4 steps, 10 blocks
    assert [r.step for r in three.interactions[0]] == sorted(r.step for r in three.interactions[0])
    layers = [r.layer for r in three.interactions[0][:10]]
    assert len(set(layers)) == 10
    assert layers[0].startswith("controlnet.down_blocks.0")
    assert layers[-1].startswith("unet.up_blocks.1")
    overlap = mask_of(BOXES[0]) & mask_of(BOXES[1])
    for count, readouts in zip((2, 3), three.interactions, strict=True):
        for readout in readouts:
            known = ~np.isnan(readout.alpha[0])
            assert readout.alpha.shape[0] == count
            np.testing.assert_allclose(readout.alpha[:, known].sum(0), 1, atol=1e-5)
            # The overlap, seen at the grid of this layer: a good part of the picture, but not all.
            assert 0.2 * overlap.mean() < known.mean() < 0.9
    assert run(pipe).interactions is None


def test_alpha_says_who_covers(pipe) -> None:
    """Objects that do not cover a token have no score there."""
    boxes = [(0, 0, 40, 30), (20, 0, 40, 30), (50, 20, 30, 30)]
    (readouts,) = pipe(PHOTO, [THING] * 3, boxes=boxes, generator=0, return_interactions=True).interactions
    finest = max(readouts, key=lambda r: r.alpha.shape[1])
    left = finest.alpha[:, :, : finest.alpha.shape[2] // 2]
    known = ~np.isnan(left[0])
    assert known.any()
    assert (left[2][known] == 0).all()
    assert np.isnan(finest.scores[2][:, : left.shape[2]][known]).all()


def test_half_precision_gives_nearly_the_same(pipe) -> None:
    exact = run(pipe).images[0].astype(int)
    half = pipe.to(torch.bfloat16)
    assert np.abs(run(half).images[0].astype(int) - exact).mean() < 6
    pipe.to(torch.float32)


def test_offloading_moves_every_part_before_it_is_used(pipe, tmp_path) -> None:
    expected = run(pipe).images[0]
    offloaded = load_model(save_model(tmp_path / "model", pipe))
    offloaded.enable_model_cpu_offload(device="cpu")
    called = set()
    for name in ("object_encoder", "backbone", "autoencoder"):
        hook = getattr(offloaded, name)._hf_hook
        original = hook.pre_forward

        def noted(*args, name=name, original=original, **kwargs):
            called.add(name)
            return original(*args, **kwargs)

        hook.pre_forward = noted
    assert np.array_equal(run(offloaded).images[0], expected)
    assert called == {"object_encoder", "backbone", "autoencoder"}


def test_a_saved_pipeline_is_safetensors_and_comes_back(pipe, tmp_path) -> None:
    save_model(tmp_path / "model", pipe)
    files = {path.suffix for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert files == {".json", ".safetensors"}
    again = load_model(tmp_path / "model")
    assert np.array_equal(run(again).images[0], run(pipe).images[0])


WRONG = {
    "no objects": ({"objects": [], "boxes": []}, r"objects: 0 given; expected 1 to 16"),
    "too many": ({"objects": [THING] * 17, "boxes": [BOXES[0]] * 17}, r"objects: 17 given"),
    "a box too few": ({"boxes": BOXES[:1]}, r"boxes: 1 given for 2 objects"),
    "neither": ({"boxes": [BOXES[0], None]}, r"objects\[1\]: expected either a mask or a box, found neither"),
    "both": ({"masks": [mask_of(BOXES[0])] * 2}, r"objects\[0\]: expected either a mask or a box, found both"),
    "outside": ({"boxes": [BOXES[0], (90, 0, 5, 5)]}, r"boxes\[1\]: box \[90, 0, 5, 5\] covers no pixel"),
    "no box": ({"boxes": [BOXES[0], (1, 2, 3)]}, r"boxes\[1\] is \(1, 2, 3\); expected \(x, y, width, height\)"),
    "not finite": ({"boxes": [BOXES[0], (1, 2, float("nan"), 3)]}, r"boxes\[1\] is \[1, 2, nan, 3\]"),
    "mask size": ({"boxes": None, "masks": [np.ones((5, 5))] * 2}, r"masks\[0\]: mask of 5 x 5 pixels, its photo"),
    "mask empty": ({"boxes": None, "masks": [np.zeros((50, 83))] * 2}, r"masks\[0\]: empty mask"),
    "photo": ({"background": "a.jpg"}, "background is str; expected a PIL picture, an array or a tensor"),
    "shape": ({"background": np.zeros((3, 50, 83))}, r"background has shape \[3, 50, 83\]"),
    "range": ({"background": np.full((50, 83, 3), 7.0)}, "background holds 7 to 7; expected floats in 0 to 1"),
    "transparent": ({"objects": [THING, THING * 0]}, r"objects\[1\]: nothing but transparent pixels"),
    "steps": ({"num_inference_steps": 0}, "num_inference_steps is 0; expected 1 to 1000"),
    "output": ({"output_type": "jpg"}, "output_type is 'jpg'"),
    "generators": ({"generator": [1, 2]}, "generator: 2 given for 1 pictures"),
    "nested": ({"background": [PHOTO] * 2}, r"objects\[0\] is ndarray; expected a list with an entry an object"),
}


@pytest.mark.parametrize("name", WRONG)
def test_arguments_that_cannot_be_meant_are_named(pipe, name) -> None:
    changes, said = WRONG[name]
    with pytest.raises(UserError, match=said) as error:
        run(pipe, **changes)
    assert "\n" not in str(error.value)
