"""Noise levels, training times and the loss, against independent ways to compute them."""

from collections import Counter
from math import comb, lgamma

import pytest
import torch

from sana_video.flow import (
    add_noise,
    flow_loss,
    network_timestep,
    predict_clean,
    rising_sequence,
    sample_monotone_timesteps,
    sample_timesteps,
    shift_sigmas,
    sigmas_at,
    spread_over_frames,
    training_sigmas,
    velocity_target,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_shift_keeps_the_ends_and_gives_the_published_step_list() -> None:
    even = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    published = torch.tensor([0, 727, 889, 960, 1000])
    assert torch.equal((1000 * shift_sigmas(even, 8.0)).round().long(), published)
    assert torch.equal(shift_sigmas(even, 1.0), even)
    with pytest.raises(ValueError, match="shift 0"):
        shift_sigmas(even, 0)


def test_training_grid() -> None:
    grid = training_sigmas(1.0)
    torch.testing.assert_close(grid, torch.arange(1000, dtype=torch.float64) / 1000)
    shifted = training_sigmas(3.0)
    assert shifted[500] == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))
    assert torch.equal(sigmas_at(torch.tensor([[0, 999]]), 3.0), shifted[[0, 999]].float()[None])


def test_network_timestep_is_whole_and_forgives_rounding() -> None:
    steps = torch.arange(1000)
    assert torch.equal(network_timestep(sigmas_at(steps, 1.0)).long(), steps)
    assert network_timestep(torch.tensor(0.9606)).item() == 960


def test_times_are_logit_normal() -> None:
    drawn = sample_timesteps((200_000,), generator()).double()
    assert drawn.min() >= 0
    assert drawn.max() <= 999
    within = (
        ((drawn >= 1000 * torch.sigmoid(torch.tensor(-1.0))) & (drawn < 1000 * torch.sigmoid(torch.tensor(1.0))))
        .double()
        .mean()
    )
    assert within.item() == pytest.approx(0.6827, abs=0.005)
    assert torch.equal(sample_timesteps((3, 2), generator(4)), sample_timesteps((3, 2), generator(4)))


def test_noise_velocity_and_clean_agree() -> None:
    clean, noise = torch.randn(2, 2, 3, 4, 5, 6, generator=generator())
    for sigmas in (torch.tensor([0.2, 0.9]), torch.rand(2, 4, generator=generator())):
        x = add_noise(clean.double(), noise.double(), sigmas)
        back = predict_clean(x, velocity_target(clean.double(), noise.double()), sigmas)
        torch.testing.assert_close(back, clean.double())
    per_frame = torch.tensor([[0.0, 1, 1, 1], [1, 1, 1, 1]])
    x = add_noise(clean, noise, per_frame)
    assert torch.equal(x[0, :, 0], clean[0, :, 0])
    assert torch.equal(x[0, :, 1:], noise[0, :, 1:])


def test_loss_counts_only_the_frames_of_the_mask() -> None:
    velocity, target = torch.zeros(2, 3, 4, 2, 2), torch.ones(2, 3, 4, 2, 2)
    target[0, :, 0] = 100.0
    mask = torch.ones(2, 4, dtype=torch.bool)
    mask[0, 0] = False
    assert flow_loss(velocity, target, mask).item() == 1.0
    assert flow_loss(velocity, target).item() == pytest.approx((7 + 10000) / 8)
    with pytest.raises(ValueError, match="no latent frame"):
        flow_loss(velocity, target, torch.zeros(2, 4, dtype=torch.bool))


def test_monotone_times_never_fall_and_follow_the_generator() -> None:
    times = sample_monotone_timesteps(256, 5, generator(1))
    assert times.shape == (256, 5)
    assert times.dtype == torch.int64
    assert (times.diff(dim=1) >= 0).all()
    assert 0 <= times.min() <= times.max() <= 999
    assert torch.equal(times, sample_monotone_timesteps(256, 5, generator(1)))
    assert sample_monotone_timesteps(4, 1, generator()).shape == (4, 1)


def test_rising_sequences_are_uniform() -> None:
    drawn = Counter(tuple(rising_sequence(3, 4, source).tolist()) for source in [generator(2)] for _ in range(20_000))
    sequences = comb(4 + 3 - 1, 3)
    assert len(drawn) == sequences
    assert all(count == pytest.approx(20_000 / sequences, rel=0.15) for count in drawn.values())


def recurrence(levels: int, chunks: int) -> torch.Tensor:
    """The published s(t, c), in logarithms: s(·, K-1) = 1, s(top, ·) = 1, s(t, c) = s(t+1, c) + s(t, c+1)."""
    s = torch.zeros(levels, chunks, dtype=torch.float64)
    for c in range(chunks - 2, -1, -1):
        for t in range(levels - 2, -1, -1):
            s[t, c] = torch.logaddexp(s[t + 1, c], s[t, c + 1])
    return s


def test_recurrence_has_the_closed_form_that_is_sampled() -> None:
    levels, chunks = 40, 4
    s = recurrence(levels, chunks)
    for c in range(chunks):
        for t in range(levels):
            n, k = levels - 1 - t + chunks - 1 - c, chunks - 1 - c
            assert s[t, c].item() == pytest.approx(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1), abs=1e-9)


def test_first_step_right_of_the_anchor_follows_the_recurrence() -> None:
    """From value 0 with two chunks to come, P(next = t) is s(t, 1) normalised."""
    levels = 12
    expected = recurrence(levels, 3)[:, 1].softmax(dim=0)
    source = generator(3)
    firsts = torch.stack([rising_sequence(2, levels, source)[0] for _ in range(20_000)])
    observed = torch.bincount(firsts, minlength=levels) / 20_000
    torch.testing.assert_close(observed.double(), expected, atol=0.01, rtol=0)


def test_chunk_values_spread_over_their_frames() -> None:
    per_chunk = torch.tensor([[1, 5], [2, 3]])
    assert spread_over_frames(per_chunk, (0, 3), 5).tolist() == [[1, 1, 1, 5, 5], [2, 2, 2, 3, 3]]
    with pytest.raises(ValueError, match="2 chunks do not fit"):
        spread_over_frames(per_chunk, (0,), 5)
