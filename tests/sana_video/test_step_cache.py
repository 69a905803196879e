"""EasyCache's rule: nothing at 0, what is skipped is counted and repeats, and its error grows with the threshold."""

import pytest
import torch
from torch import Tensor

from sana_video.sampling import Velocity, dpmpp_2m_flow, euler, flow_schedule
from sana_video.step_cache import StepCache

STEPS = 30
SIGMAS = flow_schedule(STEPS, 8.0)


def noise() -> Tensor:
    return torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Counted:
    """A smooth velocity that knows how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        return torch.sin(x) + sigma.to(x.dtype) * x - 0.3


def sampled(threshold: float | None, sampler: object = dpmpp_2m_flow) -> tuple[Tensor, list[int], int]:
    """Latents, the steps skipped, and how often the network was asked."""
    skipped: list[int] = []
    network = Counted()
    velocity: Velocity = network if threshold is None else StepCache(network, STEPS, threshold, skipped.append)
    return sampler(velocity, noise(), SIGMAS), skipped, network.calls  # type: ignore[operator]


@pytest.mark.parametrize("sampler", [euler, dpmpp_2m_flow])
def test_threshold_0_is_the_plain_sampler_to_the_bit(sampler: object) -> None:
    plain, _, calls = sampled(None, sampler)
    cached, skipped, asked = sampled(0.0, sampler)
    assert torch.equal(cached, plain)
    assert skipped == []
    assert asked == calls == STEPS


@pytest.mark.parametrize("sampler", [euler, dpmpp_2m_flow])
def test_skipped_steps_are_counted_and_repeat(sampler: object) -> None:
    latents, skipped, asked = sampled(0.1, sampler)
    again = sampled(0.1, sampler)
    assert skipped
    assert asked == STEPS - len(skipped)
    assert torch.equal(again[0], latents)
    assert again[1] == skipped


def test_the_first_fifth_and_the_last_step_are_computed_whatever_the_threshold() -> None:
    _, skipped, _ = sampled(0.999)
    assert min(skipped) > STEPS // 5
    assert max(skipped) < STEPS


def test_a_higher_threshold_skips_more_and_errs_more() -> None:
    plain, *_ = sampled(None)
    counts, errors = [], []
    for threshold in (0.01, 0.1, 0.9):
        latents, skipped, _ = sampled(threshold)
        counts.append(len(skipped))
        errors.append(float((latents - plain).norm() / plain.norm()))
    assert counts == sorted(counts)
    assert counts[0] < counts[2]
    assert errors[0] < errors[2]
    assert errors[0] < 0.05


def test_what_is_reused_is_the_transformation_of_the_last_computed_step() -> None:
    """A network whose v - x never changes loses nothing by being skipped."""
    shift = noise() + 1

    def constant(x: Tensor, sigma: Tensor) -> Tensor:
        return x + shift

    skipped: list[int] = []
    cached = euler(StepCache(constant, STEPS, 0.9, skipped.append), noise(), SIGMAS)
    assert len(skipped) > STEPS // 3
    torch.testing.assert_close(cached, euler(constant, noise(), SIGMAS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_what_is_no_threshold_is_named(threshold: float) -> None:
    with pytest.raises(ValueError, match="step cache"):
        StepCache(Counted(), STEPS, threshold, lambda step: None)
