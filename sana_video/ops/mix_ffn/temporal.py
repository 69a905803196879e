"""The temporal convolution as matrix products over shifted frames, channels-last, with its own backward.

Three taps are three products into one output; frames are contiguous rows, so a shift in time is a pointer and nothing
is copied or padded, whatever the chunks. Its gradients are the same three products turned round. Nothing here is
Triton: cuBLAS runs these shapes at the rate the card can hold.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


def _taps(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(D out, D in) of the frame before, the frame and the frame after; no copy where weight is channels-last."""
    before, here, after = weight.to(dtype).contiguous(memory_format=torch.channels_last).squeeze(-1).unbind(-1)
    return before, here, after


def _chunks(starts: Sequence[int], frames: int) -> list[tuple[int, int]]:
    return list(pairwise((*starts, frames)))


def _rows(x: Tensor) -> Tensor:
    return x.flatten(0, -2)


def _sums(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def forward(u: Tensor, weight: Tensor, starts: Sequence[int], last_u: Tensor | None) -> Tensor:
    """`naive.temporal_conv` of contiguous u."""
    before, here, after = _taps(weight, u.dtype)
    out = torch.mm(_rows(u), here.t()).view_as(u)
    for b in range(u.shape[0]):
        _rows(out[b, 1:]).addmm_(_rows(u[b, :-1]), before.t())
        if last_u is not None:
            out[b, 0].addmm_(last_u[b, 0].to(u.dtype), before.t())
        for low, high in _chunks(starts, u.shape[1]):
            _rows(out[b, low : high - 1]).addmm_(_rows(u[b, low + 1 : high]), after.t())
    return out


def backward(
    dy: Tensor, u: Tensor, weight: Tensor, starts: Sequence[int], last_u: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of u, weight and last_u (empty where there was none).

    The weight's is summed over samples and chunks in float32: each product is rounded to the dtype of u but once, where
    a sum kept in bf16 would be rounded anew with each of them.
    """
    before, here, after = _taps(weight, u.dtype)
    du = torch.mm(_rows(dy), here).view_as(u)
    d_here = torch.mm(_rows(dy).t(), _rows(u))
    d_before, d_after = (torch.zeros_like(d_here, dtype=_sums(u.dtype)) for _ in range(2))
    d_last = torch.empty(0, dtype=u.dtype, device=u.device) if last_u is None else torch.empty_like(last_u)
    for b in range(u.shape[0]):
        _rows(du[b, :-1]).addmm_(_rows(dy[b, 1:]), before)
        d_before += torch.mm(_rows(dy[b, 1:]).t(), _rows(u[b, :-1]))
        if last_u is not None:
            d_last[b, 0] = dy[b, 0] @ before
            d_before += torch.mm(dy[b, 0].t(), last_u[b, 0].to(u.dtype))
        for low, high in _chunks(starts, u.shape[1]):
            _rows(du[b, low + 1 : high]).addmm_(_rows(dy[b, low : high - 1]), after)
            d_after += torch.mm(_rows(dy[b, low : high - 1]).t(), _rows(u[b, low + 1 : high]))
    d_weight = torch.stack([d_before, d_here.to(d_before.dtype), d_after], dim=-1).unsqueeze(-1)
    return du, d_weight.to(weight.dtype), d_last


@torch.library.custom_op("sana_video::temporal_conv", mutates_args=())
def temporal_conv(u: Tensor, weight: Tensor, starts: Sequence[int], last_u: Tensor | None) -> Tensor:
    """`naive.temporal_conv` by matrix products."""
    return forward(u.contiguous(), weight, starts, last_u)


@torch.library.custom_op("sana_video::temporal_conv_backward", mutates_args=())
def temporal_conv_backward(
    dy: Tensor, u: Tensor, weight: Tensor, starts: Sequence[int], last_u: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of u, weight and last_u."""
    return backward(dy.contiguous(), u.contiguous(), weight, starts, last_u)


@temporal_conv.register_fake
def _(u: Tensor, weight: Tensor, starts: Sequence[int], last_u: Tensor | None) -> Tensor:
    return u.new_empty(u.shape)


@temporal_conv_backward.register_fake
def _(
    dy: Tensor, u: Tensor, weight: Tensor, starts: Sequence[int], last_u: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        u.new_empty(u.shape),
        weight.new_empty(weight.shape),
        u.new_empty(0) if last_u is None else torch.empty_like(last_u),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    u, weight, ctx.starts, last_u = inputs
    ctx.save_for_backward(u, weight, last_u)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    u, weight, last_u = ctx.saved_tensors
    du, d_weight, d_last = temporal_conv_backward(dy, u, weight, ctx.starts, last_u)
    return du, d_weight, None, None if last_u is None else d_last


temporal_conv.register_autograd(_differentiate, setup_context=_keep)
