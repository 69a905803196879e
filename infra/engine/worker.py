"""A worker's part, on whichever engine: answer a shard item by item, and end when it holds too much memory.

Workers are ours, and so is what they answer: requests and answers are pickled. Files that nobody vouches for are opened
not by a worker but in the sandbox that it keeps.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import psutil

Answer = tuple[str, Any]  # ("done", result) for each item, then one last: ("ended", None) or (kind of fault, text)

MEMORY = 2 << 30  # bytes that a worker and its children may hold of their own, together
_LOOK_SECONDS = 0.25
_TOO_MUCH = 86  # exit status of a worker that held more


class WorkerDied(Exception):
    """The worker is gone, and whatever it had not yet answered with it."""


class NodeLost(WorkerDied):
    """Its whole machine is: no item's fault."""


def answers(work: str, items: Sequence[Any], common: Mapping[str, Any], memory: int) -> Iterator[Answer]:
    """The answers to a request. Ends children, or the whole process, where they hold more than `memory` bytes."""
    _watch_memory(memory)
    module, _, name = work.partition(":")
    try:
        for result in getattr(importlib.import_module(module), name)(items, **common):
            yield "done", result
    except Exception as error:
        yield _fault(error)
    else:
        yield "ended", None


def _fault(error: Exception) -> Answer:
    """(full, transient, refused, user or failed, one line or a traceback)."""
    from infra.stage import classify
    from infra.storage import Unavailable

    outcome = classify(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "full", outcome.reason
    if isinstance(error, Unavailable):
        return "refused", str(error)
    if outcome.kind == "failed" and isinstance(error, OSError):  # s3fs tells most errors of a server so
        return "transient", f"{type(error).__name__}: {' '.join(str(error).split())}"
    if outcome.kind in ("transient", "user"):
        return outcome.kind, outcome.reason
    return "failed", traceback.format_exc()


@functools.cache
def _watch_memory(memory: int) -> None:
    """Start the watch of this process; once."""
    threading.Thread(target=_watch, args=(memory,), daemon=True, name="memory-watch").start()


def _watch(memory: int) -> None:
    own = psutil.Process()
    while True:
        time.sleep(_LOOK_SECONDS)
        children = own.children(recursive=True)
        held = _held(own.pid)
        if held + sum(_held(child.pid) for child in children) <= memory:
            continue
        what = "it was" if held > memory else "its children were"
        print(f"worker {own.pid}: more than {memory >> 20} MiB, {what} ended", file=sys.stderr, flush=True)
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()
        if held > memory:
            os._exit(_TOO_MUCH)


def _held(pid: int) -> int:
    """Bytes of a process that are nobody else's: pages of files are the kernel's to drop. 0 if it has gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            return next((int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon:")), 0)
    except OSError:
        return 0


def serve(pipe: Connection) -> None:
    """The life of a worker of this machine: answer requests from `pipe` until its other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches everyone; the parent tells its workers
    os.dup2(2, 1)  # what a library prints is no output of the command that asked
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, requests), daemon=True).start()
    while True:
        for answer in answers(*requests.get()):
            pipe.send(answer)


def _listen(pipe: Connection, requests: queue.SimpleQueue[Any]) -> None:
    try:
        while True:
            requests.put(pipe.recv())
    except (EOFError, OSError):  # the parent closed the pipe or died: stop in the middle of whatever runs
        os._exit(0)
    except Exception:  # what a request is made of cannot be imported here
        traceback.print_exc()
        os._exit(1)
