"""The kernels of linear attention without a GPU: right under the interpreter, and built for Hopper."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from sana_video.ops import select  # noqa: E402
from sana_video.ops.linear_attention import kernels, kernels_backward, naive, normed_linear_attention  # noqa: E402
from sana_video.ops.linear_attention import triton as op  # noqa: E402
from sana_video.rope import rotary_tables  # noqa: E402

SHARED_BYTES = 227 * 1024
SPILL_BYTES = 64

HEADS = {"HEADS": 20, "HEAD": 112, "HALF_PAD": 64, "HEAD_PAD": 128}
SIZES = {"N", "CHUNKS", "PARTS", "rows"}
PAIRS = {"qkv_pairs", "grad_pairs", "table", "parts", "first_part"}
WIDE = {"inverse", "share", "shares", "chunk_k", "start_kv", "start_k", "end_kv", "end_k"}


def kernel(name: str) -> tuple[Any, dict[str, Any]]:
    """A kernel as it is launched for the 2B model, and its constants."""
    launch = op.TUNED[name]
    if name == "key_norm":
        return kernels.key_norm_kernel, {"WIDTH": 1120, "WIDE": 1024, "REST": 128, "TILE": launch.tile}
    if name == "reduce":
        sizes = {key: HEADS[key] for key in ("HEAD", "HALF_PAD", "HEAD_PAD")}
        return kernels.reduce_kernel, {**sizes, "GIVEN": True, "REVERSE": True, "ROWS": launch.tile}
    module = kernels_backward if name.endswith("backward") else kernels
    tile = {"TILE": launch.tile, "STAGES": launch.stages, "ROWS": min(launch.tile, 2 * launch.warps)}
    return getattr(module, f"{name}_kernel"), {**HEADS, **tile}


def argument_type(name: str) -> str:
    if name == "eps":
        return "fp32"
    if name in SIZES:
        return "i32"
    if name in PAIRS:
        return "*i32"
    return "*fp32" if name in WIDE or name.startswith("partial") else "*bf16"


@pytest.mark.parametrize("name", op.TUNED)
def test_compiles_for_hopper_and_spills_at_most_64_bytes(name: str, tmp_path: Path) -> None:
    function, constants = kernel(name)
    arguments = list(enumerate(function.arg_names))
    signature = {arg: "constexpr" if arg in constants else argument_type(arg) for _, arg in arguments}
    aligned = {(i,): [["tt.divisibility", 16]] for i, arg in arguments if signature[arg].startswith("*")}
    compiled = triton.compile(
        ASTSource(function, signature, constants, aligned),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": op.TUNED[name].warps},
    )
    assert compiled.metadata.shared < SHARED_BYTES
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    usage = subprocess.run(
        [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(cubin)], capture_output=True, text=True, check=True
    )
    found = re.search(r"STACK:(\d+)", usage.stdout + usage.stderr)
    assert found and int(found[1]) <= SPILL_BYTES, usage.stdout


@pytest.mark.parametrize(
    ("tokens", "splits", "starts"), [(1, 8, (0,)), (100, 3, (0,)), (1000, 5, (0, 10, 900)), (96, 2, (0, 32, 64))]
)
def test_parts_cover_each_chunk_once(tokens: int, splits: int, starts: tuple[int, ...]) -> None:
    parts = op.deal(starts, tokens, 16, splits, torch.device("cpu"))
    seen = torch.zeros(tokens, dtype=torch.int32)
    ends = (*starts[1:], tokens)
    for low, high, first, stride, chunk in parts.table.tolist():
        assert (low, high) == (starts[chunk], ends[chunk])
        tiles = list(range(low + first * 16, high, stride * 16))
        assert tiles, "a part without tokens"
        for at in tiles:
            seen[at : min(at + 16, high)] += 1
    assert torch.equal(seen, torch.ones_like(seen))
    chunks = parts.table[:, 4]
    assert [int((chunks < c).sum()) for c in range(len(starts) + 1)] == parts.first.tolist()


def test_fits_what_the_kernels_compute() -> None:
    qkv = torch.empty(1, 8, 3 * 2240, dtype=torch.bfloat16, device="meta")
    assert op.fits(qkv, 20, 1e-8)
    assert not op.fits(qkv.float(), 20, 1e-8)
    assert not op.fits(qkv, 20, 1e-3)  # large enough to see the norm of the queries
    assert op.fits(qkv, 70, 1e-8) and not op.fits(qkv, 10, 1e-8)  # heads of 32 and of 224
    assert not op.fits(torch.empty(1, 320_000, 6720, dtype=torch.bfloat16, device="meta"), 20, 1e-8)


def test_cpu_takes_the_definition() -> None:
    qkv = torch.randn(1, 6, 96, generator=torch.Generator().manual_seed(0))
    rotary = rotary_tables((12, 10, 10), (1, 2, 3), 0, qkv.device)
    numbers = {"heads": 1, "norm_eps": 1e-5, "eps": 1e-8}
    assert not select.kernels_for(qkv)
    got, _ = normed_linear_attention(qkv, torch.ones(32), torch.ones(32), rotary, **numbers)  # type: ignore[arg-type]
    expected, _ = naive.normed_linear_attention(qkv, torch.ones(32), torch.ones(32), rotary, **numbers)  # type: ignore[arg-type]
    assert torch.equal(got, expected)
    assert "plain torch" in select.describe() or torch.cuda.is_available()
