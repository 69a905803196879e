"""Work for the tests of the engine and the sandbox: what a process may do to itself, by what it is given."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from infra.storage import Unavailable, is_remote

Item = tuple[str, int]


def act(items: Sequence[Item], *, folder: str = "", seconds: float = 0.0) -> Iterator[Any]:
    """(10 x the number, what came of it), after doing what the item says."""
    for what, number in items:
        time.sleep(seconds)
        if folder:
            Path(folder).mkdir(exist_ok=True)
            (Path(folder) / f"{number}-{os.getpid()}-{time.monotonic_ns()}").touch()
        if what == "die" or (what == "die once" and len(list(Path(folder).glob(f"{number}-*"))) == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "eat":
            held = b"x" * (400 << 20)
            time.sleep(5)
            del held
        if what == "feed a child":
            eat = "import time; held = b'x' * (400 << 20); time.sleep(5)"
            yield number * 10, subprocess.run([sys.executable, "-c", eat]).returncode
            continue
        if what == "fault":
            raise ConnectionError("the store is away")
        if what == "fault once" and len(list(Path(folder).glob(f"{number}-*"))) == 1:
            raise ConnectionError("the store is away")
        if what == "refused":
            raise Unavailable("s3://films/a.mp4: nothing there")
        if what == "mistake":
            is_remote("ftp://films")
        if what == "full":
            raise OSError(errno.ENOSPC, "no space left: 2 bytes to write, 1 free")
        if what == "wrong":
            raise KeyError("no such thing")
        told = {"pid": os.getpid(), "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"), "node": _node()}
        yield number * 10, told.get(what, what.upper())


def _node() -> str | None:
    """The name of the cluster's node that this runs on."""
    if (ray := sys.modules.get("ray")) is None:
        return None
    name: str = ray.get_runtime_context().get_node_id()
    return name


def parts(items: Sequence[tuple[int, ...]]) -> Iterator[int]:
    """The sum of each item, which kills the worker where a 13 is in it."""
    for numbers in items:
        if 13 in numbers:
            os.kill(os.getpid(), signal.SIGKILL)
        yield sum(numbers)


def die_once(marker: str) -> str:
    """Ends the process that calls it the first time, as a machine that is out of memory does."""
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def deadly_measure(chunks: Sequence[Any], **common: Any) -> Iterator[Any]:
    """The work of the score stage, in a worker that dies at the last clip of the film 1.mp4."""
    from data_pipeline.scoring import measure_chunks

    for chunk in chunks:
        if chunk.uri.endswith("1.mp4") and any(row["shot"] == 1 for row in chunk.clips):
            os.kill(os.getpid(), signal.SIGKILL)
        yield from measure_chunks([chunk], **common)
