"""`train run`: open the gates, start as many processes as params.yaml asks for, and train one stage.

The stage (lock, status, exit code) is the process that was asked for it. With `train.launch.processes` above one it
starts `accelerate launch` over this command and waits; the ranks do the work. Ranks import neither Prefect nor DVC,
and MLflow only where a curve is written, which the loop does on process 0 alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flows.params import Params
from flows.processes import RANKS_GRACE_SECONDS, TRAINER_GRACE_SECONDS, Processes
from infra import gates
from infra.stage import Progress, run
from infra.storage import atomic_write

if TYPE_CHECKING:
    from infra.tracking import RunLog
    from sana_video.train.config import StageParams
    from sana_video.train.loop import Paths

T = TypeVar("T")

# accelerate's name for one process per device is --multi_gpu; where there is no GPU the same launcher starts CPU ranks.
# Precision and sharding are the stage's own (sana_video/train/parallelize.py); port 0 takes a free one.
ONE_HOST = (
    "--multi_gpu",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
    "--main_process_port",
    "0",
)


def train_stage(name: str, params: Params, root: Path, arguments: list[str]) -> int:
    """Train `name` as the stage `train@name` and return its exit code.

    `arguments` are this command's own, to repeat for each rank. Raises ValueError for a stage that params.yaml lacks.
    """
    stage = params.train.stage(name)

    def work(progress: Progress) -> Mapping[str, float | int | str]:
        open_gates(stage, root)
        if params.train.launch.processes == 1:
            train_here(name, params, root, progress)
        else:
            _launch(params.train.launch.processes, arguments, root)
        _show_curve(name, root)
        return _counters(root / "models" / name, params.train.launch.processes)

    return run(f"train@{name}", work, root=root, grace=TRAINER_GRACE_SECONDS)


def open_gates(stage: StageParams, root: Path) -> None:
    """GateRed or GateBroken unless the verdicts on the view and on what comes before are green for what lies there."""
    for verdict in dict.fromkeys((f"shards-{stage.view}", stage.after)):
        path = root / "reports" / "gates" / f"{verdict}.json"
        gates.require(path, tables={name: root / name for name in judged(verdict)})


def judged(verdict: str) -> list[str]:
    """The folders that a verdict of this name is about."""
    kind, _, name = verdict.partition("-")
    return [f"{folder}/{name}" for prefix, folder in (("shards", "data/shards"), ("train", "models")) if kind == prefix]


def train_here(name: str, params: Params, root: Path, progress: Progress) -> dict[str, Any]:
    """Train in this process: the only one, or one rank of several."""
    from sana_video.ops.select import describe
    from sana_video.train.loop import Paths, train

    stage = params.train.stage(name)
    paths = Paths(
        view=root / "data" / "shards" / stage.view,
        init=root / stage.init,
        out=root / "models" / name,
        runs=root / "runs",
    )

    def shown(iterable: Iterable[T], total: int, label: str) -> Iterable[T]:
        progress.say(f"operations run as {describe()}")  # here, since the first process alone shows anything
        return progress.track(iterable, total, label)

    with _Curves(name, params, root, paths) as curves:
        return train(
            name,
            params.train,
            paths,
            model_preset=params.model.preset,
            autoencoder_preset=params.autoencoder.preset,
            stand_ins=_stand_ins(stage, params),
            tracker=curves,
            track=shown,
        )


class _Curves:
    """A tracker that opens its MLflow run at the first point, so that a process that writes none never imports it."""

    def __init__(self, name: str, params: Params, root: Path, paths: Paths) -> None:
        self._name, self._params, self._root, self._paths = name, params, root, paths
        self._stack = ExitStack()
        self._log: RunLog | None = None

    def __enter__(self) -> _Curves:
        self._stack.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._log is not None and (self._paths.out / "curve.csv").is_file() and error[0] is None:
            self._log.artifact(self._paths.out / "curve.csv")
        self._stack.__exit__(*error)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if self._log is None:
            from infra.tracking import open_tracker

            tracker = open_tracker(self._params.tracking, self._root)
            described = self._params.train.stage(self._name).model_dump(mode="json")
            tags = {"stage": f"train@{self._name}", "model": self._params.model.preset}
            self._log = self._stack.enter_context(tracker.run(self._name, described, tags))
        self._log.metrics(values, step)


def _launch(processes: int, arguments: list[str], root: Path) -> None:
    """Start the ranks and wait for all of them. RuntimeError with the last thing they said when one fails."""
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", *ONE_HOST, "--num_processes", str(processes)]
    command = [*accelerate, "--module", "flows.cli", *arguments, "--launched"]
    code, tail = Processes(RANKS_GRACE_SECONDS).run(command, cwd=root, log=lambda line: print(line, file=sys.stderr))
    if code != 0:
        told = next((line for line in reversed(tail) if "Error" in line), tail[-1] if tail else "no output")
        raise RuntimeError(f"training on {processes} processes ended with {code}: {told.strip()}")


def _stand_ins(stage: StageParams, params: Params) -> list[str]:
    from sana_video.text import MiniLmTextEncoder

    reads_text = stage.objective != "autoencoder"
    return [MiniLmTextEncoder.name] if reads_text and params.text.encoder == "minilm" else []


def _show_curve(name: str, root: Path) -> None:
    """The curve as an output of its own, where `dvc plots` looks for it."""
    atomic_write(root / "reports" / "train" / f"{name}.csv", (root / "models" / name / "curve.csv").read_bytes())


def _counters(folder: Path, processes: int) -> dict[str, float | int | str]:
    summary = json.loads((folder / "summary.json").read_text())
    shown = ("steps", "parameters", "heldout_start", "heldout_end")
    return {"processes": processes, **{name: summary[name] for name in shown}}


def plan(params: Params, root: Path) -> list[dict[str, Any]]:
    """Each training stage: what it starts from and reads, its steps, the runs that lie there, whether it is done."""
    rows = []
    for name, stage in params.train.stages.items():
        summary = root / "models" / name / "summary.json"
        done = json.loads(summary.read_text()) if summary.is_file() else {}
        runs = sorted(path.name.rsplit("-", 1)[1] for path in (root / "runs").glob(f"{name}-*") if path.is_dir())
        rows.append(
            {
                "stage": name,
                "objective": stage.objective,
                "init": stage.init,
                "view": stage.view,
                "after": stage.after,
                "steps": stage.steps,
                "fingerprint": done.get("fingerprint") or ", ".join(runs),
                "done": done.get("steps") == stage.steps,
            }
        )
    return rows
