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
    logging.getLogger("prefect.flow_runs").addFilter(_without_final_states)
    flow = getattr(import_module(f"flows.{name}"), name)
    state = flow(root=str(root), worktree=worktree, overrides=tuple(overrides), return_state=True)
    return _code(state), str(state.message or state.name)


def _code(state: Any) -> int:
    if state.is_completed():
        return 0
    code = state.result(raise_on_failure=False)
    return code if isinstance(code, int) and code else 1


def _without_final_states(record: logging.LogRecord) -> bool:
    """The command prints the flow's last words itself, once."""
    return "Finished in state" not in record.getMessage()
