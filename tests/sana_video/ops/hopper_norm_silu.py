"""Assemble the decoder's norm as launched at the widths of Wan 2.1; nothing may be spilled."""

from hopper import compile_for_hopper

from sana_video.ops.norm_silu import triton

TYPES = {
    **{f"{name}_ptr": "*bf16" for name in ("x", "bias", "skip", "gain", "sum", "out")},
    "rows": "i32",
    "free": "i32",
}

for width in (96, 192, 384):
    for added in (False, True):
        block, rows = triton.cut(width)
        used = compile_for_hopper(
            triton.norm_silu_kernel,
            TYPES,
            {"C": width, "BLOCK": block, "ROWS": rows, "BIAS": added, "SKIP": added},
            warps=triton.WARPS,
        )
        print(width, added, used)
        assert used.spilled == 0, (width, added, used)
