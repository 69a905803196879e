"""The attention block of DC-AE: multi-scale ReLU linear attention, then a gated depthwise convolution, frame by frame.

From EfficientViT (arXiv 2205.14756) as DC-AE (arXiv 2410.10733) uses it in its deep stages, where a frame has few
positions and each may well read them all. What is upstream's here is the arithmetic, down to the order of channels, so
that published image weights fit; it is held to diffusers' `AutoencoderDC` by a test. Nothing here reads another frame:
time is the business of the convolutions round it, and so streaming needs no memory for these blocks.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sana_video.autoencoder.blocks import ChannelNorm, Memory

EPSILON = 1e-15


class LinearAttention(nn.Module):
    """ReLU linear attention over the positions of one frame; each of `scales` adds heads that see k x k means.

    Queries, keys and values of a head are neighbours in the channels of the concatenation [q; k; v], cut into groups of
    three head widths: odd, for a group may hold three queries, but so the published weights were trained.
    """

    def __init__(self, width: int, head_width: int, scales: tuple[int, ...]) -> None:
        super().__init__()
        if width % head_width:
            raise ValueError(f"attention of width {width} cannot have heads of width {head_width}")
        self.head_width = head_width
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.scales = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(3 * width, 3 * width, k, padding=k // 2, groups=3 * width, bias=False),
                nn.Conv2d(3 * width, 3 * width, 1, groups=3 * width // head_width, bias=False),
            )
            for k in scales
        )
        self.out = nn.Conv2d(width * (1 + len(scales)), width, 1, bias=False)
        self.norm = ChannelNorm(width, scale=0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), the residual; sums over positions are taken in fp32."""
        qkv = self.qkv(x)
        qkv = torch.cat([qkv, *(scale(qkv) for scale in self.scales)], dim=1)
        q, k, v = rearrange(qkv.float(), "n (a e d) h w -> e n a d (h w)", e=3, d=self.head_width)
        with torch.autocast("cuda" if x.is_cuda else "cpu", enabled=False):  # has no meta device
            attended = linear_attention(F.relu(q), F.relu(k), v)
        heads = rearrange(attended, "n a d (h w) -> n (a d) h w", h=x.shape[2])
        normed: Tensor = self.norm(self.out(heads.to(x.dtype)))
        return normed


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Σ_j v_j (k_j·q_i) / (Σ_j k_j·q_i + ε) for each position i; all (N, A, D, P) with P positions, q and k >= 0."""
    weighted = (v @ k.transpose(-1, -2)) @ q
    return weighted / (k.sum(-1, keepdim=True).transpose(-1, -2) @ q + EPSILON)


class GatedConv(nn.Module):
    """Widen eightfold, 3x3 depthwise, one half gates the other, narrow; norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(width, 8 * width, 1)
        self.depthwise = nn.Conv2d(8 * width, 8 * width, 3, padding=1, groups=8 * width)
        self.narrow = nn.Conv2d(4 * width, width, 1, bias=False)
        self.norm = ChannelNorm(width, scale=0.1)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.depthwise(F.silu(self.widen(x))).chunk(2, dim=1)
        normed: Tensor = self.norm(self.narrow(value * F.silu(gate)))
        return normed


class AttentionBlock(nn.Module):
    """x + attention(x), then x + gated convolution(x), on every frame of (B, C, T, H, W) alone."""

    def __init__(self, width: int, head_width: int, scales: tuple[int, ...]) -> None:
        super().__init__()
        self.attention = LinearAttention(width, head_width, scales)
        self.convolution = GatedConv(width)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        frames: Tensor = rearrange(x, "b c t h w -> (b t) c h w")
        frames = frames + self.attention(frames)
        frames = frames + self.convolution(frames)
        clips: Tensor = rearrange(frames, "(b t) c h w -> b c t h w", b=len(x))
        return clips
