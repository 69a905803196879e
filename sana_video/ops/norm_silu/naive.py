"""The definition, in plain torch: sums in float32, rounded where a tensor is handed on."""

import torch
import torch.nn.functional as F
from torch import Tensor

FRAMES = 2  # before the first of a piece, read by a convolution of three


def norm_silu(
    x: Tensor, gain: Tensor, before: Tensor | None, bias: Tensor | None, skip: Tensor | None
) -> tuple[Tensor, Tensor]:
    summed = x.float() if bias is None else x.float() + bias.float()
    summed = (summed if skip is None else summed + skip.float()).to(x.dtype)
    normed = F.normalize(summed.float(), dim=-1) * x.shape[-1] ** 0.5 * gain.float()
    if before is None:
        before = x.new_zeros(len(x), FRAMES, *x.shape[2:])
    return summed, torch.cat([before, F.silu(normed).to(x.dtype)], dim=1)
