"""What the model is asked to say: identities of objectives, schedulers and weights; noise levels; learning rate."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from pics_model.objectives import (
    add_noise,
    draw_places,
    levels,
    min_snr_weight,
    objective_of,
    target_of,
    weighted_error,
)
from pics_model.optimizer import rate

DIFFUSION = ("epsilon", "v_prediction", "sample")


def diffusion(prediction: str, **more: object) -> DDIMScheduler:
    return DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=prediction, clip_sample=False,
                         **more)  # fmt: skip


def pictures(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(4, 3, 8, 8, generator=generator), torch.randn(4, 3, 8, 8, generator=generator))


@pytest.mark.parametrize("prediction", DIFFUSION)
@pytest.mark.parametrize("place", [0.01, 0.5, 0.9])
def test_from_the_right_answer_a_step_to_the_end_gives_the_picture_back(prediction, place) -> None:
    """The sampler must read the answer as the objective asked it."""
    scheduler = diffusion(prediction)
    clean, noise = pictures()
    shown = add_noise(scheduler, clean, noise, torch.full((4,), place))
    scheduler.set_timesteps(1000)
    scheduler.num_inference_steps = 1  # so that the step from any timestep leads to the end
    back = scheduler.step(shown.target, int(shown.timesteps[0]), shown.latent)
    torch.testing.assert_close(back.pred_original_sample, clean, atol=1e-4, rtol=0)
    torch.testing.assert_close(back.prev_sample, clean, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("place", [0.01, 0.5, 1.0])
def test_from_the_right_flow_a_step_to_the_end_gives_the_picture_back(shift, place) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    clean, noise = pictures()
    shown = add_noise(scheduler, clean, noise, torch.full((4,), place))
    # The scheduler shifts what it is given, as the way from picture to noise does.
    scheduler.set_timesteps(sigmas=[place])
    torch.testing.assert_close(scheduler.timesteps, shown.timesteps[:1])
    back = scheduler.step(shown.target, scheduler.timesteps[0], shown.latent).prev_sample
    torch.testing.assert_close(back, clean, atol=1e-5, rtol=0)


def test_a_straight_way_needs_no_more_than_one_step_and_many_end_at_the_same_place() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=2.0)
    clean, noise = pictures()
    flow = add_noise(scheduler, clean, noise, torch.ones(4)).target
    scheduler.set_timesteps(17)
    latent = noise
    for timestep in scheduler.timesteps:
        latent = scheduler.step(flow, timestep, latent).prev_sample
    torch.testing.assert_close(latent, clean, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prediction", DIFFUSION)
def test_diffusers_mixes_noise_and_velocity_likewise(prediction) -> None:
    scheduler = diffusion(prediction)
    clean, noise = pictures()
    shown = add_noise(scheduler, clean, noise, torch.tensor([0.0, 0.3, 0.77, 0.999]))
    assert shown.timesteps.tolist() == [0, 300, 770, 999]
    torch.testing.assert_close(shown.latent, scheduler.add_noise(clean, noise, shown.timesteps))
    if prediction == "v_prediction":
        torch.testing.assert_close(shown.target, scheduler.get_velocity(clean, noise, shown.timesteps))


def test_diffusers_mixes_the_flow_likewise() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.5)
    clean, noise = pictures()
    places = torch.tensor([0.001, 0.25, 0.5, 1.0])
    shown = add_noise(scheduler, clean, noise, places)
    its_own = scheduler.timesteps[[999, 750, 500, 0]]
    torch.testing.assert_close(shown.timesteps, its_own)
    torch.testing.assert_close(shown.latent, scheduler.scale_noise(clean, its_own, noise))


@given(st.floats(0, 0.9999), st.sampled_from([1.0, 0.5, 3.0]))
def test_the_flow_goes_from_picture_to_noise(place, shift) -> None:
    places = torch.tensor([place], dtype=torch.float64)
    picture_share, noise_share, timesteps = levels(FlowMatchEulerDiscreteScheduler(shift=shift), places)
    assert picture_share + noise_share == pytest.approx(1)
    assert 0 <= timesteps.item() <= 1000
    # A shift multiplies the odds of noise against picture.
    assert noise_share.item() == pytest.approx(shift * place / (1 - place) * picture_share.item())


def error_of_clean(objective: str, off: float, a: float, s: float) -> float:
    """How far off x_0 is, said by the formulas of x_0 from x_t and an answer that is `off`."""
    return {"epsilon": s / a * off, "sample": off, "v_prediction": s * off, "flow": s * off}[objective]


@given(
    st.sampled_from([*DIFFUSION, "flow"]), st.floats(0.02, 0.98), st.floats(0.1, 20), st.floats(-3, 3), st.floats(-3, 3)
)
def test_min_snr_weighs_the_error_of_the_picture(objective, s, gamma, clean, noise) -> None:
    """Written the other way round: whatever is predicted, its weighted error is min(SNR, gamma) times that of x_0."""
    a = 1 - s if objective == "flow" else math.sqrt(1 - s * s)
    noisy, off = a * clean + s * noise, 0.5
    values = [torch.tensor([v], dtype=torch.float64) for v in (clean, noise, a, s)]
    answer = target_of(objective, *values).item() + off
    found = {
        "epsilon": (noisy - s * answer) / a,
        "sample": answer,
        "v_prediction": a * noisy - s * answer,
        "flow": noisy - s * answer,
    }[objective]
    assert abs(found - clean) == pytest.approx(error_of_clean(objective, off, a, s), rel=1e-6)
    weight = min_snr_weight(objective, values[2], values[3], gamma).item()
    snr = (a / s) ** 2
    assert weight * off**2 == pytest.approx(min(snr, gamma) * (found - clean) ** 2, rel=1e-6)
    papers = {"epsilon": min(snr, gamma) / snr, "sample": min(snr, gamma), "v_prediction": min(snr, gamma) / (snr + 1)}
    assert weight == pytest.approx(papers.get(objective, weight), rel=1e-6)


@pytest.mark.parametrize("objective", [*DIFFUSION, "flow"])
def test_min_snr_is_finite_where_nothing_of_the_picture_or_no_noise_is_left(objective) -> None:
    weight = min_snr_weight(objective, torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]), 5.0)
    expected = {"epsilon": [1.0, 0.0], "sample": [0.0, 5.0]}.get(objective, [0.0, 0.0])
    assert weight.tolist() == expected


def test_min_snr_zero_is_off() -> None:
    clean, noise = pictures()
    for scheduler in (diffusion("epsilon", rescale_betas_zero_snr=True), FlowMatchEulerDiscreteScheduler()):
        places = torch.tensor([0.0, 0.2, 0.9, 0.9999])
        assert (add_noise(scheduler, clean, noise, places).weight == 1).all()
        weight = add_noise(scheduler, clean, noise, places, min_snr=5.0).weight
        assert weight.isfinite().all()
        assert (weight != 1).any()


@pytest.mark.parametrize(("prediction", "expected"), [(p, p) for p in DIFFUSION])
def test_objectives_are_read_off_the_scheduler(prediction, expected) -> None:
    assert objective_of(diffusion(prediction)) == expected
    assert objective_of(FlowMatchEulerDiscreteScheduler()) == "flow"


def chances(count: int = 20_000) -> torch.Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(0))


def test_uniform_places_are_even() -> None:
    counts = torch.histc(draw_places(chances(), "uniform"), 10, 0, 1)
    assert (counts / 2000 - 1).abs().max() < 0.1  # ten tenths of 2,000 each, whose deviation is 42


def test_published_places_prefer_the_lower_half() -> None:
    places = draw_places(chances(), "published")
    assert abs((places < 0.5).float().mean().item() - 0.85) < 0.01  # all of the 70 %, half of the 30 %
    for half in (places[places < 0.5] * 2, places[places >= 0.5] * 2 - 1):
        assert (torch.histc(half, 5, 0, 1) / len(half) - 0.2).abs().max() < 0.03


def test_logit_normal_places_have_normal_logits() -> None:
    logits = draw_places(chances(), "logit_normal").double().logit()
    assert abs(logits.mean()) < 0.03
    assert abs(logits.std() - 1) < 0.03
    for bound, share in ((-1, 0.1587), (0, 0.5), (2, 0.9772)):
        assert abs((logits < bound).double().mean() - share) < 0.015


@given(st.floats(0, 1, exclude_max=True, width=32), st.floats(0, 1, exclude_max=True, width=32),
       st.sampled_from(["uniform", "published", "logit_normal"]))  # fmt: skip
def test_places_are_levels_of_every_scheduler(which, place, rule) -> None:
    places = draw_places(torch.tensor([[which, place]]), rule)
    assert 0 <= places.item() <= 1
    assert 0 <= levels(diffusion("epsilon"), places)[2].item() <= 999
    assert 0 <= levels(FlowMatchEulerDiscreteScheduler(), places)[2].item() <= 1000


def test_weight_zero_hides_errors_and_every_picture_has_its_own_mean() -> None:
    target, answer = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    weight = torch.ones(2, 1, 4, 4)
    answer[0, :, :2] = 5
    weight[0, :, :2] = 0
    answer[1] = 1
    assert weighted_error(answer, target, weight).tolist() == [0, 1]


@given(st.integers(1, 500), st.integers(0, 100))
def test_the_rate_rises_then_falls_to_zero(total: int, warmup: int) -> None:
    rates = [rate(step, warmup, total) for step in range(total)]
    assert all(0 < r <= 1 for r in rates)
    assert rate(total, warmup, total) == 0
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
