"""What the published autoencoders share: diffusers' module behind our protocol, its folders, sizes, tiles and scale.

A kind (wan.py, ltx2.py) adds two streams, pixels to raw latents and back; all else is here. A folder is either ours
(config.json with `kind` and diffusers' configuration under `diffusers`, model.safetensors) or diffusers' own
(config.json with `_class_name`, diffusion_pytorch_model.safetensors). Weights keep diffusers' names in both.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from sana_video import weights
from sana_video.autoencoder.blocks import Stride, regroup
from sana_video.autoencoder.tiling import tiled, tiled_stream

DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"
VERSION = 1  # of config.json


class Published(nn.Module, ABC):
    """The protocol `Autoencoder` over `vae`; latents are (z - mean)·scale / std, z the mode of the posterior.

    The first frame is a latent of its own; every further latent holds as many frames as the stride in time.
    """

    vae: Any
    images = True

    def __init__(
        self, vae: Any, *, kind: str, stride: Stride, mean: list[float], std: list[float], scale: float = 1.0
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(deviation > 0 for deviation in std):
            raise ValueError(f"{kind}: {len(mean)} latent means and {len(std)} deviations, all above 0, were expected")
        self.vae = vae.eval().requires_grad_(False)
        self.kind = kind
        self.stride = stride
        self._normalisation = mean, [deviation / scale for deviation in std]  # in fp32 whatever the weights are
        self._tile: int | None = None

    @property
    def latent_channels(self) -> int:
        return len(self._normalisation[0])

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a video of `frames` frames. ValueError unless frames = k·(stride in time) + 1."""
        t = self.stride[0]
        below = max(0, frames - 1) // t * t + 1
        if frames != below:
            raise ValueError(f"{frames} frames do not fit the autoencoder ({t}k+1): take {below} or {below + t}")
        return (frames - 1) // t + 1

    def tile(self, pixels: int | None) -> None:
        """Code in spatial tiles of `pixels` a side, a quarter of it overlapping; None for the whole picture at once.

        What is computed at once is then bounded by the tile. ValueError unless `pixels` is a multiple of the stride,
        two strides at least.
        """
        unit = self.stride[1]
        if pixels is not None and (pixels % unit or pixels < 2 * unit):
            below = max(2, pixels // unit) * unit
            raise ValueError(f"a tile of {pixels} pixels is no multiple of {unit} above it: take {below}")
        self._tile = pixels

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, F, H, W) in [-1, 1] -> normalised float32 latents (B, C, T, h, w), the mode of the posterior.

        ValueError if frames or sides do not fit; the nearest that do are named.
        """
        self.latent_frames(video.shape[2])
        self._check_sides(video)
        if self._tile is None:
            return torch.cat(list(self.encode_stream([video])), dim=2)
        raw = tiled(lambda part, _: torch.cat(list(self._latents([part])), dim=2), video, *self._encoding_tiles)
        return self._normalised(raw)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C, T, h, w) -> float32 video (B, 3, F, H, W) in [-1, 1]."""
        if self._tile is None:
            return torch.cat(list(self.decode_stream([latents])), dim=2)
        raw = self._raw(latents)
        video = tiled(lambda part, _: torch.cat(list(self._pixels([part])), dim=2), raw, *self._decoding_tiles)
        return video.float().clamp(-1, 1)

    @torch.no_grad()
    def encode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """`encode` of a video that comes in pieces of any length, in memory that does not grow with it."""
        checked = self._sized(pieces)
        stream = (
            self._latents(checked)
            if self._tile is None
            else tiled_stream(self._latents, checked, *self._encoding_tiles)
        )
        for raw in stream:
            yield self._normalised(raw)

    @torch.no_grad()
    def decode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """`decode` of latents that come in pieces of any length, in memory that does not grow with the video."""
        raw = (self._raw(piece) for piece in pieces)
        stream = self._pixels(raw) if self._tile is None else tiled_stream(self._pixels, raw, *self._decoding_tiles)
        for pixels in stream:
            yield pixels.float().clamp(-1, 1)

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors in our layout, the weights in the dtype they have now."""
        folder.mkdir(parents=True, exist_ok=True)
        weights.save(folder / weights.FILE_NAME, self.vae.state_dict())
        described = {name: value for name, value in self.vae.config.items() if not name.startswith("_")}
        config = {"kind": self.kind, "version": VERSION, "diffusers": described}
        weights.write_atomically(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())

    @abstractmethod
    def _latents(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Raw latents of a video that comes in pieces: what a kind adds."""

    @abstractmethod
    def _pixels(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Pixels of raw latents that come in pieces: what a kind adds."""

    def _frames(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Pixels as the encoder takes them: the first frame, then as many as the stride in time; checked, moved."""
        frames = 0
        for group in regroup(pieces, self.stride[0]):
            frames += group.shape[2]
            self.latent_frames(frames)
            yield self._ready(group)

    def _ready(self, x: Tensor) -> Tensor:
        """`x` where the weights are and in their dtype."""
        return x.to(next(self.vae.parameters()))

    def _raw(self, latents: Tensor) -> Tensor:
        if latents.shape[1] != self.latent_channels:
            raise ValueError(f"{self.kind} has {self.latent_channels} latent channels; these have {latents.shape[1]}")
        mean, std = self._scales(latents.device)
        return latents.float() * std + mean

    def _normalised(self, raw: Tensor) -> Tensor:
        mean, std = self._scales(raw.device)
        return (raw.float() - mean) / std

    def _scales(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values, device=device).view(-1, 1, 1, 1) for values in self._normalisation)
        return mean, std

    @property
    def _encoding_tiles(self) -> tuple[int, int, Fraction]:
        """Tile and overlap in pixels, latents per pixel."""
        tile, overlap, unit = self._decoding_tiles
        return tile * unit, overlap * unit, Fraction(1, unit)

    @property
    def _decoding_tiles(self) -> tuple[int, int, int]:
        """Tile and overlap in latents, pixels per latent."""
        assert self._tile is not None
        tile = self._tile // self.stride[1]
        return tile, max(1, tile // 4), self.stride[1]

    def _sized(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        for piece in pieces:
            self._check_sides(piece)
            yield piece

    def _check_sides(self, video: Tensor) -> None:
        for name, side, stride in zip(("height", "width"), video.shape[3:], self.stride[1:], strict=True):
            if side < stride or side % stride:
                below = max(1, side // stride) * stride
                raise ValueError(f"{name} {side} is no multiple of {stride}: take {below} or {below + stride}")


def patched(pixels: Tensor, side: int) -> Tensor:
    """(B, C, T, H·p, W·p) -> (B, C·p·p, T, H, W) in the order of both published families: columns before rows."""
    return rearrange(pixels, "b c t (h p) (w q) -> b (c q p) t h w", p=side, q=side)


def unpatched(x: Tensor, side: int) -> Tensor:
    """The inverse of `patched`."""
    return rearrange(x, "b (c q p) t h w -> b c t (h p) (w q)", p=side, q=side)


def build(cls: Any, folder: Path) -> Any:
    """diffusers' `cls` in the configuration of `folder`, on the meta device. ValueError if it is none of that class."""
    path = folder / "config.json"
    found = json.loads(path.read_bytes())
    config = found.get("diffusers", found)  # keys that this diffusers does not know are passed over, as it does itself
    try:
        with torch.device("meta"):
            vae = cls.from_config(config)
    except (AttributeError, TypeError, ValueError, LookupError) as error:
        raise ValueError(f"{path} does not configure an {cls.__name__}: {error}") from None
    return vae


def fill(vae: nn.Module, folder: Path, device: torch.device | str, dtype: torch.dtype | None) -> None:
    """Put the weights in `folder` into `vae`. FileNotFoundError or ValueError name what is missing or damaged."""
    own = folder / weights.FILE_NAME
    path = own if own.is_file() or not (folder / DIFFUSERS_FILE).is_file() else folder / DIFFUSERS_FILE
    weights.load_into(vae, path, device=device, dtype=dtype)
