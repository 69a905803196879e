"""Autoencoders: video to latents and back, behind one protocol; `load_autoencoder` reads the kind a folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from sana_video.weights.missing import MissingWeights

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    from torch import Tensor

WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors")  # ours, diffusers'
PICKLES = (".bin", ".pth", ".pt", ".ckpt")


class AutoencoderParams(BaseModel):
    """`autoencoder` in params.yaml: small (F16T4C16, for two CPU cores), full (DCAE-V F32T4C32) or inflated (F32T4C32
    that holds a published image DC-AE)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Literal["small", "full", "inflated"]


class Shape(NamedTuple):
    """What a published autoencoder makes of a video: kind, channels of a latent, pixels (t, h, w) per latent."""

    kind: str
    channels: int
    stride: tuple[int, int, int]


# By the name of the weights, which is also that of the folder they are fetched to; known before anything is fetched.
PUBLISHED = {
    "wan2.1-vae": Shape("wan2.1", 16, (4, 8, 8)),
    "wan2.2-vae": Shape("wan2.2", 48, (4, 16, 16)),
    "ltx2-vae": Shape("ltx2", 128, (8, 32, 32)),
}


class Autoencoder(Protocol):
    """Video (B, 3, F, H, W) in [-1, 1] to normalised latents (B, C, T, h, w) and back.

    Tensors of any float dtype on any device are taken and moved to the weights' own; what comes back is float32.
    """

    @property
    def images(self) -> bool:
        """Whether the first frame is a latent of its own, so that a one-frame clip is an image."""
        ...

    @property
    def latent_channels(self) -> int: ...

    @property
    def stride(self) -> tuple[int, int, int]:
        """Pixels (t, h, w) per latent."""
        ...

    def latent_frames(self, frames: int) -> int:
        """T for F = `frames`. ValueError, naming the nearest valid counts, if there is none."""
        ...

    def encode(self, video: Tensor) -> Tensor:
        """The mode of the posterior, normalised."""
        ...

    def decode(self, latents: Tensor) -> Tensor: ...

    def encode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """`encode`, piece by piece along time, in memory that does not grow with the video."""
        ...

    def decode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """`decode`, piece by piece along time, in memory that does not grow with the video."""
        ...

    def tile(self, pixels: int | None) -> None:
        """Work in spatial tiles of `pixels` a side that fade into one another; None: on the whole picture at once."""
        ...

    def to(self, *, device: torch.device | str | None = ..., dtype: torch.dtype | None = ...) -> Any: ...

    def save_pretrained(self, folder: Path) -> None: ...


def load_autoencoder(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    for_speed: bool = False,
) -> Autoencoder:
    """The autoencoder in `folder`: ours (config.json with `kind`, model.safetensors) or a VAE folder of diffusers.

    A folder that was fetched, which has such a one as its `vae`, is read too.
    dtype: None for the one it is published in (Wan fp32, LTX-2 as in its file, DCAE-V fp32), or, `for_speed`, for bf16;
    Wan then decodes in its fastest arrangement too. Raises MissingWeights
    where a published autoencoder belongs and is not, FileNotFoundError if another file is missing, ValueError if the
    folder holds another kind of model, damaged weights or a pickle in their place.
    """
    if not (folder / "config.json").is_file() and (folder / "vae" / "config.json").is_file():
        folder = folder / "vae"
    kind = _kind(folder)
    if dtype is None and for_speed:
        dtype = torch.bfloat16
    if kind in {shape.kind for shape in PUBLISHED.values()}:
        _expect_weights(folder, kind)
    if kind == "dcae-v":
        from sana_video.autoencoder.dcae_v import DcaeV

        return DcaeV.from_pretrained(folder).to(device=device, dtype=dtype)
    if kind in ("wan2.1", "wan2.2"):
        from sana_video.autoencoder.wan import Wan

        found = Wan.from_pretrained(folder, device=device, dtype=dtype)
        if found.kind != kind:
            raise ValueError(f"{folder / 'config.json'} says {kind} and configures a {found.kind}")
        return found.for_speed() if for_speed else found
    from sana_video.autoencoder.ltx2 import Ltx2

    return Ltx2.from_pretrained(folder, device=device, dtype=dtype)


def _kind(folder: Path) -> str:
    path = folder / "config.json"
    if not path.is_file():
        if folder.name in PUBLISHED:
            raise MissingWeights(folder.name, folder)
        raise FileNotFoundError(f"{folder} holds no autoencoder: config.json is missing")
    try:
        config = json.loads(path.read_bytes())
        kind, name = config.get("kind"), config.get("_class_name")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a model's configuration: {error}") from None
    if name == "AutoencoderKLWan":
        kind = "wan2.2" if config.get("is_residual") else "wan2.1"
    elif name == "AutoencoderKLLTX2Video":
        kind = "ltx2"
    known = ["dcae-v", *(shape.kind for shape in PUBLISHED.values())]
    if kind not in known:
        raise ValueError(f"{path} describes a {kind or name!r}; an autoencoder is wanted ({', '.join(known)})")
    return str(kind)


def _expect_weights(folder: Path, kind: str) -> None:
    if any((folder / name).is_file() for name in WEIGHTS):
        return
    if pickles := sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES):
        raise ValueError(f"{folder} holds {pickles[0]}, a pickle, which can run code; only .safetensors files are read")
    raise MissingWeights(next(name for name, shape in PUBLISHED.items() if shape.kind == kind), folder)
