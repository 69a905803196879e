"""`flow serve`: curate and evaluate on the schedules of params.yaml, each run in a worktree of its own.

One process that polls and starts runs; stop it and its runs stop. It speaks to the server at PREFECT_API_URL, or starts
one of its own. Two runs of a flow never overlap: a second would work in the first one's worktree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import Flow, serve
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron, Schedule

from flows.curate import curate
from flows.evaluate import evaluate
from flows.params import FlowParams


def deployments(root: Path, params: FlowParams) -> list[RunnerDeployment]:
    """The two deployments of the project at `root`, on their cron schedules (UTC)."""
    schedules = params.schedules
    return [
        deployment(curate, root, Cron(schedules.curate, timezone="UTC")),
        deployment(evaluate, root, Cron(schedules.evaluate, timezone="UTC")),
    ]


def deployment(flow: Flow[..., Any], root: Path, schedule: Schedule) -> RunnerDeployment:
    made = flow.to_deployment(
        name="scheduled",
        schedule=schedule,
        parameters={"root": str(root), "worktree": True},
        concurrency_limit=None,
    )
    assert isinstance(made, RunnerDeployment)  # to_deployment is a coroutine only where a loop already runs
    return made


def serve_flows(root: Path, params: FlowParams) -> None:
    """Serve until interrupted; one run at a time."""
    serve(*deployments(root, params), limit=1, pause_on_shutdown=False)
