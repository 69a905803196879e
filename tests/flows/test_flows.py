"""Flows under a real Prefect (ephemeral server, SQLite) over a small real DVC project."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BIN = Path(sys.executable).parent
SHIPPED = Path(__file__).resolve().parents[2]
FAILING = "clips: ExpectTableRowCountToBeBetween() min_value 40: observed 3"
RED = {
    "boundary": "data",
    "verdict": "red",
    "problems": [],
    "tables": {},
    "params": "",
    "context": {},
    "sections": {
        "clips": {
            "rows": 3,
            "rules": [
                {
                    "rule": "ExpectTableRowCountToBeBetween",
                    "column": None,
                    "limits": {"min_value": 40},
                    "severity": "critical",
                    "ok": False,
                    "observed": 3,
                    "unexpected_count": None,
                    "examples": [],
                }
            ],
        }
    },
}


def orders(root: Path, **stages: dict[str, Any]) -> None:
    (root / "orders.json").write_text(json.dumps(stages))


@pytest.fixture
def curate() -> Callable[..., Any]:
    from flows.curate import curate

    return lambda root, **arguments: curate(root=str(root), return_state=True, **arguments)


def test_a_flow_runs_its_part_of_the_graph_then_nothing(small_project: Path, curate: Callable[..., Any]) -> None:
    state = curate(small_project)
    assert state.is_completed(), state.message
    assert "6 ran" in state.message
    assert not (small_project / "out" / "d.txt").exists()
    assert "6 cached" in curate(small_project).message


def test_it_runs_every_data_stage_that_waits_for_no_training(tmp_path: Path) -> None:
    from flows.bridge import read_graph, select
    from flows.curate import TARGETS

    for name in ("dvc.yaml", "params.yaml", "versions.yaml", ".dvcignore"):
        shutil.copy(SHIPPED / name, tmp_path / name)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    graph = read_graph(tmp_path)
    cut = {"shards", "gate_pixels", "encode", "gate_shards", "train", "gate_train", "evaluate", "gate_eval"}
    cut |= {"gate_release", "package"}  # what the other flows run
    assert set(select(graph, TARGETS)) == {name for name, stage in graph.items() if stage.kind not in cut}


def test_a_red_gate_ends_the_flow_with_the_failing_expectation_named(
    small_project: Path, curate: Callable[..., Any]
) -> None:
    from flows.run import _code

    orders(small_project, gate_data={"kind": "gate_red", "reason": "red", "text": json.dumps(RED)})
    state = curate(small_project)
    assert state.is_failed()
    assert FAILING in state.message
    assert "2 skipped" in state.message
    assert _code(state) == 3


def test_a_missing_batch_folder_is_one_line(small_project: Path, curate: Callable[..., Any]) -> None:
    from flows.run import _code

    (small_project / "raw").rename(small_project / "elsewhere")
    state = curate(small_project)
    assert "data.batches.raw.path: raw is not there" in state.message
    assert _code(state) == 2


def test_overrides_in_the_checkout_are_refused(small_project: Path, curate: Callable[..., Any]) -> None:
    state = curate(small_project, overrides=("train.seed=2",))
    assert state.is_failed()
    assert "--worktree" in state.message


@pytest.mark.slow
def test_a_worktree_works_on_what_is_committed_and_brings_it_home(
    small_project: Path, curate: Callable[..., Any]
) -> None:
    gemma = small_project / "weights" / "gemma"  # fetched, ignored by git, named by no stage of the graph
    gemma.mkdir(parents=True)
    (gemma / "config.json").write_text("{}")
    state = curate(small_project, worktree=True)
    assert state.is_completed(), state.message
    place = small_project / ".worktrees" / "curate"
    assert (place / "raw").is_symlink()
    assert (place / "weights" / "gemma" / "config.json").read_text() == "{}"
    report = (small_project / "out" / "report.txt").read_text()
    assert report == (place / "out" / "report.txt").read_text()
    assert not (small_project / "runs" / "status").exists()  # nothing ran in the checkout
    assert "6 cached" in curate(small_project).message

    params = small_project / "params.yaml"
    params.write_text(params.read_text().replace("seed: 1\n", "seed: 3\n"))
    lock = (small_project / "dvc.lock").read_bytes()
    assert curate(small_project, worktree=True, overrides=("train.seed=2",)).is_completed()
    assert (small_project / "dvc.lock").read_bytes() == lock  # the checkout asks for something else


def test_a_worktree_in_use_is_refused_in_one_line(small_project: Path, curate: Callable[..., Any]) -> None:
    import fcntl

    from flows.run import _code

    (small_project / ".worktrees").mkdir()
    with (small_project / ".worktrees" / "curate.lock").open("w") as lock:
        lock.write("4321")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = curate(small_project, worktree=True)
    assert state.message == f"curate is already running in {small_project}/.worktrees/curate, pid 4321"
    assert _code(state) == 1
    assert not (small_project / ".worktrees" / "curate").exists()


def test_a_release_that_cannot_be_registered_ends_before_anything_runs(small_project: Path) -> None:
    from flows.journey import journey

    state = journey(root=str(small_project), return_state=True)
    assert "no default DVC remote" in str(state.message)
    assert not (small_project / "runs").exists()


def test_git_that_refuses_is_one_line(small_project: Path, curate: Callable[..., Any]) -> None:
    shutil.rmtree(small_project / ".git")
    (small_project / ".git").write_text("gitdir: nowhere\n")
    state = curate(small_project)
    assert "fatal: not a git repository" in state.message
    assert "\n" not in state.message


@pytest.mark.slow
def test_an_interrupt_ends_every_process(small_project: Path) -> None:
    orders(small_project, **{"a@x": {"sleep": 120}})
    command = [str(BIN / "sana-video"), "flow", "run", "curate"]
    running = subprocess.Popen(command, cwd=small_project, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    pid = small_project / "runs" / "pid"
    wait_for(pid.exists, 90)
    running.send_signal(signal.SIGINT)
    running.wait(60)
    assert running.returncode != 0
    wait_for(lambda: not alive(int(pid.read_text())), 20)


@pytest.mark.slow
def test_a_scheduled_run_fires(small_project: Path, tmp_path: Path) -> None:
    """The very deployment that `flow serve` makes, with an interval of seconds in the place of its cron line."""
    code = (
        "import sys, datetime, pathlib\n"
        "from prefect import serve\n"
        "from prefect.schedules import Interval\n"
        "from flows.curate import curate\n"
        "from flows.serve import deployment, server\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "with server(root):\n"
        "    serve(deployment(curate, root, Interval(datetime.timedelta(seconds=5))), limit=1)\n"
    )
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect"), "DO_NOT_TRACK": "true"}
    environment["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    with (tmp_path / "said").open("w") as said:
        running = subprocess.Popen(
            [sys.executable, "-c", code, str(small_project)], env=environment, stdout=said, stderr=said, cwd=tmp_path
        )
    try:
        wait_for((small_project / "out" / "report.txt").exists, 240)
    finally:
        running.send_signal(signal.SIGINT)
        try:
            running.wait(60)
        except subprocess.TimeoutExpired:
            running.kill()
        print((tmp_path / "said").read_text()[-4000:])
    assert (small_project / ".worktrees" / "curate" / "out" / "report.txt").exists()


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
