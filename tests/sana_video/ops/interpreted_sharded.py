"""The kernels inside a network sharded over two processes and recomputed; `test_sharded.py` runs this under torchrun.

    PYTHONPATH=. torchrun --standalone --nproc-per-node 2 tests/sana_video/ops/interpreted_sharded.py

On two GPUs the kernels run compiled; on a CPU they are forced, and Triton interprets them. What FSDP2 gathers and
recomputing repeats goes through the registered operations: gradients must be those of the definitions in float32 on
one process, as far as bf16 tells.
"""

from collections import Counter
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from sana_video import SanaVideo, SanaVideoConfig
from sana_video.ops import select
from sana_video.ops.linear_attention import triton as attention
from sana_video.ops.mix_ffn import triton as depthwise
from sana_video.ops.modulate import triton as stream
from sana_video.train import parallelize

CONFIG = SanaVideoConfig.preset("tiny").with_(width=64, heads=2, depth=1, text_width=32, text_tokens=8)
BOUND = 5e-2  # a dozen roundings to eight bits, which the interpreter cuts off; a wrong gradient is off by its size
KERNELS = ((attention, "normed_linear_attention"), (depthwise, "gated_depthwise"), (stream, "gated_add_modulate"))


def network() -> SanaVideo:
    model = SanaVideo(CONFIG, seed=1)
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.bfloat16()


def inputs(device: torch.device) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, CONFIG.in_channels, 2, 1, 2, generator=generator).bfloat16()
    text = torch.randn(1, CONFIG.text_tokens, CONFIG.text_width, generator=generator).bfloat16()
    given = latents, torch.tensor([500.0]), text, torch.arange(CONFIG.text_tokens)[None] < 5
    return tuple(tensor.to(device) for tensor in given)


def gradients(model: SanaVideo, device: torch.device) -> dict[str, torch.Tensor]:
    model(*inputs(device), chunk_index=(0, 1)).float().square().mean().backward()
    whole = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        gradient = parameter.grad.full_tensor() if isinstance(parameter.grad, DTensor) else parameter.grad
        whole[name.replace("_checkpoint_wrapped_module.", "")] = gradient.cpu()
    return whole


def counted() -> Counter[str]:
    """Calls of kernels from now on, by name."""
    calls: Counter[str] = Counter()

    def counting(name: str, kernel: Any) -> Any:
        def call(*given: Any, **options: Any) -> Any:
            calls[name] += 1
            return kernel(*given, **options)

        return call

    for module, name in KERNELS:
        setattr(module, name, counting(name, getattr(module, name)))
    return calls


def main() -> None:
    world = parallelize.start(2)
    with select.disabled():
        expected = gradients(network().float().to(world.device), world.device)
    if world.device.type == "cpu":
        select.kernels_for = lambda x: True  # type: ignore[assignment]
    calls = counted()
    for recompute in ("elementwise", "block"):
        calls.clear()
        model = parallelize.parallelize(network().to(world.device), world, recompute=recompute)
        found = gradients(model, world.device)
        assert found.keys() == expected.keys()
        assert set(calls) == {name for _, name in KERNELS}, calls
        assert calls["gated_depthwise"] == 2 * CONFIG.depth, "once forward, and once again in the backward pass"
        worst = 0.0
        for name, gradient in found.items():
            reference = expected[name].double()
            off = float((gradient.double() - reference).norm() / reference.norm())
            assert off < BOUND, (recompute, name, off)
            worst = max(worst, off)
        if world.rank == 0:
            print(f"{recompute}: {len(found)} gradients, off by at most {worst:.1e}")
    parallelize.stop(world)


if __name__ == "__main__":
    main()
