"""The engine of many machines: tasks of a Ray cluster, one CPU each. The only module that imports Ray.

Ray itself tries nothing again: what died or was lost is settled by `infra.engine.run`, as on one machine. Our packages
go to the nodes from this checkout, so that all run the same code; what they import must be installed there.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from math import floor
from pathlib import Path
from typing import Any

import ray
from ray import exceptions

from infra.engine.worker import Answer, NodeLost, WorkerDied, answers

PACKAGES = ("infra", "data_pipeline", "sana_video")  # what a worker imports
AHEAD = 8  # results that a task may have made before the first of them is taken
_ANSWERS_WITHIN = 10.0  # seconds; Ray itself asks a head that is not there for many minutes
_CRASHES = (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError)


class Cluster:
    """As many slots as the cluster had CPUs when it was joined; the caller runs on one of its nodes.

    `networks`: each task has its share of a GPU, where there are any: all GPUs over all CPUs.
    """

    def __init__(self, address: str, networks: bool, memory: int) -> None:
        self._own, self._memory = not ray.is_initialized(), memory
        if self._own:
            _knock(address)
            root = Path(__file__).resolve().parents[2]
            modules = [str(root / name) for name in PACKAGES]
            with _own_handler():
                ray.init(address=address, logging_level=logging.WARNING, runtime_env={"py_modules": modules})
        joined: Any = ray  # its functions carry no types
        there: dict[str, float] = joined.cluster_resources()
        self.slots = max(1, int(there.get("CPU", 1)))
        share = min(1.0, there.get("GPU", 0.0) / self.slots) if networks else 0.0
        # Ray counts GPUs to four decimals
        self._task: Any = ray.remote(answers).options(
            num_returns="streaming",
            num_cpus=1,
            num_gpus=floor(10_000 * share) / 10_000,
            max_retries=0,
            _generator_backpressure_num_objects=AHEAD,
        )
        self._running: dict[int, Any] = {}

    def stream(self, slot: int, work: str, items: Sequence[Any], common: Mapping[str, Any]) -> Iterator[Answer]:
        self._running[slot] = generator = self._task.remote(work, list(items), dict(common), self._memory)
        try:
            for reference in generator:
                yield ray.get(reference)
        except exceptions.RayTaskError as error:  # what a request is made of cannot be imported there
            yield "failed", str(error)
        except _CRASHES as error:
            raise WorkerDied(_first_line(error)) from error
        except exceptions.RuntimeEnvSetupError:
            raise
        except exceptions.RayError as error:
            raise NodeLost(_first_line(error)) from error
        finally:
            self._running.pop(slot, None)

    def close(self) -> None:
        """End what runs, at once. What streams from it raises WorkerDied."""
        for generator in list(self._running.values()):
            with contextlib.suppress(exceptions.RayError, ValueError):  # it may have ended by now
                ray.cancel(generator, force=True)
        if self._own and ray.is_initialized():
            ray.shutdown()


def _knock(address: str) -> None:
    """ConnectionError unless something listens at `host:port`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return  # `auto` or `local`: Ray looks for itself
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWERS_WITHIN).close()
    except OSError as error:
        raise ConnectionError(f"RAY_ADDRESS {address} does not answer: {error}") from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


@contextlib.contextmanager
def _own_handler() -> Iterator[None]:
    """Keep what SIGTERM does: Ray puts a handler of its own there, and a stage has to say how it ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
