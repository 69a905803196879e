"""The decoder's passes under Triton's interpreter; `test_interpreted.py` runs this file."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from sana_video.ops.decoder import naive, triton

# a rounding of the sum moves the norm, a second one the result; the interpreter cuts bf16 off where the GPU rounds
BOUNDS = {torch.float32: 1e-6, torch.bfloat16: 1e-2}


def error(out: Tensor, reference: Tensor) -> float:
    return float((out.double() - reference.double()).norm() / reference.double().norm())


@pytest.fixture(autouse=True)
def new_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def wide(*given: Tensor | None) -> list[Tensor | None]:
    return [x if x is None else x.double() for x in given]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(
    ("C", "T", "past", "bias", "skip"),
    [(96, 3, True, True, True), (24, 1, False, False, False), (24, 4, True, True, False), (24, 2, False, False, True)],
)
def test_the_sum_and_what_is_read(C: int, T: int, past: bool, bias: bool, skip: bool, dtype: torch.dtype) -> None:
    """Odd sizes, so that the last program holds rows and columns that do not exist."""
    x, more = torch.randn(2, T, 5, 7, C).to(dtype), torch.randn(2, T, 5, 7, C).to(dtype)
    gain, offset, before = torch.randn(C).to(dtype), torch.randn(C).to(dtype), torch.randn(2, 1, 5, 7, 2 * C).to(dtype)
    given = (x, gain, before if past else None, offset if bias else None, more if skip else None)
    found, expected = triton.norm_silu(*given, True), naive.norm_silu(*wide(*given), True)
    if not bias and not skip:
        found = (x, found[1])  # the operation gives no sum where none is made
    for out, reference in zip(found, expected, strict=True):
        assert out.dtype == dtype and out.shape == reference.shape
        assert error(out, reference) < BOUNDS[dtype]
    nothing, alone = triton.norm_silu(*given, False)
    assert not nothing.numel() and torch.equal(alone, found[1])
    larger = triton.doubled(x, *given[3:])
    assert error(larger, naive.doubled(*wide(x, *given[3:]))) < BOUNDS[dtype]


def test_a_row_of_zeros_is_no_division_by_zero() -> None:
    _, read = triton.norm_silu(torch.zeros(1, 1, 1, 2, 24), torch.ones(24), None, None, None, False)
    assert torch.equal(read, torch.zeros(1, 1, 1, 2, 72))


def test_registered_operations() -> None:
    x, gain, bias = torch.randn(1, 2, 2, 3, 8), torch.randn(8), torch.randn(8)
    for given in ((None, None, None), (torch.randn(1, 1, 2, 3, 16), bias, x.clone())):
        torch.library.opcheck(triton.norm_silu, (x, gain, *given, True))
        torch.library.opcheck(triton.doubled, (x, *given[1:]))
