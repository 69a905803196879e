"""One pass each: sum, RMS norm and SiLU, written into the three frames that read it; sum, written four times (Triton).

A program holds some pixels with all their channels. Offsets are 64-bit: five latents of 480p are 2^31 numbers.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped"

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096  # elements that a program holds: 32 for each of its 128 threads
WARPS = 4


@triton.jit
def _sum(x_ptr, bias_ptr, skip_ptr, at, columns, ok, in_width, BIAS: tl.constexpr, SKIP: tl.constexpr):
    x = tl.load(x_ptr + at, mask=ok, other=0.0).to(tl.float32)
    if BIAS:
        x += tl.load(bias_ptr + columns, mask=in_width, other=0.0).to(tl.float32)[None, :]
    if SKIP:
        x += tl.load(skip_ptr + at, mask=ok, other=0.0).to(tl.float32)
    if BIAS or SKIP:
        x = x.to(x_ptr.dtype.element_ty).to(tl.float32)  # as it is handed on
    return x


@triton.jit(do_not_specialize=["rows", "frame"])
def norm_silu_kernel(
    x_ptr, bias_ptr, skip_ptr, gain_ptr, sum_ptr, out_ptr, rows, frame,
    C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
    BIAS: tl.constexpr, SKIP: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """`rows` pixels a sample, `frame` of them a frame."""
    sample = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    in_width = columns < C
    ok = (row < rows)[:, None] & in_width[None, :]
    at = (sample * rows + row)[:, None] * C + columns[None, :]
    x = _sum(x_ptr, bias_ptr, skip_ptr, at, columns, ok, in_width, BIAS, SKIP)
    if KEEP:
        tl.store(sum_ptr + at, x.to(sum_ptr.dtype.element_ty), mask=ok)
    length = tl.sqrt_rn(tl.sum(x * x, 1))
    gain = tl.load(gain_ptr + columns, mask=in_width, other=0.0).to(tl.float32)
    normed = x * (tl.sqrt_rn(C * 1.0) / tl.maximum(length, 1e-12))[:, None] * gain[None, :]
    out = (normed * tl.sigmoid(normed)).to(out_ptr.dtype.element_ty)
    for ahead in tl.static_range(3):  # read by its own frame, which is the newest there, and by the two after it
        into = (sample * rows + row + ahead * frame)[:, None] * (3 * C) + (2 - ahead) * C + columns[None, :]
        tl.store(out_ptr + into, out, mask=ok & (row + ahead * frame < rows)[:, None])


@triton.jit(do_not_specialize=["pixels"])
def doubled_kernel(
    x_ptr, bias_ptr, skip_ptr, out_ptr, pixels, width,
    C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, BIAS: tl.constexpr, SKIP: tl.constexpr,
):  # fmt: skip
    """`pixels` of all frames, `width` of them a line."""
    pixel = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    in_width = columns < C
    ok = (pixel < pixels)[:, None] & in_width[None, :]
    x = _sum(x_ptr, bias_ptr, skip_ptr, pixel[:, None] * C + columns[None, :], columns, ok, in_width, BIAS, SKIP)
    first = (pixel // width) * 4 * width + (pixel % width) * 2
    for down in tl.static_range(2):
        for right in tl.static_range(2):
            into = (first + down * 2 * width + right)[:, None] * C + columns[None, :]
            tl.store(out_ptr + into, x.to(out_ptr.dtype.element_ty), mask=ok)


def cut(width: int) -> tuple[int, int]:
    """Channels, rounded up, and pixels that a program holds."""
    block: int = triton.next_power_of_2(width)
    return block, max(1, TILE // block)


@torch.library.custom_op("sana_video::decoder_norm_silu", mutates_args=())
def norm_silu(
    x: Tensor, gain: Tensor, before: Tensor | None, bias: Tensor | None, skip: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor]:
    """The sum, empty where it is x or is not to be kept, and what is read; for contiguous x and skip."""
    B, T, H, W, C = x.shape
    stored = keep and not (bias is None and skip is None)
    summed = torch.empty_like(x) if stored else x.new_empty(0)
    out = x.new_empty(B, T, H, W, 3 * C)
    for frame, channels in ((0, 2 * C), (1, C)) if T > 1 else ((0, 2 * C),):
        old = out[:, frame, ..., :channels]
        old.zero_() if before is None else old.copy_(before[:, 0, ..., 2 * C - channels :])
    block, rows = cut(C)
    norm_silu_kernel[(triton.cdiv(T * H * W, rows), B)](
        x, x if bias is None else bias, x if skip is None else skip, gain, summed, out, T * H * W, H * W,
        C, block, rows, bias is not None, skip is not None, stored, num_warps=WARPS,
    )  # fmt: skip
    return summed, out


@norm_silu.register_fake
def _(
    x: Tensor, gain: Tensor, before: Tensor | None, bias: Tensor | None, skip: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor]:
    stored = keep and not (bias is None and skip is None)
    return torch.empty_like(x) if stored else x.new_empty(0), x.new_empty(*x.shape[:-1], 3 * x.shape[-1])


@torch.library.custom_op("sana_video::decoder_doubled", mutates_args=())
def doubled(x: Tensor, bias: Tensor | None, skip: Tensor | None) -> Tensor:
    """`naive.doubled` of contiguous x and skip."""
    B, T, H, W, C = x.shape
    out = x.new_empty(B, T, 2 * H, 2 * W, C)
    block, rows = cut(C)
    doubled_kernel[(triton.cdiv(B * T * H * W, rows),)](
        x, x if bias is None else bias, x if skip is None else skip, out, B * T * H * W, W,
        C, block, rows, bias is not None, skip is not None, num_warps=WARPS,
    )  # fmt: skip
    return out


@doubled.register_fake
def _(x: Tensor, bias: Tensor | None, skip: Tensor | None) -> Tensor:
    B, T, H, W, C = x.shape
    return x.new_empty(B, T, 2 * H, 2 * W, C)
