"""Assemble the decoder's passes as launched at the widths of Wan 2.1; nothing may be spilled."""

from hopper import compile_for_hopper

from sana_video.ops.decoder import triton

TYPES = {
    **{f"{name}_ptr": "*bf16" for name in ("x", "bias", "skip", "gain", "sum", "out")},
    **dict.fromkeys(("rows", "frame", "pixels", "width"), "i32"),
}

for kernel, width, added in (
    (triton.norm_silu_kernel, 96, True),
    (triton.norm_silu_kernel, 384, True),
    (triton.norm_silu_kernel, 192, False),
    (triton.doubled_kernel, 192, True),
):
    block, rows = triton.cut(width)
    constants = {"C": width, "BLOCK": block, "ROWS": rows, "BIAS": added, "SKIP": added, "KEEP": added}
    used = compile_for_hopper(
        kernel, TYPES, {name: constants[name] for name in kernel.arg_names if name in constants}, warps=triton.WARPS
    )
    print(kernel.__name__, width, added, used)
    assert used.spilled == 0, (kernel.__name__, width, added, used)
