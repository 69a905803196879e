"""Running a flow by name from the command line, and what its end means to a shell."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

NAMES = ("curate", "train", "evaluate", "release", "journey")


def run_flow(name: str, root: Path, *, worktree: bool, overrides: Sequence[str]) -> tuple[int, str]:
    """Run flow `name` over the project at `root`: exit code, and what it says in the end.

    Raises ValueError for a flow that does not exist.
    """
    if name not in NAMES:
        raise ValueError(f"no flow called {name!r}; there are {', '.join(NAMES)}")
    for kind in ("flow_runs", "task_runs"):
        logging.getLogger(f"prefect.{kind}").addFilter(_worth_saying)
    flow = getattr(import_module(f"flows.{name}"), name)
    state = flow(root=str(root), worktree=worktree, overrides=tuple(overrides), return_state=True)
    return _code(state), str(state.message or state.name)


def _code(state: Any) -> int:
    if state.is_completed():
        return 0
    code = state.result(raise_on_failure=False)
    return code if isinstance(code, int) and code else 1


def _worth_saying(record: logging.LogRecord) -> bool:
    """Not what the command says itself in the end, once: how the flow ended and why."""
    message = record.getMessage()
    return "Finished in state" not in message and "Task run failed with state" not in message
