"""Where a flow works: in the checkout, so that people see the files, or in a git worktree of its own.

A deployment may not touch the files somebody is editing, so it works in .worktrees/<flow> on what is committed, over
the checkout's DVC cache. It starts from the checkout's dvc.lock (or the branch `releases`), so it runs only what is
not done yet. Lock and outputs come home through the cache, unless the checkout has come to ask for something else.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows import params as parameters
from flows.bridge import Stage, read_graph
from flows.graph_run import Run, end, run_graph
from flows.params import Params
from flows.processes import Processes
from infra.registry import CommandFailed, ensure_repository
from infra.settings import load_yaml, override
from infra.stage import classify
from infra.storage import atomic_text

COUPLING = ("dvc.yaml", "params.yaml", "versions.yaml")
WEIGHTS = "weights"  # where `sana-video weights fetch` puts them


class Busy(RuntimeError):
    """Another run of the same flow works in the worktree."""


def run_in_workspace(
    name: str, root: str, targets: Sequence[str] | None, *, worktree: bool, overrides: Sequence[str]
) -> State[Any]:
    """Run part of the graph where it belongs and end as a flow ends; the user's mistakes are one line of the state."""
    home = Path(root).resolve()
    try:
        prepare_repository(home)
        with place_of(name, home, worktree=worktree, overrides=overrides) as place:
            run = run_graph(name, place, targets, load_params(place, () if worktree else overrides))
            if worktree:
                bring_home(home, place, run)
        return end(run)
    except (ValueError, OSError, RuntimeError) as error:
        return failed(error)


def prepare_repository(root: Path) -> None:
    """A project out of an unpacked archive becomes a git repository, and says so: versions are commits."""
    if ensure_repository(root):
        get_run_logger().warning("%s had no commit: made the first one, with everything in it", root)


def failed(error: Exception) -> State[Any]:
    """The end of a flow that `error` stopped: a known mistake as one line with its exit code, else a traceback."""
    if isinstance(error, (Busy, CommandFailed)):
        return Failed(message=str(error), data=1)
    outcome = classify(error)
    if outcome.kind == "failed":
        get_run_logger().exception("the flow failed")
    return Failed(message=outcome.reason, data=outcome.exit_code)


def load_params(root: Path, overrides: Sequence[str]) -> Params:
    """params.yaml of the project. Raises ValueError on overrides: the stages of a flow read the file themselves."""
    if overrides:
        raise ValueError(f"--set {overrides[0]}: a flow reads params.yaml as it stands; edit it, or add --worktree")
    return parameters.load(root / "params.yaml")


@contextmanager
def place_of(name: str, root: Path, *, worktree: bool, overrides: Sequence[str]) -> Iterator[Path]:
    """Where flow `name` works: the checkout, or its worktree, which is its own as long as the block lasts.

    Raises Busy when another run of the flow is in the worktree. The kernel frees the lock when its holder dies.
    """
    if not worktree:
        yield root
        return
    path = root / ".worktrees" / f"{name}.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Busy(f"{name} is already running in {path.with_suffix('')}, pid {lock.read() or 'unknown'}") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield prepare_worktree(root, name, overrides)


def prepare_worktree(root: Path, name: str, overrides: Sequence[str]) -> Path:
    """The worktree of flow `name` at the checkout's last commit, with its raw data, cache and dvc.lock in reach."""
    place = root / ".worktrees" / name
    commit = _git(root, "rev-parse", "HEAD")
    if (place / ".git").exists():
        _git(place, "checkout", "--quiet", "--detach", "--force", commit)
    else:
        _git(root, "worktree", "prune")
        _git(root, "worktree", "add", "--quiet", "--detach", "--force", str(place), commit)
    if overrides:
        changed = override(load_yaml(place / "params.yaml"), overrides)
        atomic_text(place / "params.yaml", yaml.safe_dump(changed, sort_keys=False))
    atomic_text(place / ".dvc" / "config.local", _local_config(root))
    _seed_lock(root, place)
    _link_sources(root, place)
    return place


def bring_home(root: Path, place: Path, run: Run) -> None:
    """Enter the stages that are done into the checkout's dvc.lock and check their outputs out of the shared cache."""
    log = get_run_logger()
    done = [name for name, result in run.results.items() if result.done]
    if not done:
        return
    differing = [name for name in COUPLING if _bytes(root / name) != _bytes(place / name)]
    if differing:
        log.warning("the results stay in %s: %s of the checkout differs from what ran", place, ", ".join(differing))
        return
    before = _bytes(root / "dvc.lock")
    _merge_lock(root, place, done)
    outs = [out for name in done for out in read_graph(root)[name].outs]
    processes = Processes()
    code, tail = processes.run(
        [sys.executable, "-m", "dvc", "--wait-for-lock", "checkout", *outs], cwd=root, log=log.info
    )
    if code != 0:
        _restore(root / "dvc.lock", before)
        log.warning("the results stay in %s: %s", place, tail[-1] if tail else "dvc checkout failed")


def _merge_lock(root: Path, place: Path, done: Sequence[str]) -> None:
    """Under DVC's own lock, so that a `dvc repro` of somebody's in the checkout loses nothing."""
    from dvc.repo import Repo

    fresh = load_yaml(place / "dvc.lock")["stages"]
    with Repo(str(root), _wait_for_lock=True) as repo, repo.lock:
        there = (root / "dvc.lock").is_file()
        lock: dict[str, Any] = load_yaml(root / "dvc.lock") if there else {"schema": "2.0"}
        lock["stages"] = {**(lock.get("stages") or {}), **{name: fresh[name] for name in done if name in fresh}}
        atomic_text(root / "dvc.lock", yaml.safe_dump(lock, sort_keys=False))


def _local_config(root: Path) -> str:
    """The checkout's cache and its local remotes by absolute path, for a project that lies elsewhere."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        lines = ["[cache]", f"    dir = {repo.cache.local_cache_dir}"]
        for name, remote in repo.config["remote"].items():
            url = str(remote["url"])
            if "://" not in url:
                lines += [f"['remote \"{name}\"']", f"    url = {(root / '.dvc' / url).resolve()}"]
    return "\n".join(lines) + "\n"


def _seed_lock(root: Path, place: Path) -> None:
    if (root / "dvc.lock").is_file():
        shutil.copyfile(root / "dvc.lock", place / "dvc.lock")
        return
    released = subprocess.run(["git", "show", "releases:dvc.lock"], cwd=root, capture_output=True, text=True)
    if released.returncode == 0:
        atomic_text(place / "dvc.lock", released.stdout)


def _link_sources(root: Path, place: Path) -> None:
    """What the stages read and none of them makes (raw films, weights) is linked where git does not carry it.

    All weights are, for not all are in the graph: a stage finds those of its text encoder by `text.folder`.
    """
    text = load_yaml(place / "params.yaml").get("text") or {}
    told = {Path(text["folder"])} if text.get("folder") else set()
    weights = {path.relative_to(root) for path in (root / WEIGHTS).glob("[!.]*")}
    for source in _sources(place, read_graph(place)) | told | weights:
        here, there = place / source, root / source
        if ".." not in source.parts and not here.exists() and there.exists():
            here.parent.mkdir(parents=True, exist_ok=True)
            here.unlink(missing_ok=True)
            here.symlink_to(there, target_is_directory=there.is_dir())


def _sources(root: Path, graph: Mapping[str, Stage]) -> set[Path]:
    from dvc.repo import Repo

    made = [Path(out) for stage in graph.values() for out in stage.outs]
    with Repo(str(root)) as repo:
        read = {Path(str(dep.def_path)) for stage in repo.index.stages for dep in stage.deps if dep.protocol == "local"}
    return {
        path
        for path in read
        if not path.is_absolute() and not any(path == out or path in out.parents or out in path.parents for out in made)
    }


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
    if done.returncode != 0:
        raise CommandFailed(f"git {words[0]} in {root}: {' '.join(done.stderr.split())}")
    return done.stdout.strip()


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _restore(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    else:
        atomic_text(path, content.decode())
