"""Matrix products in fp8 for sampling: rows quantised by the norm that makes them, or alone; `torch._scaled_mm`.

`naive` is the definition and runs everywhere; kernels and the fp8 product need a Hopper GPU (see `ops.select`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sana_video.ops import select
from sana_video.ops.fp8 import naive
from sana_video.ops.fp8.naive import Quantized

__all__ = [
    "Quantized",
    "fits",
    "gated_add",
    "gated_add_modulate",
    "linear",
    "modulate",
    "quantize",
    "scaled_product",
    "three_frames",
]

FLOATS = (torch.bfloat16, torch.float32)
NEEDS = "bf16 or float32 of a width of sixteens, not too wide for a row in registers, and streams of one shape"


def fits(outputs: int, inputs: int) -> bool:
    """Whether the fp8 product takes a weight (outputs, inputs): sides of whole 16 bytes."""
    return outputs % 16 == 0 and inputs % 16 == 0


def quantize(x: Tensor) -> Quantized:
    """Rows of x (..., K) in e4m3 with a scale each; see `naive`."""
    if _kernels_take("fp8 quantize", x):
        from sana_video.ops.fp8 import triton

        _, values, scale = triton.fp8_rows(x, None, None, None, None, 0.0)
        return Quantized(values, scale)
    return naive.quantize(x)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Quantized:
    """`ops.modulate.modulate`, quantised before it is rounded to the dtype of x."""
    if _kernels_take("fp8 modulate", x, x):
        from sana_video.ops.fp8 import triton

        _, values, row_scale = triton.fp8_rows(x, None, None, shift, scale, eps)
        return Quantized(values, row_scale)
    return naive.modulate(x, shift, scale, eps)


def gated_add(x: Tensor, branch: Tensor, gate: Tensor | None) -> tuple[Tensor, Quantized]:
    """x + gate · branch, as it is and quantised."""
    if _kernels_take("fp8 gated_add", x, branch):
        from sana_video.ops.fp8 import triton

        stream, values, row_scale = triton.fp8_rows(x, branch, gate, None, None, 0.0)
        return stream, Quantized(values, row_scale)
    return naive.gated_add(x, branch, gate)


def gated_add_modulate(
    x: Tensor, branch: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Quantized]:
    """x + gate · branch, and `modulate` of it."""
    if _kernels_take("fp8 gated_add_modulate", x, branch):
        from sana_video.ops.fp8 import triton

        stream, values, row_scale = triton.fp8_rows(x, branch, gate, shift, scale, eps)
        return stream, Quantized(values, row_scale)
    return naive.gated_add_modulate(x, branch, gate, shift, scale, eps)


def three_frames(u: Tensor, starts: Sequence[int] = (0,), last_u: Tensor | None = None) -> Quantized:
    """Rows for the temporal convolution as one product: (B, T, S, D) -> (B, T, S, 3·D); see `naive`."""
    if _kernels_take("fp8 three_frames", u, u):
        from sana_video.ops.fp8 import triton

        return Quantized(*triton.fp8_three_frames(u, list(starts), last_u))
    return naive.three_frames(u, starts, last_u)


def linear(x: Quantized, weight: Quantized, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """x · weightᵀ + bias in `dtype`: (..., K), (N, K), (N) -> (..., N), for weights that `fits` takes.

    The fp8 product of a GPU gives bf16 and nothing else; other dtypes take the definition.
    """
    if select.kernels_for(x.values):
        if dtype == torch.bfloat16:
            return scaled_product(x, weight, bias)
        select.fall_back(f"fp8 linear to {dtype}", x.values, "results in bf16")
    return naive.linear(x, weight, bias, dtype)


def scaled_product(x: Quantized, weight: Quantized, bias: Tensor | None) -> Tensor:
    """`naive.linear` in bf16 by the fp8 units; their sums carry fewer bits than float32, but more than e4m3 needs."""
    out: Tensor = torch._scaled_mm(
        x.values.flatten(0, -2),
        weight.values.t(),
        scale_a=x.scale.flatten(0, -2),
        scale_b=weight.scale.t(),
        bias=None if bias is None else bias.bfloat16(),
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
    return out.view(*x.values.shape[:-1], -1)


def _kernels_take(operation: str, x: Tensor, stream: Tensor | None = None) -> bool:
    """Whether kernels take rows x, and, where it is added to or stands in frames, a `stream` like it."""
    if not select.kernels_for(x):
        return False
    from sana_video.ops.fp8 import triton
    from sana_video.ops.modulate import triton as streams

    if x.dtype in FLOATS and triton.fits(x) and (stream is None or streams.fits(x, stream)):
        return True
    select.fall_back(operation, x, NEEDS)
    return False
