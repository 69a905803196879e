"""The kernels inside a whole network, under Triton's interpreter; `test_interpreted.py` runs this file.

The kernels are forced on the CPU. What is at stake is what lies between them and the rest: the dtype of the stream
under autocast, what the backward pass computes again, and that one graph of torch.compile holds them.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from operators import Operators
from oracle import Inputs, inputs, relative, shaken

from sana_video import SanaVideo, SanaVideoConfig, fp8
from sana_video.ops import select
from sana_video.train.config import Recompute
from sana_video.train.parallelize import recompute_blocks

CONFIG = SanaVideoConfig(in_channels=4, width=32, heads=1, depth=1, text_width=12, text_tokens=6)
OURS = {
    "linear_attention",
    "temporal_conv",
    "gated_depthwise",
    "modulate",
    "gated_add",
    "gated_add_modulate",
    "rms_norm",
}
PRODUCTS = {"mm", "addmm", "bmm", "convolution", "_scaled_dot_product_flash_attention_for_cpu"}
KEPT = PRODUCTS | {"linear_attention", "temporal_conv"}  # what costs arithmetic rather than bytes

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def forced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(select, "kernels_for", lambda x: not select._off)
    yield


def given() -> Inputs:
    return inputs(CONFIG, frames=2, size=(1, 2), batch=1)


class Passes(NamedTuple):
    """Of one forward and backward pass in bf16, as the loop takes them."""

    gradients: dict[str, torch.Tensor]
    count: Counter[str]  # operators
    stream: list[torch.dtype]  # before and after the block


def passes(recompute: Recompute) -> Passes:
    model, stream = shaken(CONFIG), []
    model.blocks[0].register_forward_hook(lambda module, args, out: stream.extend([args[0].dtype, out[0].dtype]))
    recompute_blocks(model, recompute)
    with Operators() as operators:
        with torch.autocast("cpu", torch.bfloat16):
            out = model(*given(), chunk_index=(0, 1))
        out.float().square().mean().backward()
    named = ((name.replace("_checkpoint_wrapped_module.", ""), value.grad) for name, value in model.named_parameters())
    return Passes({name: gradient for name, gradient in named if gradient is not None}, operators.count, stream)


@pytest.fixture(scope="module")
def everything() -> Passes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "kernels_for", lambda x: not select._off)
        return passes("nothing")


def test_what_is_recomputed_elementwise_costs_no_product_and_no_kernel_of_sums(everything: Passes) -> None:
    elementwise = passes("elementwise")
    assert everything.count.keys() >= OURS | {"linear_attention_backward", "temporal_conv_backward"}
    assert {name: elementwise.count[name] for name in KEPT} == {name: everything.count[name] for name in KEPT}
    assert all(elementwise.count[name] > everything.count[name] for name in ("modulate", "gated_depthwise"))
    assert elementwise.gradients.keys() == everything.gradients.keys()
    assert all(torch.equal(elementwise.gradients[name], x) for name, x in everything.gradients.items())


def test_the_stream_under_autocast_is_bf16_and_gradients_are_those_of_float32(everything: Passes) -> None:
    exact = shaken(CONFIG)
    with select.disabled():
        exact(*given(), chunk_index=(0, 1)).square().mean().backward()
    assert {gradient.dtype for gradient in everything.gradients.values()} == {torch.float32}
    for name, parameter in exact.named_parameters():  # the interpreter cuts bf16 off where a GPU rounds
        assert parameter.grad is not None and relative(everything.gradients[name], parameter.grad) < 5e-2, name
    assert everything.stream == [torch.bfloat16] * 2
    assert everything.count["gated_add_both"] == 0  # the stream is what the next product reads: no second copy


def compiled(model: SanaVideo) -> Any:
    return torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)


def test_one_graph_holds_the_kernels_forward_and_backward() -> None:
    found = []
    for wrap in (lambda model: model, compiled):
        model = shaken(CONFIG).bfloat16()
        network = wrap(model)
        out = network(*given(), chunk_index=(0, 1))
        out.float().square().mean().backward()
        found.append([out.detach(), *(p.grad for p in model.parameters())])
    for ours, expected in zip(found[1], found[0], strict=True):
        assert relative(ours.float(), expected.float()) < 1e-2


@torch.no_grad()
def test_one_graph_holds_the_kernels_of_a_network_in_fp8() -> None:
    model = fp8.quantize(shaken(CONFIG).bfloat16().eval(), emulate=True)
    with Operators() as operators:
        expected = model(*given())
    assert operators.count.keys() >= {"fp8_rows", "fp8_three_frames", "_scaled_mm"}
    assert relative(compiled(model)(*given()).float(), expected.float()) < 1e-2
