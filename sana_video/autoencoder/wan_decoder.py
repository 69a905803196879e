"""Wan's decoder in few passes over memory, over the modules that diffusers loaded.

diffusers' own forward spends more time between its convolutions than in them: a norm is eight passes over the frames, a
bias one, and the past is joined and the borders are padded by copying all of them. Here frames are channels-last from
end to end; a convolution leaves out its bias, and one pass adds it and the residual, norms, applies SiLU and writes the
result where the next convolution reads it (ops/decoder). The same sums but for their order and roundings; equal to
diffusers' forward by test, faster by benchmarks/decoder.py.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sana_video.ops.decoder import beside, doubled, norm_silu


@dataclass(frozen=True)
class Pending:
    """A sum that is not made yet: `x` (B, T, H, W, C) as a convolution left it, its bias, and the residual."""

    x: Tensor
    bias: Tensor | None = None
    skip: Tensor | None = None

    def summed(self) -> Tensor:
        x = self.x if self.bias is None else self.x + self.bias
        return x if self.skip is None else x + self.skip


class Decoding:
    """One video on its way through `decoder`: what its convolutions read last, and their weights as they run here."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._past: dict[nn.Module, Tensor | None] = {}  # (B, 1, H, W, 2C): the last two frames, beside each other
        convolutions = [module for module in decoder.modules() if isinstance(module, nn.Conv3d)]
        self._weights = {conv: _beside(conv.weight) for conv in convolutions if conv.kernel_size[0] == 3}

    def __call__(self, latents: Tensor) -> Tensor:
        """Latents (B, C, T, h, w), the next of the video, to its pixels (B, C', F, H, W).

        The first latent comes alone and is one frame; each later one is four.
        """
        decoder, first = self._decoder, not self._past
        x = self._causal(decoder.conv_in, _channels_last(latents))
        x = self._middle(decoder.mid_block, x)
        for block in decoder.up_blocks:
            x = self._up(block, x, first)
        frames, _ = self._convolved(decoder.norm_out, decoder.conv_out, x, keep=False)
        return _channels_first(frames.summed())

    def _middle(self, middle: Any, x: Pending) -> Pending:
        x = self._residual(middle.resnets[0], x)
        for attention, block in zip(middle.attentions, middle.resnets[1:], strict=True):
            seen = attention(_channels_first(x.summed()))
            x = self._residual(block, Pending(_channels_last(seen)))
        return x

    def _up(self, block: Any, x: Pending, first: bool) -> Pending:
        shortcut = getattr(block, "avg_shortcut", None)  # of Wan 2.2
        before = x = x if shortcut is None else Pending(x.summed())
        for resnet in block.resnets:
            x = self._residual(resnet, x)
        for upsampler in _upsamplers(block):
            x = self._upsampled(upsampler, x)
        if shortcut is None:
            return x
        return replace(x, skip=_channels_last(shortcut(_channels_first(before.x), first_chunk=first)))

    def _residual(self, block: Any, x: Pending) -> Pending:
        inner, skip = self._convolved(block.norm1, block.conv1, x, keep=True)
        outer, _ = self._convolved(block.norm2, block.conv2, inner, keep=False)
        if not isinstance(block.conv_shortcut, nn.Identity):
            skip = F.linear(skip, block.conv_shortcut.weight.flatten(1), block.conv_shortcut.bias)
        return replace(outer, skip=skip)

    def _convolved(self, norm: Any, conv: Any, x: Pending, *, keep: bool) -> tuple[Pending, Any]:
        """Norm, SiLU and convolution; and the sum that was normed, where it is wanted."""
        past = self._past.get(conv)
        summed, read = norm_silu(x.x, norm.gamma.flatten(), past, bias=x.bias, skip=x.skip, keep=keep)
        return self._apply(conv, read), summed

    def _causal(self, conv: Any, x: Tensor) -> Pending:
        return self._apply(conv, beside(x, self._past.get(conv)))

    def _apply(self, conv: Any, read: Tensor) -> Pending:
        self._past[conv] = read[:, -1:, ..., read.shape[-1] // 3 :].clone()
        weight = self._weights[conv]
        if weight.shape[-2:] == (1, 1):
            return Pending(F.linear(read, weight.flatten(1), conv.bias))
        return _convolved_2d(read, weight, conv.bias)

    def _upsampled(self, upsampler: Any, x: Pending) -> Pending:
        if upsampler.mode == "upsample3d":
            x = Pending(self._doubled_in_time(upsampler.time_conv, x.summed()))
        conv = upsampler.resample[1]
        return _convolved_2d(doubled(x.x, bias=x.bias, skip=x.skip), conv.weight, conv.bias)

    def _doubled_in_time(self, conv: Any, x: Tensor) -> Tensor:
        """Two frames from each, but the first of a video, which stays one and is not seen by those after it."""
        if conv not in self._past:
            self._past[conv] = None
            return x
        return rearrange(self._causal(conv, x).x, "b t h w (two c) -> b (t two) h w c", two=2).contiguous()


def _convolved_2d(read: Tensor, weight: Tensor, bias: Tensor) -> Pending:
    """A convolution of each frame (B, T, H, W, C) with (C', C, 3, 3); its bias is left pending."""
    out = F.conv2d(rearrange(read, "b t h w c -> (b t) c h w"), weight, padding=1)
    return Pending(rearrange(out, "(b t) c h w -> b t h w c", b=len(read)).contiguous(), bias)


def _beside(weight: Tensor) -> Tensor:
    """(C', C, 3, h, w) over three frames -> (C', 3C, h, w) over one that has them beside each other; channels-last."""
    return rearrange(weight, "o c t h w -> o h w (t c)").contiguous().movedim(-1, 1)


def _channels_last(x: Tensor) -> Tensor:
    return rearrange(x, "b c t h w -> b t h w c").contiguous()


def _channels_first(x: Tensor) -> Tensor:
    return rearrange(x, "b t h w c -> b c t h w")


def _upsamplers(block: Any) -> list[Any]:
    alone = getattr(block, "upsampler", None)
    return [alone] if alone is not None else list(getattr(block, "upsamplers", None) or [])
