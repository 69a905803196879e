"""Wan's decoder in few passes over memory, over the modules that diffusers loaded.

diffusers' own forward spends more time between its convolutions than in them: a norm is eight passes over the frames, a
bias one, and the past is joined and the borders are padded by copying all of them. Here frames are channels-last from
end to end; a convolution leaves out its bias, and one pass adds it and the residual, norms, applies SiLU and writes the
result behind the two frames that the next convolution reads first (ops/norm_silu). The same sums in the same order but
for roundings; equal to diffusers' forward by test.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sana_video.ops.norm_silu import norm_silu

Past = dict[nn.Module, Tensor]  # the last two frames (B, 2, H, W, C) that a convolution has read


@dataclass(frozen=True)
class Pending:
    """A sum that is not made yet: `x` (B, T, H, W, C) as a convolution left it, its bias, and the residual."""

    x: Tensor
    bias: Tensor | None = None
    skip: Tensor | None = None

    def summed(self) -> Tensor:
        x = self.x if self.bias is None else self.x + self.bias
        return x if self.skip is None else x + self.skip


def decode(decoder: Any, latents: Tensor, past: Past) -> Tensor:
    """Latents (B, C, T, h, w), the next of a video, to its pixels (B, C', F, H, W); `past` is carried on in place.

    The first latent of a video comes alone, with an empty `past`, and is one frame; each later one is four.
    """
    first = not past
    x = Pending(*_causal(decoder.conv_in, rearrange(latents, "b c t h w -> b t h w c").contiguous(), past))
    x = _middle(decoder.mid_block, x, past)
    for block in decoder.up_blocks:
        x = _up(block, x, past, first)
    frames, _ = _convolved(decoder.norm_out, decoder.conv_out, x, past)
    pixels: Tensor = rearrange(frames + decoder.conv_out.bias, "b t h w c -> b c t h w")
    return pixels


def _middle(middle: Any, x: Pending, past: Past) -> Pending:
    x = _residual(middle.resnets[0], x, past)
    for attention, block in zip(middle.attentions, middle.resnets[1:], strict=True):
        seen = attention(rearrange(x.summed(), "b t h w c -> b c t h w"))
        x = _residual(block, Pending(rearrange(seen, "b c t h w -> b t h w c").contiguous()), past)
    return x


def _up(block: Any, x: Pending, past: Past, first: bool) -> Pending:
    shortcut = getattr(block, "avg_shortcut", None)  # of Wan 2.2
    if shortcut is not None:
        x = Pending(x.summed())
    before = x.x
    for resnet in block.resnets:
        x = _residual(resnet, x, past)
    for upsampler in _upsamplers(block):
        x = _upsampled(upsampler, x.summed(), past)
    if shortcut is None:
        return x
    skip = shortcut(rearrange(before, "b t h w c -> b c t h w"), first_chunk=first)
    return Pending(x.summed(), skip=rearrange(skip, "b c t h w -> b t h w c").contiguous())


def _upsamplers(block: Any) -> list[Any]:
    alone = getattr(block, "upsampler", None)
    return [alone] if alone is not None else list(getattr(block, "upsamplers", None) or [])


def _residual(block: Any, x: Pending, past: Past) -> Pending:
    inner, summed = _convolved(block.norm1, block.conv1, x, past)
    outer, _ = _convolved(block.norm2, block.conv2, Pending(inner, block.conv1.bias), past)
    if not isinstance(block.conv_shortcut, nn.Identity):
        summed = F.linear(summed, block.conv_shortcut.weight.flatten(1), block.conv_shortcut.bias)
    return Pending(outer, block.conv2.bias, summed)


def _convolved(norm: Any, conv: Any, x: Pending, past: Past) -> tuple[Tensor, Tensor]:
    """Norm, SiLU and convolution without its bias; and the sum that was normed."""
    summed, read = norm_silu(x.x, norm.gamma.flatten(), past.get(conv), bias=x.bias, skip=x.skip)
    past[conv] = read[:, -2:].clone()
    return _apply(conv, read), summed


def _causal(conv: Any, x: Tensor, past: Past) -> tuple[Tensor, Tensor]:
    """A convolution without its bias, and the bias."""
    before = past.get(conv)
    read = torch.cat([x.new_zeros(len(x), 2, *x.shape[2:]) if before is None else before, x], dim=1)
    past[conv] = read[:, -2:].clone()
    return _apply(conv, read), conv.bias


def _apply(conv: Any, read: Tensor) -> Tensor:
    sides = tuple(size // 2 for size in conv.kernel_size[1:])
    out = F.conv3d(rearrange(read, "b t h w c -> b c t h w"), conv.weight, padding=(0, *sides))
    return rearrange(out, "b c t h w -> b t h w c").contiguous()


def _upsampled(upsampler: Any, x: Tensor, past: Past) -> Pending:
    if upsampler.mode == "upsample3d":
        x = _doubled_in_time(upsampler.time_conv, x, past)
    frames = rearrange(x, "b t h w c -> (b t) c h w")
    conv = upsampler.resample[1]
    larger = F.conv2d(F.interpolate(frames, scale_factor=2.0, mode="nearest-exact"), conv.weight, padding=1)
    return Pending(rearrange(larger, "(b t) c h w -> b t h w c", b=len(x)).contiguous(), conv.bias)


def _doubled_in_time(conv: Any, x: Tensor, past: Past) -> Tensor:
    """Two frames from each, but the first of a video, which stays one and is not seen by those after it."""
    if conv not in past:
        past[conv] = x.new_zeros(len(x), 2, *x.shape[2:])
        return x
    out, bias = _causal(conv, x, past)
    return rearrange(out + bias, "b t h w (two c) -> b (t two) h w c", two=2)
