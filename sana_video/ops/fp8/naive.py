"""The definition of a matrix product in fp8: e4m3 values, one float32 scale for each row of both factors.

A row of activations is a token, a row of weights an output channel; the scale is the row's largest magnitude over 448,
the largest e4m3. A scale per row costs the product nothing that matters (1103 against 1224 TFLOP/s with one scale
per tensor on an H100) and needs no calibration and no memory of earlier steps: the same input gives the same bits
whatever was computed before or beside it.

e4m3 keeps four significant bits: rounding is off by at most 1/16 of a value, and by some 2.6 % in the mean square,
as long as the value is within a factor of 2¹⁵ of its row's largest. Magnitudes below 1e-12 count as that, so that a row
of zeros is zero. A row that holds an infinity or a NaN has no finite scale and no finite product: nothing is hidden.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from sana_video.ops.modulate import naive as stream

LARGEST = 448.0  # of e4m3
LEAST = 1e-12  # magnitude that a row's largest counts for at least


class Quantized(NamedTuple):
    """Rows in e4m3; what they stand for is values · scale."""

    values: Tensor  # (..., K) float8_e4m3fn
    scale: Tensor  # (..., 1) float32


def quantize(x: Tensor) -> Quantized:
    """Rows of x (..., K), rounded to the nearest, ties to even, never beyond ±448."""
    wide = x.float()
    largest = wide.abs().amax(dim=-1, keepdim=True).clamp(min=LEAST)
    inverse = largest.new_full((), LARGEST) / largest  # a number over a tensor would be a reciprocal, rounded twice
    values = (wide * inverse).clamp(-LARGEST, LARGEST)
    return Quantized(values.to(torch.float8_e4m3fn), largest * (1 / LARGEST))


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Quantized:
    """`ops.modulate.naive.modulate`, quantised from float32."""
    return quantize(stream.modulate(x.float(), shift.float(), scale.float(), eps))


def gated_add(x: Tensor, branch: Tensor, gate: Tensor | None) -> tuple[Tensor, Quantized]:
    """The sum that goes on as the stream, in the dtype of x, and the same quantised."""
    summed = stream.gated_add(x, branch, gate)
    return summed, quantize(summed)


def gated_add_modulate(
    x: Tensor, branch: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Quantized]:
    """The sum that goes on as the stream, and `modulate` of it."""
    summed = stream.gated_add(x, branch, gate)
    return summed, modulate(summed, shift, scale, eps)


def linear(x: Quantized, weight: Quantized, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """x · weightᵀ + bias: (..., K), (N, K), (N) -> (..., N), summed in float32, rounded once to `dtype`."""
    out = (x.values.float() @ weight.values.float().t()) * x.scale * weight.scale.t()
    return (out if bias is None else out + bias.float()).to(dtype)


def three_frames(u: Tensor, starts: Sequence[int] = (0,), last_u: Tensor | None = None) -> Quantized:
    """Each token of u (B, T, S, D) beside itself in the frames before and after: (B, T, S, 3·D), one scale for three.

    The temporal convolution is one product with these rows. What a token sees is as in `ops.mix_ffn.temporal_conv`:
    the frame before it across chunks and calls (`last_u`), and zeros after its chunk's end.
    """
    before = torch.cat([torch.zeros_like(u[:, :1]) if last_u is None else last_u.to(u.dtype), u[:, :-1]], dim=1)
    after = torch.zeros_like(u)
    for low, high in pairwise((*starts, u.shape[1])):
        after[:, low : high - 1] = u[:, low + 1 : high]
    return quantize(torch.cat([before, u, after], dim=-1))
