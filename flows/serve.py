"""`flow serve`: curate and evaluate on the schedules of params.yaml, each run in a worktree of its own.

One process that polls and starts runs; stop it and its runs stop. It speaks to the server at PREFECT_API_URL, or starts
one of its own on this machine: Prefect's in-process server runs no scheduler. One run at a time: a second of the same
flow would work in the first one's worktree.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import Flow, serve
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron, Schedule
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.curate import curate
from flows.evaluate import evaluate
from flows.params import FlowParams
from flows.processes import Processes

START_SECONDS = 180.0  # a first start migrates the database


def serve_flows(root: Path, params: FlowParams) -> None:
    """Serve both flows until interrupted. Raises OSError when a server of our own does not come up."""
    with server(root):
        serve(*deployments(root, params), limit=1)


def deployments(root: Path, params: FlowParams) -> list[RunnerDeployment]:
    """The two deployments of the project at `root`, on their cron schedules (UTC)."""
    schedules = params.schedules
    return [
        deployment(curate, root, Cron(schedules.curate, timezone="UTC")),
        deployment(evaluate, root, Cron(schedules.evaluate, timezone="UTC")),
    ]


def deployment(flow: Flow[..., Any], root: Path, schedule: Schedule) -> RunnerDeployment:
    """`flow` over the project at `root`, in a worktree, on `schedule`."""
    made = flow.to_deployment(
        name="scheduled", schedule=schedule, parameters={"root": str(root), "worktree": True, "overrides": []}
    )
    assert isinstance(made, RunnerDeployment)  # to_deployment is a coroutine only where a loop already runs
    return made


@contextmanager
def server(root: Path) -> Iterator[None]:
    """The configured server, or one of our own that lives as long as the block."""
    if PREFECT_API_URL.value():
        yield
        return
    processes, port = Processes(), _free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = logging.getLogger("prefect.server")
    threading.Thread(target=_keep, args=(processes, command, root, log), daemon=True).start()
    try:
        _wait_for(f"http://127.0.0.1:{port}/api")
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            yield
    finally:
        processes.stop()


def _keep(processes: Processes, command: list[str], root: Path, log: logging.Logger) -> None:
    try:
        code, tail = processes.run(command, cwd=root, log=log.debug)
    except InterruptedError:
        return
    log.error("the server ended with %d: %s", code, tail[-1] if tail else "no output")


def _wait_for(api: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{api}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise OSError(f"no Prefect server at {api} after {START_SECONDS:.0f} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
