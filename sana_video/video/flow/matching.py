"""Matching in UniMatch: flow as a comparison of features (Xu et al. 2022, "GMFlow", equations 1-6).

Correspondence is attention with places as values; propagation is attention with flow as values. Maps are (B, H, W, C),
flow is (B, H, W, 2), x before y, in pixels of the map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sana_video.video.flow.transformer import attend

NOWHERE = -1e9  # score of a place outside the picture: it is never the match


def places(height: int, width: int, like: Tensor) -> Tensor:
    """(H, W, 2): x and y of every pixel, of the type and on the device of `like`."""
    y, x = (torch.arange(length, device=like.device, dtype=like.dtype) for length in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def sample(x: Tensor, at: Tensor) -> Tensor:
    """`x` (B, H, W, C) at the places `at` (B, h, w, 2), bilinear, 0 outside -> (B, h, w, C)."""
    size = torch.tensor([x.shape[2] - 1, x.shape[1] - 1], device=x.device, dtype=at.dtype)
    found = F.grid_sample(rearrange(x, "b h w c -> b c h w"), 2 * at / size - 1, align_corners=True)
    return rearrange(found, "b c h w -> b h w c")


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """`x` (B, H, W, C) fetched along `flow`: what each pixel of the first picture finds in the second."""
    return sample(x, places(x.shape[1], x.shape[2], x) + flow)


def match_globally(first: Tensor, second: Tensor) -> Tensor:
    """Flow to the mean place in the whole second picture, weighted by likeness (GMFlow, equations 1-4)."""
    grid = places(first.shape[1], first.shape[2], first).expand(len(first), -1, -1, -1)
    return attend(first.flatten(1, 2), second.flatten(1, 2), grid.flatten(1, 2)).view_as(grid) - grid


def match_locally(first: Tensor, second: Tensor, radius: int) -> Tensor:
    """The same among the (2R+1)^2 pixels around, those outside the picture left out."""
    _, height, width, _ = first.shape
    offsets = window(radius, first)
    target = places(height, width, first)[:, :, None] + offsets
    limit = torch.tensor([width, height], device=first.device)
    inside = ((target >= 0) & (target < limit)).all(-1)
    scores = correlate(first, second, first.new_zeros((*first.shape[:3], 2)), radius)
    likely = scores.masked_fill(~inside, NOWHERE).softmax(-1)
    return torch.einsum("bhwk,kd->bhwd", likely, offsets)


def correlate(first: Tensor, second: Tensor, flow: Tensor, radius: int) -> Tensor:
    """Likeness of each pixel to the (2R+1)^2 places around its target in the second picture -> (B, H, W, (2R+1)^2).

    Row by row of the window: all at once is (2R+1) times the memory.
    """
    target = places(first.shape[1], first.shape[2], first) + flow
    rows = window(radius, first).chunk(2 * radius + 1)
    return torch.cat([_likeness(first, second, target, row) for row in rows], -1)


def _likeness(first: Tensor, second: Tensor, target: Tensor, offsets: Tensor) -> Tensor:
    """Scaled products of `first` with `second` at `target` plus each of `offsets` (K, 2) -> (B, H, W, K)."""
    count = len(offsets)
    at = rearrange(target[:, :, :, None] + offsets, "b h w k xy -> b h (w k) xy")
    found = rearrange(sample(second, at), "b h (w k) c -> b h w k c", k=count)
    return torch.einsum("bhwc,bhwkc->bhwk", first / first.shape[-1] ** 0.5, found)


def window(radius: int, like: Tensor) -> Tensor:
    """((2R+1)^2, 2): x and y of each place in a window around 0, row by row."""
    return (places(2 * radius + 1, 2 * radius + 1, like) - radius).flatten(0, 1)


class Propagation(nn.Module):
    """Flow carried from where it matched to what looks alike in the same picture (GMFlow, equation 6).

    Without a radius over the whole picture, where the keys are projected twice: so were the published weights trained.
    With one over the pixels around; outside the picture lie zeros, which take part.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)

    def forward(self, feature: Tensor, flow: Tensor, radius: int | None) -> Tensor:
        query = self.q_proj(feature)
        if radius is None:
            tokens = (x.flatten(1, 2) for x in (query, self.k_proj(query), flow))
            return attend(*tokens).view_as(flow)
        key, value = around(self.k_proj(feature), radius), around(flow, radius)
        return attend(query[..., None, :], key, value)[..., 0, :]


def around(x: Tensor, radius: int) -> Tensor:
    """(B, H, W, C) -> (B, H, W, (2R+1)^2, C): the pixels around each, row by row, zeros outside."""
    size = 2 * radius + 1
    found = F.unfold(rearrange(x, "b h w c -> b c h w"), size, padding=radius)
    return rearrange(found, "b (c k) (h w) -> b h w k c", k=size * size, h=x.shape[1])
