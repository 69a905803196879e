"""The kernel of cross-attention under Triton's interpreter; `test_cross_attention.py` runs this file by itself."""

import pytest
import torch
from torch import Tensor

from sana_video.ops.cross_attention import naive, triton

EPS = 1e-6


@pytest.fixture(autouse=True)
def new_memory_is_nan():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def given(B: int, N: int, L: int, heads: int, E: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    queries = 3 * torch.randn(B, N, heads * E, generator=generator)
    weight = 1 + 0.1 * torch.randn(heads * E, generator=generator)
    both = torch.randn(B, L, 2, heads, E, generator=generator)  # keys and values share rows, as one product makes them
    keys, values = both.bfloat16().permute(2, 0, 3, 1, 4)
    return queries.bfloat16(), weight.bfloat16(), keys, values


def error(out: Tensor, reference: Tensor) -> float:
    return float((out.double() - reference).norm() / reference.norm())


@pytest.mark.parametrize(
    ("B", "N", "L", "heads", "E"),
    [(2, 37, 5, 3, 24), (1, 64, 70, 2, 112), (1, 3, 1, 2, 16), (1, 70, 64, 1, 128)],
)
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_definition(B: int, N: int, L: int, heads: int, E: int, masked: bool) -> None:
    queries, weight, keys, values = given(B, N, L, heads, E)
    bias = None
    if masked:
        real = torch.arange(L).expand(B, -1) < torch.tensor([[max(1, L - 2)]] * B)
        bias = torch.zeros(B, L).masked_fill(~real, -10000.0).bfloat16()[:, None, None]
    wide = [None if t is None else t.double() for t in (queries, weight, keys, values, bias)]
    reference = naive.normed_cross_attention(wide[0], wide[1], EPS, *wide[2:])
    out = triton.normed_cross_attention(queries, weight, EPS, keys, values, bias)
    plain = naive.normed_cross_attention(queries, weight, EPS, keys, values, bias)
    assert error(out, reference) < max(4e-3, 1.5 * error(plain, reference))  # bf16 has eight bits: half a step is 2e-3


def test_a_text_of_padding_alone_is_attended_to_as_if_it_were_tokens() -> None:
    queries, weight, keys, values = given(1, 5, 7, 2, 16)
    bias = torch.full((1, 1, 1, 7), -10000.0)
    out = triton.normed_cross_attention(queries, weight, EPS, keys, values, bias)
    assert error(out, triton.normed_cross_attention(queries, weight, EPS, keys, values, None).double()) < 4e-3


def test_what_fits() -> None:
    queries, _, keys, values = given(1, 4, 3, 2, 16)
    assert triton.fits(queries, keys, values)
    assert not triton.fits(queries.float(), keys, values)
    assert not triton.fits(queries, keys[:, :, :0], values[:, :, :0])
    assert not triton.fits(queries, keys.transpose(2, 3), values)


def test_registered_operation() -> None:
    torch.library.opcheck(
        triton.normed_cross_attention, (*given(1, 4, 3, 2, 16)[:2], EPS, *given(1, 4, 3, 2, 16)[2:], None)
    )
