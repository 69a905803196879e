"""From green gates to a registered version: package, register as candidate, then champion if nothing speaks against.

Registering is no stage of the graph: it writes tags and pushes, and is idempotent by the digest of the bundle.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import versions, workspace
from flows.graph_run import Run, end, run_graph
from flows.package import require_same_gate
from flows.params import Params
from infra import gates, registry

TARGETS = ("package",)


@dataclass(frozen=True)
class Registered:
    """A version of the registry; `note` says why it is not champion, where it is not."""

    version: registry.Version
    new: bool
    champion: bool
    note: str = ""

    def told(self) -> str:
        called = f"{self.version.name}@{self.version.version}"
        state = "champion" if self.champion else f"candidate ({self.note})"
        return f"{called} {'registered' if self.new else 'was registered already'}, {state}"


@flow(name="release", log_prints=False)
def release(root: str = ".", worktree: bool = False, overrides: tuple[str, ...] = ()) -> State[Any]:
    """Package what the release gate let through and register it; Failed, and nothing registered, otherwise."""
    return run_and_register("release", root, TARGETS, worktree=worktree, overrides=overrides)


def run_and_register(
    name: str, root: str, targets: tuple[str, ...] | None, *, worktree: bool, overrides: tuple[str, ...]
) -> State[Any]:
    """Run `targets` and, if every stage is done, register the package where it was made."""
    home = Path(root).resolve()
    try:
        workspace.prepare_repository(home)
        registry.preflight(home)
        with workspace.place_of(name, home, worktree=worktree, overrides=overrides) as place:
            params = workspace.load_params(place, () if worktree else overrides)
            run = run_graph(name, place, targets, params)
            if run.failures:
                return end(run)
            done = register(place, params)
            if worktree:
                workspace.bring_home(home, place, run)
        return Completed(message=f"{run.told()}; {done.told()}\n{_closing(run, done, params)}", data=0)
    except (ValueError, OSError, RuntimeError, gates.GateRed, gates.GateBroken) as error:
        return workspace.failed(error)


def register(root: Path, params: Params) -> Registered:
    """Register release/ as candidate, and as champion when its release gate is green and everything is committed.

    Raises GateRed or GateBroken for a gate that is not green now, ValueError for a bundle that cannot be registered.
    """
    require_same_gate(root)
    version, new = registry.register(root, root / "release", params.release.name)
    done = settle(root, version, new)
    get_run_logger().info("%s", done.told())
    create_table_artifact(key="registry", table=versions.rows(root, version.name))
    return done


def settle(root: Path, version: registry.Version, new: bool) -> Registered:
    """Make a version champion whose release gate is green, unless it was one before or its commit lacks something."""
    champion, note = True, ""
    if version.uncommitted:
        champion, note = False, f"made with uncommitted changes: {', '.join(version.uncommitted[:5])}"
    elif _was_champion(root, version):  # one that was rolled back stays so
        holder = registry.champion(root, version.name)
        champion = holder is not None and holder.version == version.version
        note = "" if champion else f"champion is {holder.version if holder else 'none'}"
    else:  # a new one, or one that an interrupted run left a candidate
        registry.promote(root, version.name, version.version, reason="the release gate is green")
    return Registered(version, new, champion, note)


def _was_champion(root: Path, version: registry.Version) -> bool:
    entries = registry.journal(root, version.name)
    return any(entry.stage == registry.CHAMPION and entry.commit == version.commit for entry in entries)


def _closing(run: Run, done: Registered, params: Params) -> str:
    """Where things lie, how long each stage took, what to type next."""
    called = f"{done.version.name}@{'champion' if done.champion else done.version.version}"
    took = "\n".join(
        f"  {r.stage:24} {r.seconds:7.1f} s  {r.outcome}" for r in run.results.values() if r.outcome == "ran"
    )
    root = run.root
    return "\n".join(
        [
            "",
            "Time per stage" if took else "Every stage was current: nothing ran.",
            *([took] if took else []),
            "",
            "Where things lie",
            f"  data report        {root / 'reports' / 'data' / 'report.html'}",
            f"  evaluation         {root / 'reports' / 'eval' / 'report.html'}",
            f"  model card         {root / 'release' / 'README.md'}",
            f"  gate pages         {root / 'reports' / 'gates-pages'}",
            f"  curves             {params.tracking.uri}",
            "",
            "What to type next",
            f'  sana-video sample --model {called} --prompt "a meadow under a bright sky" --out sample.mp4',
            "  sana-video release list",
            f"  mlflow ui --backend-store-uri {params.tracking.uri}",
            "  sana-video recipe list",
        ]
    )
