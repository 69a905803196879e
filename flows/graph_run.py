"""A part of the graph under a Prefect flow: one task a stage, the tables people look at, and how the flow ends.

Runs inside a flow. DVC decides what is current, so Prefect's own cache stays off, and Prefect retries nothing: the
bridge retries what is transient. A stage that is current appears as a task named Cached, so a run shows all.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows import bridge
from flows.bridge import Future, Stage, StageResult
from flows.params import Params
from flows.processes import Processes
from infra import gates
from infra.settings import share_cores
from infra.storage import is_remote


@dataclass(frozen=True)
class Run:
    """A walk over part of the graph: the results in order, and the gates among the stages with their verdict files."""

    name: str
    root: Path
    results: Mapping[str, StageResult]
    verdicts: Mapping[str, Path]
    seconds: float

    @property
    def failures(self) -> list[StageResult]:
        return [r for r in self.results.values() if not r.done and r.outcome != "skipped"]

    @property
    def exit_code(self) -> int:
        return bridge.exit_code(self.results.values())

    def told(self) -> str:
        """One line: what was done, or each failure with its reason and how much was skipped for it."""
        outcomes = [r.outcome for r in self.results.values()]
        counts = ", ".join(f"{outcomes.count(o)} {o.replace('_', ' ')}" for o in dict.fromkeys(outcomes))
        if not self.failures:
            return f"{self.name}: {counts} in {self.seconds:.0f} s"
        reasons = "; ".join(f"{r.stage} {r.outcome.replace('_', ' ')}: {self._why(r)}" for r in self.failures)
        return f"{self.name}: {reasons} ({counts})"

    def _why(self, result: StageResult) -> str:
        """The reason; for a gate that failed, every failing expectation of its verdict."""
        path = self.verdicts.get(result.stage)
        if result.outcome != "gate_red" or path is None or not path.is_file():
            return result.reason
        return str(_verdict_row(path)["failing"]) or result.reason


def run_graph(name: str, root: Path, targets: Sequence[str] | None, params: Params) -> Run:
    """Bring `targets` (None: every stage) and all they need up to date, at most `flow.parallel` stages at once.

    Raises ValueError for a graph that DVC refuses and FileNotFoundError for a batch folder that is not there. Whatever
    interrupts it ends every child process first.
    """
    _require_batches(root, params)
    started = time.monotonic()
    graph = bridge.read_graph(root)
    stages = bridge.select(graph, graph if targets is None else targets)
    processes = Processes()
    try:
        results = _walk(root, stages, params, processes)
    except BaseException:
        processes.stop()
        raise
    run = Run(name, root, results, _verdicts(root, stages.values()), time.monotonic() - started)
    _publish(run)
    return run


def end(run: Run) -> State[Any]:
    """The state a flow returns: its failures stand in the message, without a traceback."""
    if run.failures:
        return Failed(message=run.told(), data=run.exit_code)
    return Completed(message=run.told(), data=0)


def _walk(root: Path, stages: Mapping[str, Stage], params: Params, processes: Processes) -> dict[str, StageResult]:
    changed = bridge.changed_stages(root, processes)
    share_cores(params.flow.parallel)
    results: dict[str, StageResult] = {}
    above_of: dict[str, Sequence[StageResult]] = {}
    futures: dict[str, Any] = {}

    @task(name="stage", task_run_name="{name}", cache_policy=NO_CACHE, retries=0)
    def run_one(name: str) -> State[Any]:
        log = get_run_logger()
        result = bridge.run_stage(
            root,
            stages[name],
            above=above_of[name],
            changed=changed,
            flow=params.flow,
            processes=processes,
            log=lambda line: log.info("%s", line),
        )
        results[name] = result
        return _task_state(result)

    def submit(stage: Stage, above: Sequence[StageResult]) -> Future:
        above_of[stage.name] = above
        futures[stage.name] = run_one.submit(
            stage.name, return_state=False, wait_for=[futures[u] for u in stage.upstream]
        )
        future: Future = futures[stage.name]
        return future

    return bridge.walk(stages, parallel=params.flow.parallel, submit=submit, results=results)


def _task_state(result: StageResult) -> State[Any]:
    if result.done:
        return Completed(name="Cached" if result.outcome == "cached" else "Completed")
    return Failed(name=result.outcome.replace("_", " ").capitalize(), message=result.reason)


def _require_batches(root: Path, params: Params) -> None:
    for name, batch in params.data.batches.items():
        if not is_remote(batch.path) and not (root / batch.path).exists():
            raise FileNotFoundError(
                f"data.batches.{name}.path: {batch.path} is not there; put videos in it, name another folder, "
                "or fetch the demo's with `sana-video demo`"
            )


def _verdicts(root: Path, stages: Iterable[Stage]) -> dict[str, Path]:
    """The verdict file of each stage that writes one."""
    return {s.name: root / out for s in stages for out in s.outs if Path(out).parent == Path("reports/gates")}


def _publish(run: Run) -> None:
    """The artifacts: what each stage did, what each gate found, where the clips went, and where to look."""
    create_table_artifact(key=f"{run.name}-stages", table=stage_rows(run.results.values()))
    verdicts = [_verdict_row(path) for path in run.verdicts.values() if path.is_file()]
    if verdicts:
        create_table_artifact(key=f"{run.name}-gates", table=verdicts)
    funnel = run.root / "reports" / "data" / "funnel.csv"
    if funnel.is_file():
        with funnel.open(newline="") as file:
            create_table_artifact(key="funnel", table=list(csv.DictReader(file)))
    create_markdown_artifact(key=f"{run.name}-summary", markdown=_summary(run))


def stage_rows(results: Iterable[StageResult]) -> list[dict[str, Any]]:
    return [
        {"stage": r.stage, "outcome": r.outcome.replace("_", " "), "seconds": round(r.seconds, 1), "reason": r.reason}
        for r in results
    ]


def _verdict_row(path: Path) -> dict[str, Any]:
    """A verdict as a row; one that cannot be read is shown as broken, as its readers will find it."""
    try:
        verdict = gates.read(path)
    except gates.GateBroken as error:
        return {"gate": path.stem, "verdict": "broken", "failing": str(error)}
    failing = "; ".join([*verdict.problems, *verdict.failures()])
    return {"gate": path.stem, "verdict": verdict.verdict, "failing": failing}


def _summary(run: Run) -> str:
    reports = [
        ("Data", run.root / "reports" / "data" / "report.html"),
        ("Evaluation", run.root / "reports" / "eval" / "report.html"),
        ("Model card", run.root / "release" / "README.md"),
    ]
    lines = [f"# {run.name}", "", _escape(run.told()), ""]
    lines += [f"- [{title}]({path.as_uri()})" for title, path in reports if path.is_file()]
    lines += ["- Registry: `sana-video release list`", "- Curves: `mlflow ui --backend-store-uri sqlite:///mlflow.db`"]
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    """Reasons may quote file names and captions: shown as text, never as markup."""
    return json.dumps(text, ensure_ascii=False)[1:-1].translate({ord(c): f"\\{c}" for c in "<>[]`*_|"})
