"""Long video chunk by chunk with a memory that does not grow (arXiv 2509.24695, Algorithm 1).

Each chunk of latent frames is sampled while the network sees, of everything before it, only a running state per block:
the sum of value-key products, the sum of keys, and one frame of convolution features. When a chunk is clean, one more
pass at time 0 adds it to the state. How a chunk is sampled is the caller's choice: few fresh-noise steps for a
distilled model, or an ordinary sampler with guidance.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from torch import Tensor

from sana_video.flow import network_timestep
from sana_video.guidance import GuidanceRule, guided
from sana_video.model import Reading, SanaVideo, StreamState
from sana_video.padding import trimmed
from sana_video.sampling import Velocity, gaussian, hold_first_frame

Sampler = Callable[[Velocity, Tensor], Tensor]


class Condition(NamedTuple):
    """What the network is told in words: text (B, L, text width), mask (B, L) bool."""

    text: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> Self:
        return self._replace(text=self.text.to(device), mask=self.mask.to(device))

    def read_by(self, model: SanaVideo) -> Reading:
        """The text as the blocks of `model` see it, without padding: projected once, for all steps and chunks."""
        return model.read(*trimmed(self.text, self.mask))

    def rows(self, rows: slice) -> Self:
        return self._replace(text=self.text[rows], mask=self.mask[rows])


@torch.no_grad()
def generate_chunks(
    model: SanaVideo,
    prompt: Condition,
    *,
    shape: tuple[int, int, int, int, int],
    chunk_index: Sequence[int],
    sampler: Sampler,
    generators: Sequence[torch.Generator],
    null: Condition | None = None,
    guidance: float = 1.0,
    rule: GuidanceRule = "cfg",
    image: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield clean latents (B, C, frames of the chunk, H, W), chunk after chunk.

    shape: (B, C, T, H, W) of the whole video; chunk_index: first latent frame of each chunk; sampler(velocity, noise):
    gives clean latents; generators: one per sample, for the noise each chunk starts from; null: condition for guidance,
    which keeps a state of its own; rule: how it guides, see `guided`; image: clean first latent frame (B, C, 1, H, W).
    """
    B, C, T, H, W = shape
    device = prompt.text.device
    conditions = [prompt] if null is None or guidance == 1 else [prompt, null]
    readings = [condition.read_by(model) for condition in conditions]
    states: list[StreamState | None] = [None] * len(conditions)
    for low, high in pairwise((*chunk_index, T)):
        velocity = _guided_velocity(model, readings, states, guidance, rule)
        noise = gaussian((B, C, high - low, H, W), generators).to(device)
        if image is not None and low == 0:
            clean = sampler(hold_first_frame(velocity, image), noise)
            clean = torch.cat([image, clean[:, :, 1:]], dim=2)
        else:
            clean = sampler(velocity, noise)
        yield clean
        if high < T:
            states = [remember(model, clean, *pair) for pair in zip(readings, states, strict=True)]


def remember(model: SanaVideo, clean: Tensor, reading: Reading, state: StreamState | None) -> StreamState:
    """The state after clean latents (B, C, T, H, W) that follow `state`: one pass at time 0."""
    _, after = model.stream(clean, clean.new_zeros(clean.shape[0]), reading, None, state)
    return after


def network_time(sigma: Tensor, x: Tensor) -> Tensor:
    """A level, 0-d or (B, T), as the timestep the network takes for the batch x: (B,) or (B, T)."""
    return network_timestep(sigma).to(x.device).expand(x.shape[0], *sigma.shape[1:])


def _guided_velocity(
    model: SanaVideo,
    readings: Sequence[Reading],
    states: Sequence[StreamState | None],
    guidance: float,
    rule: GuidanceRule,
) -> Velocity:
    branches = [_chunk_velocity(model, *pair) for pair in zip(readings, states, strict=True)]
    return branches[0] if len(branches) == 1 else guided(branches[0], branches[1], guidance, rule)


def _chunk_velocity(model: SanaVideo, reading: Reading, state: StreamState | None) -> Velocity:
    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        out: Tensor = model(x, network_time(sigma, x), reading, chunk_index=(0,), state=state)
        return out.to(x.dtype)

    return velocity
