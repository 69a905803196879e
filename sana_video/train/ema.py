"""The moving average of the weights: what is measured, released, and handed to the next stage.

The decay is reached slowly, min(decay, (1 + step) / (10 + step)), so that a run of fifty steps averages over its last
few and a run of a hundred thousand over its last ten thousand. The average is kept on each process for its own shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class Ema:
    """Averages of the parameters of `model`, by name."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.averages = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """average ← d · average + (1 - d) · weight after step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.named_parameters():
            local(self.averages[name]).lerp_(local(value.detach()), 1 - decay)

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """Inside, the model computes with the averages; afterwards its own weights are back, bit for bit."""
        own = {name: local(value.detach()).clone() for name, value in model.named_parameters()}
        _copy(model, {name: local(value) for name, value in self.averages.items()})
        try:
            yield
        finally:
            _copy(model, own)


@torch.no_grad()
def _copy(model: nn.Module, values: dict[str, Tensor]) -> None:
    for name, value in model.named_parameters():
        local(value.detach()).copy_(values[name])


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a distributed tensor, or the tensor itself; both share its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
