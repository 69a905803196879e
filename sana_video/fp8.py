"""A network whose large products run in fp8, for sampling: about twice the rate of bf16 on a Hopper GPU.

`quantize` exchanges, in place, the products of the blocks over all video tokens, 98 % of the arithmetic, for
`Fp8Linear`. Their weights become e4m3 when the network is loaded; they are never saved and never trained: what a folder
holds is the network in its own precision. Rows for `attn.qkv`, `cross.q`, `ffn.expand` and `ffn.temporal` are quantised
by the kernel that makes them; `attn.out`, `cross.out` and `ffn.project` read what attention and the depthwise kernel
wrote in bf16, and a pass of its own quantises that.

The rest stays as it is, because it is cheap and everything depends on it: the patch embedding and the final layer (few
channels on one side: less than 0.1 % of the arithmetic, and the first and last error that a velocity sees), the
projections of timestep and text (some hundred rows, not tens of thousands), and the text's keys and values (300 rows,
the same in every step). Softmax, linear attention's sums, norms, gates and the depthwise convolution are no products of
this kind. More can be kept by name, for instance `keep=("blocks.0.*", "*.ffn.temporal")`; `benchmarks/fp8_error.py`
says what each kind of layer costs in error.
"""

import logging
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import TypeVar

import torch
from torch import Tensor, nn

from sana_video.ops import fp8, modulate, select
from sana_video.ops.fp8 import Quantized

PRODUCTS = ("attn.qkv", "attn.out", "cross.q", "cross.out", "ffn.expand", "ffn.project", "ffn.temporal")

Network = TypeVar("Network", bound=nn.Module)

_log = logging.getLogger(__name__)


class Fp8Linear(nn.Module):
    """x · weightᵀ + bias over the last axis, in fp8; takes rows as they are or already quantised."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        values, scale = fp8.quantize(weight.detach())
        self.dtype = weight.dtype
        self.register_buffer("values", values)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach())

    values: Tensor  # (N, K) e4m3
    scale: Tensor  # (N, 1) float32
    bias: Tensor | None

    def forward(self, x: Tensor | Quantized) -> Tensor:
        rows = fp8.quantize(x) if isinstance(x, Tensor) else x
        if rows.values.requires_grad or rows.scale.requires_grad:
            raise ValueError("a network in fp8 only samples: it has no gradients; call it under torch.no_grad()")
        return fp8.linear(rows, Quantized(self.values, self.scale), self.bias, self.dtype)

    def train(self, mode: bool = True) -> "Fp8Linear":
        if mode:
            raise ValueError("a network in fp8 only samples; train the one it was loaded from")
        return super().train(mode)

    def _save_to_state_dict(self, destination: object, prefix: str, keep_vars: bool) -> None:
        raise ValueError("a network in fp8 is not saved; save the one it was loaded from")


class Fp8Temporal(nn.Module):
    """The convolution over three frames as one product in fp8; see `layers.TemporalConv`."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.product = Fp8Linear(weight.squeeze(-1).permute(0, 2, 1).flatten(1), None)

    def forward(self, u: Tensor, starts: Sequence[int], last_u: Tensor | None) -> Tensor:
        out: Tensor = self.product(fp8.three_frames(u, starts, last_u))
        return out


def quantize(model: Network, *, keep: Sequence[str] = (), emulate: bool = False) -> Network:
    """`model` itself, its products in fp8 but for those whose names match a pattern of `keep`.

    The network must be in bf16 on a GPU with kernels (see `ops.select`); with `emulate` it may be anywhere and of any
    precision, and computes the same rounding slowly. Products whose sides are no multiples of 16 stay as they are.
    Raises ValueError for a network or a machine that cannot, and for a pattern that matches nothing.
    """
    if not emulate:
        parameter = next(model.parameters())
        require(parameter.device)
        if parameter.dtype != torch.bfloat16:
            raise ValueError(f"fp8 is for a network in bf16; this one is {str(parameter.dtype).removeprefix('torch.')}")
    if model.training:
        raise ValueError("a network in fp8 only samples: put it into eval mode first")
    names = [name for name, _ in model.named_modules() if name.endswith(PRODUCTS)]
    for pattern in keep:
        if not any(fnmatch(name, pattern) for name in names):
            raise ValueError(f"keep {pattern!r} matches no product; there are {', '.join(names[: len(PRODUCTS)])}, …")
    changed = 0
    for name in names:
        made = None if any(fnmatch(name, pattern) for pattern in keep) else _in_fp8(model.get_submodule(name))
        if made is not None:
            model.set_submodule(name, made.eval())
            changed += 1
    _log.info("%d of %d products of the blocks run in fp8", changed, len(names))
    return model.requires_grad_(False)


def require(device: torch.device | str) -> None:
    """ValueError, in one line, unless networks on `device` can run in fp8."""
    place = torch.device(device)
    if not select.kernels_for(torch.empty(0, device=place)):
        has = f"operations here run as {select.describe()}" if place.type == "cuda" else f"this is {place.type}"
        raise ValueError(f"fp8 needs a Hopper GPU (H100, H200), and {has}; take bf16 or fp32 instead")


def quantized(model: nn.Module) -> bool:
    """Whether any product of `model` runs in fp8."""
    return any(isinstance(module, Fp8Linear) for module in model.modules())


def modulate_for(layer: nn.Module, x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor | Quantized:
    """`ops.modulate.modulate`, as the product `layer` takes it."""
    if isinstance(layer, Fp8Linear):
        return fp8.modulate(x, shift, scale, eps)
    return modulate.modulate(x, shift, scale, eps)


def gated_add_for(
    layer: nn.Module, x: Tensor, branch: Tensor, gate: Tensor | None
) -> tuple[Tensor, Tensor | Quantized]:
    """x + gate · branch, and the same as the product `layer` takes it."""
    if isinstance(layer, Fp8Linear):
        return fp8.gated_add(x, branch, gate)
    return modulate.gated_add_both(x, branch, gate)


def gated_add_modulate_for(
    layer: nn.Module, x: Tensor, branch: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor | Quantized]:
    """x + gate · branch, and `modulate_for` of it."""
    if isinstance(layer, Fp8Linear):
        return fp8.gated_add_modulate(x, branch, gate, shift, scale, eps)
    return modulate.gated_add_modulate(x, branch, gate, shift, scale, eps)


def _in_fp8(layer: nn.Module) -> nn.Module | None:
    """The same product in fp8; None for a size that it does not take, and for what is in fp8 already."""
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        return None
    weight, bias = layer.weight, layer.bias
    if not fp8.fits(weight.shape[0], weight[0].numel()):
        return None
    return Fp8Temporal(weight) if weight.ndim == 4 and weight.shape[2] == 3 else Fp8Linear(weight.flatten(1), bias)
