"""What the model learns to say of a noisy latent, and how its error is weighed.

With x_t = a_t x_0 + s_t n (diffusers' schedulers hold a_t and s_t): noise prediction says n, velocity prediction
v = a_t n - s_t x_0 (Salimans & Ho 2022, section 4), sample prediction x_0.
"""

from typing import Any, Literal

import torch
from diffusers import DDIMScheduler
from torch import Tensor

TimestepRule = Literal["uniform", "published"]


def objective_of(scheduler: Any) -> str:
    """What a model must predict for `scheduler`: epsilon, v_prediction, sample or flow."""
    if type(scheduler).__name__.startswith("FlowMatch"):
        return "flow"
    said: str = scheduler.config.get("prediction_type", "epsilon")
    return "flow" if said == "flow_prediction" else said


def objective_target(scheduler: DDIMScheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the model should answer, in the words of `scheduler.config.prediction_type`. [B, L, n, n] each."""
    match scheduler.config.prediction_type:
        case "epsilon":
            return noise
        case "sample":
            return clean
        case "v_prediction":
            velocity: Tensor = scheduler.get_velocity(clean, noise, timesteps)
            return velocity
        case other:
            raise AssertionError(f"no objective for prediction type {other!r}")


def draw_noise(seeds: Tensor, shape: torch.Size, num_timesteps: int, rule: TimestepRule) -> tuple[Tensor, Tensor]:
    """Noise [B, *shape] float32 and timesteps [B] int64, each picture's from its own seed: a batch of eight is eight
    batches of one, whatever the ranks. `published` draws 30 % from all timesteps and 70 % from the lower half."""
    noise = torch.empty(len(seeds), *shape)
    timesteps = torch.empty(len(seeds), dtype=torch.int64)
    for i, seed in enumerate(seeds.tolist()):
        generator = torch.Generator().manual_seed(seed)
        torch.randn(shape, generator=generator, out=noise[i])
        chance, place = torch.rand(2, generator=generator).tolist()
        top = num_timesteps // 2 if rule == "published" and chance >= 0.3 else num_timesteps
        timesteps[i] = int(place * top)
    return noise, timesteps


def weighted_error(answer: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error under `weight`, a mean of the pictures' own means. [B, C, n, n], weight [B, C, n, n] -> []."""
    error = (answer.float() - target.float()).square() * weight
    return (error.flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-6)).mean()
