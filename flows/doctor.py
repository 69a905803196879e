"""`doctor` and `status`: what this machine has, and where the project stands. They look, and change nothing."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch",
    "prefect",
    "dvc",
    "great_expectations",
    "mlflow",
    "av",
    "opencv-python-headless",
    "pyarrow",
    "transformers",
)
DISK_BYTES = 5 * 2**30  # the demo's films, caches and checkpoints, with room


@dataclass(frozen=True)
class Check:
    """One thing looked at. What is not `ok` keeps something from working; `found` says what to do about it."""

    name: str
    ok: bool
    found: str


def examine(root: Path) -> list[dict[str, Any]]:
    """Every check, as plain rows."""
    return [
        asdict(check)
        for look in (_python, _libraries, _device, _engine, _disk, _git, _dvc, _params, _prefect)
        for check in look(root)
    ]


def _python(root: Path) -> Iterator[Check]:
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Check("python", fits, f"{platform.python_version()}{'' if fits else ': 3.11 to 3.13 is wanted'}")


def _libraries(root: Path) -> Iterator[Check]:
    for name in LIBRARIES:
        try:
            yield Check(name, True, version(name))
        except PackageNotFoundError:
            yield Check(name, False, "not installed; `make demo` or `make test` brings it")


def _device(root: Path) -> Iterator[Check]:
    import torch

    from sana_video.ops.select import describe

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    yield Check("device", True, f"GPU: {device}, {torch.get_num_threads()} CPU threads")
    yield Check("operations", True, describe())


def _engine(root: Path) -> Iterator[Check]:
    from infra.engine import describe

    yield Check("engine", *describe())


def _disk(root: Path) -> Iterator[Check]:
    free = shutil.disk_usage(root).free
    yield Check("disk", free >= DISK_BYTES, f"{free / 2**30:.1f} GiB free; {DISK_BYTES / 2**30:.0f} GiB are wanted")


def _git(root: Path) -> Iterator[Check]:
    from infra.registry import uncommitted

    if shutil.which("git") is None:
        yield Check("git", False, "not installed")
    elif not (root / ".git").exists():
        yield Check("git", True, "no repository yet; the first flow makes one")
    else:
        changed = uncommitted(root)
        yield Check("git", True, f"{len(changed)} uncommitted files: no champion from these" if changed else "clean")


def _dvc(root: Path) -> Iterator[Check]:
    from flows.bridge import read_graph

    yield _tried(
        "dvc",
        lambda: f"{len(read_graph(root))} stages, dvc.lock {'there' if (root / 'dvc.lock').is_file() else 'not yet'}",
    )


def _params(root: Path) -> Iterator[Check]:
    from flows import params

    yield _tried("params.yaml", lambda: f"valid, {len(params.load(root / 'params.yaml').train.stages)} training stages")


def _prefect(root: Path) -> Iterator[Check]:
    """A server answers, or one can be started; in a process of its own, for Prefect keeps the settings it read."""
    code = "from prefect import get_client; c = get_client(sync_client=True); c.hello(); print(c.api_url)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    last = (done.stdout or done.stderr).strip().splitlines()[-1:] or ["no answer"]
    yield Check("prefect server", done.returncode == 0, f"{'answers at ' if done.returncode == 0 else ''}{last[0]}")


def _tried(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except (ValueError, OSError) as error:
        return Check(name, False, str(error))


def status(root: Path) -> list[dict[str, Any]]:
    """Each DVC stage: current or changed, and how its last run ended. ValueError when DVC cannot say."""
    from flows.bridge import changed_stages, read_graph, status_path
    from flows.processes import Processes

    changed = changed_stages(root, Processes())
    rows = []
    for name in read_graph(root):
        path = status_path(root, name)
        last = json.loads(path.read_text()) if path.is_file() else {}
        rows.append(
            {
                "stage": name,
                "state": "changed" if name in changed else "current",
                "last": last.get("kind", ""),
                "seconds": last.get("seconds", ""),
                "reason": last.get("reason", "") if last.get("kind", "ok") != "ok" else "",
            }
        )
    return rows
