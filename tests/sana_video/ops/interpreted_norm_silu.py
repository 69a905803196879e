"""The decoder's norm under Triton's interpreter; `test_norm_silu.py` runs this file by itself."""

import pytest
import torch
from torch import Tensor

from sana_video.ops.norm_silu import naive, triton


def error(out: Tensor, reference: Tensor) -> float:
    return float((out.double() - reference.double()).norm() / reference.double().norm())


@pytest.fixture(autouse=True)
def new_memory_is_nan():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("C", "past", "bias", "skip"),
    [(96, True, True, True), (24, False, False, False), (24, True, True, False), (24, False, False, True)],
)
def test_the_sum_and_what_is_read(C: int, past: bool, bias: bool, skip: bool, dtype: torch.dtype) -> None:
    """Odd sizes, so that the last program holds rows and columns that do not exist."""
    x, more = torch.randn(2, 3, 5, 7, C).to(dtype), torch.randn(2, 3, 5, 7, C).to(dtype)
    gain, offset, before = torch.randn(C).to(dtype), torch.randn(C).to(dtype), torch.randn(2, 2, 5, 7, C).to(dtype)
    given = (x, gain, before if past else None, offset if bias else None, more if skip else None)
    found, expected = triton.norm_silu(*given), naive.norm_silu(*(y if y is None else y.double() for y in given))
    # a rounding of the sum moves the norm, a second one the result; the interpreter cuts off where the GPU rounds
    bound = 1e-6 if dtype == torch.float32 else 1e-2
    for out, reference in zip(found, expected, strict=True):
        assert out.dtype == dtype and out.shape == reference.shape
        assert error(out, reference) < bound
    assert torch.equal(found[1][:, :2], before if past else torch.zeros_like(before))
    if not bias and not skip:
        assert found[0] is x


def test_a_row_of_zeros_is_no_division_by_zero() -> None:
    _, read = triton.norm_silu(torch.zeros(1, 1, 1, 2, 24), torch.ones(24), None, None, None)
    assert torch.equal(read, torch.zeros(1, 3, 1, 2, 24))
