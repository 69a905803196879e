"""How a stage of the graph runs: one writer, a status file, an exit code, and no life after its parent.

`dvc` turns every failure into 255 and leaves its children running when it is killed. So each stage says itself how it
ended, in runs/status/<stage>.json, holds a lock while it runs, and ends when the process that asked for it is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import dis
import errno
import fcntl
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TextIO, TypeVar

import psutil
from pydantic import ValidationError

from infra.gates import GateBroken, GateRed
from infra.storage import atomic_text
from infra.weights import how_to_fetch

Item = TypeVar("Item")
Counters = Mapping[str, float | int | str]

_OURS = {"sana_video", "data_pipeline", "eval", "infra", "flows"}
_NETWORK = {  # of botocore, aiohttp and requests, by name so that none of them is imported here
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ConnectionClosedError",
    "ClientConnectionError",
    "ClientConnectorError",
    "ClientPayloadError",
    "ServerDisconnectedError",
    "ConnectTimeout",
    "ReadTimeout",
}
_SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "fish", "busybox"}
_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 10.0
_SAY_EVERY_SECONDS = 10.0


class Terminated(BaseException):
    """SIGTERM arrived: somebody cancelled the stage, or its parent died."""


@dataclass(frozen=True)
class Outcome:
    """How a stage ended. `kind` is ok, user, gate_red, gate_broken, transient or failed."""

    kind: str
    exit_code: int
    reason: str


class Progress:
    """Tells how far the work is: one rich bar on a terminal, a plain line every ten seconds elsewhere."""

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        self._name = name
        self._stream = stream or sys.stderr

    def say(self, text: str) -> None:
        """One line of news."""
        print(f"{self._name}: {text}", file=self._stream, flush=True)

    def track(self, items: Iterable[Item], total: int | None = None, label: str = "") -> Iterator[Item]:
        """Yield the items and show how many are done. `total` is found by len() where there is one."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        label = f"{self._name} {label}".strip()
        return self._bar(items, total, label) if self._stream.isatty() else self._lines(items, total, label)

    @contextlib.contextmanager
    def steps(self, label: str = "") -> Iterator[Callable[[int, int], None]]:
        """A function to be told (done, total) after each step, shown as by `track`: for work that is no iteration."""
        label = f"{self._name} {label}".strip()
        if not self._stream.isatty():
            yield self._step_lines(label)
            return
        from rich import progress
        from rich.console import Console

        with progress.Progress(console=Console(file=self._stream), transient=True) as bar:
            task = bar.add_task(label, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def _step_lines(self, label: str) -> Callable[[int, int], None]:
        start = said = time.monotonic()

        def told(done: int, total: int) -> None:
            nonlocal said
            if (now := time.monotonic()) - said >= _SAY_EVERY_SECONDS:
                said = now
                print(_state(label, done, total, now - start), file=self._stream, flush=True)

        return told

    def _bar(self, items: Iterable[Item], total: int | None, label: str) -> Iterator[Item]:
        from rich.console import Console
        from rich.progress import track

        yield from track(items, label, total=total, console=Console(file=self._stream), transient=True)

    def _lines(self, items: Iterable[Item], total: int | None, label: str) -> Iterator[Item]:
        start = said = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            if (now := time.monotonic()) - said >= _SAY_EVERY_SECONDS:
                said = now
                print(_state(label, done, total, now - start), file=self._stream, flush=True)


def run(name: str, work: Callable[[Progress], Counters | None], *, root: Path, grace: float = _GRACE_SECONDS) -> int:
    """Do `work` as the stage `name` and return the exit code; `grace`: seconds to end in once the parent is gone.

    Writes root/runs/status/<name>.json at the end (none while it runs, so that a killed stage leaves none), the
    traceback of a failure to root/runs/logs/<name>.log, and one line on stderr. A second run of the same stage at the
    same time is refused with exit code 1 and touches nothing of the first.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.@-]*", name):
        raise ValueError(f"{name!r} is no name of a stage: letters, digits, '.', '_', '-' and '@' only")
    with _lock(root / "runs" / "locks" / f"{name}.lock") as holder:
        if holder is not None:
            print(f"{name}: stage {name} is already running, pid {holder}", file=sys.stderr)
            return 1
        status = root / "runs" / "status" / f"{name}.json"
        status.unlink(missing_ok=True)
        start = time.monotonic()
        outcome, counters = _do(name, work, root, grace)
        atomic_text(status, _status(name, outcome, counters, time.monotonic() - start))
        print(f"{name}: {outcome.reason}{_told(counters)}", file=sys.stderr, flush=True)
        return outcome.exit_code


def classify(error: BaseException) -> Outcome:
    """What an exception means to the caller: the user's to mend (2), a gate (3, 4), worth a retry, or a failure (1)."""
    text = (" ".join(str(error).split()) or type(error).__name__) + how_to_fetch(error)
    if isinstance(error, GateRed):
        return Outcome("gate_red", 3, text)
    if isinstance(error, GateBroken):
        return Outcome("gate_broken", 4, text)
    if isinstance(error, Terminated):
        return Outcome("failed", 1, "terminated")
    if isinstance(error, KeyboardInterrupt):
        return Outcome("failed", 1, "interrupted")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        detail = error.strerror or ""
        return Outcome("failed", 1, detail if detail.startswith("no space left") else f"no space left: {text}")
    if _is_users(error):
        return Outcome("user", 2, text)
    if isinstance(error, (ConnectionError, TimeoutError, BlockingIOError)) or type(error).__name__ in _NETWORK:
        return Outcome("transient", 1, f"{type(error).__name__}: {text}")
    return Outcome("failed", 1, f"{type(error).__name__}: {text}")


def _do(name: str, work: Callable[[Progress], Counters | None], root: Path, grace: float) -> tuple[Outcome, Counters]:
    try:
        with _terminable(), _bound_to_parent(grace):
            counters = work(Progress(name)) or {}
        return Outcome("ok", 0, "done"), counters
    except (Exception, KeyboardInterrupt, Terminated) as error:
        outcome = classify(error)
        if outcome.kind in ("failed", "transient") and isinstance(error, Exception):
            outcome = Outcome(outcome.kind, outcome.exit_code, outcome.reason + _logged(name, root))
        return outcome, {}


def _logged(name: str, root: Path) -> str:
    """Keep the traceback of the exception at hand, and say where. A full disk may refuse even that."""
    log = root / "runs" / "logs" / f"{name}.log"
    try:
        atomic_text(log, traceback.format_exc())
    except OSError:
        return ""
    return f" (traceback in {log.relative_to(root)})"


def _status(name: str, outcome: Outcome, counters: Counters, seconds: float) -> str:
    document: dict[str, Any] = {
        "stage": name,
        "kind": outcome.kind,
        "reason": outcome.reason,
        "exit_code": outcome.exit_code,
        "counters": dict(counters),
        "seconds": round(seconds, 3),
    }
    return json.dumps(document, indent=1) + "\n"


def _told(counters: Counters) -> str:
    return " (" + ", ".join(f"{key} {value}" for key, value in counters.items()) + ")" if counters else ""


def _state(label: str, done: int, total: int | None, seconds: float) -> str:
    if not total:
        return f"{label}: {done} in {seconds:.0f} s"
    left = seconds / done * max(0, total - done)  # what was divided on the way is more than was expected
    return f"{label}: {done}/{total} ({done / total:.0%}), about {left:.0f} s left"


def _is_users(error: BaseException) -> bool:
    """True for a mistake that our code found and named; a ValueError out of a library, or of ours by accident, is not.

    Ours on purpose = the innermost frame is in our packages and stands at a `raise` (a file that is not there may be
    found out by `open` as well).
    """
    if isinstance(error, ValidationError):
        return True
    innermost = _innermost(error.__traceback__)
    if not isinstance(error, (ValueError, FileNotFoundError)) or innermost is None:
        return False
    package = str(innermost.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
    operation = innermost.tb_frame.f_code.co_code[innermost.tb_lasti]
    raised = operation == dis.opmap["RAISE_VARARGS"]
    return package in _OURS and (raised or isinstance(error, FileNotFoundError))


def _innermost(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[str | None]:
    """Hold the file lock `path`; yields None when it is ours, else the pid of the holder.

    The kernel frees it when the holder dies, however it dies, so there are no stale locks to clean.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            yield file.read().strip() or "unknown"
            return
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield None


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM raises Terminated in the main thread, so that `finally` and `with` blocks clean up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the first one is being obeyed
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _bound_to_parent(grace: float) -> Iterator[None]:
    """End with the process that started us, even where kill -9 gives it no chance to say so.

    dvc may start a stage through `sh -c`, so two things are watched: the kernel tells of the direct parent's death, and
    a thread looks for the nearest ancestor that is no such shell. A stage that a person typed into a shell is bound to
    nothing and survives a logout under nohup.
    """
    parent = _asker()
    if parent is None:
        yield
        return
    done = threading.Event()
    _signal_at_parents_death(signal.SIGTERM)
    watch = threading.Thread(target=_watch, args=(parent, done, grace), daemon=True, name="parent-watch")
    watch.start()
    try:
        yield
    finally:
        done.set()
        watch.join()  # no signal of its may come once the handler is gone
        _signal_at_parents_death(0)


def _asker() -> psutil.Process | None:
    """The process that asked for this one: above any `sh -c`; None for an interactive shell or init."""
    try:
        for process in psutil.Process().parents():
            if process.pid == 1:
                return None
            if process.name() not in _SHELLS:
                return process
            if not any(re.fullmatch(r"-[a-z]*c", word) for word in process.cmdline()[1:3]):
                return None
    except psutil.Error:
        pass
    return None


def _watch(parent: psutil.Process, done: threading.Event, grace: float) -> None:
    while _lives(parent):
        if done.wait(_POLL_SECONDS):
            return
    os.kill(os.getpid(), signal.SIGTERM)
    if done.wait(grace):
        return
    for child in psutil.Process().children(recursive=True):  # stuck in native code: no handler ran
        with contextlib.suppress(psutil.Error):
            child.kill()
    os._exit(1)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _signal_at_parents_death(number: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
