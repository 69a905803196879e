"""Samplers against diffusers' scheduler and against a flow whose end is known."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from sana_video.sampling import (
    dpmpp_2m_flow,
    euler,
    euler_schedule,
    flow_schedule,
    gaussian,
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


@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_euler_agrees_with_diffusers_step_by_step(steps: int, shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    sigmas = euler_schedule(steps, shift)
    torch.testing.assert_close(sigmas.float(), scheduler.sigmas, rtol=1e-6, atol=1e-7)

    theirs, seen = noise(), []
    for i, timestep in enumerate(scheduler.timesteps):
        seen.append(theirs)
        theirs = scheduler.step(wavy(theirs, scheduler.sigmas[i]), timestep, theirs).prev_sample
    seen.append(theirs)

    ours: list[Tensor] = []

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        ours.append(x)
        return wavy(x, sigma)

    ours.append(euler(watched, noise(), sigmas))
    for mine, expected in zip(ours, seen, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)


def test_image_to_video_agrees_with_diffusers_per_token_euler() -> None:
    """The published way: times per token, 0 where the image is, and those tokens never updated."""
    image = CLEAN[:, :, :1]
    scheduler = FlowMatchEulerDiscreteScheduler(shift=8.0)
    scheduler.set_timesteps(6)
    theirs = torch.cat([image, noise()[:, :, 1:]], dim=2)
    B, C, T, H, W = theirs.shape
    for t in scheduler.timesteps:
        times = t.expand(B, T).clone()
        times[:, 0] = 0
        velocity = wavy(theirs, (times / 1000)[:, None, :, None, None])
        flat = scheduler.step(
            -velocity.flatten(2).transpose(1, 2), t, theirs.flatten(2).transpose(1, 2),
            per_token_timesteps=times.repeat_interleave(H * W, dim=1), return_dict=False,
        )[0]  # fmt: skip
        theirs = torch.cat([image, flat.transpose(1, 2).reshape(B, C, T, H, W)[:, :, 1:]], dim=2)

    def per_frame(x: Tensor, sigma: Tensor) -> Tensor:
        return wavy(x, sigma[:, None, :, None, None])

    ours = euler(hold_first_frame(per_frame, image), noise(), euler_schedule(6, 8.0))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


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
    for schedule in (flow_schedule, euler_schedule):
        with pytest.raises(ValueError, match="at least 1 step, not 0"):
            schedule(0, 8.0)
