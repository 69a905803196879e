"""Autoencoders: video to latents and back, behind one protocol; `load_autoencoder` reads the kind a folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor


class AutoencoderParams(BaseModel):
    """`autoencoder` in params.yaml: small (F16T4C16, for two CPU cores) or full (DCAE-V F32T4C32)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Literal["small", "full"]


class Autoencoder(Protocol):
    """Video (B, 3, F, H, W) in [-1, 1] to normalised latents (B, C, T, h, w) and back; a one-frame clip is an image."""

    @property
    def latent_channels(self) -> int: ...

    @property
    def stride(self) -> tuple[int, int, int]:
        """Pixels (t, h, w) per latent."""
        ...

    def latent_frames(self, frames: int) -> int:
        """T for F = `frames`. ValueError, naming the nearest valid counts, if there is none."""
        ...

    def encode(self, video: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...

    def decode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """`decode`, piece by piece along time, in memory that does not grow with the video."""
        ...

    def save_pretrained(self, folder: Path) -> None: ...


def load_autoencoder(folder: Path) -> Autoencoder:
    """The autoencoder in `folder` (config.json with its `kind`, model.safetensors), ready to use on the CPU.

    FileNotFoundError if a file is missing; ValueError if the folder holds another kind of model or damaged weights.
    """
    from sana_video.autoencoder.dcae_v import DcaeV

    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no autoencoder: config.json is missing")
    try:
        kind = json.loads(path.read_bytes()).get("kind")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a model's configuration: {error}") from None
    if kind != "dcae-v":
        raise ValueError(f"{path} describes a {kind!r}; an autoencoder of kind 'dcae-v' is wanted")
    return DcaeV.from_pretrained(folder)
