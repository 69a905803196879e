"""Samplers against diffusers' scheduler and against a flow whose end is known."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from sana_video.sampling import (
    dpmpp_2m_flow,
    euler,
    flow_schedule,
    gaussian,
    guided,
    hold_first_frame,
    renoise,
    step_sigmas,
)

CLEAN = torch.linspace(-1, 1, 24).reshape(1, 2, 3, 2, 2)


def noise(seed: int = 0) -> Tensor:
    return torch.randn(CLEAN.shape, generator=torch.Generator().manual_seed(seed))


def wavy(x: Tensor, sigma: Tensor) -> Tensor:
    """Some smooth velocity that depends on both arguments."""
    return torch.sin(3 * x) + sigma.to(x.dtype) * x - 0.3


def straight(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact velocity when all data is one clip, CLEAN: v = (x - x₀) / σ."""
    return (x - CLEAN) / sigma.to(x.dtype)


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50])
def test_dpm_solver_agrees_with_diffusers_step_by_step(steps: int) -> None:
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True,
        prediction_type="flow_prediction",
        flow_shift=8.0,
        solver_type="midpoint",
        final_sigmas_type="zero",
        lower_order_final=True,
    )
    scheduler.set_timesteps(steps)
    sigmas = flow_schedule(steps, 8.0)
    torch.testing.assert_close(sigmas.float(), scheduler.sigmas)

    theirs, seen = noise(), []
    for i, timestep in enumerate(scheduler.timesteps):
        seen.append(theirs)
        theirs = scheduler.step(wavy(theirs, scheduler.sigmas[i]), timestep, theirs).prev_sample
    seen.append(theirs)

    ours: list[Tensor] = []

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        ours.append(x)
        return wavy(x, sigma)

    ours.append(dpmpp_2m_flow(watched, noise(), sigmas))
    assert len(ours) == len(seen)
    for mine, expected in zip(ours, seen, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)


def test_schedule_falls_from_just_below_one_to_zero() -> None:
    sigmas = flow_schedule(50, 8.0)
    assert len(sigmas) == 51
    assert 0.999 < sigmas[0] < 1
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


@pytest.mark.parametrize("sampler", [euler, dpmpp_2m_flow])
def test_a_straight_flow_is_followed_to_its_end(sampler: object) -> None:
    start = 0.999 * noise() + 0.001 * CLEAN
    torch.testing.assert_close(sampler(straight, start, flow_schedule(6, 1.0)), CLEAN, rtol=1e-5, atol=1e-5)


def test_dpm_solver_is_second_order_and_euler_first() -> None:
    """Halving the step divides the error by about 2 and 4; dx/dσ = x has the end x·exp(-σ₀)."""

    def error(sampler: object, steps: int) -> float:
        sigmas = torch.linspace(0.8, 0.1, steps + 1, dtype=torch.float64)
        x = noise().double()
        exact = x * torch.exp(sigmas[-1] - sigmas[0])
        return float((sampler(lambda x, _: x, x, sigmas) - exact).norm())

    assert error(euler, 40) / error(euler, 80) == pytest.approx(2, rel=0.1)
    assert error(dpmpp_2m_flow, 200) / error(dpmpp_2m_flow, 400) > 3


def test_guidance_moves_along_the_difference_and_one_is_free() -> None:
    calls = []

    def base(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(sigma)
        return torch.zeros_like(x)

    ones = guided(lambda x, _: torch.ones_like(x), base, 6.0)(CLEAN, torch.tensor(0.5))
    assert torch.equal(ones, torch.full_like(CLEAN, 6.0))
    guided(wavy, base, 1.0)(CLEAN, torch.tensor(0.5))
    assert len(calls) == 1


@pytest.mark.parametrize("sampler", [euler, dpmpp_2m_flow])
def test_first_frame_is_shown_clean_and_reached(sampler: object) -> None:
    image, seen = torch.full((1, 2, 1, 2, 2), 0.7), []

    def watched(x: Tensor, sigmas: Tensor) -> Tensor:
        seen.append((x[:, :, :1], sigmas))
        return wavy(x, sigmas[0, 1])

    out = sampler(hold_first_frame(watched, image), noise(), flow_schedule(5, 8.0))
    torch.testing.assert_close(out[:, :, :1], image, rtol=1e-4, atol=1e-4)
    for first, sigmas in seen:
        assert torch.equal(first, image)
        assert sigmas.shape == (1, 3)
        assert sigmas[0, 0] == 0
        assert sigmas[0, 1] == sigmas[0, 2] > 0


def test_renoise_predicts_then_noises_afresh() -> None:
    levels = []

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        levels.append((x, float(sigma)))
        return straight(x, sigma)

    fresh = noise(9)
    out = renoise(watched, noise(), step_sigmas([1000, 500]), lambda x: fresh)
    torch.testing.assert_close(out, CLEAN, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(levels[1][0], 0.5 * CLEAN + 0.5 * fresh, rtol=1e-5, atol=1e-5)
    assert [level for _, level in levels] == [1.0, 0.5]


@pytest.mark.parametrize("sampler", [euler, dpmpp_2m_flow])
def test_progress_is_told_once_a_step(sampler: object) -> None:
    told = []
    sampler(wavy, noise(), flow_schedule(3, 8.0), on_step=lambda step, total: told.append((step, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    first, second = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    both = gaussian((2, 3, 4), [first, second])
    assert torch.equal(both[1:], gaussian((1, 3, 4), [torch.Generator().manual_seed(2)]))
    with pytest.raises(ValueError, match="1 generators for a batch of 2"):
        gaussian((2, 3), [first])


def test_no_steps_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1 step, not 0"):
        flow_schedule(0, 8.0)
