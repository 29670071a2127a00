"""The network of Zero-1-to-3, by parts of diffusers and transformers.

Legend: B views in a batch, O objects, 256 pixels a side of a picture, [., 3, 256, 256] in -1 to 1; C = 4 channels and
h = w = 32 of a latent; D = 768 of CLIP's embedding. The U-Net sees [B, 2 C, h, w], the noisy latent above the
cut-out's, and [B, 1, D], the one token that embedding and camera are joined to.

Constants and order of steps are those of `sample_model` in the authors' gradio_new.py, which the pipelines for
diffusers follow too (examples/community/pipeline_zero1to3.py), but for their sampler's noise: DDIM with eta 0.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection
from transformers.utils import logging as transformers_logging

from pics_common.errors import UserError
from pics_common.quiet import quiet
from pics_data.views.zero123.weights import PROJECTIONS, SCHEDULER, Weights, read_json, refusal

CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class Network:
    """The parts, on one device, in one precision."""

    unet: Any
    vae: Any
    image_encoder: Any
    projection: nn.Linear
    scheduler: Any

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.projection.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' precision."""
        return self.projection.weight.dtype


@dataclass(frozen=True, slots=True)
class Condition:
    """What the network knows of an object: computed once for all its views."""

    embedding: Tensor  # [O, D], CLIP's
    latent: Tensor  # [O, C, h, w]


@torch.inference_mode()
def encode(network: Network, pictures: Tensor) -> Condition:
    """Pictures of cut-outs on white [O, 3, 256, 256], in -1 to 1 -> what the network knows of them.

    The latent is the mode of its distribution and is not scaled: the model was trained so.
    """
    pictures = pictures.to(network.device)
    side = network.image_encoder.config.image_size
    # As CLIP was asked in training: no filter against aliasing, corners on corners.
    seen = F.interpolate(pictures, (side, side), mode="bicubic", align_corners=True)
    mean, std = (torch.tensor(values, device=network.device).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    seen = ((seen + 1) / 2 - mean) / std
    embedding = network.image_encoder(seen.to(network.dtype)).image_embeds
    return Condition(embedding, network.vae.encode(pictures.to(network.dtype)).latent_dist.mode())


@torch.inference_mode()
def denoise(
    network: Network, condition: Condition, poses: Tensor, noise: Tensor, num_steps: int, guidance_scale: float
) -> Tensor:
    """Latents [B, C, h, w] of the views, float32.

    `condition` is that of each view's object, `poses` [B, 4] are the changes of the camera (`generate.pose_of`),
    `noise` [B, C, h, w] is what each view starts from. Without condition, for guidance, are a token and a latent of
    zeros; `guidance_scale` 1 leaves that half out.
    """
    scheduler, dtype = network.scheduler, network.dtype
    scheduler.set_timesteps(num_steps, device=network.device)
    joined = torch.cat([condition.embedding, poses.to(network.device, dtype)], dim=1)
    token = network.projection(joined)[:, None]
    latent, guided = condition.latent, guidance_scale != 1
    if guided:
        token = torch.cat([torch.zeros_like(token), token])
        latent = torch.cat([torch.zeros_like(latent), latent])
    x = noise.to(network.device, torch.float32) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        seen = torch.cat([torch.cat([x, x]) if guided else x, latent], dim=1)
        answer = network.unet(seen.to(dtype), timestep, encoder_hidden_states=token, return_dict=False)[0].float()
        if guided:
            without, with_condition = answer.chunk(2)
            answer = without + guidance_scale * (with_condition - without)
        x = scheduler.step(answer, timestep, x, eta=0.0, return_dict=False)[0]
    return x


@torch.inference_mode()
def decode(network: Network, latents: Tensor) -> Tensor:
    """Latents [B, C, h, w] -> pictures [B, 3, 256, 256], -1 to 1, float32 on the CPU."""
    scaled = latents / network.vae.config.scaling_factor
    return network.vae.decode(scaled.to(network.dtype), return_dict=False)[0].float().clamp(-1, 1).cpu()


def load(weights: Weights, device: str, threads: int) -> Network:
    """The network in memory, its classes out of our own list, whatever the folder says of code.

    Raises `UserError` for weights that are damaged or not all there.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--gpus-per-worker: torch sees no GPU here; install a CUDA build of torch, or leave it at 0")
    torch.set_num_threads(threads)
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    return Network(
        unet=_part(UNet2DConditionModel, weights.files["unet"], torch_dtype=dtype).to(device),
        vae=_part(AutoencoderKL, weights.files["vae"], torch_dtype=dtype).to(device),
        image_encoder=_part(CLIPVisionModelWithProjection, weights.files["image_encoder"], dtype=dtype).to(device),
        projection=_projection(weights).to(device, dtype),
        scheduler=_scheduler(weights.folder / SCHEDULER),
    )


def _part(kind: Any, file: Path, **precision: torch.dtype) -> Any:
    logging = transformers_logging if kind is CLIPVisionModelWithProjection else diffusers_logging
    variant = "fp16" if file.name.endswith(".fp16.safetensors") else None
    try:
        with quiet(logging):
            model, info = kind.from_pretrained(
                file.parent,
                use_safetensors=True,
                variant=variant,
                local_files_only=True,
                output_loading_info=True,
                **precision,
            )
    except Exception as error:  # a stranger's config.json makes both libraries fail in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise refusal(file, f"cannot be loaded ({reason})", "fetch the folder again") from None
    # Both libraries would go on with random numbers in their place.
    absent = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if absent:
        raise refusal(file, f"{len(absent)} weights are missing, such as {absent[0]}", "fetch the folder again")
    return model.eval().requires_grad_(False)


def _projection(weights: Weights) -> nn.Linear:
    layer, tensors = PROJECTIONS[weights.projection], load_file(weights.files[weights.projection])
    linear = nn.Linear(tensors[f"{layer}.weight"].shape[1], weights.width)
    linear.load_state_dict({name: tensors[f"{layer}.{name}"] for name in ("weight", "bias")})
    return linear.requires_grad_(False)


def _scheduler(file: Path) -> Any:
    # What the pipelines for diffusers set, whatever an old folder says: clipping suits pictures, not latents.
    config = read_json(file) | {"clip_sample": False, "steps_offset": 1}
    try:
        with quiet(diffusers_logging):
            return DDIMScheduler.from_config(config)
    except Exception as error:
        raise refusal(file, f"is no schedule that DDIM can run ({type(error).__name__}: {error})") from None
