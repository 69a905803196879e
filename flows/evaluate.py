"""From trained weights to a verdict on releasing them: generation, measures, report, gates."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.workspace import run_in_workspace

TARGETS = ("gate_eval", "gate_release")


@flow(name="evaluate", log_prints=False)
def evaluate(root: str = ".", worktree: bool = False, overrides: tuple[str, ...] = ()) -> State[Any]:
    """Evaluate `eval.stage`; ends Failed when the evaluation is incomplete or below the bars of a release."""
    return run_in_workspace("evaluate", root, TARGETS, worktree=worktree, overrides=overrides)
