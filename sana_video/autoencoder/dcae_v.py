"""DCAE-V: a deep-compression video autoencoder, chunk-causal in time, streaming in constant memory.

Our own network after the published facts of DC-AE (arXiv 2410.10733) and its video form F32T4C32 (SANA-Video, arXiv
2509.24695, 720p): space and time are folded into channels, and every change of resolution carries a shortcut without
weights, the mean over channel groups on the way down and their repetition on the way up, so that the convolutions learn
a residual to a plain box filter. That is what lets a latent be this small and training still start well. Shapes stand
in config.py; one of them, `inflated`, holds the weights of a published image DC-AE (inflate.py).

Time. A clip has 4k+1 frames. The first frame is shown four times and becomes a latent of its own; every further latent
holds four frames. Latents are grouped in chunks: the first alone, then `chunk` at a time. A convolution sees the whole
of its chunk and the last frame before it, never anything after it, so that the chunks can be run one after the other
with one remembered frame per convolution (`Memory`). So, and tested: an image is a one-frame clip; a prefix that ends
with a chunk has the prefix of the latents; memory does not grow with the length of the video. Where there
is no neighbour in time (the ends of a chunk, the start of a video) the edge frame is repeated, not zero: a still film
is then exactly its image, repeated, and no brightness step marks the chunks. Without `first_frame_alone` a clip has 4k
frames and starts with a full chunk, as the published DCAE-V does.

Space. `tile` runs squares of the frame one after the other, each with a memory of its own, so that what is computed at
once depends on the square and not on the film's size.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sana_video import weights
from sana_video.autoencoder.blocks import (
    ChannelNorm,
    ChunkConv,
    Down,
    LinearShortcut,
    Memory,
    RepeatedUp,
    Residual,
    Stride,
    StridedDown,
    Up,
    activate,
    fold,
    match_channels,
    regroup,
    unfold,
)
from sana_video.autoencoder.config import PRESETS, Block, DcaeVConfig, Stages
from sana_video.autoencoder.evit import AttentionBlock
from sana_video.autoencoder.tiling import tiled

__all__ = ["PRESETS", "DcaeV", "DcaeVConfig", "reconstruction_loss"]

HALVING = (1, 2, 2)


def _block(kind: Block, width: int, head_width: int) -> nn.Module:
    if kind == "attention" or kind == "attention5":
        return AttentionBlock(width, head_width, (5,) if kind == "attention5" else ())
    return Residual(width, "relu", normed=False) if kind == "relu" else Residual(width)


def _down(stages: Stages, i: int) -> nn.Module:
    """What stands between the encoder's stages i and i+1."""
    stride = stages.strides[i]
    layer = StridedDown if stages.resample == "resize" and stride == HALVING else Down
    return layer(stages.widths[i], stages.widths[i + 1], stride)


def _up(stages: Stages, i: int) -> nn.Module:
    """What stands between the decoder's stages i+1 and i."""
    stride = stages.strides[i]
    layer = RepeatedUp if stages.resample == "resize" and stride == HALVING else Up
    return layer(stages.widths[i + 1], stages.widths[i], stride)


class Encoder(nn.Module):
    """One chunk of pixels (B, 3, F, H, W) -> latents (B, C, T, h, w), not normalised."""

    def __init__(self, config: DcaeVConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = ChunkConv(3 * math.prod(config.patch), config.widths[0])
        self.layers = nn.ModuleList()
        for i, (kind, width, depth) in enumerate(zip(config.kinds, config.widths, config.depths, strict=True)):
            self.layers.extend(_block(kind, width, config.head_width) for _ in range(depth))
            if i < len(config.strides):
                self.layers.append(_down(config, i))
        self.head = ChunkConv(config.widths[-1], config.latent_channels)

    def forward(self, pixels: Tensor, memory: Memory) -> Tensor:
        x = self.stem(fold(pixels, self.config.patch), memory)
        for layer in self.layers:
            x = layer(x, memory)
        latents: Tensor = self.head(x, memory)
        if self.config.linear_shortcut or not self.config.latent_shortcut:
            return latents
        return latents + match_channels(x, self.config.latent_channels)


class Decoder(nn.Module):
    """One chunk of latents, not normalised -> pixels (B, 3, F, H, W)."""

    def __init__(self, config: DcaeVConfig) -> None:
        super().__init__()
        self.config, self.stages = config, config.decoding
        widths = self.stages.widths
        self.stem = ChunkConv(config.latent_channels, widths[-1])
        self.layers = nn.ModuleList()
        for i in reversed(range(len(widths))):
            if i < len(self.stages.strides):
                self.layers.append(_up(self.stages, i))
            kind, depth = self.stages.kinds[i], self.stages.depths[i]
            self.layers.extend(_block(kind, widths[i], config.head_width) for _ in range(depth))
        self.norm = ChannelNorm(widths[0])
        self.head = ChunkConv(widths[0], 3 * math.prod(self.stages.patch))

    def forward(self, latents: Tensor, memory: Memory) -> Tensor:
        x = self.stem(latents, memory)
        if self.config.latent_shortcut:
            x = x + match_channels(latents, self.stages.widths[-1])
        for layer in self.layers:
            x = layer(x, memory)
        x = activate(self.norm(x), self.config.last_activation)
        return unfold(self.head(x, memory), self.stages.patch)


class DcaeV(nn.Module):
    """The autoencoder: the protocol `Autoencoder`, plus `forward` for training and streams for long video.

    Inputs of any float dtype on any device are moved to the weights' own, chunk by chunk; results are float32.
    """

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
        self._tile: int | None = None

    @property
    def latent_channels(self) -> int:
        return self.config.latent_channels

    @property
    def stride(self) -> Stride:
        return self.config.stride

    @property
    def images(self) -> bool:
        """Whether the first frame is a latent of its own, so that an image is a clip of one frame."""
        return self.config.first_frame_alone

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a video of `frames` frames.

        ValueError, with the nearest counts, unless frames = 4k+1, or 4k > 0 where `images` is false (the stride in time
        for 4).
        """
        t, alone = self.stride[0], int(self.images)
        below = max(0, frames - alone) // t * t + alone
        if frames == below > 0:
            return (frames - alone) // t + alone
        near = f"{below} or {below + t}" if below else f"{t}"
        rule = f"{t}k+1" if alone else f"{t}k, no image alone"
        raise ValueError(f"{frames} frames do not fit the autoencoder ({rule}): take {near}")

    def tile(self, pixels: int | None) -> None:
        """From now on run squares of `pixels` at a time, a quarter overlapping and blended; None: whole frames.

        Bounds memory by the square instead of the frame. What reaches further than the overlap differs from the whole:
        attention, which reads all of a frame, sees its square only. ValueError unless a multiple of the stride, twice
        or more.
        """
        side = max(self.stride[1:])
        if pixels is not None and (pixels < 2 * side or pixels % side):
            raise ValueError(f"a tile of {pixels} pixels does not fit the autoencoder: take a multiple of {side}, 2 up")
        self._tile = pixels

    def forward(self, video: Tensor) -> Tensor:
        """Reconstruction of (B, 3, F, H, W), differentiable and not clamped: what training compares."""
        self._check(video)
        return torch.cat(list(self._pixels(self._latents([video]))), dim=2)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, F, H, W) in [-1, 1] -> normalised latents (B, C, T, h, w), float32.

        ValueError if the frames are off the rule or the sides no multiples of the stride; the nearest that fit are
        named.
        """
        self._check(video)
        return torch.cat(list(self.encode_stream([video])), dim=2)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C, T, h, w) -> video (B, 3, F, H, W) in [-1, 1], float32."""
        return torch.cat(list(self.decode_stream([latents])), dim=2)

    @torch.no_grad()
    def encode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """`encode` of a video that comes in pieces of any length; holds one chunk at a time."""
        for latents in self._latents(pieces):
            yield (latents.float() - _per_channel(self.latent_mean)) / _per_channel(self.latent_std)

    @torch.no_grad()
    def decode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """`decode` of latents that come in pieces of any length; holds one chunk at a time."""
        for pixels in self._pixels(self._denormalised(piece) for piece in pieces):
            yield pixels.float().clamp(-1, 1)

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
        with torch.device("meta"):  # random weights would be drawn only to be replaced
            model = cls(DcaeVConfig.model_validate_json((folder / "config.json").read_bytes()))
        weights.load_into(model, folder / weights.FILE_NAME)
        return model.eval()

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        weights.save(folder / weights.FILE_NAME, self.state_dict())
        weights.write_atomically(folder / "config.json", (self.config.model_dump_json(indent=2) + "\n").encode())

    def _latents(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Chunks of raw latents; a first frame alone is shown t times, so that it fills a latent."""
        memories: defaultdict[int, Memory] = defaultdict(dict)
        t = self.stride[0]
        chunk, side = t * self.config.chunk, self.stride[1]
        frames = 0
        for pixels in regroup(pieces, chunk, first=1 if self.images else chunk):
            starting, frames = not frames, frames + pixels.shape[2]
            self.latent_frames(frames)
            self._check_sides(pixels)
            pixels = pixels.to(self.encoder.head.weight)
            if starting and self.images:
                pixels = pixels.expand(-1, -1, t, -1, -1)
            yield self._by_tiles(self._analyse, pixels, memories, self._tile, side, Fraction(1, side))

    def _pixels(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Chunks of pixels from raw latents; of a first frame's latent the last of its t frames is the one kept."""
        memories: defaultdict[int, Memory] = defaultdict(dict)
        side = self.stride[1]
        tile = self._tile and self._tile // side
        start = self.stride[0] - 1 if self.images else 0
        for latents in regroup(pieces, self.config.chunk, first=1 if self.images else self.config.chunk):
            yield self._by_tiles(self._synthesise, latents, memories, tile, 1, side)[:, :, start:]
            start = 0

    def _by_tiles(
        self,
        run: Callable[[Tensor, Memory], Tensor],
        x: Tensor,
        memories: defaultdict[int, Memory],
        tile: int | None,
        unit: int,
        scale: int | Fraction,
    ) -> Tensor:
        """`run` over one chunk, whole or in tiles; each tile has a memory of its own, which its next chunk reads."""
        if tile is None:
            return run(x, memories[0])
        overlap = max(1, tile // unit // 4) * unit
        return tiled(lambda piece, i: run(piece, memories[i]), x, tile, overlap, scale)

    def _analyse(self, pixels: Tensor, memory: Memory) -> Tensor:
        latents: Tensor = self.encoder(pixels, memory)
        return latents + self.shortcut.analyse(pixels) if self.shortcut else latents

    def _synthesise(self, latents: Tensor, memory: Memory) -> Tensor:
        pixels: Tensor = self.decoder(latents, memory)
        return pixels + self.shortcut.synthesise(latents) if self.shortcut else pixels

    def _denormalised(self, latents: Tensor) -> Tensor:
        if latents.shape[1] != self.latent_channels:
            raise ValueError(
                f"latents of {latents.shape[1]} channels are not this autoencoder's {self.latent_channels}"
            )
        weight = self.decoder.head.weight
        scaled = latents.to(weight.device).float() * _per_channel(self.latent_std) + _per_channel(self.latent_mean)
        return scaled.to(weight.dtype)

    def _check(self, video: Tensor) -> None:
        self.latent_frames(video.shape[2])
        self._check_sides(video)

    def _check_sides(self, video: Tensor) -> None:
        for name, side, stride in zip(("height", "width"), video.shape[3:], self.stride[1:], strict=True):
            if side < stride or side % stride:
                below = max(1, side // stride) * stride
                raise ValueError(f"{name} {side} is no multiple of {stride}: take {below} or {below + stride}")


def _per_channel(values: Tensor) -> Tensor:
    return values.float().view(-1, 1, 1, 1)


def reconstruction_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """L1 at full size, plus 1/2 L1 of 4x4 means, plus 1/5 L1 of the differences along time, height and width.

    Both (B, 3, F, H, W). The means hold colour and large shapes, the differences edges and motion. There is no
    discriminator: it adds texture, but takes longer to settle than a run of minutes has.
    """
    fine = (prediction - target).abs().mean()
    coarse = F.avg_pool3d(prediction - target, (1, 4, 4)).abs().mean()
    differences = [(prediction - target).diff(dim=axis).abs() for axis in (2, 3, 4) if target.shape[axis] > 1]
    return fine + 0.5 * coarse + 0.2 * torch.stack([difference.mean() for difference in differences]).sum()
