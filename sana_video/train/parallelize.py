"""Several processes, put round a model that is written for one device.

The order: build the model on every process from the same seed -> activation checkpointing per block -> `fully_shard`
per block -> `fully_shard` on the root. Sharding last, so that what is recomputed runs inside the gathered block. Each
process builds the whole model in host memory, which costs 8 GB for two billion parameters and needs no broadcast.

One node shards over all of its processes; several nodes shard inside a node and replicate across (HSDP), so that
parameters are gathered over the fast links only. Reduction and gathering stay in float32; bf16 comes from autocast.

What the backward pass needs is kept or made again: "nothing" keeps all; "elementwise" keeps what matrix products,
convolutions and attention gave and makes norms, gates and modulations again, which costs bytes but no matrix product;
"block" keeps the input of each block and runs it a second time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from sana_video.train.config import Recompute

aten = torch.ops.aten
# Operators whose results "elementwise" keeps: those that cost arithmetic rather than bytes.
KEPT = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.convolution.default,
    aten._scaled_mm.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
}
KEPT_OURS = {"sana_video::linear_attention", "sana_video::temporal_conv"}  # kernels, known once they are imported


@dataclass(frozen=True)
class World:
    """The processes of this run. `mesh` and `store` are None where there is one process."""

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh | None = None
    store: dist.ProcessGroup | None = None  # of checkpoints: collectives of a save never mix with those of training

    @property
    def first(self) -> bool:
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Sum over processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier(group=self.store)

    def from_first(self, value: str | None) -> str | None:
        """What process 0 says."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0, group=self.store)
        return box[0]


def start(processes: int, environment: Mapping[str, str] = os.environ) -> World:
    """Join the run that torchrun or accelerate started, or run alone. The caller ends it with `stop`.

    Raises ValueError when the number of processes is not the one that params.yaml asks for: a launcher that is left out
    or misconfigured otherwise trains several models side by side without a word.
    """
    rank, size = int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1"))
    if size != processes:
        raise ValueError(
            f"train.launch.processes is {processes}, but {size} started: use torchrun --nproc-per-node {processes}"
        )
    local_rank = int(environment.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        return World(0, 1, device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    per_node = int(environment.get("LOCAL_WORLD_SIZE", str(size)))
    return World(rank, size, device, _mesh(device.type, size, per_node), dist.new_group(backend="gloo"))


def stop(world: World) -> None:
    if world.size > 1:
        dist.destroy_process_group()


def _mesh(kind: str, size: int, per_node: int) -> DeviceMesh:
    """(size,) on one node; (nodes, per_node) on several: replicate over the first axis, shard over the second."""
    if per_node == size:
        return init_device_mesh(kind, (size,), mesh_dim_names=("shard",))
    return init_device_mesh(kind, (size // per_node, per_node), mesh_dim_names=("replicate", "shard"))


def parallelize(model: nn.Module, world: World, *, recompute: Recompute) -> nn.Module:
    """The model on its device, recomputed and sharded as asked. Raises RuntimeError if a parameter stayed whole."""
    recompute_blocks(model, recompute)
    if world.mesh is None:
        return model.to(world.device)
    for block in _blocks(model):
        fully_shard(block, mesh=world.mesh)
    fully_shard(model, mesh=world.mesh, reshard_after_forward=True)  # else a held-out forward leaves it gathered
    whole = [name for name, value in model.named_parameters() if not isinstance(value, DTensor)]
    if whole:
        raise RuntimeError(f"parameter {whole[0]} is not sharded over {world.size} processes")
    return model


def recompute_blocks(model: nn.Module, recompute: Recompute) -> None:
    """Wrap each block so that its backward pass makes again what `recompute` names; in place."""
    if recompute == "nothing":
        return
    options: dict[str, Any] = {"preserve_rng_state": False}  # a block draws no random numbers
    if recompute == "elementwise":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    wrap: Callable[..., nn.Module] = checkpoint_wrapper
    blocks = _blocks(model)
    apply_activation_checkpointing(
        model, checkpoint_wrapper_fn=partial(wrap, **options), check_fn=lambda module: module in blocks
    )


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    kept = operator in KEPT or operator.name() in KEPT_OURS
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def full_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the whole state dict on the CPU of process 0; empty elsewhere. Every process must call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)  # on one process these are the live weights, hence the copy
    return {name: value.clone() for name, value in state.items() if isinstance(value, Tensor)}


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks, each of which is gathered and recomputed as one; none for a model without such a list."""
    blocks = getattr(model, "blocks", None)
    return list(blocks) if isinstance(blocks, nn.ModuleList) else []
