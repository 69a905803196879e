"""The kernels of linear attention against the definition in float64, run by Triton's interpreter on the CPU.

`test_interpreted.py` runs this file. Every torch.empty is filled with NaN here: what no kernel wrote shows.
"""

import secrets
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from sana_video.ops.linear_attention import LinearState, naive, triton
from sana_video.rope import Rotary, rotary_tables

NORM_EPS, EPS = 1e-5, 1e-8
CLOSE = 4e-3  # bf16 operands and results, float32 sums: the rounding of a few bf16 in a row
GRADIENTS_CLOSE = 6e-3
# Of inputs that nobody has seen, one draw in a hundred has a token whose small denominator carries a whole gradient, so
# that its few roundings no longer average out: of a hundred draws the worst was 7.4e-3, and half stayed below 3.6e-3.
FRESH = 2


class Case(NamedTuple):
    batch: int
    grid: tuple[int, int, int]
    heads: int
    head: int
    starts: tuple[int, ...]
    stateful: bool


CASES = [
    pytest.param(Case(1, (3, 5, 7), 2, 32, (0,), False), id="both-ways"),
    pytest.param(Case(2, (1, 3, 11), 3, 32, (0,), True), id="one-frame-continued", marks=pytest.mark.slow),
    pytest.param(Case(2, (4, 5, 7), 1, 48, (0, 35, 105), False), id="chunk-causal"),
    pytest.param(Case(1, (3, 5, 9), 2, 48, (0, 90), True), id="chunk-causal-continued"),
    pytest.param(Case(1, (2, 5, 7), 1, 112, (0, 1), True), id="full-head-chunk-of-one-token"),
]


@pytest.fixture(autouse=True)
def nan_in_fresh_memory() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    yield
    torch.use_deterministic_algorithms(False)


def drawn(case: Case, seed: int) -> tuple[list[Tensor], Rotary]:
    """qkv and the norms' weights (bf16), then the state's sums if there is one; all want gradients."""
    generator = torch.Generator().manual_seed(seed)
    B, A, E, D = case.batch, case.heads, case.head, case.heads * case.head
    N = case.grid[0] * case.grid[1] * case.grid[2]
    side = 2 * (E // 6)
    scale = torch.rand(B, N, 1, generator=generator) * 3 + 0.05  # rows of different size, so that a norm left out shows
    inputs = [(torch.randn(B, N, 3 * D, generator=generator) * scale).bfloat16()]
    inputs += [(0.6 * torch.randn(D, generator=generator) + 0.5).bfloat16() for _ in range(2)]  # some below zero
    if case.stateful:
        sums = 3 * torch.randn(B, A, E, E, generator=generator), 9 * torch.rand(B, A, E, generator=generator) + 1
        inputs += list(sums)
    rotary = rotary_tables((E - 2 * side, side, side), case.grid, 3, torch.device("cpu"))
    return [x.requires_grad_() for x in inputs], rotary


def outcome(attend: object, inputs: list[Tensor], rotary: Rotary, case: Case, seed: int) -> dict[str, Tensor]:
    """Output, sums and the gradients of a loss that weighs all of them."""
    state = LinearState(*inputs[3:]) if case.stateful else None
    out, after = attend(  # type: ignore[operator]
        *inputs[:3], rotary, heads=case.heads, norm_eps=NORM_EPS, eps=EPS, starts=case.starts, state=state
    )
    generator = torch.Generator().manual_seed(seed + 1000)
    results = {"out": out, "sum_kv": after.sum_kv, "sum_k": after.sum_k}
    weigh = {"out": 1.0, "sum_kv": 0.01, "sum_k": 0.01}
    loss = sum(
        (x.double() * weigh[name] * torch.randn(x.shape, generator=generator).bfloat16()).sum()
        for name, x in results.items()
    )
    grads = torch.autograd.grad(loss, inputs)
    D = grads[0].shape[-1] // 3
    named = dict(zip(("dq", "dk", "dv"), grads[0].split(D, dim=-1), strict=True))
    named |= dict(zip(("dq_weight", "dk_weight", "dsum_kv", "dsum_k"), grads[1:], strict=False))
    return {name: x.detach() for name, x in (results | named).items()}


def error(value: Tensor, reference: Tensor) -> float:
    return ((value.double() - reference.double()).norm() / reference.double().norm()).item()


@pytest.mark.parametrize("case", CASES)
def test_outputs_states_and_gradients_equal_the_definition(case: Case) -> None:
    fresh = case.grid[0] == 3  # where it is cheap
    seed = secrets.randbelow(1 << 30) if fresh else 7  # torch's own first number is the same in every process
    inputs, rotary = drawn(case, seed)
    got = outcome(triton.normed_linear_attention, inputs, rotary, case, seed)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    exact_rotary = rotary._replace(cos=rotary.cos.double(), sin=rotary.sin.double())
    expected = outcome(naive.normed_linear_attention, exact, exact_rotary, case, seed)
    assert got.keys() == expected.keys()
    errors = {name: error(got[name], expected[name]) for name in expected}
    wider = FRESH if fresh else 1
    limits = {name: wider * (GRADIENTS_CLOSE if name.startswith("d") else CLOSE) for name in expected}
    far = {name: errors[name] for name in expected if not errors[name] <= limits[name]}  # NaN is far too
    assert not far, f"seed {seed}: relative errors {far}"
    assert got["sum_kv"].dtype == got["sum_k"].dtype == torch.float32 and got["out"].dtype == torch.bfloat16
    assert errors["sum_k"] < 1e-5  # never rounded to bf16


@pytest.mark.slow
def test_results_repeat_bit_by_bit_and_do_not_depend_on_the_split() -> None:
    case = Case(1, (4, 5, 9), 1, 32, (0,), False)
    inputs, rotary = drawn(case, 3)
    first = outcome(triton.normed_linear_attention, inputs, rotary, case, 3)
    again = outcome(triton.normed_linear_attention, inputs, rotary, case, 3)
    assert all(torch.equal(first[name], again[name]) for name in first)
    with triton.tuned("state", tile=16, programs=6), triton.tuned("apply", tile=16, programs=8):
        other = outcome(triton.normed_linear_attention, inputs, rotary, case, 3)
    assert all(error(other[name], first[name]) < CLOSE for name in first)


def test_state_continues_what_chunks_do() -> None:
    case = Case(1, (3, 4, 5), 2, 32, (0, 20, 40), False)
    (qkv, q_weight, k_weight), rotary = drawn(case, 5)
    same = {"heads": case.heads, "norm_eps": NORM_EPS, "eps": EPS}
    whole, after = triton.normed_linear_attention(qkv, q_weight, k_weight, rotary, starts=case.starts, **same)  # type: ignore[arg-type]
    state, pieces = None, []
    for low in case.starts:
        part = Rotary(*(table[low : low + 20] for table in rotary if table is not None))
        out, state = triton.normed_linear_attention(
            qkv[:, low : low + 20],
            q_weight,
            k_weight,
            part,
            state=state,
            **same,  # type: ignore[arg-type]
        )
        pieces.append(out)
    assert state is not None
    assert error(torch.cat(pieces, dim=1), whole) < 1e-6
    assert error(state.sum_kv, after.sum_kv) < 1e-6


def test_a_query_that_is_all_negative_gives_zero_not_nan() -> None:
    case = Case(1, (1, 3, 5), 1, 32, (0,), False)
    (qkv, _, _), rotary = drawn(case, 1)
    ones = torch.ones(32, dtype=torch.bfloat16)
    qkv = qkv.detach().clone()
    qkv[..., :32] = -qkv[..., :32].abs()
    qkv.requires_grad_()
    out, _ = triton.normed_linear_attention(qkv, ones, ones, rotary, heads=1, norm_eps=NORM_EPS, eps=EPS)
    assert torch.equal(out, torch.zeros_like(out))
    out.sum().backward()
    assert qkv.grad is not None and torch.isfinite(qkv.grad).all()


@pytest.mark.parametrize(
    "tests",
    [
        ("test_schema", "test_autograd_registration", "test_faketensor"),
        pytest.param(("test_aot_dispatch_static",), marks=pytest.mark.slow),
    ],
    ids=["registered", "traced"],
)
def test_the_operator_is_one_that_torch_compile_and_autograd_may_use(tests: tuple[str, ...]) -> None:
    case = Case(1, (1, 3, 7), 1, 32, (0, 7), True)
    inputs, rotary = drawn(case, 2)
    torch.use_deterministic_algorithms(False)
    arguments = (*inputs[:3], rotary.packed, case.heads, NORM_EPS, EPS, list(case.starts), *inputs[3:])
    torch.library.opcheck(triton.forward, arguments, test_utils=tests, atol=1e-2, rtol=1e-2)


def test_one_graph_under_torch_compile() -> None:
    case = Case(1, (1, 3, 7), 1, 32, (0,), False)
    inputs, rotary = drawn(case, 4)
    compiled = torch.compile(triton.normed_linear_attention, backend="aot_eager", fullgraph=True)
    got = outcome(compiled, inputs, rotary, case, 4)
    expected = outcome(triton.normed_linear_attention, inputs, rotary, case, 4)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize("starts", [(), (1,), (0, 5, 5), (0, 15)])
def test_chunk_starts_that_do_not_rise_are_refused(starts: tuple[int, ...]) -> None:
    case = Case(1, (1, 3, 5), 1, 32, starts, False)
    inputs, rotary = drawn(case, 0)
    with pytest.raises(ValueError, match="chunk starts"):
        outcome(triton.normed_linear_attention, inputs, rotary, case, 0)
