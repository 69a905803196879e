"""The definitions, in plain torch: sums in float32, rounded where a tensor is handed on."""

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor


def norm_silu(
    x: Tensor, gain: Tensor, before: Tensor | None, bias: Tensor | None, skip: Tensor | None, keep: bool
) -> tuple[Tensor | None, Tensor]:
    summed = _sum(x, bias, skip)
    normed = F.normalize(summed.float(), dim=-1) * x.shape[-1] ** 0.5 * gain.float()
    return summed if keep else None, beside(F.silu(normed).to(x.dtype), before)


def doubled(x: Tensor, bias: Tensor | None, skip: Tensor | None) -> Tensor:
    return repeat(_sum(x, bias, skip), "b t h w c -> b t (h two) (w too) c", two=2, too=2)


def beside(x: Tensor, before: Tensor | None) -> Tensor:
    """Frames (B, T, H, W, C) with the two before each, the oldest first, in its channels: (B, T, H, W, 3C).

    before (B, 1, H, W, 2C): the two before the first frame, beside each other; None for zeros.
    """
    if before is None:
        before = x.new_zeros(len(x), 1, *x.shape[2:4], 2 * x.shape[-1])
    frames = torch.cat([*before.chunk(2, dim=-1), x], dim=1)
    return torch.cat([frames[:, :-2], frames[:, 1:-1], frames[:, 2:]], dim=-1)


def _sum(x: Tensor, bias: Tensor | None, skip: Tensor | None) -> Tensor:
    if bias is None and skip is None:
        return x
    summed = x.float() if bias is None else x.float() + bias.float()
    return (summed if skip is None else summed + skip.float()).to(x.dtype)
