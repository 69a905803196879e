"""Assemble the kernels of norms and gated sums as launched at width 2240; only a few words may be spilled."""

from hopper import compile_for_hopper

from sana_video.ops.modulate import rms, triton

D = 2240
streams = ("x", "branch", "skip", "gate", "shift", "scale", "stream", "y", "dy", "d_stream", "dx", "d_branch", "weight")
TYPES = {
    **{f"{name}_ptr": "*bf16" for name in streams},
    **dict.fromkeys(("tokens", "gate_stride", "shift_stride", "scale_stride"), "i32"),
    "partial_ptr": "*fp32",
    "eps": "fp32",
}
STRIDES = ("gate_stride", "shift_stride", "scale_stride")
WIDE = {"x_ptr": "*fp32", "stream_ptr": "*fp32"}  # a stream in float32
both = {"COPY": False, "BRANCH": True, "STREAM": True, "SKIP": True, "GATE": True, "NORM": True}
alone = {"COPY": False, "BRANCH": False, "STREAM": False, "SKIP": False, "GATE": False, "NORM": True}

copied = {**both, "COPY": True, "SKIP": False, "NORM": False}

for kernel, cut, flags, types in (
    (triton._forward_kernel, triton.FORWARD, both, TYPES),
    (triton._forward_kernel, triton.FORWARD, both, TYPES | WIDE),
    (triton._forward_kernel, triton.FORWARD, copied, TYPES | WIDE),
    (triton._forward_kernel, triton.FORWARD_ALONE, alone, TYPES),
    (triton._forward_kernel, triton.FORWARD_ALONE, alone, TYPES | WIDE),
    (triton._backward_kernel, triton.BACKWARD, both, TYPES),
    (triton._backward_kernel, triton.BACKWARD_ALONE, alone, TYPES),
    (rms._forward_kernel, triton.FORWARD, {}, TYPES),
    (rms._backward_kernel, triton.BACKWARD, {}, TYPES),
):
    constants = {"D": D, "CHUNK": cut.chunk, "ROWS": cut.rows, "TILES": cut.tiles, **flags}
    used = compile_for_hopper(
        kernel,
        types,
        {name: value for name, value in constants.items() if name in kernel.arg_names},
        divisible=STRIDES,
        warps=cut.warps,
        registers=cut.registers,
    )
    print(kernel.__name__, used)
    assert used.spilled <= 32, (kernel.__name__, cut, used)
    assert used.shared <= 4096, "only the sums of a row cross warps"
