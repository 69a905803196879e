"""DVC's graph under the bridge: what runs, what is cached, what a failure stops. Real DVC over a small project."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import bridge
from flows.bridge import StageResult
from flows.processes import RANKS_GRACE_SECONDS, TRAINING_GRACE_SECONDS, Processes


def orders(root: Path, **stages: dict[str, Any]) -> None:
    (root / "orders.json").write_text(json.dumps(stages))


def go(root: Path, *targets: str, processes: Processes | None = None, retries: int = 0) -> dict[str, StageResult]:
    graph = bridge.read_graph(root)
    stages = bridge.select(graph, targets or graph)
    processes = processes or Processes(grace=2.0)
    flow: Any = SimpleNamespace(parallel=2, retries=retries, retry_seconds=0.01)
    changed = bridge.changed_stages(root, processes)
    results: dict[str, StageResult] = {}
    with ThreadPoolExecutor(4) as pool:

        def submit(stage: bridge.Stage, above: Any) -> Future[None]:
            def work() -> None:
                results[stage.name] = bridge.run_stage(
                    root, stage, above=above, changed=changed, flow=flow, processes=processes, log=print
                )

            return pool.submit(work)

        return bridge.walk(stages, parallel=flow.parallel, submit=submit, results=results)


def outcomes(results: dict[str, StageResult]) -> dict[str, str]:
    return {name: result.outcome for name, result in results.items()}


def test_the_graph_is_dvcs_own(small_project: Path) -> None:
    graph = bridge.read_graph(small_project)
    assert graph["b"].upstream == ("a@x", "a@y")
    assert graph["data_report"].upstream == ("b", "gate_data")
    assert graph["gate_data"].outs == ("reports/gates/data.json",)
    order = list(graph)
    assert all(order.index(above) < order.index(name) for name, stage in graph.items() for above in stage.upstream)


def test_select_takes_kinds_and_what_they_need(small_project: Path) -> None:
    graph = bridge.read_graph(small_project)
    assert set(bridge.select(graph, ["a"])) == {"a@x", "a@y"}
    assert set(bridge.select(graph, ["gate_data"])) == {"a@x", "a@y", "b", "gate_data"}
    with pytest.raises(ValueError, match="no stage called 'nosuch'"):
        bridge.select(graph, ["nosuch"])


def test_a_graph_that_dvc_refuses_is_one_line(small_project: Path) -> None:
    (small_project / "dvc.yaml").write_text("stages:\n  a:\n    cmd: 'true'\n    outz: [x]\n")
    with pytest.raises(ValueError, match="DVC refuses the graph") as caught:
        bridge.read_graph(small_project)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_first_run_runs_all_and_a_rerun_runs_nothing_and_starts_no_stage(small_project: Path) -> None:
    first = go(small_project)
    assert set(outcomes(first).values()) == {"ran"}
    assert first["b"].counters == {"times": 1}
    again = go(small_project)
    assert all(result.outcome == "cached" and result.untouched for result in again.values())


def test_a_change_runs_what_it_reaches_and_equal_bytes_stop_the_wave(small_project: Path) -> None:
    orders(small_project, **{name: {"text": "the same"} for name in ("a@x", "a@y", "d")})
    go(small_project)
    params = small_project / "params.yaml"
    params.write_text(params.read_text().replace("seed: 1\n", "seed: 2\n"))
    again = outcomes(go(small_project))
    assert {name for name, outcome in again.items() if outcome == "ran"} == {"a@x", "a@y"}
    assert {outcome for name, outcome in again.items() if name[0] != "a"} == {"cached"}


@pytest.mark.slow
def test_going_back_restores_from_the_cache_and_all_below_follows(small_project: Path) -> None:
    """The old outputs come from DVC's run cache; a stage below that was clean before must not be taken for current."""
    raw = small_project / "raw" / "raw.txt"
    go(small_project, "b")
    first = (small_project / "out" / "b.txt").read_text()
    raw.write_text("other ")
    go(small_project, "b")
    assert (small_project / "out" / "b.txt").read_text() != first
    raw.write_text("raw ")
    assert set(outcomes(go(small_project, "b")).values()) == {"cached"}
    assert (small_project / "out" / "b.txt").read_text() == first


def test_a_red_gate_stops_what_stands_below_and_nothing_else(small_project: Path) -> None:
    orders(small_project, gate_data={"kind": "gate_red", "reason": "min_kept: 3 of 40"})
    results = go(small_project)
    assert results["gate_data"].outcome == "gate_red"
    assert results["gate_data"].reason == "min_kept: 3 of 40"
    assert results["data_report"] == StageResult("data_report", "skipped", reason="skipped: upstream gate_data failed")
    assert results["d"].outcome == "ran"
    assert bridge.exit_code(results.values()) == 3
    orders(small_project)
    assert outcomes(go(small_project))["data_report"] == "ran"


def test_kinds_are_the_stages_own_and_the_first_failure_gives_the_exit_code(small_project: Path) -> None:
    kinds = {"a@x": "gate_broken", "a@y": "user", "d": "failed"}
    orders(small_project, **{name: {"kind": kind, "reason": "because"} for name, kind in kinds.items()})
    results = go(small_project, "a", "d")
    assert outcomes(results) == kinds
    assert {result.reason for result in results.values()} == {"because"}
    codes = [bridge.exit_code([results[name]]) for name in ("a@x", "a@y", "d")]
    assert codes == [4, 2, 1]


def test_only_what_is_transient_is_tried_again(small_project: Path) -> None:
    orders(small_project, d={"kind": "transient", "times": 2})
    assert go(small_project, "d", retries=2)["d"].outcome == "ran"
    assert (small_project / "runs" / "count" / "d").read_text() == "3"
    orders(small_project, b={"kind": "failed"})
    assert go(small_project, "b", retries=2)["b"].outcome == "failed"
    assert (small_project / "runs" / "count" / "b").read_text() == "1"


def test_a_stage_that_dies_without_a_word_has_crashed(small_project: Path) -> None:
    orders(small_project, d={"kind": "silent"})
    result = go(small_project, "d")["d"]
    assert result.outcome == "crashed"
    assert "d" in result.reason


def test_a_missing_source_is_told_in_dvcs_words(small_project: Path) -> None:
    shutil.rmtree(small_project / "raw")
    results = go(small_project, "d")
    assert results["d"].outcome == "crashed"
    assert "raw" in results["d"].reason


def test_a_walk_waits_for_dvcs_lock(small_project: Path) -> None:
    """Somebody's own `dvc` in the checkout is no mistake of the flow's user."""
    from dvc.repo import Repo

    with Repo(str(small_project)) as repo:
        repo.lock.lock()
        threading.Timer(5.0, repo.lock.unlock).start()
        assert "d" in bridge.changed_stages(small_project, Processes())


def test_stopping_ends_the_wait_before_a_retry(small_project: Path) -> None:
    orders(small_project, d={"kind": "transient"})
    processes, said = Processes(grace=2.0), threading.Event()
    threading.Thread(target=_when(said.is_set, processes.stop), daemon=True).start()
    flow: Any = SimpleNamespace(retries=1, retry_seconds=300.0)

    def log(line: str) -> None:
        if "again in" in line:
            said.set()

    stage = bridge.Stage("d", (), ())
    start = time.monotonic()
    result = bridge.run_stage(small_project, stage, above=[], changed={"d"}, flow=flow, processes=processes, log=log)
    assert (result.outcome, said.is_set()) == ("transient", True)
    assert time.monotonic() - start < 60


def test_a_training_stage_gets_longer_than_its_ranks_to_end(small_project: Path) -> None:
    granted: dict[str, float | None] = {}

    class Noted(Processes):
        def run(self, command: Any, **rest: Any) -> tuple[int, list[str]]:
            granted[command[-1]] = rest.get("grace")
            return super().run(["true"], **rest)

    flow: Any = SimpleNamespace(retries=0, retry_seconds=0.0)
    for name in ("train@t2i", "d"):
        stage = bridge.Stage(name, (), ())
        bridge.run_stage(small_project, stage, above=[], changed={name}, flow=flow, processes=Noted(), log=print)
    assert granted == {"train@t2i": TRAINING_GRACE_SECONDS, "d": None}
    assert TRAINING_GRACE_SECONDS >= RANKS_GRACE_SECONDS + 15


def test_a_command_may_have_a_grace_of_its_own(tmp_path: Path) -> None:
    code = (
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n    time.sleep(1.5); pathlib.Path('saved').touch(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); pathlib.Path('ready').touch(); time.sleep(60)\n"
    )
    processes = Processes(grace=0.2)
    threading.Thread(target=_when((tmp_path / "ready").exists, processes.stop), daemon=True).start()
    with pytest.raises(InterruptedError):
        processes.run([sys.executable, "-c", code], cwd=tmp_path, log=print, grace=30.0)
    assert (tmp_path / "saved").exists()


def test_stop_kills_the_whole_group(small_project: Path) -> None:
    orders(small_project, d={"sleep": 60})
    processes = Processes(grace=2.0)
    pid_file = small_project / "runs" / "pid"
    threading.Thread(target=_when(pid_file.exists, processes.stop), daemon=True).start()
    start = time.monotonic()
    results = go(small_project, "d", processes=processes)
    assert results["d"].outcome == "crashed"
    assert time.monotonic() - start < 30
    assert not _alive(int(pid_file.read_text()))
    with pytest.raises(InterruptedError):
        processes.run(["true"], cwd=small_project, log=print)


def _when(condition: Callable[[], bool], act: Callable[[], None]) -> Callable[[], None]:
    def wait() -> None:
        while not condition():
            time.sleep(0.02)
        time.sleep(0.1)
        act()

    return wait


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
