"""Three-dimensional rotary position embedding: a head's channels are split between time, height and width.

Positions are plain integers, never interpolated, so a frame's angle depends only on its absolute index; this is what
lets a long video be generated chunk by chunk. Tables are computed in float64 on each call (a few thousand numbers) and
not kept as buffers, so that a model can be built on the meta device and loaded without anything left to fill in.
"""

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor

THETA = 10000.0


class Rotary(NamedTuple):
    """Cosines and sines, (N, E/2) float32, for tokens in row-major order: frames outermost, width fastest."""

    cos: Tensor
    sin: Tensor
    packed: Tensor | None = None  # what kernels read: see `pack`


def rotary_tables(
    split: tuple[int, int, int], grid: tuple[int, int, int], first_frame: int, device: torch.device
) -> Rotary:
    """Tables for a token grid (T, H, W) whose first frame has the absolute index `first_frame`.

    `split`: channels of a head for time, height, width (each even); their angles are concatenated in this order.
    """
    t, h, w = (
        _angles(channels, start, length, device)
        for channels, start, length in zip(split, (first_frame, 0, 0), grid, strict=True)
    )
    T, H, W = grid
    angles = torch.cat(
        [
            repeat(t, "t e -> (t h w) e", h=H, w=W),
            repeat(h, "h e -> (t h w) e", t=T, w=W),
            repeat(w, "w e -> (t h w) e", t=T, h=H),
        ],
        dim=-1,
    )
    cos, sin = angles.cos().float(), angles.sin().float()
    return Rotary(cos, sin, pack(cos, sin))


def pack(cos: Tensor, sin: Tensor) -> Tensor:
    """(N, E/2) int32: the cosine's float16 in the low half, the sine's in the high half.

    A kernel reads the tables again for each head, so their bytes count; float16 is exact to 2.4e-4 within [-1, 1].
    """
    return torch.stack([cos, sin], dim=-1).half().view(torch.int32).squeeze(-1)


def _angles(channels: int, start: int, length: int, device: torch.device) -> Tensor:
    """position · 10000^(-2i/channels): (length, channels/2) float64."""
    exponents = torch.arange(0, channels, 2, dtype=torch.float64, device=device) / channels
    positions = torch.arange(start, start + length, dtype=torch.float64, device=device)
    return torch.outer(positions, THETA**-exponents)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn each adjacent channel pair of x (B, N, A, E) by its token's angles, in x's dtype."""
    pairs = rearrange(x, "b n a (e two) -> b n a e two", two=2)
    first, second = pairs.unbind(-1)
    cos = rearrange(rotary.cos, "n e -> n 1 e").to(x.dtype)
    sin = rearrange(rotary.sin, "n e -> n 1 e").to(x.dtype)
    turned = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1)
    return rearrange(turned, "b n a e two -> b n a (e two)")
