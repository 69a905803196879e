"""The definition against sums written out token by token, its chunks, its state, its gradients and its precision."""

import pytest
import torch
from torch import Tensor

from sana_video.ops.linear_attention import linear_attention
from sana_video.rope import Rotary, rotary_tables, rotate

B, A, E, GRID = 2, 3, 12, (5, 2, 3)
N = 30


def tensors(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(42)
    q, k, v = (torch.randn(B, N, A, E, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3))
    return q, k, v


def rotary() -> Rotary:
    return rotary_tables((4, 4, 4), GRID, 0, torch.device("cpu"))


def written_out(q: Tensor, k: Tensor, v: Tensor, last_seen: list[int], eps: float) -> Tensor:
    """Weights of all pairs, softmax-like: w_ij = Rφ(q_i)·Rφ(k_j) over Σ_j φ(q_i)·φ(k_j), j up to last_seen[i]."""
    q, k = q.relu(), k.relu()
    turned = torch.einsum("bnae,bmae->banm", rotate(q, rotary()), rotate(k, rotary()))
    plain = torch.einsum("bnae,bmae->banm", q, k)
    visible = torch.arange(N)[None, :] < torch.tensor(last_seen)[:, None]
    weights = (turned * visible) / ((plain * visible).sum(-1, keepdim=True) + eps)
    return torch.einsum("banm,bmae->bnae", weights, v)


@pytest.mark.parametrize("starts", [(0,), (0, 12), (0, 6, 18, 24)])
def test_linear_attention_equals_all_pairs_written_out(starts: tuple[int, ...]) -> None:
    ends = (*starts[1:], N)
    last_seen = [next(end for end in ends if i < end) for i in range(N)]
    q, k, v = tensors()
    out, _ = linear_attention(q, k, v, rotary(), eps=1e-8, starts=starts)
    torch.testing.assert_close(out, written_out(q, k, v, last_seen, 1e-8), rtol=1e-9, atol=1e-11)


def test_state_continues_what_chunks_do() -> None:
    q, k, v = tensors()
    whole, after = linear_attention(q, k, v, rotary(), eps=1e-8, starts=(0, 12, 24))
    state, pieces = None, []
    for low, high in ((0, 12), (12, 24), (24, 30)):
        part = Rotary(*(table[low:high] for table in rotary()))
        out, state = linear_attention(*(x[:, low:high] for x in (q, k, v)), part, eps=1e-8, state=state)
        pieces.append(out)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole)
    torch.testing.assert_close(state, after)


def test_gradients() -> None:
    q, k, v = (x[:1, :6, :1].clone().requires_grad_() for x in tensors())
    part = Rotary(*(table[:6] for table in rotary()))
    assert torch.autograd.gradcheck(
        lambda q, k, v: linear_attention(q, k, v, part, eps=1e-3, starts=(0, 2))[0], (q, k, v), atol=1e-6
    )


def test_a_query_that_is_all_negative_gives_zero_not_nan() -> None:
    q, k, v = tensors(torch.float32)
    out, _ = linear_attention(-q.abs(), k, v, rotary(), eps=1e-8)
    assert torch.equal(out, torch.zeros_like(out))


def test_sums_are_float32_in_bf16_and_under_autocast() -> None:
    q, k, v = tensors(torch.bfloat16)
    out, state = linear_attention(q, k, v, rotary(), eps=1e-8)
    exact, _ = linear_attention(q.float(), k.float(), v.float(), rotary(), eps=1e-8)
    assert state.sum_kv.dtype == state.sum_k.dtype == torch.float32
    assert torch.equal(out, exact.to(torch.bfloat16))  # the only rounding is the last
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = linear_attention(q.float(), k.float(), v.float(), rotary(), eps=1e-8)
    assert torch.equal(inside, exact)


@pytest.mark.parametrize("starts", [(), (1,), (0, 5, 5), (0, 30)])
def test_chunk_starts_that_do_not_rise_are_refused(starts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="chunk starts"):
        linear_attention(*tensors(), rotary(), eps=1e-8, starts=starts)
