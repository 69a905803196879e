"""Triton kernels compiled for Hopper on a machine without a GPU, and what the assembler says of them."""

import re
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HOPPER = GPUTarget("cuda", 90, 32)
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class Resources(NamedTuple):
    """Per thread and per program."""

    registers: int
    spilled: int  # bytes of stack, which lies in device memory
    shared: int  # bytes


def compile_for_hopper(
    kernel: Any,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    *,
    divisible: Collection[str] = (),
    warps: int = 4,
    registers: int | None = None,
) -> Resources:
    """Assemble `kernel` for arguments of `types`; pointers and those in `divisible` are multiples of 16."""
    signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, (name, kind) in enumerate(signature.items())
        if kind.startswith("*") or name in divisible
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=dict(constants), attrs=attributes)
    compiled = triton.compile(source, target=HOPPER, options={"num_warps": warps, "maxnreg": registers})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    return Resources(int(found[1]), int(found[2]), compiled.metadata.shared)
