"""LTX-2's autoencoder (F32T8C128), diffusers' weights streamed exactly in both directions.

The encoder is causal; the decoder is not: each of its convolutions reads one frame ahead, 22 latents over the whole
published decoder. diffusers bounds memory by decoding windows in time that it blends (`use_framewise_decoding`: 16
frames every 8 unless told otherwise, 96 every 64 in SANA-Video's 720p pipeline), and so approximately. Here a layer is
instead a generator from pieces to pieces: a convolution holds the last two frames that it read and gives an output once
the frame after it has come, repeating the edge only where the video begins and ends, and a shortcut waits for the
branch it is added to. So nothing is computed twice, no window blends into another, memory does not grow with the video,
and stream and whole are equal; the first pixels come once 22 more latents are read.

The layers' order and arithmetic are diffusers' (models/autoencoders/autoencoder_kl_ltx2.py), whose modules hold the
weights; the tests hold the two together.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AutoencoderKLLTX2Video
from torch import Tensor

from sana_video.autoencoder.blocks import Stride, fold, match_channels, regroup, unfold
from sana_video.autoencoder.published import Published, build, fill, patched, unpatched

Pieces = Iterator[Tensor]


class Ltx2(Published):
    """The protocol `Autoencoder` over diffusers' AutoencoderKLLTX2Video; in the dtype of its file (bf16 as published)
    unless asked otherwise."""

    def __init__(self, vae: Any) -> None:
        _check(vae.config)
        super().__init__(
            vae,
            kind="ltx2",
            stride=_stride(vae.encoder),
            mean=vae.latents_mean.float().tolist(),
            std=vae.latents_std.float().tolist(),
            scale=vae.config.scaling_factor,
        )

    @classmethod
    def from_pretrained(
        cls, folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> Self:
        """Read a folder of ours or of diffusers. ValueError or FileNotFoundError name what is wrong with it."""
        vae = build(AutoencoderKLLTX2Video, folder)
        fill(vae, folder, device, None)  # in the file's dtype: the constants of the latents are taken before rounding
        model = cls(vae)
        return model if dtype is None else model.to(dtype)

    def _latents(self, pieces: Iterable[Tensor]) -> Pieces:
        encoder = self.vae.encoder
        patches = (patched(frames, encoder.patch_size) for frames in self._frames(pieces))
        x = _convolved(encoder.conv_in, patches, causal=True)
        for block in encoder.down_blocks:
            x = _residuals(block, x, causal=True)
            for layer in block.downsamplers or ():
                x = _halved(layer, x)
        x = _residuals(encoder.mid_block, x, causal=True)
        x = (encoder.conv_act(encoder.norm_out(piece)) for piece in x)
        for moments in _convolved(encoder.conv_out, x, causal=True):
            yield moments[:, : self.latent_channels]  # behind the means, one variance for all

    def _pixels(self, pieces: Iterable[Tensor]) -> Pieces:
        decoder, causal = self.vae.decoder, self.vae.decoder.is_causal
        latents = (self._ready(_reflecting(latent)) for latent in regroup(pieces, 1))
        x = _residuals(decoder.mid_block, _convolved(decoder.conv_in, latents, causal=causal), causal=causal)
        for block in decoder.up_blocks:
            if block.conv_in is not None:
                x = _residual(block.conv_in, x, causal=causal)
            for layer in block.upsamplers or ():
                x = _doubled(layer, x, causal=causal)
            x = _residuals(block, x, causal=causal)
        x = (decoder.conv_act(decoder.norm_out(piece)) for piece in x)
        for piece in _convolved(decoder.conv_out, x, causal=causal):
            yield unpatched(piece, decoder.patch_size)


class _Waiting:
    """Frames of a shortcut that wait for the branch beside them, which may give them later and in other pieces."""

    def __init__(self) -> None:
        self._pieces: deque[Tensor] = deque()

    def noted(self, pieces: Pieces) -> Pieces:
        """`pieces` as they are, each kept."""
        for piece in pieces:
            self._pieces.append(piece)
            yield piece

    def take(self, frames: int) -> Tensor:
        """The next `frames` frames, let go of."""
        taken = []
        while frames:
            piece = self._pieces.popleft()
            taken.append(piece[:, :, :frames])
            if piece.shape[2] > frames:
                self._pieces.appendleft(piece[:, :, frames:])
            frames -= taken[-1].shape[2]
        return torch.cat(taken, dim=2)


def _convolved(layer: Any, pieces: Pieces, *, causal: bool) -> Pieces:
    """A 3x3x3 convolution over a stream: the first frame repeated before it and, if not causal, the last after it."""
    held: Tensor | None = None  # the two frames that the next output reads beside its own, one of them at the start
    for piece in pieces:
        before = piece[:, :, :1].expand(-1, -1, 2 if causal else 1, -1, -1) if held is None else held
        x = torch.cat([before, piece], dim=2)
        held = x[:, :, -2:].clone()  # a view would keep the whole piece alive
        if x.shape[2] > 2:
            yield layer.conv(x)
    if held is not None and not causal:
        yield layer.conv(torch.cat([held, held[:, :, -1:]], dim=2))


def _reflecting(latent: Tensor) -> Tensor:
    if min(latent.shape[3:]) < 2:
        h, w = latent.shape[3:]
        raise ValueError(f"LTX-2 continues a picture by its mirror image, which takes 2 latents a side, not {h}x{w}")
    return latent


def _residuals(block: Any, pieces: Pieces, *, causal: bool) -> Pieces:
    for layer in block.resnets:
        pieces = _residual(layer, pieces, causal=causal)
    return pieces


def _residual(layer: Any, pieces: Pieces, *, causal: bool) -> Pieces:
    """x + conv(act(norm(conv(act(norm(x)))))); where the width changes, x itself goes through a 1x1x1 convolution."""
    shortcut = _Waiting()
    x = (layer.nonlinearity(layer.norm1(piece)) for piece in shortcut.noted(pieces))
    x = (layer.nonlinearity(layer.norm2(piece)) for piece in _convolved(layer.conv1, x, causal=causal))
    for branch in _convolved(layer.conv2, x, causal=causal):
        beside = shortcut.take(branch.shape[2])
        if layer.conv_shortcut is not None:
            beside = layer.conv_shortcut(layer.norm3(beside.movedim(1, -1)).movedim(-1, 1))
        yield branch + beside


def _halved(layer: Any, pieces: Pieces) -> Pieces:
    """Convolution, then fold; beside it the folded input, averaged. The first frame stands for the one before it."""
    shortcut = _Waiting()
    for x in _convolved(layer.conv, shortcut.noted(_led(pieces, layer.stride[0] - 1)), causal=True):
        branch = fold(x, layer.stride)
        yield branch + match_channels(fold(shortcut.take(x.shape[2]), layer.stride), branch.shape[1])


def _led(pieces: Pieces, frames: int) -> Pieces:
    """`pieces` with the first `frames` frames of the stream once more before them."""
    for i, piece in enumerate(pieces):
        yield piece if i else torch.cat([piece[:, :, :frames], piece], dim=2)


def _doubled(layer: Any, pieces: Pieces, *, causal: bool) -> Pieces:
    """Convolution, then unfold; beside it the unfolded input, channels repeated. The first latent makes one frame."""
    shortcut = _Waiting()
    start = layer.stride[0] - 1
    for x in _convolved(layer.conv, shortcut.noted(pieces), causal=causal):
        doubled, beside = unfold(x, layer.stride), shortcut.take(x.shape[2])
        if layer.residual:
            beside = unfold(beside, layer.stride)
            doubled = doubled + beside.repeat(1, doubled.shape[1] // beside.shape[1], 1, 1, 1)
        yield doubled[:, :, start:]
        start = 0


def _stride(encoder: Any) -> Stride:
    """Pixels (t, h, w) per latent, by its layers: diffusers' own ratio takes a halving in time for one in space."""
    steps = [layer.stride for block in encoder.down_blocks for layer in block.downsamplers or ()]
    t, h, w = (math.prod(axis) for axis in zip((1, encoder.patch_size, encoder.patch_size), *steps, strict=True))
    return t, h, w


def _check(config: Any) -> None:
    """ValueError for what diffusers' class can be told to do and LTX-2's published autoencoders do not."""
    refused = {
        "timestep_conditioning": config.timestep_conditioning,
        "decoder_inject_noise": config.decoder_inject_noise is True or any(_listed(config.decoder_inject_noise)),
        "downsample_type conv": "conv" in config.downsample_type,
        "patch_size_t": config.patch_size_t != 1,
        "encoder_causal off": not config.encoder_causal,
    }
    if named := [name for name, present in refused.items() if present]:
        raise ValueError(f"no published LTX-2 autoencoder has {', '.join(named)}; this one does")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
