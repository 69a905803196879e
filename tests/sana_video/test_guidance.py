"""Guidance against what is known of it and against diffusers' adaptive projected guidance."""

import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from torch import Tensor

from sana_video.guidance import Apg, apg, cfg, guided

SHAPE = (2, 4, 3, 5, 6)
PLAIN = Apg(momentum=0.0, threshold=float("inf"), eta=1.0)
SIGMA = torch.tensor(0.7, dtype=torch.float64)


def tensor(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def wavy(x: Tensor, sigma: Tensor) -> Tensor:
    return torch.sin(3 * x) - 0.3


def flat(x: Tensor, sigma: Tensor) -> Tensor:
    return 0.5 * x


def test_cfg_moves_along_the_difference() -> None:
    told, untold = tensor(1), tensor(2)
    torch.testing.assert_close(cfg(told, untold, 6.0), told + 5 * (told - untold))
    assert torch.equal(cfg(told, untold, 0.0), untold)


@pytest.mark.parametrize("rule", ["cfg", "apg"])
def test_scale_one_costs_one_velocity(rule: str) -> None:
    assert guided(wavy, flat, 1.0, rule) is wavy


def test_without_its_three_settings_apg_is_cfg() -> None:
    told, untold = tensor(1), tensor(2)
    out, difference = apg(told, untold, 6.0, tensor(3), PLAIN)
    torch.testing.assert_close(out, cfg(told, untold, 6.0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(difference, told - untold)


@pytest.mark.parametrize("settings", [Apg(), Apg(0.0, 2.0, 0.0), Apg(-0.75, 5.0, 0.3), Apg(0.5, 1e9, 0.0)])
def test_apg_agrees_with_diffusers_over_steps(settings: Apg) -> None:
    """Theirs starts from the unconditional prediction, or from the conditional with g - 1: the latter is official."""
    buffer, running = MomentumBuffer(settings.momentum), None
    for step in range(4):
        told, untold = tensor(step), tensor(10 + step)
        theirs = normalized_guidance(
            told, untold, 5.0 - 1, buffer, settings.eta, settings.threshold,
            use_original_formulation=True, norm_dim=(-1, -2, -4),
        )  # fmt: skip
        ours, running = apg(told, untold, 5.0, running, settings)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_no_frame_moves_further_than_the_threshold_and_none_looks_at_another() -> None:
    told, untold = tensor(1, 9.0), tensor(2, 9.0)
    out, _ = apg(told, untold, 2.0, None, Apg(0.0, 3.0, 1.0))
    moved = torch.linalg.vector_norm(out - told, dim=(1, 3, 4))
    torch.testing.assert_close(moved, torch.full_like(moved, 3.0))
    other = told.clone()
    other[:, :, 2] += 1
    assert torch.equal(apg(other, untold, 2.0)[0][:, :, :2], apg(told, untold, 2.0)[0][:, :, :2])


def test_without_the_parallel_part_the_update_is_orthogonal() -> None:
    told = tensor(1)
    out, _ = apg(told, tensor(2), 4.0, None, Apg(0.0, 1e9, 0.0))
    torch.testing.assert_close(((out - told) * told).sum(dim=(1, 3, 4)), torch.zeros(2, 3), atol=1e-3, rtol=0)


def test_equal_predictions_are_left_alone() -> None:
    zero = torch.zeros(SHAPE)
    assert torch.equal(apg(tensor(1), tensor(1), 6.0)[0], tensor(1))
    assert torch.equal(apg(zero, zero, 6.0)[0], zero)


def test_a_velocity_is_guided_through_its_clean_prediction_and_remembers() -> None:
    x = tensor(1)
    level = SIGMA.float()
    told, untold = x - level * wavy(x, SIGMA), x - level * flat(x, SIGMA)
    velocity = guided(wavy, flat, 6.0, "apg")
    first, running = apg(told, untold, 6.0)
    torch.testing.assert_close(x - level * velocity(x, SIGMA), first, rtol=1e-5, atol=1e-5)
    second, _ = apg(told, untold, 6.0, running)
    torch.testing.assert_close(x - level * velocity(x, SIGMA), second, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(first, second)


def test_a_frame_shown_clean_stays_finite() -> None:
    sigmas = torch.full((2, 3), 0.7)
    sigmas[:, 0] = 0
    out = guided(wavy, flat, 6.0, "apg")(tensor(1), sigmas)
    assert torch.isfinite(out).all()
    assert (out[:, :, 0] == 0).all()


def test_another_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="'dynamic'; choose one of cfg, apg"):
        guided(wavy, flat, 2.0, "dynamic")
