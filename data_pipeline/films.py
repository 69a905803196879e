"""Films where work is done on them: at hand as a file of this machine, opened in the sandbox that a worker keeps."""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.storage import is_remote, local_copy
from sana_video.video.sandbox import Sandbox


@contextmanager
def at_hand(uri: str, root: Path) -> Iterator[Path]:
    """A local path with the bytes of a film: itself, relative to `root`, or a download that is removed afterwards.

    FileNotFoundError where it is not on this machine; what S3 raises, see `infra.storage`.
    """
    if is_remote(uri):
        with local_copy(uri) as path:
            yield path
        return
    if not (path := root / uri).is_file():
        raise FileNotFoundError(f"{uri}: no such file on {platform.node()}")
    yield path


@functools.cache
def sandbox() -> Sandbox:
    """The one of this process; it ends with it."""
    return Sandbox()
