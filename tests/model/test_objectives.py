"""What the model is asked to say, per-sample randomness, the learning rate."""

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from pics_model.objectives import draw_noise, objective_target, weighted_error
from pics_model.train import rate


def scheduler(prediction: str) -> DDIMScheduler:
    return DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=prediction)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_answer_denoises_in_one_step(prediction: str) -> None:
    """The sampler must read the answer as the objective asked it: from x_t and the target, x_0 comes back."""
    rule = scheduler(prediction)
    clean, noise = torch.rand(4, 3, 8, 8) * 2 - 1, torch.randn(4, 3, 8, 8)
    for t in (10, 500, 900):
        timesteps = torch.full((4,), t)
        answer = objective_target(rule, clean, noise, timesteps)
        rule.set_timesteps(1000)
        back = rule.step(answer, t, rule.add_noise(clean, noise, timesteps)).pred_original_sample
        torch.testing.assert_close(back, clean, atol=1e-3, rtol=0)


def test_each_picture_has_noise_of_its_own_seed() -> None:
    seeds = torch.tensor([5, 6, 7, 5])
    shape = torch.Size((2, 4, 4))
    noise, timesteps = draw_noise(seeds, shape, 1000, "uniform")
    assert torch.equal(noise[0], noise[3])
    assert not torch.equal(noise[0], noise[1])
    alone, when = draw_noise(seeds[1:2], shape, 1000, "uniform")
    assert torch.equal(alone[0], noise[1])
    assert when[0] == timesteps[1]


def test_published_timesteps_prefer_the_lower_half() -> None:
    _, timesteps = draw_noise(torch.arange(4000), torch.Size((1,)), 1000, "published")
    low = (timesteps < 500).float().mean().item()
    assert abs(low - 0.85) < 0.03  # 70 % from the lower half alone, 30 % from all
    assert timesteps.min() >= 0
    assert timesteps.max() <= 999


def test_weight_zero_hides_errors_and_pictures_count_alike() -> None:
    target, answer = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    weight = torch.ones(2, 1, 4, 4)
    answer[0, :, :2] = 5
    weight[0, :, :2] = 0
    assert weighted_error(answer, target, weight) == 0
    answer[1] = 1
    assert weighted_error(answer, target, weight) == 0.5


@given(st.integers(1, 500), st.integers(0, 100))
def test_the_rate_rises_then_falls_to_zero(total: int, warmup: int) -> None:
    rates = [rate(step, warmup, total) for step in range(total)]
    assert all(0 < r <= 1 for r in rates)
    assert rate(total, warmup, total) == 0
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
