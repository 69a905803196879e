"""Assemble the kernel of cross-attention as launched for the 2B model, and refuse spills."""

from hopper import compile_for_hopper

from sana_video.ops.cross_attention import triton

TYPES = {
    **dict.fromkeys(("q_ptr", "weight_ptr", "key_ptr", "value_ptr", "bias_ptr", "out_ptr"), "*bf16"),
    **dict.fromkeys(("N", "L"), "i32"),
    **{f"{of}_{what}": "i32" for of in ("key", "value") for what in ("batch", "head", "row")},
    **dict.fromkeys(("eps", "to_log2"), "fp32"),
}
STRIDES = [name for name in TYPES if name.startswith(("key_", "value_")) and not name.endswith("_ptr")]

for bias in (False, True):
    cut = triton.SHORT
    constants = {"HEADS": 20, "HEAD": 112, "HEAD_PAD": 128, "TILE": cut.tile, "KEYS": cut.keys}
    constants |= {"BIAS": bias, "STAGES": cut.stages}
    used = compile_for_hopper(triton._forward_kernel, TYPES, constants, divisible=STRIDES, warps=cut.warps)
    print(bias, used)
    assert used.spilled == 0, (cut, used)
