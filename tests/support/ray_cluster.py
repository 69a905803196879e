"""A Ray cluster of this machine, for tests: nodes are processes, as many as asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_STORE = 80 << 20  # bytes of shared memory a node; Ray takes no less


@contextmanager
def ray_cluster(nodes: int = 1, cpus: int = 2, gpus: int = 0) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` of so many nodes of so many CPUs and, in name, GPUs. RAY_ADDRESS names it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={**_node(cpus, gpus), "include_dashboard": False})
        try:
            for _ in range(nodes - 1):
                cluster.add_node(**_node(cpus, gpus))
            patch.setenv("RAY_ADDRESS", cluster.address)
            yield cluster
        finally:
            cluster.shutdown()


def _node(cpus: int, gpus: int) -> dict[str, Any]:
    return {"num_cpus": cpus, "num_gpus": gpus, "object_store_memory": _STORE}
