"""Samplers: from noise to clean latents, as functions of a `velocity(x, sigma)` callable that know no model.

`sigma` is a 0-d tensor, or (B, T) where frames differ. Levels are float64 until they meet the latents, since the
solvers take logarithms of their ratios.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sana_video.flow import add_noise, predict_clean, shift_sigmas

Velocity = Callable[[Tensor, Tensor], Tensor]
OnStep = Callable[[int, int], None]


def silent(step: int, total: int) -> None:
    """The `on_step` of those who do not listen."""


def flow_schedule(steps: int, shift: float) -> Tensor:
    """steps + 1 levels falling from shift(0.999) to 0, evenly spaced before the shift: DPM-Solver's. float64."""
    even = 1 - torch.linspace(1, 0.001, _at_least_one(steps) + 1, dtype=torch.float64)
    return shift_sigmas(even, shift).flip(0)


def euler_schedule(steps: int, shift: float) -> Tensor:
    """steps + 1 levels, 1 to 0, of the Euler sampler that image to video was published with. float64.

    They are evenly spaced from 1 to shift(0.001) and shifted, so that the last is shifted twice; then comes the 0.
    """
    lowest = float(shift_sigmas(torch.tensor(0.001, dtype=torch.float64), shift))
    even = torch.linspace(1, lowest, _at_least_one(steps), dtype=torch.float64)
    return torch.cat([shift_sigmas(even, shift), even.new_zeros(1)])


def _at_least_one(steps: int) -> int:
    if steps < 1:
        raise ValueError(f"sampling needs at least 1 step, not {steps}")
    return steps


def hold_first_frame(velocity: Velocity, image: Tensor) -> Velocity:
    """Image to video: the network sees latent frame 0 clean, at time 0, and the sampler is led to `image` there.

    image: (B, C, 1, H, W). The velocity reported for frame 0 is the one whose prediction x₀ = x - σv is the image, so
    every sampler arrives at it whatever noise it carries.
    """

    def held(x: Tensor, sigma: Tensor) -> Tensor:
        B, _, T, _, _ = x.shape
        sigmas = sigma.expand(B, T).clone()
        sigmas[:, 0] = 0
        out = velocity(torch.cat([image, x[:, :, 1:]], dim=2), sigmas)
        towards_image = (x[:, :, :1] - image) / sigma.to(x.dtype)
        return torch.cat([towards_image, out[:, :, 1:]], dim=2)

    return held


def euler(velocity: Velocity, x: Tensor, sigmas: Tensor, on_step: OnStep = silent) -> Tensor:
    """Explicit Euler on dx/dσ = v, from sigmas[0] down to sigmas[-1]."""
    steps = len(sigmas) - 1
    for i in range(steps):
        x = x + (sigmas[i + 1] - sigmas[i]).to(x.dtype) * velocity(x, sigmas[i])
        on_step(i + 1, steps)
    return x


def dpmpp_2m_flow(velocity: Velocity, x: Tensor, sigmas: Tensor, on_step: OnStep = silent) -> Tensor:
    """DPM-Solver++(2M), midpoint (Lu et al. 2022, arXiv 2211.01095), with α = 1 - σ and λ = log(α/σ).

    First order on the first step and on the last one, which ends at σ = 0.
    """
    steps = len(sigmas) - 1
    lambdas = torch.log((1 - sigmas) / sigmas)
    earlier: Tensor | None = None
    for i in range(steps):
        clean = predict_clean(x, velocity(x, sigmas[i]), sigmas[i])
        towards = clean
        if earlier is not None and i < steps - 1:
            ratio = (lambdas[i] - lambdas[i - 1]) / (lambdas[i + 1] - lambdas[i])
            towards = clean + (0.5 / ratio).to(x.dtype) * (clean - earlier)
        shrink = sigmas[i + 1] / sigmas[i]
        pull = 1 - sigmas[i + 1] - shrink * (1 - sigmas[i])  # = -α' (e^-h - 1), finite at σ' = 0
        x = shrink.to(x.dtype) * x + pull.to(x.dtype) * towards
        earlier = clean
        on_step(i + 1, steps)
    return x


def renoise(
    velocity: Velocity,
    x: Tensor,
    sigmas: Tensor,
    fresh_noise: Callable[[Tensor], Tensor],
    on_step: OnStep = silent,
) -> Tensor:
    """Few-step sampling of a distilled model (Algorithm 1): predict x₀, noise it afresh to the next level, repeat.

    sigmas: the levels, falling, without a final 0; fresh_noise(x): new Gaussian noise shaped like x.
    """
    steps = len(sigmas)
    for i in range(steps):
        x = predict_clean(x, velocity(x, sigmas[i]), sigmas[i])
        if i + 1 < steps:
            x = add_noise(x, fresh_noise(x), sigmas[i + 1])
        on_step(i + 1, steps)
    return x


def step_sigmas(step_list: Sequence[int]) -> Tensor:
    """Levels of a published step list such as 1000, 960, 889, 727: t / 1000, float64."""
    return torch.tensor(step_list, dtype=torch.float64) / 1000


def gaussian(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise, one generator per sample: a sample's noise does not depend on its batch."""
    B, *rest = shape
    if len(generators) != B:
        raise ValueError(f"{len(generators)} generators for a batch of {B}")
    return torch.stack([torch.randn(rest, generator=g, device=g.device) for g in generators])
