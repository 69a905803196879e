"""The whole way, from a film to a registered model."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.release import run_and_register


@flow(name="journey", log_prints=False)
def journey(root: str = ".", worktree: bool = False, overrides: tuple[str, ...] = ()) -> State[Any]:
    """Every stage of the graph, then the registry. With nothing changed it runs no stage and takes seconds."""
    return run_and_register("journey", root, None, worktree=worktree, overrides=overrides)
