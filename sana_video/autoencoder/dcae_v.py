"""DCAE-V: a deep-compression video autoencoder, chunk-causal in time, streaming in constant memory.

Our own network after the published facts of DC-AE (arXiv 2410.10733) and its video form F32T4C32 (SANA-Video, arXiv
2509.24695, 720p): space and time are folded into channels, and every change of resolution carries a shortcut without
weights, the mean over channel groups on the way down and their repetition on the way up, so that the convolutions learn
a residual to a plain box filter. That is what lets a latent be this small and training still start well.

Time. A clip has 4k+1 frames. The first frame is shown four times and becomes a latent of its own; every further latent
holds four frames. Latents are grouped in chunks: the first alone, then `chunk` at a time. A convolution sees the whole
of its chunk and the last frame before it, never anything after it, so that the chunks can be run one after the other
with one remembered frame per convolution (`Memory`). So, and tested: an image is a one-frame clip; a prefix that ends
with a chunk has the prefix of the latents; memory does not grow with the length of the video. Where there
is no neighbour in time (the ends of a chunk, the start of a video) the edge frame is repeated, not zero: a still film
is then exactly its image, repeated, and no brightness step marks the chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn

from sana_video import weights
from sana_video.autoencoder.blocks import (
    ChannelNorm,
    ChunkConv,
    Down,
    LinearShortcut,
    Memory,
    Residual,
    Stride,
    Up,
    fold,
    match_channels,
    regroup,
    unfold,
)


class DcaeVConfig(BaseModel):
    """Shape of the network. Encoder and decoder mirror each other.

    `patch` folds (t, h, w) pixels into channels before the first convolution; `strides[i]` stands between stage i and
    i+1. No convolution runs at pixel resolution: published configurations write this as a first stage of depth 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["dcae-v"] = "dcae-v"
    latent_channels: int
    chunk: int  # latent frames that are coded together
    patch: Stride
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    strides: tuple[Stride, ...]
    linear_shortcut: bool  # a learned linear map from pixels to latents and back beside the whole network

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not len(self.widths) == len(self.depths) == len(self.strides) + 1:
            raise ValueError(f"dcae-v: {len(self.widths)} widths need as many depths and one stride less")
        if self.chunk < 1 or self.latent_channels < 1:
            raise ValueError(
                f"dcae-v: chunk {self.chunk} and latent_channels {self.latent_channels} must be at least 1"
            )
        return self

    @property
    def stride(self) -> Stride:
        """Pixels (t, h, w) per latent."""
        t, h, w = (math.prod(axis) for axis in zip(self.patch, *self.strides, strict=True))
        return t, h, w


PRESETS = {
    # F32T4C32: widths [128, 256, 512, 512, 1024, 1024, 1024], depths [0, 5, 10, 4, 4, 4, 4], five spatial halvings and
    # time last; the stage of width 128 has depth 0 and so is the fold by 2 alone.
    "full": DcaeVConfig(
        latent_channels=32,
        chunk=10,
        patch=(1, 2, 2),
        widths=(256, 512, 512, 1024, 1024, 1024),
        depths=(5, 10, 4, 4, 4, 4),
        strides=((1, 2, 2), (1, 2, 2), (1, 2, 2), (1, 2, 2), (4, 1, 1)),
        linear_shortcut=False,
    ),
    # F16T4C16 for two CPU cores: time and 4x4 pixels are folded at once, so that no convolution sees more than 1/64 of
    # the positions, and a linear map carries what a few hundred steps can learn.
    "small": DcaeVConfig(
        latent_channels=16,
        chunk=2,
        patch=(4, 4, 4),
        widths=(32, 64, 64),
        depths=(1, 1, 1),
        strides=((1, 2, 2), (1, 2, 2)),
        linear_shortcut=True,
    ),
}


class Encoder(nn.Module):
    """One chunk of pixels (B, 3, F, H, W) -> latents (B, C, T, h, w), not normalised."""

    def __init__(self, config: DcaeVConfig) -> None:
        super().__init__()
        self.config = config
        widths, strides = config.widths, (*config.strides, None)
        self.stem = ChunkConv(3 * math.prod(config.patch), widths[0])
        self.layers = nn.ModuleList()
        for width, depth, stride, following in zip(widths, config.depths, strides, (*widths[1:], 0), strict=True):
            self.layers.extend(Residual(width) for _ in range(depth))
            if stride:
                self.layers.append(Down(width, following, stride))
        self.head = ChunkConv(widths[-1], config.latent_channels)

    def forward(self, pixels: Tensor, memory: Memory) -> Tensor:
        x = self.stem(fold(pixels, self.config.patch), memory)
        for layer in self.layers:
            x = layer(x, memory)
        latents: Tensor = self.head(x, memory)
        return latents if self.config.linear_shortcut else latents + match_channels(x, self.config.latent_channels)


class Decoder(nn.Module):
    """One chunk of latents, not normalised -> pixels (B, 3, F, H, W)."""

    def __init__(self, config: DcaeVConfig) -> None:
        super().__init__()
        self.config = config
        widths, strides = config.widths, (None, *config.strides)
        self.stem = ChunkConv(config.latent_channels, widths[-1])
        self.layers = nn.ModuleList()
        for i in reversed(range(len(widths))):
            self.layers.extend(Residual(widths[i]) for _ in range(config.depths[i]))
            if stride := strides[i]:
                self.layers.append(Up(widths[i], widths[i - 1], stride))
        self.norm = ChannelNorm(widths[0])
        self.head = ChunkConv(widths[0], 3 * math.prod(config.patch))

    def forward(self, latents: Tensor, memory: Memory) -> Tensor:
        x = self.stem(latents, memory) + match_channels(latents, self.config.widths[-1])
        for layer in self.layers:
            x = layer(x, memory)
        return unfold(self.head(F.silu(self.norm(x)), memory), self.config.patch)


class DcaeV(nn.Module):
    """The autoencoder: the protocol `Autoencoder`, plus `forward` for training and streams for long video."""

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: DcaeVConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.shortcut = LinearShortcut(config.latent_channels, config.stride) if config.linear_shortcut else None
        if config.linear_shortcut:
            for head in (self.encoder.head, self.decoder.head):
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)  # type: ignore[arg-type]
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels))
        self.register_buffer("latent_std", torch.ones(config.latent_channels))

    @property
    def latent_channels(self) -> int:
        return self.config.latent_channels

    @property
    def stride(self) -> Stride:
        return self.config.stride

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a video of `frames` frames. ValueError unless frames = 4k+1 (the stride in time for 4)."""
        t = self.stride[0]
        below = max(0, frames - 1) // t * t + 1
        if frames != below:
            raise ValueError(f"{frames} frames do not fit the autoencoder ({t}k+1): take {below} or {below + t}")
        return (frames - 1) // t + 1

    def forward(self, video: Tensor) -> Tensor:
        """Reconstruction of (B, 3, F, H, W), differentiable and not clamped: what training compares."""
        self._check(video)
        return torch.cat(list(self._pixels(self._latents([video]))), dim=2)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, F, H, W) in [-1, 1] -> normalised latents (B, C, T, h, w).

        ValueError if the frames are not 4k+1 or the sides no multiples of the stride; the nearest that fit are named.
        """
        self._check(video)
        return torch.cat(list(self.encode_stream([video])), dim=2)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C, T, h, w) -> video (B, 3, F, H, W) in [-1, 1]."""
        return torch.cat(list(self.decode_stream([latents])), dim=2)

    @torch.no_grad()
    def encode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """`encode` of a video that comes in pieces of any length; holds one chunk at a time."""
        for latents in self._latents(pieces):
            yield (latents - _per_channel(self.latent_mean)) / _per_channel(self.latent_std)

    @torch.no_grad()
    def decode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """`decode` of latents that come in pieces of any length; holds one chunk at a time."""
        scaled = (piece * _per_channel(self.latent_std) + _per_channel(self.latent_mean) for piece in pieces)
        for pixels in self._pixels(scaled):
            yield pixels.clamp(-1, 1)

    @torch.no_grad()
    def set_normalisation(self, mean: Tensor, std: Tensor) -> None:
        """Per-channel mean and standard deviation (C,) of raw latents: what `encode` gives until this is called.

        ValueError if a channel is constant or not finite: it would blow up in `encode`.
        """
        dead = (~(torch.isfinite(mean) & torch.isfinite(std) & (std > 0))).nonzero().flatten().tolist()
        if dead:
            raise ValueError(f"latent channels {dead} are constant or not finite; they cannot be normalised")
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Read what `save_pretrained` wrote. ValueError or FileNotFoundError name what is wrong with the folder."""
        model = cls(DcaeVConfig.model_validate_json((folder / "config.json").read_bytes()))
        weights.load_into(model, folder / weights.FILE_NAME)
        return model.eval()

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        weights.save(folder / weights.FILE_NAME, self.state_dict())
        weights.write_atomically(folder / "config.json", (self.config.model_dump_json(indent=2) + "\n").encode())

    def _latents(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Chunks of raw latents; the first frame is shown t times, so that it fills a latent."""
        memory: Memory = {}
        t = self.stride[0]
        frames = 0
        for chunk in regroup(pieces, t * self.config.chunk):
            frames += chunk.shape[2]
            self.latent_frames(frames)
            pixels = chunk if memory else chunk.expand(-1, -1, t, -1, -1)
            latents: Tensor = self.encoder(pixels, memory)
            if self.shortcut:
                latents = latents + self.shortcut.analyse(pixels)
            yield latents

    def _pixels(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Chunks of pixels from raw latents; of the first latent's t frames the last is the one kept."""
        memory: Memory = {}
        for latents in regroup(pieces, self.config.chunk):
            start = 0 if memory else self.stride[0] - 1
            pixels: Tensor = self.decoder(latents, memory)
            if self.shortcut:
                pixels = pixels + self.shortcut.synthesise(latents)
            yield pixels[:, :, start:]

    def _check(self, video: Tensor) -> None:
        self.latent_frames(video.shape[2])
        for name, side, stride in zip(("height", "width"), video.shape[3:], self.stride[1:], strict=True):
            if side < stride or side % stride:
                below = max(1, side // stride) * stride
                raise ValueError(f"{name} {side} is no multiple of {stride}: take {below} or {below + stride}")


def _per_channel(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def reconstruction_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """L1 at full size, plus 1/2 L1 of 4x4 means, plus 1/5 L1 of the differences along time, height and width.

    Both (B, 3, F, H, W). The means hold colour and large shapes, the differences edges and motion. There is no
    discriminator: it adds texture, but takes longer to settle than a run of minutes has.
    """
    fine = (prediction - target).abs().mean()
    coarse = F.avg_pool3d(prediction - target, (1, 4, 4)).abs().mean()
    differences = [(prediction - target).diff(dim=axis).abs() for axis in (2, 3, 4) if target.shape[axis] > 1]
    return fine + 0.5 * coarse + 0.2 * torch.stack([difference.mean() for difference in differences]).sum()
