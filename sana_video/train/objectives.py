"""What a stage learns, as objects with two methods: `loss` of a batch, and `held_out` over the held-out batches.

Random numbers come from a `Draw`: sample i of the global batch has its own generator, seeded by (seed, step, i). So
noise depends neither on the number of processes nor on what happened before, and held-out measurement, which uses a
seed and step of its own, sees the same noise and times whenever it is made.

A loss is a mean over samples of a mean per sample, so that equal shares on several processes average to the same
number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

from sana_video import flow
from sana_video.autoencoder.dcae_v import reconstruction_loss
from sana_video.config import SanaVideoConfig
from sana_video.data.loader import Batch
from sana_video.padding import trimmed
from sana_video.train.config import StageParams

HELD_OUT_SEED = 20_25_09_24  # never a training seed's business: held-out noise is the same for every run
Text = tuple[Tensor, Tensor]  # embedding (L, D), mask (L,)


class Draw:
    """The random numbers of one step, one generator per sample."""

    def __init__(self, seed: int, step: int, positions: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(_hash(seed, step, position)) for position in positions]

    def each(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        """`draw` once per sample, stacked."""
        return torch.stack([draw(generator) for generator in self._generators])

    def normal_like(self, x: Tensor) -> Tensor:
        return self.each(lambda g: torch.randn(x.shape[1:], generator=g)).to(x)

    def happens(self, probability: float) -> Tensor:
        """(B,) bool."""
        return self.each(lambda g: torch.rand((), generator=g)) < probability

    def below(self, highs: Sequence[int]) -> list[list[int]]:
        """Per sample one whole number in [0, high) for each of `highs`."""
        return [[int(torch.randint(high, (), generator=g)) for high in highs] for g in self._generators]


class Objective(Protocol):
    @property
    def fields(self) -> tuple[str, ...]:
        """What the loader must read of a sample."""

    @property
    def repeats(self) -> bool:
        """Whether a held-out sample may be measured again under other noise."""

    def loss(self, model: nn.Module, batch: Batch, draw: Draw, step: int) -> Tensor: ...

    def held_out(self, model: nn.Module, batches: Sequence[Batch]) -> dict[str, float]: ...


class FlowMatching:
    """Rectified flow (paper section 3.1), in both directions or chunk-causal.

    Bidirectional: one logit-normal time per clip. Chunk-causal: one per chunk, never falling from chunk to chunk. Every
    `image_every`-th batch is of images, which are the first latent frames of its clips. A clip chosen by
    `condition_image` has its first latent frame clean, at time 0 and outside the loss: image to video. A caption is
    replaced by the empty one with probability `caption_dropout`, which is what guidance needs.
    """

    fields = ("latents", "text", "mask")
    repeats = True

    def __init__(self, stage: StageParams, config: SanaVideoConfig, empty: Text) -> None:
        self.config = config
        self.empty = empty
        self.image_every = stage.image_every
        self.condition_image = stage.condition_image or 0.0
        self.caption_dropout = 0.1 if stage.caption_dropout is None else stage.caption_dropout
        self.shift = stage.shift

    def loss(self, model: nn.Module, batch: Batch, draw: Draw, step: int) -> Tensor:
        """Scalar: mean over samples of the squared error of the velocity."""
        latents = batch.tensors["latents"].float()
        if self.image_every is not None and step % self.image_every == 0:
            latents = latents[:, :, :1]
        text, mask = trimmed(*self._drop_captions(batch, draw))
        sigmas = flow.sigmas_at(self._times(len(batch), latents.shape[2], draw), self.shift).to(latents.device)
        learn = None
        if self.condition_image and latents.shape[2] > 1:
            sigmas, learn = _first_frame_clean(sigmas, draw.happens(self.condition_image), latents.shape[2])
        noise = draw.normal_like(latents)
        velocity = model(flow.add_noise(latents, noise, sigmas), flow.network_timestep(sigmas), text, mask)
        return _per_sample(velocity, flow.velocity_target(latents, noise), learn).mean()

    @torch.no_grad()
    def held_out(self, model: nn.Module, batches: Sequence[Batch]) -> dict[str, float]:
        """`loss` at fixed noise and times, and `zero`, the loss of predicting no velocity at all, on the same."""
        losses, zeros = [], []
        for batch in batches:
            draw = Draw(HELD_OUT_SEED, 0, batch.positions)
            latents = batch.tensors["latents"].float()
            if self.image_every == 1:
                latents = latents[:, :, :1]
            sigmas = flow.sigmas_at(self._times(len(batch), latents.shape[2], draw), self.shift).to(latents.device)
            noise = draw.normal_like(latents)
            target = flow.velocity_target(latents, noise)
            noised, timestep = flow.add_noise(latents, noise, sigmas), flow.network_timestep(sigmas)
            velocity = model(noised, timestep, *trimmed(batch.tensors["text"].float(), batch.tensors["mask"]))
            losses.append(_per_sample(velocity, target, None))
            zeros.append(_per_sample(torch.zeros_like(target), target, None))
        return {"loss": float(torch.cat(losses).mean()), "zero": float(torch.cat(zeros).mean())}

    def _times(self, batch: int, frames: int, draw: Draw) -> Tensor:
        """Indices of the training grid: (B,) where nothing is causal, else (B, T) that never fall."""
        chunks = self.config.chunk_index(frames)
        if len(chunks) == 1:
            return draw.each(lambda g: flow.sample_timesteps((), g))
        per_chunk = draw.each(lambda g: flow.sample_monotone_timesteps(1, len(chunks), g)[0])
        return flow.spread_over_frames(per_chunk, chunks, frames)

    def _drop_captions(self, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor]:
        text, mask = batch.tensors["text"].float(), batch.tensors["mask"]
        empty_text, empty_mask = self.empty
        if text.shape[1:] != empty_text.shape:
            raise ValueError(
                f"the view's captions are {list(text.shape[1:])}, its null embedding {list(empty_text.shape)}"
            )
        dropped = draw.happens(self.caption_dropout).to(text.device)
        return (
            torch.where(dropped[:, None, None], empty_text.to(text), text),
            torch.where(dropped[:, None], empty_mask.to(mask), mask),
        )


class Reconstruction:
    """The autoencoder's: clips, or random crops of them, through the bottleneck and back."""

    fields = ("pixels",)
    repeats = False

    def __init__(self, stage: StageParams) -> None:
        self.frames, self.size = stage.crop_frames, stage.crop_size

    def loss(self, model: nn.Module, batch: Batch, draw: Draw, step: int) -> Tensor:
        """Scalar: mean over samples of the reconstruction loss."""
        video = self._crop(batch.tensors["pixels"], draw)
        return torch.stack(
            [reconstruction_loss(r[None], v[None]) for r, v in zip(model(video), video, strict=True)]
        ).mean()

    @torch.no_grad()
    def held_out(self, model: nn.Module, batches: Sequence[Batch]) -> dict[str, float]:
        """The trained `loss` on whole clips, `psnr` (dB, mean over clips), and `psnr_mean_colour`, that of showing each
        clip's mean colour instead."""
        losses: list[float] = []
        errors, flat = [], []
        for batch in batches:
            video = as_video(batch.tensors["pixels"])
            shown = model(video).float()
            losses.extend(float(reconstruction_loss(r[None], v[None])) for r, v in zip(shown, video, strict=True))
            errors.append((shown.clamp(-1, 1) - video).square().flatten(1).mean(1))
            flat.append((video.mean((2, 3, 4), keepdim=True) - video).square().flatten(1).mean(1))
        error, mean_colour = torch.cat(errors), torch.cat(flat)
        return {"loss": sum(losses) / len(losses), "psnr": _psnr(error), "psnr_mean_colour": _psnr(mean_colour)}

    def _crop(self, pixels: Tensor, draw: Draw) -> Tensor:
        """(B, F, H, W, 3) uint8 -> (B, 3, f, h, w) in [-1, 1], each sample cut at a place of its own."""
        F, H, W = pixels.shape[1:4]
        f, h, w = min(self.frames or F, F), min(self.size or H, H), min(self.size or W, W)
        starts = draw.below((F - f + 1, H - h + 1, W - w + 1))
        crops = [x[t : t + f, y : y + h, z : z + w] for x, (t, y, z) in zip(pixels, starts, strict=True)]
        return as_video(torch.stack(crops))


def as_video(pixels: Tensor) -> Tensor:
    """(B, F, H, W, 3) uint8 -> (B, 3, F, H, W) float32 in [-1, 1]."""
    return rearrange(pixels, "b f h w c -> b c f h w").float().contiguous() / 127.5 - 1


def _first_frame_clean(sigmas: Tensor, chosen: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Levels (B,) or (B, T) -> (B, T) with σ = 0 at the first frame of the chosen clips; and which frames to learn."""
    sigmas = (sigmas if sigmas.ndim == 2 else sigmas[:, None].expand(-1, frames)).clone()
    learn = torch.ones_like(sigmas, dtype=torch.bool)
    chosen = chosen.to(sigmas.device)
    sigmas[chosen, 0], learn[chosen, 0] = 0.0, False
    return sigmas, learn


def _per_sample(velocity: Tensor, target: Tensor, learn: Tensor | None) -> Tensor:
    """(B,) flow losses."""
    masks = [None] * len(target) if learn is None else list(learn[:, None])
    return torch.stack(
        [flow.flow_loss(v[None], t[None], mask) for v, t, mask in zip(velocity, target, masks, strict=True)]
    )


def _psnr(mean_squared_errors: Tensor) -> float:
    """Mean over clips of 10 log10(peak² / error), peak 2 for [-1, 1]; an exact clip counts 100 dB."""
    return float((10 * torch.log10(4 / mean_squared_errors.clamp(min=4e-10))).mean())


def _hash(*numbers: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "little") >> 1
