"""The parts of DCAE-V: space and time folded into channels, shortcuts, convolutions over chunks."""

import math
from collections.abc import Iterable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Stride = tuple[int, int, int]
Activation = Literal["silu", "relu"]
Memory = dict[nn.Module, Tensor]  # the last frame each convolution has read: all that one chunk hands to the next


def fold(x: Tensor, stride: Stride) -> Tensor:
    """(B, C, T·t, H·h, W·w) -> (B, C·t·h·w, T, H, W): space and time into channels."""
    t, h, w = stride
    return rearrange(x, "b c (T t) (H h) (W w) -> b (c t h w) T H W", t=t, h=h, w=w)


def unfold(x: Tensor, stride: Stride) -> Tensor:
    """The inverse of `fold`."""
    t, h, w = stride
    return rearrange(x, "b (c t h w) T H W -> b c (T t) (H h) (W w)", t=t, h=h, w=w)


def match_channels(x: Tensor, channels: int) -> Tensor:
    """Mean over groups of neighbouring channels, or each channel repeated: the shortcut that has no weights."""
    if x.shape[1] >= channels:
        return rearrange(x, "b (c g) T H W -> b c g T H W", c=channels).mean(2)
    return x.repeat_interleave(channels // x.shape[1], dim=1)


class LinearShortcut(nn.Module):
    """Blocks of pixels to latents and back by two learned matrices, each block on its own.

    The best pair is the principal subspace of the blocks, which a few hundred steps find where convolutions from random
    weights don't; beside it, encoder and decoder start at zero and learn what no linear map can. Both matrices start as
    the same random orthonormal rows, scaled so that latents have the size of pixels.
    """

    def __init__(self, channels: int, stride: Stride) -> None:
        super().__init__()
        self.stride = stride
        values = 3 * math.prod(stride)
        rows = torch.linalg.qr(torch.randn(values, channels))[0].T
        self.scale = math.sqrt(math.prod(stride))
        self.analysis = nn.Parameter(rows.clone())
        self.synthesis = nn.Parameter(rows.clone())

    def analyse(self, pixels: Tensor) -> Tensor:
        return torch.einsum("kc,bcthw->bkthw", self.analysis / self.scale, fold(pixels, self.stride))

    def synthesise(self, latents: Tensor) -> Tensor:
        return unfold(torch.einsum("kc,bkthw->bcthw", self.synthesis * self.scale, latents), self.stride)


class ChunkConv(nn.Conv3d):
    """3x3x3 convolution over one chunk: `memory` has the frame before it; behind it, its last frame is repeated.

    With `step` 2 it stands on every second position of the frame.
    """

    def __init__(self, channels: int, out: int, step: int = 1) -> None:
        super().__init__(channels, out, kernel_size=3, padding=(0, 1, 1), stride=(1, step, step))

    def forward(self, x: Tensor, memory: Memory) -> Tensor:  # type: ignore[override]
        left = memory.get(self, x[:, :, :1])
        memory[self] = x[:, :, -1:].clone()  # a view would keep the whole chunk alive
        padded = torch.cat([left, x, x[:, :, -1:]], dim=2)
        # On a CPU torch has no fast 3-D kernel for a single clip; the 2-D form takes a third of the time.
        return self.by_frames(padded) if x.device.type == "cpu" and len(x) == 1 else super().forward(padded)

    def by_frames(self, padded: Tensor) -> Tensor:
        """The same as a 2-D convolution: frames as the batch, the three neighbours in time as channels."""
        frames = padded.transpose(1, 2)
        neighbours = torch.cat([frames[:, :-2], frames[:, 1:-1], frames[:, 2:]], dim=2).flatten(0, 1)
        kernel = self.weight.transpose(1, 2).flatten(1, 2)
        out = F.conv2d(neighbours, kernel, self.bias, self.stride[1:], padding=1)
        return rearrange(out, "(b t) c h w -> b c t h w", b=len(padded))


class ChannelNorm(nn.Module):
    """RMS norm over channels (dim 1) at each position, with weight and bias; the mean square is taken in fp32."""

    def __init__(self, channels: int, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), scale))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-5).to(x.dtype)
        per_channel = (-1,) + (1,) * (x.ndim - 2)
        return x * self.weight.view(per_channel) + self.bias.view(per_channel)


def activate(x: Tensor, activation: Activation) -> Tensor:
    return F.relu(x) if activation == "relu" else F.silu(x)


class Residual(nn.Module):
    """x + norm(conv(silu(conv(x)))); the norm starts small, so that a deep stack starts near the identity."""

    def __init__(self, width: int, activation: Activation = "silu", normed: bool = True) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = ChunkConv(width, width)
        self.conv2 = ChunkConv(width, width)
        self.norm = ChannelNorm(width, scale=0.1) if normed else nn.Identity()

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        residual: Tensor = self.norm(self.conv2(activate(self.conv1(x, memory), self.activation), memory))
        return x + residual


class Down(nn.Module):
    """Convolution, then fold; beside it the folded input, averaged over channel groups."""

    def __init__(self, channels: int, out: int, stride: Stride) -> None:
        super().__init__()
        self.out, self.stride = out, stride
        self.conv = ChunkConv(channels, out // math.prod(stride))

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        return fold(self.conv(x, memory), self.stride) + match_channels(fold(x, self.stride), self.out)


class StridedDown(nn.Module):
    """A convolution on every second position; beside it the folded input, averaged over channel groups."""

    def __init__(self, channels: int, out: int, stride: Stride) -> None:
        super().__init__()
        self.out, self.stride = out, stride
        self.conv = ChunkConv(channels, out, step=stride[1])

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        halved: Tensor = self.conv(x, memory)
        return halved + match_channels(fold(x, self.stride), self.out)


class Up(nn.Module):
    """Convolution, then unfold; beside it the unfolded repetition of the input's channels."""

    def __init__(self, channels: int, out: int, stride: Stride) -> None:
        super().__init__()
        self.stride = stride
        self.conv = ChunkConv(channels, out * math.prod(stride))

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        return unfold(self.conv(x, memory) + match_channels(x, self.conv.out_channels), self.stride)


class RepeatedUp(nn.Module):
    """Every position repeated, then a convolution; beside it the unfolded repetition of the input's channels."""

    def __init__(self, channels: int, out: int, stride: Stride) -> None:
        super().__init__()
        self.out, self.stride = out, stride
        self.conv = ChunkConv(channels, out)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        _, h, w = self.stride
        repeated: Tensor = self.conv(x.repeat_interleave(h, dim=3).repeat_interleave(w, dim=4), memory)
        return repeated + unfold(match_channels(x, self.out * math.prod(self.stride)), self.stride)


def regroup(pieces: Iterable[Tensor], size: int, first: int = 1) -> Iterator[Tensor]:
    """Cut a stream along time (dim 2) anew: `first` frames, then `size` at a time; the last group may be shorter."""
    rest: Tensor | None = None
    wanted = first
    for piece in pieces:
        rest = piece if rest is None else torch.cat([rest, piece], dim=2)
        while rest.shape[2] >= wanted:
            yield rest[:, :, :wanted]
            rest, wanted = rest[:, :, wanted:], size
    if rest is not None and rest.shape[2]:
        yield rest
