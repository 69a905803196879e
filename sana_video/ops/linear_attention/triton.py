"""`normed_linear_attention` on Hopper: four kernels forward, five backward, as torch operators with autograd.

Forward reads keys twice (their norm needs the full row before any head can start), values and queries once, and writes
the output once: five passes over a third of qkv, where four are the floor. The queries' RMSNorm is never computed: a
positive factor per token leaves a ratio as it is; only `eps` would see it, and `fits` admits none that is felt.
Backward recomputes elementwise work only; it keeps qkv, the output, 1/rms of the keys and the sums of each chunk.
No atomics: partial sums are added in a fixed order, so results repeat bit by bit.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

import torch
import triton  # type: ignore[import-untyped]
from torch import Tensor

from sana_video.ops.linear_attention import kernels, kernels_backward
from sana_video.ops.linear_attention.naive import LinearState
from sana_video.rope import Rotary, pack

LARGEST_EPS = 1e-6
INT32_ELEMENTS = 2**31


@dataclass(frozen=True)
class Launch:
    """How one kernel is cut: tokens per tile, warps, pipeline stages, and programs per multiprocessor in all."""

    tile: int
    warps: int
    stages: int
    programs: int


TUNED = {
    "key_norm": Launch(tile=8, warps=4, stages=1, programs=0),
    "state": Launch(tile=32, warps=4, stages=3, programs=2),
    "reduce": Launch(tile=8, warps=4, stages=1, programs=0),
    "apply": Launch(tile=64, warps=8, stages=3, programs=2),
    "query_backward": Launch(tile=32, warps=8, stages=2, programs=1),
    "value_backward": Launch(tile=32, warps=4, stages=2, programs=3),
    "key_backward": Launch(tile=32, warps=8, stages=2, programs=2),
}
_launches = dict(TUNED)


@contextmanager
def tuned(kernel: str, **changes: int) -> Iterator[None]:
    """Inside, `kernel` is launched with some fields of its `Launch` changed: for benchmarks that try variants."""
    before = _launches[kernel]
    _launches[kernel] = replace(before, **changes)
    try:
        yield
    finally:
        _launches[kernel] = before


def fits(qkv: Tensor, heads: int, eps: float) -> bool:
    """Whether the kernels compute this: bf16, heads of 32 to 128 channels by sixteens, below 2^31 numbers a sample."""
    D, E = qkv.shape[2] // 3, qkv.shape[2] // 3 // heads
    small = qkv.shape[1] * qkv.shape[2] < INT32_ELEMENTS
    return (
        qkv.dtype == torch.bfloat16
        and D % heads == 0
        and E % 16 == 0
        and 32 <= E <= 128
        and eps <= LARGEST_EPS
        and small
    )


def normed_linear_attention(
    qkv: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    rotary: Rotary,
    *,
    heads: int,
    norm_eps: float,
    eps: float,
    starts: Sequence[int] = (0,),
    state: LinearState | None = None,
) -> tuple[Tensor, LinearState]:
    """As `naive.normed_linear_attention`, for what `fits`; differentiable in qkv, the weights and the state."""
    table = pack(rotary.cos, rotary.sin) if rotary.packed is None else rotary.packed
    past = (None, None) if state is None else (state.sum_kv.float(), state.sum_k.float())
    out, sum_kv, sum_k, *_ = forward(qkv, q_weight, k_weight, table, heads, norm_eps, eps, list(starts), *past)
    return out, LinearState(sum_kv, sum_k)


@torch.library.custom_op("sana_video::linear_attention", mutates_args=())
def forward(
    qkv: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    table: Tensor,
    heads: int,
    norm_eps: float,
    eps: float,
    starts: list[int],
    past_kv: Tensor | None,
    past_k: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Output, the sums after all tokens, and what backward needs: 1/rms of the keys, the sums after each chunk."""
    case = Case(qkv, heads, starts)
    qkv, q_weight, k_weight, table = (x.contiguous() for x in (qkv, q_weight, k_weight, table))
    out = qkv.new_empty(case.B, case.N, case.D)
    inverse = qkv.new_empty(case.B, case.N, dtype=torch.float32)
    with _device(qkv):
        case.key_norm(qkv, inverse, norm_eps)
        parts = case.partition("state")
        partial_kv, partial_k = case.partials(parts, qkv)
        operands = (qkv, case.pairs(qkv), k_weight, table, inverse, parts.table, partial_kv, partial_k, case.N)
        case.launch(kernels.state_kernel, "state", parts, *operands)
        end_kv, end_k, chunk_kv, chunk_k = case.reduce(parts, partial_kv, partial_k, past_kv, past_k, reverse=False)
        parts = case.partition("apply")
        sums = (chunk_kv, chunk_k, out, case.N, len(starts), eps)
        case.launch(kernels.apply_kernel, "apply", parts, case.pairs(qkv), q_weight, table, parts.table, *sums)
    return out, end_kv, end_k, inverse, chunk_kv, chunk_k


@torch.library.custom_op("sana_video::linear_attention_backward", mutates_args=())
def backward(
    grad_out: Tensor,
    grad_kv: Tensor | None,
    grad_k: Tensor | None,
    qkv: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    table: Tensor,
    out: Tensor,
    inverse: Tensor,
    chunk_kv: Tensor,
    chunk_k: Tensor,
    heads: int,
    eps: float,
    starts: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of qkv, the two weights and the sums handed in."""
    case = Case(qkv, heads, starts)
    grad_out, qkv, q_weight, k_weight, table = (x.contiguous() for x in (grad_out, qkv, q_weight, k_weight, table))
    grad_qkv = torch.empty_like(qkv)
    pairs, grad_pairs, end = case.pairs(qkv), case.pairs(grad_qkv), (case.N, len(starts))
    with _device(qkv):
        parts = case.partition("query_backward")
        partial_kv, partial_k = case.partials(parts, qkv)
        q_partial = torch.empty_like(partial_k)
        sums = (partial_kv, partial_k, q_partial, *end, eps)
        inputs = (pairs, q_weight, table, parts.table, chunk_kv, chunk_k, out, grad_out, grad_pairs)
        case.launch(kernels_backward.query_backward_kernel, "query_backward", parts, *inputs, *sums)
        past_kv, past_k, chunk_kv, chunk_k = case.reduce(parts, partial_kv, partial_k, grad_kv, grad_k, reverse=True)

        parts = case.partition("value_backward")
        shares = qkv.new_empty(case.B, heads, case.N, dtype=torch.float32)
        common = (qkv, pairs, k_weight, table, inverse)
        results = (parts.table, chunk_kv, chunk_k, grad_qkv, shares, *end)
        case.launch(kernels_backward.value_backward_kernel, "value_backward", parts, *common, *results)

        parts = case.partition("key_backward")
        k_partial = case.partials(parts, qkv, matrices=False)[1]
        operands = (qkv, pairs, k_weight, table, inverse, shares.sum(1), parts.table, chunk_kv, chunk_k)
        case.launch(kernels_backward.key_backward_kernel, "key_backward", parts, *operands, grad_pairs, k_partial, *end)
    q_grad, k_grad = (partial.sum(dim=(0, 2)).flatten() for partial in (q_partial, k_partial))
    return grad_qkv, q_grad.to(q_weight.dtype), k_grad.to(k_weight.dtype), past_kv, past_k


@forward.register_fake
def _(
    qkv: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    table: Tensor,
    heads: int,
    norm_eps: float,
    eps: float,
    starts: list[int],
    past_kv: Tensor | None,
    past_k: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    B, N, D = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    E = int(D // heads)
    half, wide = _padded(E)
    return (
        qkv.new_empty(B, N, D),
        qkv.new_empty(B, heads, E, E, dtype=torch.float32),
        qkv.new_empty(B, heads, E, dtype=torch.float32),
        qkv.new_empty(B, N, dtype=torch.float32),
        qkv.new_empty(B, heads, len(starts), 2 * wide, half),
        qkv.new_empty(B, heads, len(starts), E, dtype=torch.float32),
    )


@backward.register_fake
def _(
    grad_out: Tensor,
    grad_kv: Tensor | None,
    grad_k: Tensor | None,
    qkv: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    table: Tensor,
    out: Tensor,
    inverse: Tensor,
    chunk_kv: Tensor,
    chunk_k: Tensor,
    heads: int,
    eps: float,
    starts: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    B, E = qkv.shape[0], qkv.shape[2] // 3 // heads
    states = chunk_k.new_empty(B, heads, E, E), chunk_k.new_empty(B, heads, E)
    D = qkv.shape[2] // 3
    return qkv.new_empty(qkv.shape), q_weight.new_empty(D), k_weight.new_empty(D), *states


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    qkv, q_weight, k_weight, table, ctx.heads, _, ctx.eps, ctx.starts, ctx.past, _ = inputs
    ctx.past = ctx.past is not None
    out, _, _, inverse, chunk_kv, chunk_k = output
    ctx.save_for_backward(qkv, q_weight, k_weight, table, out, inverse, chunk_kv, chunk_k)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_out: Tensor | None, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    grad_out = torch.zeros_like(ctx.saved_tensors[4]) if grad_out is None else grad_out
    saved = (*ctx.saved_tensors, ctx.heads, ctx.eps, ctx.starts)
    qkv, q_weight, k_weight, past_kv, past_k = backward(grad_out, grads[0], grads[1], *saved)
    past = (past_kv, past_k) if ctx.past else (None, None)
    return qkv, q_weight, k_weight, None, None, None, None, None, *past


forward.register_autograd(_differentiate, setup_context=_save)


@dataclass(frozen=True)
class Parts:
    """How tokens are dealt to programs: a row of `table` each (see `kernels`); `first`: each chunk's first row."""

    table: Tensor  # (P, 5) int32
    first: Tensor  # (chunks + 1,) int32


@cache
def deal(starts: tuple[int, ...], tokens: int, tile: int, splits: int, device: torch.device) -> Parts:
    """About `splits` parts over all chunks, each chunk's in proportion to its length, at least one and none empty."""
    rows, counts = [], []
    for chunk, (low, high) in enumerate(pairwise((*starts, tokens))):
        count = max(1, min(round(splits * (high - low) / tokens), -(-(high - low) // tile)))
        rows += [(low, high, first, count, chunk) for first in range(count)]
        counts.append(count)
    first = [0, *accumulate(counts)]
    return Parts(*(torch.tensor(x, dtype=torch.int32, device=device) for x in (rows, first)))


def _padded(head: int) -> tuple[int, int]:
    """Powers of two that hold half a head's features, and a head's values."""
    return max(16, triton.next_power_of_2(head // 2)), triton.next_power_of_2(head)


def _device(x: Tensor) -> AbstractContextManager[None]:
    """Triton launches on the current device: make it that of `x`."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


class Case:
    """One call's sizes, and the launches that follow from them."""

    def __init__(self, qkv: Tensor, heads: int, starts: list[int]) -> None:
        self.B, self.N, self.D = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        self.heads, self.head, self.starts, self.device = heads, self.D // heads, tuple(starts), qkv.device
        self.half, self.wide = _padded(self.head)
        if self.starts[:1] != (0,) or any(low >= high for low, high in pairwise((*self.starts, self.N))):
            raise ValueError(f"chunk starts {starts} must rise from 0 and stay below {self.N} tokens")

    @staticmethod
    def pairs(x: Tensor) -> Tensor:
        """Two adjacent bf16 channels as one int32."""
        return x.view(torch.int32)

    def partition(self, kernel: str) -> Parts:
        launch = _launches[kernel]
        splits = max(1, launch.programs * _multiprocessors(self.device) // (self.B * self.heads))
        return deal(self.starts, self.N, launch.tile, splits, self.device)

    def partials(self, parts: Parts, like: Tensor, *, matrices: bool = True) -> tuple[Tensor, Tensor]:
        """Room for each part's padded matrix and its vector."""
        shape = (self.B, self.heads, len(parts.table))
        matrix = like.new_empty(*shape, 2 * self.wide, self.half, dtype=torch.float32) if matrices else like
        return matrix, like.new_empty(*shape, self.head, dtype=torch.float32)

    def launch(self, kernel: Any, name: str, parts: Parts, *operands: Any) -> None:
        how = _launches[name]
        kernel[(self.heads, len(parts.table), self.B)](
            *operands,
            HEADS=self.heads,
            HEAD=self.head,
            HALF_PAD=self.half,
            HEAD_PAD=self.wide,
            TILE=how.tile,
            STAGES=how.stages,
            ROWS=min(how.tile, 2 * how.warps),
            num_warps=how.warps,
        )

    def key_norm(self, qkv: Tensor, inverse: Tensor, eps: float) -> None:
        how, rows, width = _launches["key_norm"], self.B * self.N, self.D // 2
        wide = 1 << (width.bit_length() - 1)
        rest = triton.next_power_of_2(max(width - wide, 1))
        grid = (triton.cdiv(rows, how.tile),)
        kernels.key_norm_kernel[grid](
            self.pairs(qkv), inverse, rows, eps, WIDTH=width, WIDE=wide, REST=rest, TILE=how.tile, num_warps=how.warps
        )

    def reduce(
        self, parts: Parts, kv: Tensor, k: Tensor, start_kv: Tensor | None, start_k: Tensor | None, *, reverse: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The last running sums (natural order, float32), and those after each chunk (padded bf16; float32)."""
        how, chunks, shape = _launches["reduce"], len(self.starts), (self.B, self.heads)
        end_kv = k.new_empty(*shape, self.head, self.head)
        end_k = k.new_empty(*shape, self.head)
        chunk_kv = k.new_empty(*shape, chunks, 2 * self.wide, self.half, dtype=torch.bfloat16)
        chunk_k = k.new_empty(*shape, chunks, self.head)
        given = start_kv is not None or start_k is not None
        if given:
            start_kv = torch.zeros_like(end_kv) if start_kv is None else start_kv.contiguous()
            start_k = torch.zeros_like(end_k) if start_k is None else start_k.contiguous()
        else:
            start_kv, start_k = end_kv, end_k  # not read
        kernels.reduce_kernel[(2 * self.wide // how.tile, self.B * self.heads)](
            kv, k, parts.first, start_kv, start_k, chunk_kv, chunk_k, end_kv, end_k, len(parts.table), chunks,
            GIVEN=given, REVERSE=reverse, HEAD=self.head, HALF_PAD=self.half, HEAD_PAD=self.wide, ROWS=how.tile,
            num_warps=how.warps,
        )  # fmt: skip
        return end_kv, end_k, chunk_kv, chunk_k
