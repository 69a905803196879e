"""Child processes that never outlive the flow: each leads its own group, and the group dies as one.

A signal to `dvc` alone would leave the stage below it writing. So a child starts a session of its own, is signalled as
a group, and the kernel sends it SIGTERM should the flow's process vanish without a word.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # found before any fork: the child may do little between fork and exec
GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL: time to clean up
# A training stage waits for its ranks, which finish a step and save; each waits longer than what is below it.
RANKS_GRACE_SECONDS = 60.0
TRAINER_GRACE_SECONDS = 70.0
TRAINING_GRACE_SECONDS = 80.0
TAIL_LINES = 30


class Processes:
    """The process groups a walk has started and not yet seen end."""

    def __init__(self, grace: float = GRACE_SECONDS) -> None:
        self._running: dict[int, tuple[subprocess.Popen[str], float]] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._grace = grace

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        log: Callable[[str], None],
        variables: Mapping[str, str] | None = None,
        grace: float | None = None,
    ) -> tuple[int, list[str]]:
        """Run `command` with this Python's programs first on PATH, hand each line it prints to `log`, and return its
        exit code and its last lines. `variables` are added to the environment; `grace` is this command's
        own, where it needs more.

        Raises InterruptedError when the walk has been stopped, before or while the command ran.
        """
        with self._lock:
            if self._stopped.is_set():
                raise InterruptedError("the flow was stopped")
            child = subprocess.Popen(
                [*_environment(variables or {}), *command],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
            entry = (child, self._grace if grace is None else grace)
            self._running[child.pid] = entry
        try:
            tail = _follow(child, log)
            code = child.wait()
        except BaseException:
            self._end([entry])
            raise
        finally:
            with self._lock:
                self._running.pop(child.pid, None)
        if self._stopped.is_set():
            _await_group(child.pid, entry[1])
            raise InterruptedError("the flow was stopped")
        return code, tail

    def stop(self) -> None:
        """End every running group, SIGTERM first, SIGKILL after the grace; later calls of `run` refuse."""
        with self._lock:
            self._stopped.set()
            running = list(self._running.values())
        self._end(running)

    def stopped_within(self, seconds: float) -> bool:
        """Wait that long, or until the walk is stopped; True if it is."""
        return self._stopped.wait(seconds)

    def _end(self, children: Sequence[tuple[subprocess.Popen[str], float]]) -> None:
        for child, _ in children:
            _signal_group(child.pid, signal.SIGTERM)
        start = time.monotonic()
        left = dict(children)
        while left:
            for child, grace in list(left.items()):
                child.poll()
                if not _group_alive(child.pid) or time.monotonic() - start > grace:
                    _signal_group(child.pid, signal.SIGKILL)
                    child.wait()
                    del left[child]
            time.sleep(0.05 if left else 0.0)


def _environment(variables: Mapping[str, str]) -> list[str]:
    """The `env` command that adds to the environment this process has, without reading it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
    return ["env", f"PATH={path}", *(f"{name}={value}" for name, value in variables.items())]


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _follow(child: subprocess.Popen[str], log: Callable[[str], None]) -> list[str]:
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            text = line.rstrip()
            if text:
                tail.append(text)
                log(text)
    return list(tail)


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _await_group(group: int, grace: float) -> None:
    """The leader may be gone, and the pipe closed, a moment before the last of its group is; `stop` kills that one."""
    start = time.monotonic()
    while _group_alive(group) and time.monotonic() - start < grace:
        time.sleep(0.01)


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
