"""From selected clips to trained weights: shards, then every training stage with its gate."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.workspace import run_in_workspace

TARGETS = ("gate_pixels", "gate_shards", "gate_train")


@flow(name="train", log_prints=False)
def train(root: str = ".", worktree: bool = False, overrides: tuple[str, ...] = ()) -> State[Any]:
    """Encode the views and train the stages in the order their gates allow; a killed stage resumes where it was."""
    return run_in_workspace("train", root, TARGETS, worktree=worktree, overrides=overrides)
