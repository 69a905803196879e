"""Assemble the Mix-FFN's kernels as they are launched on an H100, and refuse spills; run by `test_mix_ffn.py`."""

from hopper import compile_for_hopper

from sana_video.ops.mix_ffn import triton

sizes = dict.fromkeys(("slide", "cross", "pixels", "slide_pixels", "cross_pixels", "M", "channels"), "i32")
pointers = dict.fromkeys(("x_ptr", "weight_ptr", "bias_ptr", "y_ptr", "dy_ptr", "dc_ptr", "dx_ptr"), "*bf16")
TYPES = {**sizes, **pointers, "partial_ptr": "*fp32"}

for kernel, strip in (
    (triton._forward_kernel, triton.FORWARD),
    (triton._gradient_kernel, triton.GRADIENT),
    (triton._transposed_kernel, triton.TRANSPOSED),
):
    taps = (1, 3) if strip.along == "w" else (3, 1)
    constants = {
        "CHANNELS": strip.channels,
        "ROWS": strip.rows,
        "SLIDE_TAP": taps[0],
        "CROSS_TAP": taps[1],
        "SIGMOID": strip.sigmoid,
    }
    used = compile_for_hopper(
        kernel, TYPES, constants, divisible=("M", "channels"), warps=strip.warps, registers=strip.registers
    )
    print(kernel.__name__, used)
    assert used.spilled == 0, (kernel.__name__, strip, used)
    assert used.shared == 0, "neighbours are kept in registers"
