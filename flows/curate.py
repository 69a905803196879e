"""From raw videos to a selection of clips: the flow that a nightly schedule runs."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.workspace import run_in_workspace

TARGETS = ("gate_data", "gate_sft", "data_report")


@flow(name="curate", log_prints=False)
def curate(root: str = ".", worktree: bool = False, overrides: tuple[str, ...] = ()) -> State[Any]:
    """Ingest, split, score, caption, deduplicate, select, choose the SFT set; Failed when a gate on them is red."""
    return run_in_workspace("curate", root, TARGETS, worktree=worktree, overrides=overrides)
