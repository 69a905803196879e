"""Sum, RMS norm and SiLU of rows of channels, written where the next convolution reads them (Triton).

The rows of a sample lie one after another, and two frames are kept free before them: so the convolution finds its past
in place, and nothing is joined or padded afterwards.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped"

import torch
import triton
import triton.language as tl
from torch import Tensor

from sana_video.ops.norm_silu.naive import FRAMES

TILE = 4096  # elements that a program holds: 32 for each of its 128 threads
WARPS = 4


@triton.jit(do_not_specialize=["rows", "free"])
def norm_silu_kernel(
    x_ptr, bias_ptr, skip_ptr, gain_ptr, sum_ptr, out_ptr, rows, free,
    C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, BIAS: tl.constexpr, SKIP: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    in_width = columns < C
    ok = (row < rows)[:, None] & in_width[None, :]
    at = (sample * rows + row)[:, None] * C + columns[None, :]
    x = tl.load(x_ptr + at, mask=ok, other=0.0).to(tl.float32)
    if BIAS:
        x += tl.load(bias_ptr + columns, mask=in_width, other=0.0).to(tl.float32)[None, :]
    if SKIP:
        x += tl.load(skip_ptr + at, mask=ok, other=0.0).to(tl.float32)
    if BIAS or SKIP:
        x = x.to(sum_ptr.dtype.element_ty).to(tl.float32)
        tl.store(sum_ptr + at, x.to(sum_ptr.dtype.element_ty), mask=ok)
    length = tl.sqrt_rn(tl.sum(x * x, 1))
    gain = tl.load(gain_ptr + columns, mask=in_width, other=0.0).to(tl.float32)
    normed = x * (tl.sqrt_rn(C * 1.0) / tl.maximum(length, 1e-12))[:, None] * gain[None, :]
    out = normed * tl.sigmoid(normed)
    into = (sample * (rows + free) + free + row)[:, None] * C + columns[None, :]
    tl.store(out_ptr + into, out.to(out_ptr.dtype.element_ty), mask=ok)


def cut(width: int) -> tuple[int, int]:
    """Columns and rows that a program holds."""
    block: int = triton.next_power_of_2(width)
    return block, max(1, TILE // block)


def norm_silu(
    x: Tensor, gain: Tensor, before: Tensor | None, bias: Tensor | None, skip: Tensor | None
) -> tuple[Tensor, Tensor]:
    B, T, H, W, C = x.shape
    added = bias is not None or skip is not None
    summed = torch.empty_like(x) if added else x
    out = x.new_empty(B, FRAMES + T, H, W, C)
    if before is None:
        out[:, :FRAMES].zero_()
    else:
        out[:, :FRAMES].copy_(before)
    block, rows_at_once = cut(C)
    norm_silu_kernel[(triton.cdiv(T * H * W, rows_at_once), B)](
        x, bias if bias is not None else x, skip if skip is not None else x, gain, summed, out,
        T * H * W, FRAMES * H * W, C, block, rows_at_once, bias is not None, skip is not None, num_warps=WARPS,
    )  # fmt: skip
    return summed, out
