"""Clean latents for one batch: which sampler goes with which network.

A network in both directions is sampled whole with DPM-Solver++, or with Euler where a first frame is held; a
chunk-causal one chunk by chunk, in few fresh-noise steps if it was distilled to them, else with Euler. The solvers'
state is float32 whatever the network computes in.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import torch
from torch import Tensor

from sana_video.guidance import GuidanceRule, guided
from sana_video.model import Reading, SanaVideo
from sana_video.recorded import Recorded, Run
from sana_video.sampling import (
    OnStep,
    Velocity,
    dpmpp_2m_flow,
    euler,
    euler_schedule,
    flow_schedule,
    gaussian,
    hold_first_frame,
    renoise,
    step_sigmas,
)
from sana_video.step_cache import OnSkip, StepCache
from sana_video.streaming import Condition, Sampler, generate_chunks, network_time

LEAST_STEPS = 4  # fewer are over before a recording has paid for itself
TOKENS_WORTH_RECORDING = 16_384  # of more, a forward takes longer on an H100 than to launch it from Python


def unheard(step: int) -> None:
    """The `on_skip` of those who do not listen."""


@dataclass(frozen=True)
class Request:
    """One batch, everything settled. `null`: None for no guidance; `image`: clean first latent frame (B, C, 1, h, w).

    `generators`: one per sample, on the CPU, so that the noise is the same on every device. `on_step(done, total)`.
    `step_cache`: threshold of `step_cache.StepCache`, for networks in both directions; `on_skip(step)` is told of each
    step that was not computed.
    """

    shape: tuple[int, int, int, int, int]
    prompt: Condition
    null: Condition | None
    image: Tensor | None
    steps: int
    guidance: float
    guidance_rule: GuidanceRule
    flow_shift: float
    step_list: tuple[int, ...] | None
    generators: list[torch.Generator]
    on_step: OnStep
    step_cache: float = 0.0
    on_skip: OnSkip = unheard

    def to(self, device: torch.device) -> Self:
        """The same with its tensors on `device`."""
        null = None if self.null is None else self.null.to(device)
        image = None if self.image is None else self.image.to(device)
        return replace(self, prompt=self.prompt.to(device), null=null, image=image)

    def split(self, batch: int) -> list[Self]:
        """Requests for `batch` samples each, the last for what is left; their steps are counted together."""
        lows = range(0, self.shape[0], batch)
        return [self._rows(slice(low, low + batch), part, len(lows)) for part, low in enumerate(lows)]

    def _rows(self, rows: slice, part: int, parts: int) -> Self:
        def on_step(done: int, total: int) -> None:
            self.on_step(part * total + done, parts * total)

        generators = self.generators[rows]
        return replace(
            self,
            shape=(len(generators), *self.shape[1:]),
            prompt=self.prompt.rows(rows),
            null=None if self.null is None else self.null.rows(rows),
            image=None if self.image is None else self.image[rows],
            generators=generators,
            on_step=on_step,
        )


def clean_latents(model: SanaVideo, request: Request) -> Iterator[Tensor]:
    """Yield float32 latents (B, C, frames of the piece, h, w), in order: chunk by chunk, or all of them at once."""
    if model.config.chunk_frames is None:
        return _whole(model, request)
    if request.step_cache:
        raise ValueError("a step cache is for networks in both directions; this one makes its video chunk by chunk")
    return _chunks(model, request)


@torch.no_grad()
def _whole(model: SanaVideo, request: Request) -> Iterator[Tensor]:
    noise = gaussian(request.shape, request.generators).to(request.prompt.text.device)
    velocity = network_velocity(model, request.prompt, request.steps)
    if request.null is not None:
        away = network_velocity(model, request.null, request.steps)
        velocity = guided(velocity, away, request.guidance, request.guidance_rule)
    if request.step_cache:
        velocity = StepCache(velocity, request.steps, request.step_cache, request.on_skip)
    if request.image is None:
        yield dpmpp_2m_flow(velocity, noise, flow_schedule(request.steps, request.flow_shift), request.on_step)
    else:
        sigmas = euler_schedule(request.steps, request.flow_shift)
        latents = euler(hold_first_frame(velocity, request.image), noise, sigmas, request.on_step)
        yield torch.cat([request.image, latents[:, :, 1:]], dim=2)


def _chunks(model: SanaVideo, request: Request) -> Iterator[Tensor]:
    chunk_index = model.config.chunk_index(request.shape[2])
    return generate_chunks(
        model,
        request.prompt,
        shape=request.shape,
        chunk_index=chunk_index,
        sampler=_chunk_sampler(request, len(chunk_index)),
        generators=request.generators,
        null=request.null,
        guidance=request.guidance,
        rule=request.guidance_rule,
        image=request.image,
    )


def _chunk_sampler(request: Request, chunks: int) -> Sampler:
    """The sampler of one chunk; steps are counted over all of them."""
    done = 0

    def count(step: int, steps: int) -> None:
        nonlocal done
        done += 1
        request.on_step(done, steps * chunks)

    if request.step_list is None:
        return partial(euler, sigmas=euler_schedule(request.steps, request.flow_shift), on_step=count)

    def fresh(x: Tensor) -> Tensor:
        return gaussian(x.shape, request.generators).to(x)

    return partial(renoise, sigmas=step_sigmas(request.step_list), fresh_noise=fresh, on_step=count)


def network_velocity(model: SanaVideo, condition: Condition, steps: int) -> Velocity:
    """The network told `condition`, for a sampler that asks it `steps` times; recorded where that pays."""
    run: Run = partial(_forward, model, condition.read_by(model))
    if steps >= LEAST_STEPS and next(model.parameters()).is_cuda:
        run = Recorded(run, most=TOKENS_WORTH_RECORDING * math.prod(model.config.patch_size))

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        return run(x, network_time(sigma, x))

    return velocity


def _forward(model: SanaVideo, reading: Reading, x: Tensor, timestep: Tensor) -> Tensor:
    out: Tensor = model(x, timestep, reading)
    return out.to(x.dtype)
