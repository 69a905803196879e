"""Block by block must equal the whole, and the memory must not grow."""

import gc
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sana_video.config import SanaVideoConfig
from sana_video.model import SanaVideo
from sana_video.sampling import euler, flow_schedule, gaussian, renoise, step_sigmas
from sana_video.streaming import Condition, generate_chunks, remember

CONFIG = SanaVideoConfig(in_channels=3, width=48, heads=2, depth=2, text_width=8, text_tokens=4, chunk_frames=2)
FRAMES = 7
CHUNKS = CONFIG.chunk_index(FRAMES)
SHAPE = (2, 3, FRAMES, 3, 4)


@pytest.fixture
def model() -> SanaVideo:
    model = SanaVideo(CONFIG)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.fixture
def prompt() -> Condition:
    generator = torch.Generator().manual_seed(6)
    return Condition(torch.randn(2, 4, 8, generator=generator), torch.tensor([[True] * 4, [True, True, False, False]]))


def latents() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(7))


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in (1, 2)]


def test_chunks_take_the_remainder_first() -> None:
    assert CHUNKS == (0, 3, 5)


@torch.no_grad()
def test_block_by_block_equals_one_chunk_causal_forward(model: SanaVideo, prompt: Condition) -> None:
    x, timestep = latents(), torch.tensor([0.0, 300.0])
    whole = model(x, timestep, *prompt)
    state, pieces = None, []
    for low, high in pairwise((*CHUNKS, FRAMES)):
        velocity, state = model.stream(x[:, :, low:high], timestep, *prompt, state)
        pieces.append(velocity)
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_state_does_not_grow(model: SanaVideo, prompt: Condition) -> None:
    state, sizes = None, []
    for length in (3, 1, 2, 7, 2, 2):
        state = remember(model, latents()[:, :, :length], prompt.read_by(model), state)
        sizes.append(state.bytes)
    assert state.frames == 17
    assert len(set(sizes)) == 1


@torch.no_grad()
def test_a_velocity_that_keeps_nothing_is_the_one_of_the_stream(model: SanaVideo, prompt: Condition) -> None:
    x, timestep = latents(), torch.tensor([0.0, 300.0])
    state = remember(model, x[:, :, :3], prompt.read_by(model), None)
    streamed, _ = model.stream(x[:, :, 3:5], timestep, *prompt, state)
    assert torch.equal(model(x[:, :, 3:5], timestep, *prompt, chunk_index=(0,), state=state), streamed)


def bytes_alive() -> int:
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def test_what_is_alive_between_chunks_does_not_grow(model: SanaVideo, prompt: Condition) -> None:
    """Bytes of all tensors that a long video keeps alive, counted after each chunk of the same length."""
    frames = 2 * 9
    null = Condition(torch.zeros_like(prompt.text), prompt.mask)
    chunks = generate_chunks(
        model, prompt, shape=(2, 3, frames, 3, 4), chunk_index=range(0, frames, 2), generators=generators(),
        sampler=partial(euler, sigmas=flow_schedule(2, 8.0)), null=null, guidance=3.0, rule="apg",
    )  # fmt: skip
    alive = []
    for piece in chunks:
        del piece
        alive.append(bytes_alive())
    assert len(alive) == 9
    assert len(set(alive[1:-1])) == 1, alive  # the first has no state yet; the last is followed by nothing


@torch.no_grad()
def test_streaming_equals_sampling_with_the_whole_past_recomputed(model: SanaVideo, prompt: Condition) -> None:
    sigmas = flow_schedule(3, 8.0)
    options = {"shape": SHAPE, "chunk_index": CHUNKS, "sampler": partial(euler, sigmas=sigmas)}
    streamed = list(generate_chunks(model, prompt, **options, generators=generators()))

    drawn, past = generators(), torch.empty(2, 3, 0, 3, 4)
    for low, high in pairwise((*CHUNKS, FRAMES)):

        def velocity(x: Tensor, sigma: Tensor, past: Tensor = past, high: int = high) -> Tensor:
            frames = torch.cat([past, x], dim=2)
            times = torch.zeros(2, high)
            times[:, past.shape[2] :] = torch.floor(1000 * sigma)
            chunks = [start for start in CHUNKS if start < high]
            return model(frames, times, *prompt, chunk_index=chunks)[:, :, past.shape[2] :]

        past = torch.cat([past, euler(velocity, gaussian((2, 3, high - low, 3, 4), drawn), sigmas)], dim=2)
    torch.testing.assert_close(torch.cat(streamed, dim=2), past, rtol=1e-4, atol=1e-4)


def test_few_steps_with_fresh_noise(model: SanaVideo, prompt: Condition) -> None:
    def run() -> Tensor:
        drawn = generators()
        sampler = partial(
            renoise, sigmas=step_sigmas([1000, 960, 889, 727]), fresh_noise=lambda x: gaussian(x.shape, drawn)
        )
        chunks = generate_chunks(model, prompt, shape=SHAPE, chunk_index=CHUNKS, sampler=sampler, generators=drawn)
        return torch.cat(list(chunks), dim=2)

    first = run()
    assert first.shape == SHAPE
    assert torch.equal(first, run())


def test_guidance_keeps_a_state_for_each_condition(model: SanaVideo, prompt: Condition) -> None:
    null = Condition(torch.zeros_like(prompt.text), prompt.mask)
    sampler = partial(euler, sigmas=flow_schedule(2, 8.0))
    options = {"shape": SHAPE, "chunk_index": CHUNKS, "sampler": sampler}

    def run(prompt: Condition, guidance: float) -> Tensor:
        chunks = generate_chunks(model, prompt, **options, generators=generators(), null=null, guidance=guidance)
        return torch.cat(list(chunks), dim=2)

    torch.testing.assert_close(run(null, 4.0), run(null, 1.0))  # both conditions the same: guidance changes nothing
    assert not torch.allclose(run(prompt, 4.0), run(prompt, 1.0), rtol=1e-3)
    torch.testing.assert_close(run(prompt, 0.0), run(null, 1.0), rtol=1e-4, atol=1e-4)


def test_the_image_stays_the_first_frame(model: SanaVideo, prompt: Condition) -> None:
    image = torch.randn(2, 3, 1, 3, 4, generator=torch.Generator().manual_seed(8))
    options = {"shape": SHAPE, "chunk_index": CHUNKS, "sampler": partial(euler, sigmas=flow_schedule(2, 8.0))}
    with_image, other_image, without = (
        torch.cat(list(generate_chunks(model, prompt, **options, generators=generators(), image=given)), dim=2)
        for given in (image, image + 1, None)
    )
    assert torch.equal(with_image[:, :, :1], image)
    assert not torch.allclose(with_image[:, :, 1:], other_image[:, :, 1:], rtol=1e-3)
    assert not torch.allclose(with_image[:, :, 1:], without[:, :, 1:], rtol=1e-3)
