"""The definition of the Mix-FFN's two convolutions over channels-last tokens, in plain torch (arXiv 2509.24695).

Tokens stay channels-last from one matrix product to the next: the 1×1 convolutions are products over the last axis,
so nothing is permuted in memory between them.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def gated_depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU, depthwise 3×3 within each frame with zeros around it, then value · SiLU(gate).

    x: (frames, H, W, 2M), values before gates, as the expanding product leaves it; weight: (2M, 1, 3, 3); bias: (2M).
    Returns (frames, H, W, M).
    """
    hidden = F.silu(x).permute(0, 3, 1, 2)
    hidden = F.conv2d(hidden, weight, bias, padding=1, groups=x.shape[-1]).permute(0, 2, 3, 1)
    value, gate = hidden.chunk(2, dim=-1)
    return value * F.silu(gate)


def temporal_conv(u: Tensor, weight: Tensor, starts: Sequence[int] = (0,), last_u: Tensor | None = None) -> Tensor:
    """Full-width convolution over three frames; the caller adds u itself.

    u: (B, T, S, D); weight: (D, D, 3, 1); starts: first frame of each chunk, rising from 0; last_u: (B, 1, S, D), the
    frame before u, or None at the start of a video. A chunk sees the frame before it and nothing after its end.
    Returns (B, T, S, D).
    """
    nothing = torch.zeros_like(u[:, :1])
    left = nothing if last_u is None else last_u
    outputs = []
    for low, high in pairwise((*starts, u.shape[1])):
        seen = torch.cat([left, u[:, low:high], nothing], dim=1).permute(0, 3, 1, 2)
        outputs.append(F.conv2d(seen, weight).permute(0, 2, 3, 1))
        left = u[:, high - 1 : high]
    return torch.cat(outputs, dim=1)
