"""Objectives: which frames are noised and learned, what the model is told, and noise that knows no process."""

from typing import Any

import torch
from torch import Tensor, nn

from sana_video.config import SanaVideoConfig
from sana_video.data.loader import Batch
from sana_video.train.config import StageParams
from sana_video.train.objectives import Draw, FlowMatching, Reconstruction


class Spy(nn.Module):
    """A model that answers zero velocity and remembers what it was given."""

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        self.latents, self.timestep, self.text, self.mask = latents, timestep, text, mask
        return torch.zeros_like(latents)


def objective(**changes: Any) -> FlowMatching:
    plain = {"objective": "bidirectional", "init": "a", "autoencoder": "b", "view": "c", "after": "d"}
    stage = StageParams.model_validate({**plain, "steps": 9, "batch": 4, "lr": 0.1, "warmup": 1, **changes})
    config = SanaVideoConfig.preset("tiny").with_(chunk_frames=stage.chunk_frames)
    return FlowMatching(stage, config, (torch.full((4, 8), 7.0), torch.tensor([True, False, False, False])))


def batch(n: int = 64) -> Batch:
    latents = torch.randn(n, 16, 6, 2, 2, generator=torch.Generator().manual_seed(0))
    tensors = {"latents": latents, "text": torch.zeros(n, 4, 8).half(), "mask": torch.ones(n, 4, dtype=torch.bool)}
    return Batch(tensors, tuple(range(n)))


def draw(n: int = 64) -> Draw:
    return Draw(1, 5, range(n))


def test_zero_velocity_costs_what_noise_and_latents_weigh() -> None:
    loss = objective().loss(Spy(), batch(), draw(), step=1)
    assert 1.9 < float(loss) < 2.1  # E (ε - x₀)² = 2 for unit noise and unit latents
    measured = objective().held_out(Spy(), [batch()])
    assert measured["loss"] == measured["zero"]


def test_image_batches_are_first_latent_frames() -> None:
    spy = Spy()
    objective(image_every=3).loss(spy, batch(), draw(), step=6)
    assert spy.latents.shape[2] == 1
    objective(image_every=3).loss(spy, batch(), draw(), step=7)
    assert spy.latents.shape[2] == 6


def test_conditioned_clips_have_their_first_frame_clean_and_not_learned() -> None:
    spy, data = Spy(), batch()
    objective(condition_image=0.5).loss(spy, data, draw(), step=0)
    chosen = spy.timestep[:, 0] == 0
    assert 16 < int(chosen.sum()) < 48
    assert torch.equal(spy.latents[chosen][:, :, 0], data.tensors["latents"][chosen][:, :, 0])
    assert (spy.timestep[chosen, 1:] > 0).all()
    every = objective(condition_image=1.0, caption_dropout=0.0)
    huge = Batch({**data.tensors, "latents": data.tensors["latents"].clone()}, data.positions)
    huge.tensors["latents"][:, :, 0] = 1e6
    assert float(every.loss(spy, huge, draw(), step=0)) < 2.2


def test_chunks_are_never_less_noisy_than_the_one_before() -> None:
    spy = Spy()
    objective(objective="chunk_causal", chunk_frames=2).loss(spy, batch(), draw(), step=0)
    steps = spy.timestep.diff(dim=1)
    assert (steps >= 0).all() and (steps[:, [0, 2, 4]] == 0).all() and (steps[:, [1, 3]] > 0).any()


def test_captions_are_dropped_at_the_rate_asked() -> None:
    spy = Spy()
    objective(caption_dropout=0.25).loss(spy, batch(), draw(), step=0)
    dropped = spy.text[:, 0, 0] == 7
    assert 6 <= int(dropped.sum()) <= 28  # 16 expected of 64, deviation 3.5
    assert torch.equal(spy.mask.sum(1) == 1, dropped)


def test_noise_depends_on_the_place_in_the_global_batch_alone() -> None:
    whole, half = Spy(), Spy()
    objective().loss(whole, batch(8), Draw(1, 5, range(8)), step=5)
    parts = {name: value[4:] for name, value in batch(8).tensors.items()}
    objective().loss(half, Batch(parts, (4, 5, 6, 7)), Draw(1, 5, (4, 5, 6, 7)), step=5)
    assert torch.equal(whole.latents[4:], half.latents) and torch.equal(whole.timestep[4:], half.timestep)
    objective().loss(half, Batch(parts, (4, 5, 6, 7)), Draw(1, 6, (4, 5, 6, 7)), step=6)
    assert not torch.equal(whole.latents[4:], half.latents)


def test_crops_lie_inside_and_differ() -> None:
    plain = {"objective": "autoencoder", "init": "a", "autoencoder": "b", "view": "c", "after": "d"}
    stage = {**plain, "steps": 9, "batch": 4, "lr": 0.1, "warmup": 1, "crop_frames": 5, "crop_size": 16}
    frame = torch.arange(9 * 24 * 40, dtype=torch.int64).reshape(9, 24, 40, 1) % 251
    pixels = frame.to(torch.uint8).expand(8, 9, 24, 40, 3)
    crops = Reconstruction(StageParams.model_validate(stage))._crop(pixels, draw(8))
    assert crops.shape == (8, 3, 5, 16, 16)
    assert float(crops.min()) >= -1 and float(crops.max()) <= 1
    assert len({crop.sum().item() for crop in crops}) > 1
