"""Wan 2.1 (F8T4C16) and Wan 2.2 (F16T4C48): diffusers' causal autoencoders, streamed.

Both are causal in time: each convolution reads its input and the two frames before it, which diffusers keeps in a list,
`feat_cache`. Its own `encode` and `decode` run a clip through encoder and decoder in steps (the first frame alone, then
four pixels or one latent at a time) and join the results; the streams here make the same steps, with the same cache,
and let go of what they have handed out. So stream and whole are equal, and the memory of two minutes is that of two
seconds.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from torch import Tensor, nn

from sana_video.autoencoder.blocks import regroup
from sana_video.autoencoder.published import Published, build, fill, patched, unpatched
from sana_video.autoencoder.wan_decoder import Decoding

ROOMY = 60 * 2**30  # bytes of a GPU on which five latents of 480p, 17 GB, leave room for a network

Cache = list[Any]  # per convolution: None, its last two frames, or a mark of diffusers' own


class Wan(Published):
    """The protocol `Autoencoder` over diffusers' AutoencoderKLWan; fp32 as published, unless asked otherwise."""

    def __init__(self, vae: Any) -> None:
        config = vae.config
        t = 2 ** sum(config.temperal_downsample)
        if t != 4 or len(config.latents_mean) != config.z_dim:
            raise ValueError(
                f"a Wan autoencoder has 4 frames a latent and a mean per channel, not {t} and "
                f"{len(config.latents_mean)} for {config.z_dim}"
            )
        side = 2 ** (len(config.dim_mult) - 1) * (config.patch_size or 1)
        super().__init__(
            vae,
            kind="wan2.2" if config.is_residual else "wan2.1",
            stride=(t, side, side),
            mean=list(config.latents_mean),
            std=list(config.latents_std),
        )
        self.patch = config.patch_size or 1
        self._together = 1
        self._fused = False

    @classmethod
    def from_pretrained(
        cls, folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> Self:
        """Read a folder of ours or of diffusers. ValueError or FileNotFoundError name what is wrong with it."""
        vae = build(AutoencoderKLWan, folder)
        fill(vae, folder, device, dtype or torch.float32)
        return cls(vae)

    def arrange(self, *, latents_at_once: int = 1, fused: bool = False) -> Self:
        """Let the decoder run another way, in place; pixels differ by roundings only.

        latents_at_once: decode so many together (the first stays alone), which takes as much more memory;
        fused: in few passes over memory (wan_decoder.py). How fast each is: benchmarks/streaming.py.
        """
        if latents_at_once < 1:
            raise ValueError(f"latents_at_once {latents_at_once}: at least 1 is decoded at a time")
        self._together, self._fused = latents_at_once, fused
        return self

    def for_speed(self) -> Self:
        """Arranged as is fastest on a GPU (benchmarks/streaming.py), with room there: five latents at once."""
        device = next(self.parameters()).device
        if device.type != "cuda":
            return self
        roomy = torch.cuda.get_device_properties(device).total_memory >= ROOMY
        return self.arrange(fused=True, latents_at_once=5 if roomy else 1)

    def _latents(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        cache = _empty_cache(self.vae.encoder)
        for frames in self._frames(pieces):
            seen = self.vae.encoder(patched(frames, self.patch), feat_cache=cache, feat_idx=[0])
            yield self.vae.quant_conv(seen)[:, : self.latent_channels]

    def _pixels(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        step = Decoding(self.vae.decoder) if self._fused else self._published()
        for latent in regroup(pieces, self._together):
            yield unpatched(step(self.vae.post_quant_conv(self._ready(latent))), self.patch)

    def _published(self) -> Callable[[Tensor], Tensor]:
        cache = _empty_cache(self.vae.decoder)

        def step(x: Tensor) -> Tensor:
            pixels: Tensor = self.vae.decoder(x, feat_cache=cache, feat_idx=[0], first_chunk=cache[0] is None)
            return pixels

        return step


def _empty_cache(part: nn.Module) -> Cache:
    return [None for module in part.modules() if isinstance(module, WanCausalConv3d)]
