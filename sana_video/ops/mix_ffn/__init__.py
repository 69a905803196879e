"""Mix-FFN over channels-last tokens: expand, gated depthwise 3×3, project, and a convolution over three frames."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from sana_video.ops import select
from sana_video.ops.mix_ffn import naive

__all__ = ["gated_depthwise", "mix_ffn", "temporal_conv"]

FLOATS = (torch.bfloat16, torch.float32)


def gated_depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU, depthwise 3×3, value · SiLU(gate): (frames, H, W, 2M) -> (frames, H, W, M); see `naive`."""
    if select.kernels_for(x) and x.dtype in FLOATS:
        from sana_video.ops.mix_ffn import triton

        if triton.fits(x):
            out: Tensor = triton.gated_depthwise(x, weight, bias)
            return out
    return naive.gated_depthwise(x, weight, bias)


def temporal_conv(u: Tensor, weight: Tensor, starts: Sequence[int] = (0,), last_u: Tensor | None = None) -> Tensor:
    """Convolution over three frames of u (B, T, S, D), chunk by chunk, without u itself; see `naive`."""
    if select.kernels_for(u):
        from sana_video.ops.mix_ffn import temporal

        out: Tensor = temporal.temporal_conv(u, weight, list(starts), last_u)
        return out
    return naive.temporal_conv(u, weight, starts, last_u)


def mix_ffn(
    x: Tensor,
    height: int,
    expand: tuple[Tensor, Tensor],
    depth: tuple[Tensor, Tensor],
    project: Tensor,
    temporal: Tensor,
    starts: Sequence[int] = (0,),
    last_u: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The whole branch as two parts whose sum it is: u, and what three frames of u add.

    x: (B, T, H·W, D); expand, depth: weight and bias; project, temporal: weight, all in the shape of their convolution;
    starts and last_u: see `temporal_conv`. Two parts, because the caller's gated sum adds both in one pass.
    """
    frames = rearrange(x, "b t (h w) d -> (b t) h w d", h=height)
    hidden = F.linear(frames, expand[0].flatten(1), expand[1])
    u = F.linear(gated_depthwise(hidden, *depth), project.flatten(1)).view(x.shape)
    return u, temporal_conv(u, temporal, starts, last_u)
