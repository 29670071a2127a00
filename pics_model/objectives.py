"""What the model learns to say of a noisy latent: noise, velocity, the picture itself, or the flow; how its error is
weighed, and at which noise levels it is asked.

All have the form x_t = a x_0 + s n, with the picture's share a and the noise's share s. Diffusion: a^2 + s^2 = 1, by
the scheduler's own table (Ho et al. 2020). `epsilon` says n; `v_prediction` says a n - s x_0 (Salimans & Ho 2022,
section 4); `sample` says x_0. Flow matching (Lipman et al. 2023; rectified flow, Liu et al. 2023): a = 1 - s, and
`flow` says the straight way's speed, n - x_0.

Legend: B pictures, their latents [B, L, n, n].
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

TimestepRule = Literal["uniform", "published", "logit_normal"]


@dataclass(slots=True)
class Noised:
    """What training shows to the model and expects of it: `latent` x_t and `target` [B, L, n, n], `timesteps` [B] as
    the model is told them, `weight` [B] of each picture's error. Float32; `timesteps` int64 for diffusion."""

    latent: Tensor
    target: Tensor
    timesteps: Tensor
    weight: Tensor


def objective_of(scheduler: Any) -> str:
    """What a model must predict for `scheduler`: epsilon, v_prediction, sample or flow."""
    if type(scheduler).__name__.startswith("FlowMatch"):
        return "flow"
    said: str = scheduler.config.get("prediction_type", "epsilon")
    return "flow" if said == "flow_prediction" else said


def add_noise(scheduler: Any, clean: Tensor, noise: Tensor, places: Tensor, min_snr: float = 0.0) -> Noised:
    """A training example at `places` [B] of the scheduler's way from picture (0) to noise (1): a `DDIMScheduler`'s, or
    a `FlowMatchEulerDiscreteScheduler`'s. `min_snr` is gamma of `min_snr_weight`; 0 weighs all alike."""
    picture_share, noise_share, timesteps = levels(scheduler, places)
    objective = objective_of(scheduler)
    a, s = (share[:, None, None, None] for share in (picture_share, noise_share))
    weight = torch.ones_like(noise_share)
    if min_snr:
        weight = min_snr_weight(objective, picture_share, noise_share, min_snr)
    return Noised(a * clean + s * noise, target_of(objective, clean, noise, a, s), timesteps, weight)


def levels(scheduler: Any, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shares a of the picture and s of the noise at `places` [B] in [0, 1), and the timesteps that the model is told.

    Diffusion knows `num_train_timesteps` levels, flow matching all: its place is shifted towards noise by the
    scheduler's `shift`, as large pictures need (Esser et al. 2024, section 5.3.2).
    """
    num_timesteps = scheduler.config.num_train_timesteps
    if objective_of(scheduler) == "flow":
        shift = scheduler.config.shift
        noise_share = shift * places / (1 + (shift - 1) * places)
        return 1 - noise_share, noise_share, noise_share * num_timesteps
    timesteps = (places * num_timesteps).long().clamp_max(num_timesteps - 1)
    kept = scheduler.alphas_cumprod.to(places.device)[timesteps]
    return kept.sqrt(), (1 - kept).sqrt(), timesteps


def target_of(objective: str, clean: Tensor, noise: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """What the model should answer where x_t = a * clean + s * noise."""
    match objective:
        case "epsilon":
            return noise
        case "v_prediction":
            return a * noise - s * clean
        case "sample":
            return clean
        case "flow":
            return noise - clean
        case other:
            raise AssertionError(f"no objective {other!r}")


def min_snr_weight(objective: str, a: Tensor, s: Tensor, gamma: float) -> Tensor:
    """min(a^2 / s^2, gamma) for the error of x_0 (Hang et al. 2023, section 3.4), said as a weight of what the
    objective predicts. [B] each.

    An error e of the prediction is one of x_0 of size e s / a for `epsilon`, e s for `v_prediction` and for `flow` (as
    x_0 = a x_t - s v, and x_0 = x_t - s u), and e for `sample`; the weight takes its square.
    """
    least = torch.minimum(a.square(), gamma * s.square())  # min(SNR, gamma) s^2, which is finite at both ends
    match objective:
        case "epsilon":
            return torch.where(a > 0, least / a.square().clamp_min(1e-20), 1.0)
        case "sample":
            return torch.where(s > 0, least / s.square().clamp_min(1e-20), gamma)
        case "v_prediction" | "flow":
            return least
        case other:
            raise AssertionError(f"no objective {other!r}")


def draw_places(chances: Tensor, rule: TimestepRule) -> Tensor:
    """Places [B] in [0, 1) between picture and noise, of two numbers each from [0, 1), `chances` [B, 2].

    `uniform` is even; `published` takes 30 % from all and 70 % from the lower half; `logit_normal` has most in the
    middle, the sigmoid of a normal number (Esser et al. 2024, section 3.1, with mean 0 and deviation 1).
    """
    which, place = chances.unbind(1)
    match rule:
        case "uniform":
            return place
        case "published":
            return torch.where(which < 0.3, place, place / 2)
        case "logit_normal":
            return torch.special.ndtri(place.double()).sigmoid().to(place.dtype)


def weighted_error(answer: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Each picture's mean squared error under `weight`, [B, C, n, n] each -> [B] float32."""
    error = (answer.float() - target.float()).square() * weight
    return error.flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-6)
