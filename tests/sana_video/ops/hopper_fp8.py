"""Assemble the kernels of fp8 rows as launched for the 2B model, and refuse spills; run by `test_fp8.py`."""

from hopper import compile_for_hopper

from sana_video.ops.fp8 import triton

streams = ("x", "branch", "gate", "shift", "scale", "stream", "u", "last")
TYPES = {
    **{f"{name}_ptr": "*bf16" for name in streams},
    **dict.fromkeys(("tokens", "gate_stride", "shift_stride", "scale_stride", "frames", "low", "high"), "i32"),
    **dict.fromkeys(("eps", "least"), "fp32"),
    "values_ptr": "*fp8e4nv",
    "row_scale_ptr": "*fp32",
}
STRIDES = ("gate_stride", "shift_stride", "scale_stride")
bare = {"BRANCH": False, "GATE": False, "NORM": False}

for kernel, D, cut, flags in (
    (triton._row_kernel, 2240, triton.FORWARD, bare),
    (triton._row_kernel, 6720, triton.WIDE, bare),
    (triton._row_kernel, 2240, triton.FORWARD, {**bare, "NORM": True}),
    (triton._row_kernel, 2240, triton.FORWARD, {**bare, "BRANCH": True, "GATE": True}),
    (triton._row_kernel, 2240, triton.FORWARD, {**bare, "BRANCH": True, "NORM": True}),
    (triton._frames_kernel, 2240, triton.FRAMES, {"LAST": False}),
    (triton._frames_kernel, 2240, triton.FRAMES, {"LAST": True}),
):
    constants = {"D": D, "CHUNK": cut.chunk, "ROWS": cut.rows, "CAST": True, **flags}
    used = compile_for_hopper(kernel, TYPES, constants, divisible=STRIDES, warps=cut.warps, registers=cut.registers)
    print(kernel.__name__, D, flags, used)
    assert used.spilled == 0, (kernel.__name__, cut, used)
    assert used.shared <= 4096, "only the sums of a row cross warps"
