"""Rectified flow as plain functions: noise levels, training times, what the network learns, and its loss.

    x_σ = (1 - σ) x₀ + σ ε        v = ε - x₀        x₀ = x_σ - σ v

σ runs from 0 (clean) to 1 (noise). A noise level is one number per sample, (B,), or one per latent frame, (B, T). An
index in [0, 1000) names a level of the training grid; the network is told `network_timestep(σ)`, a whole number.
All randomness comes from the generator that is handed in.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor

LEVELS = 1000


def shift_sigmas(sigmas: Tensor, shift: float) -> Tensor:
    """σ' = sσ / (1 + (s - 1)σ): moves levels towards noise for s > 1; 0 and 1 stay."""
    if shift <= 0:
        raise ValueError(f"flow shift {shift} must be positive")
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def training_sigmas(shift: float) -> Tensor:
    """The training grid: 1 - linspace(1, 0.001, 1000), that is 0 … 0.999, shifted. (1000,) float64, rising."""
    return shift_sigmas(1 - torch.linspace(1, 0.001, LEVELS, dtype=torch.float64), shift)


def sigmas_at(indices: Tensor, shift: float) -> Tensor:
    """Levels of the training grid at int64 `indices` in [0, 1000), any shape; float32 on their device."""
    return training_sigmas(shift).to(indices.device)[indices].float()


def network_timestep(sigmas: Tensor) -> Tensor:
    """⌊1000σ⌋ as float32, what the network is told; whole as in the official code. A hair of rounding is forgiven."""
    return torch.floor(sigmas.double() * LEVELS + 1e-4).float()


def sample_timesteps(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Training indices ⌊1000 · sigmoid(N(0, 1))⌋ (logit-normal), int64 in [0, 1000) of `shape`."""
    normal = torch.randn(tuple(shape), generator=generator, device=generator.device)
    return (normal.sigmoid() * LEVELS).long().clamp(max=LEVELS - 1)


def sample_monotone_timesteps(batch: int, chunks: int, generator: torch.Generator) -> Tensor:
    """Training indices (B, K) that never fall from chunk to chunk: an earlier chunk is never noisier.

    A chunk drawn at random takes a logit-normal index; the others follow uniformly among all monotone sequences
    through it. (The published recurrence s(t,c) = s(t+1,c) + s(t,c+1) counts exactly these sequences.)
    """
    if chunks < 1:
        raise ValueError(f"a clip has at least one chunk, not {chunks}")
    anchors = torch.randint(chunks, (batch,), generator=generator, device=generator.device).tolist()
    values = sample_timesteps((batch,), generator).tolist()
    rows = []
    for anchor, value in zip(anchors, values, strict=True):
        left = rising_sequence(anchor, value + 1, generator)
        right = value + rising_sequence(chunks - 1 - anchor, LEVELS - value, generator)
        rows.append(torch.cat([left, left.new_tensor([value]), right]))
    return torch.stack(rows)


def rising_sequence(length: int, choices: int, generator: torch.Generator) -> Tensor:
    """A non-decreasing sequence of `length` numbers in [0, choices), uniform among all of them (stars and bars)."""
    picked = torch.randperm(choices + length - 1, generator=generator, device=generator.device)[:length]
    return picked.sort().values - torch.arange(length, device=generator.device)


def spread_over_frames(per_chunk: Tensor, chunk_index: Sequence[int], frames: int) -> Tensor:
    """(B, K) values, one per chunk, to (B, T), one per latent frame; `chunk_index`: first frame of each chunk."""
    lengths = [high - low for low, high in pairwise((*chunk_index, frames))]
    if len(lengths) != per_chunk.shape[1] or min(lengths) < 1:
        raise ValueError(f"{per_chunk.shape[1]} chunks do not fit chunk starts {list(chunk_index)} of {frames} frames")
    return per_chunk.repeat_interleave(torch.tensor(lengths, device=per_chunk.device), dim=1)


def per_element(sigmas: Tensor, like: Tensor) -> Tensor:
    """σ of shape (), (B,) or (B, T), shaped to broadcast against latents (B, C, T, H, W), in their dtype and place."""
    if sigmas.ndim == 2:
        return rearrange(sigmas, "b t -> b 1 t 1 1").to(like)
    return sigmas.reshape(-1, 1, 1, 1, 1).to(like)


def add_noise(clean: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """x_σ = (1 - σ) x₀ + σ ε for latents (B, C, T, H, W)."""
    level = per_element(sigmas, clean)
    return (1 - level) * clean + level * noise


def velocity_target(clean: Tensor, noise: Tensor) -> Tensor:
    """v = ε - x₀."""
    return noise - clean


def predict_clean(x: Tensor, velocity: Tensor, sigmas: Tensor) -> Tensor:
    """x₀ = x_σ - σ v."""
    return x - per_element(sigmas, x) * velocity


def flow_loss(velocity: Tensor, target: Tensor, frame_mask: Tensor | None = None) -> Tensor:
    """Mean squared error in float32 over all elements, or over the latent frames where `frame_mask` (B, T) is true.

    A mask leaves out frames that were given clean (image to video). Raises ValueError if it leaves out everything.
    """
    error = (velocity.float() - target.float()).square()
    if frame_mask is None:
        return error.mean()
    weight = per_element(frame_mask, error)
    if not bool(weight.any()):
        raise ValueError("the frame mask leaves no latent frame to learn from")
    return (error * weight).sum() / weight.expand_as(error).sum()
