"""DVC's graph, walked under Prefect: DVC says what there is to do and whether it is done, this says when.

The graph is read from DVC at run time; no edge stands here. DVC is asked once what has changed: a stage that is clean
below clean stages needs no process at all, so a rerun with nothing changed takes seconds. Every other stage is one
`dvc repro -s` in a process group of its own. DVC ends with 255 whatever went wrong, so the outcome is read from the
status file that the stage itself writes.
"""

from __future__ import annotations

import json
import queue
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from flows.processes import TRAINING_GRACE_SECONDS, Processes

if TYPE_CHECKING:
    from flows.params import FlowParams

Outcome = Literal["ran", "cached", "gate_red", "gate_broken", "user", "transient", "failed", "crashed", "skipped"]
DONE: frozenset[str] = frozenset({"ran", "cached"})
EXIT_CODES: dict[str, int] = {"user": 2, "gate_red": 3, "gate_broken": 4}

# what DVC tells a person at a keyboard after each stage
_ADVICE = ("To track the changes", "git add", "To enable auto staging", "dvc config core.autostage", "Use `dvc push`")

Log = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """One stage of DVC's graph: the stages it reads from and the paths it writes, relative to the project."""

    name: str
    upstream: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def kind(self) -> str:
        """`split` of `split@film`."""
        return self.name.partition("@")[0]


@dataclass(frozen=True)
class StageResult:
    """What became of a stage. `reason` is empty for one that is done; `counters` are those the stage reported."""

    stage: str
    outcome: Outcome
    seconds: float = 0.0
    reason: str = ""
    untouched: bool = False  # neither it nor anything above it was run or restored
    counters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.outcome in DONE


class Future(Protocol):
    def add_done_callback(self, fn: Callable[[Any], None]) -> None: ...


def read_graph(root: Path) -> dict[str, Stage]:
    """The stages of the project at `root`, each after all it depends on.

    Raises ValueError when DVC refuses dvc.yaml or params.yaml, with DVC's own words.
    """
    import networkx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            graph = repo.index.graph
            name = partial(_name, root.resolve())
            return {
                name(stage): Stage(
                    name=name(stage),
                    upstream=tuple(sorted(name(above) for above in graph.successors(stage))),
                    outs=tuple(str(out.def_path) for out in stage.outs),
                )
                for stage in networkx.lexicographical_topological_sort(graph.reverse(), key=name)
            }
    except DvcException as refused:
        raise ValueError(f"DVC refuses the graph of {root}: {_one_line(str(refused))}") from refused


def select(graph: Mapping[str, Stage], targets: Iterable[str]) -> dict[str, Stage]:
    """The stages of the kinds (or exact names) in `targets` and all they depend on, in order.

    Raises ValueError when a target names nothing in the graph.
    """
    wanted: set[str] = set()
    for target in targets:
        named = {s.name for s in graph.values() if target in (s.name, s.kind)}
        if not named:
            raise ValueError(f"no stage called {target!r} in dvc.yaml; there are {', '.join(graph)}")
        wanted |= named
    for stage in reversed(list(graph.values())):
        if stage.name in wanted:
            wanted.update(stage.upstream)
    return {name: stage for name, stage in graph.items() if name in wanted}


def changed_stages(root: Path, processes: Processes) -> set[str]:
    """The stages that DVC would not skip, asked in one process. Raises ValueError with DVC's words where it fails."""
    lines: list[str] = []
    code, _ = processes.run([*_dvc(), "status", "--json"], cwd=root, log=lines.append)
    start = next((i for i, line in enumerate(lines) if line.startswith("{")), None)
    if code != 0 or start is None:
        raise ValueError(f"dvc status failed in {root}: {_one_line(' '.join(lines))}")
    answer, _ = json.JSONDecoder().raw_decode("\n".join(lines[start:]))
    return set(answer)


def walk(
    stages: Mapping[str, Stage],
    *,
    parallel: int,
    submit: Callable[[Stage, Sequence[StageResult]], Future],
    results: dict[str, StageResult],
) -> dict[str, StageResult]:
    """Submit each stage once all above it are done, at most `parallel` at once, and return all results.

    `submit` starts a stage and leaves its result in `results` before its future is done; a future that ends without a
    result counts as crashed. What stands below a failure is not submitted, its result says whose failure that was.
    """
    ended: queue.Queue[str] = queue.Queue()
    waiting = dict(stages)
    running: set[str] = set()
    while waiting or running:
        for stage in list(waiting.values()):
            above = [results[name] for name in stage.upstream if name in results]
            if len(above) < len(stage.upstream):
                continue
            failed = next((result for result in above if not result.done), None)
            if failed is not None:
                results[stage.name] = _skipped(stage, failed)
                del waiting[stage.name]
            elif len(running) < parallel:
                running.add(stage.name)
                del waiting[stage.name]
                submit(stage, above).add_done_callback(partial(_put, ended, stage.name))
        if running:
            name = ended.get()
            running.remove(name)
            results.setdefault(name, StageResult(name, "crashed", reason="its task ended without a result"))
    return {name: results[name] for name in stages}


def run_stage(
    root: Path,
    stage: Stage,
    *,
    above: Sequence[StageResult],
    changed: Collection[str],
    flow: FlowParams,
    processes: Processes,
    log: Log,
) -> StageResult:
    """Bring one stage up to date and say what happened; only a `transient` failure is tried again."""
    if stage.name not in changed and all(result.untouched for result in above):
        return StageResult(stage.name, "cached", untouched=True)
    started = time.monotonic()
    for attempt in range(flow.retries + 1):
        result = _repro(root, stage.name, processes, log)
        if result.outcome != "transient" or attempt == flow.retries:
            break
        log(f"{stage.name}: {result.reason}; again in {flow.retry_seconds:g} s ({attempt + 1} of {flow.retries})")
        if processes.stopped_within(flow.retry_seconds):
            break
    return StageResult(stage.name, result.outcome, time.monotonic() - started, result.reason, counters=result.counters)


def status_path(root: Path, stage: str) -> Path:
    return root / "runs" / "status" / f"{stage}.json"


def exit_code(results: Iterable[StageResult]) -> int:
    """0 when all is done, else the code of the first failure: 2 user, 3 red gate, 4 broken gate, 1 the rest."""
    failed = [r for r in results if not r.done and r.outcome != "skipped"]
    return EXIT_CODES.get(failed[0].outcome, 1) if failed else 0


def _put(ended: queue.Queue[str], name: str, future: Any) -> None:
    ended.put(name)


def _name(root: Path, stage: Any) -> str:
    """What `dvc repro` at `root` calls the stage: its name, or the path of the .dvc file it is."""
    return str(stage.name) if stage.is_data_source is False else str(Path(stage.path).relative_to(root))


def _repro(root: Path, name: str, processes: Processes, log: Log) -> StageResult:
    status = status_path(root, name)
    status.unlink(missing_ok=True)
    command = [*_dvc(), "repro", "-s", name]
    try:
        code, tail = processes.run(
            command,
            cwd=root,
            log=lambda line: None if line.strip().startswith(_ADVICE) else log(line),
            grace=TRAINING_GRACE_SECONDS if name.partition("@")[0] == "train" else None,
        )
    except InterruptedError as stopped:
        return StageResult(name, "crashed", reason=str(stopped))
    return _classify(name, code, _read_status(status), tail)


def _classify(name: str, code: int, status: Mapping[str, Any] | None, tail: Sequence[str]) -> StageResult:
    counters: Mapping[str, Any] = (status or {}).get("counters") or {}
    if code == 0:
        return StageResult(name, "ran" if status else "cached", counters=counters)
    if status is None:
        return StageResult(name, "crashed", reason=_dvc_says(tail, code))
    if status["kind"] == "ok":
        return StageResult(name, "failed", reason=f"done, but not recorded: {_dvc_says(tail, code)}", counters=counters)
    return StageResult(name, status["kind"], reason=str(status.get("reason") or ""), counters=counters)


def _read_status(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    status: dict[str, Any] = json.loads(path.read_text())
    return status


def _skipped(stage: Stage, failed: StageResult) -> StageResult:
    reason = failed.reason if failed.outcome == "skipped" else f"skipped: upstream {failed.stage} failed"
    return StageResult(stage.name, "skipped", reason=reason)


def _dvc_says(tail: Sequence[str], code: int) -> str:
    errors = [line.removeprefix("ERROR: ") for line in tail if line.startswith("ERROR: ")]
    return errors[-1] if errors else f"ended with {code} and no status: {tail[-1] if tail else 'no output'}"


def _dvc() -> list[str]:
    return [sys.executable, "-m", "dvc", "--wait-for-lock"]


def _one_line(text: str) -> str:
    return " ".join(text.split())
