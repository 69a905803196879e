"""The transformer of UniMatch: features of two pictures, each made aware of itself and of the other.

Six blocks of self-attention, cross-attention and a feed-forward network (Xu et al. 2023, section 3.1), in S x S windows
of the picture, which every second block shifts by half a window (Liu et al. 2021, "Swin Transformer"). A map is
(B, H, W, C) in here; the two pictures lie one behind the other along the batch and are worked on at once. Attribute
names are those of the published state dict.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

APART = -100.0  # added to the score of two places that a shift has brought together from opposite ends of the picture


class Transformer(nn.Module):
    """Features of both pictures (2, B, H, W, C) -> the same; S divides H and W."""

    def __init__(self, channels: int, layers: int, expansion: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(channels, expansion) for _ in range(layers))

    def forward(self, both: Tensor, splits: int) -> Tensor:
        mask = shift_mask(both.shape[2], both.shape[3], splits, both)
        for index, layer in enumerate(self.layers):
            x, other = both.flatten(0, 1), both.flip(0).flatten(0, 1)
            x = layer(x, other, splits, mask if index % 2 else None)
            both = x.unflatten(0, both.shape[:2])
        return both


class Block(nn.Module):
    """Self-attention, then cross-attention to the other picture as it came into the block, then feed-forward."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.self_attn = Attention(channels)
        self.cross_attn_ffn = CrossAttention(channels, expansion)

    def forward(self, x: Tensor, other: Tensor, splits: int, mask: Tensor | None) -> Tensor:
        x = x + self.self_attn(x, x, splits, mask)
        change: Tensor = self.cross_attn_ffn(x, other, splits, mask)
        return x + change


class Attention(nn.Module):
    """Single-head attention of `x` to `other` within windows, normalised; both (B, H, W, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(channels, channels, bias=False)
        self.k_proj = nn.Linear(channels, channels, bias=False)
        self.v_proj = nn.Linear(channels, channels, bias=False)
        self.merge = nn.Linear(channels, channels, bias=False)
        self.norm1 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, other: Tensor, splits: int, mask: Tensor | None) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(other), self.v_proj(other)
        found: Tensor = self.norm1(self.merge(window_attention(q, k, v, splits, mask)))
        return found


class CrossAttention(Attention):
    """Attention, and a feed-forward network over what was there beside what was found."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__(channels)
        inner = 2 * channels * expansion
        self.mlp = nn.Sequential(
            nn.Linear(2 * channels, inner, bias=False), nn.GELU(), nn.Linear(inner, channels, bias=False)
        )
        self.norm2 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, other: Tensor, splits: int, mask: Tensor | None) -> Tensor:
        found = super().forward(x, other, splits, mask)
        change: Tensor = self.norm2(self.mlp(torch.cat((x, found), -1)))
        return change


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(C) + mask) v over tokens: q, k (..., N, C), v (..., N, D) -> (..., N, D)."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def window_attention(q: Tensor, k: Tensor, v: Tensor, splits: int, mask: Tensor | None) -> Tensor:
    """Attention within each of `splits` x `splits` windows of (B, H, W, C); with a mask, windows shifted by half."""
    height, width = q.shape[1] // splits, q.shape[2] // splits
    shift = (height // 2, width // 2) if mask is not None else (0, 0)
    q, k, v = (_tokens(x.roll((-shift[0], -shift[1]), (1, 2)), splits) for x in (q, k, v))
    found = attend(q, k, v, mask)
    whole = rearrange(found, "b (s t) (h w) c -> b (s h) (t w) c", s=splits, h=height)
    return whole.roll(shift, (1, 2))


def _tokens(x: Tensor, splits: int) -> Tensor:
    return rearrange(x, "b (s h) (t w) c -> b (s t) (h w) c", s=splits, t=splits)


def shift_mask(height: int, width: int, splits: int, like: Tensor) -> Tensor:
    """(S S, N, N): 0 for two places of a shifted window that are neighbours in the picture, else APART."""
    rows, columns = (_regions(length, length // splits, like.device) for length in (height, width))
    region = _tokens((3 * rows[:, None] + columns)[None, ..., None], splits)[0, ..., 0]
    return APART * (region[:, :, None] != region[:, None, :]).to(like)


def _regions(length: int, window: int, device: torch.device) -> Tensor:
    """Of each place along a shifted axis: 0 outside the last window, there 1 up to the seam and 2 beyond it."""
    place = torch.arange(length, device=device)
    return (place >= length - window).long() + (place >= length - window // 2).long()


def add_position(x: Tensor, splits: int) -> Tensor:
    """`x` (..., H, W, C) plus sines and cosines of the place within each window: rows in the first half of C."""
    height, width = x.shape[-3] // splits, x.shape[-2] // splits
    rows = _waves(height, x.shape[-1] // 2, x)[:, None].expand(-1, width, -1)
    columns = _waves(width, x.shape[-1] // 2, x)[None].expand(height, -1, -1)
    return x + torch.cat((rows, columns), -1).repeat(splits, splits, 1)


def _waves(length: int, channels: int, like: Tensor) -> Tensor:
    """(length, channels): sines (even channels) and cosines (odd) of 2 pi n / length, n = 1 … length, ever slower."""
    phase = 2 * math.pi * torch.arange(1, length + 1, device=like.device, dtype=like.dtype) / (length + 1e-6)
    slower = 10000 ** (torch.arange(0, channels, 2, device=like.device, dtype=like.dtype) / channels)
    angle = phase[:, None] / slower
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)
