"""The engine on processes of this machine: what each thing that goes wrong costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra import engine
from infra.engine import Lost, Patience
from infra.stage import classify

QUICK = Patience(retries=2, pause=0.01)
WORK = "engine_work:act"


def outcome(items: list[Any], workers: int = 2, memory: int = 2 << 30, work: str = WORK, **more: Any) -> dict[Any, Any]:
    common = more.pop("common", {})
    with engine.opened(workers, memory=memory) as here:
        shards = engine.shards_of(items, [1] * len(items), here.slots, least=4)
        return dict(engine.results(here, work, shards, common, patience=QUICK, **more))


def test_every_item_has_its_result_whatever_the_number_of_workers() -> None:
    items = [("go", number) for number in range(20)]
    one, two = outcome(items, 1), outcome(items, 2)
    assert one == two == {item: (item[1] * 10, "GO") for item in items}
    assert list(one) == items


def test_a_worker_that_is_killed_costs_nothing_but_another_try(tmp_path: Path) -> None:
    items = [("die once" if number == 5 else "go", number) for number in range(10)]
    found = outcome(items, common={"folder": str(tmp_path)})
    assert found == {item: (item[1] * 10, item[0].upper()) for item in items}
    tries = {number: len(list(tmp_path.glob(f"{number}-*"))) for number in range(10)}
    assert tries == {**dict.fromkeys(range(10), 1), 5: 2}


def test_an_item_that_ends_two_workers_is_lost_alone(tmp_path: Path) -> None:
    items = [("die" if number == 5 else "go", number) for number in range(10)]
    found = outcome(items, common={"folder": str(tmp_path)})
    assert found.pop(("die", 5)).reason == "WORKER_CRASHED: 2 workers ended while they worked on it"
    assert len(found) == 9 and not any(isinstance(value, Lost) for value in found.values())
    assert len(list(tmp_path.glob("5-*"))) == 2


def test_an_item_of_parts_is_divided_down_to_the_one_that_kills() -> None:
    found = outcome([(1, 2), (3, 13, 4), (5,)], 1, work="engine_work:parts", divide=lambda item: [(n,) for n in item])
    lost = {item for item, value in found.items() if isinstance(value, Lost)}
    assert lost == {(13,)}
    assert {item: value for item, value in found.items() if item not in lost} == {(1, 2): 3, (3,): 3, (4,): 4, (5,): 5}


def test_a_worker_past_its_bound_is_ended(capfd: pytest.CaptureFixture[str]) -> None:
    found = outcome([("go", 1), ("eat", 2), ("go", 3)], 1, memory=300 << 20)
    assert found[("eat", 2)].kind == "died" and found[("go", 3)] == (30, "GO")
    assert capfd.readouterr().err.count("more than 300 MiB, it was ended") == 2


def test_a_child_past_the_bound_is_ended_and_its_worker_lives(capfd: pytest.CaptureFixture[str]) -> None:
    pids = outcome([("pid", 1), ("feed a child", 2), ("pid", 3)], 1, memory=300 << 20)
    assert pids[("feed a child", 2)] == (20, -signal.SIGKILL)
    assert pids[("pid", 1)][1] == pids[("pid", 3)][1]
    assert capfd.readouterr().err.count("more than 300 MiB, its children were ended") == 1


def test_a_fault_of_the_store_is_tried_again_then_costs_the_item(tmp_path: Path) -> None:
    items = [("go", 1), ("fault once", 2), ("fault", 3), ("go", 4)]
    found = outcome(items, 1, common={"folder": str(tmp_path)})
    assert found.pop(("fault", 3)).reason == "STORAGE_FAILED: ConnectionError: the store is away"
    assert found == {("go", 1): (10, "GO"), ("fault once", 2): (20, "FAULT ONCE"), ("go", 4): (40, "GO")}
    assert len(list(tmp_path.glob("3-*"))) == 1 + QUICK.retries


def test_an_outage_stops_the_run_as_transient() -> None:
    with pytest.raises(ConnectionError, match="the store is away"):
        outcome([("go", 0)] + [("fault", number) for number in range(1, 2 + engine.OUTAGE)], 1)


def test_what_the_store_refuses_costs_the_item_at_once(tmp_path: Path) -> None:
    found = outcome([("go", 1), ("refused", 2), ("go", 3)], 1, common={"folder": str(tmp_path)})
    assert found.pop(("refused", 2)).reason == "STORAGE_REFUSED: s3://films/a.mp4: nothing there"
    assert len(found) == 2 and len(list(tmp_path.glob("2-*"))) == 1
    with pytest.raises(ValueError, match="nothing there"):
        outcome([("refused", 1), ("refused", 2)], 1)


@pytest.mark.parametrize(("what", "error"), [("mistake", ValueError), ("full", OSError)])
def test_a_mistake_of_the_users_and_a_full_disk_stop_the_run(what: str, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        outcome([("go", 1), (what, 2), ("go", 3)], 1)
    told = classify(raised.value)
    assert told.exit_code == (2 if what == "mistake" else 1)
    assert told.reason.startswith("ftp://films: only local paths" if what == "mistake" else "no space left")


def test_a_fault_of_our_own_costs_the_item_and_is_raised_where_nothing_succeeds() -> None:
    assert outcome([("go", 1), ("wrong", 2)], 1)[("wrong", 2)].reason == "WORK_FAILED: KeyError: 'no such thing'"
    with pytest.raises(RuntimeError, match="no such thing"):
        outcome([("wrong", 1), ("wrong", 2)], 1)


def test_who_stops_taking_results_leaves_no_worker() -> None:
    before = set(psutil.Process().children())  # of tests that ran earlier in this process
    with engine.opened(2) as here:
        found = engine.results(here, WORK, [[("go", 1), ("go", 2)], [("go", 3)]], {"seconds": 0.1})
        next(found)
        assert len(set(psutil.Process().children()) - before) == 2
        found.close()
        assert not set(psutil.Process().children()) - before


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_parents_end_is_the_end_of_its_workers(how: signal.Signals, tmp_path: Path) -> None:
    program = f"""
import sys; sys.path[:] = {sys.path!r}
from infra import engine
with engine.opened(2) as here:
    shards = [[("go", n)] * 50 for n in range(2)]
    list(engine.results(here, {WORK!r}, shards, {{"seconds": 0.2, "folder": {str(tmp_path)!r}}}))
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL, start_new_session=True)
    until(lambda: len({name.split("-")[1] for name in os.listdir(tmp_path)}) == 2)
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers) == 2
    if how == signal.SIGINT:  # as a terminal does: to everyone
        os.killpg(parent.pid, how)
    else:
        parent.kill()
    parent.wait(timeout=20)
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


def until(true: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_shards_hold_200_to_1000_clips_in_order() -> None:
    sizes = [16] * 1000
    shards = engine.shards_of(list(range(1000)), sizes, 4)
    assert [item for shard in shards for item in shard] == list(range(1000))
    assert all(200 <= 16 * len(shard) <= 1016 for shard in shards[:-1])
    few = engine.shards_of(list(range(60)), [16] * 60, 8)
    assert len(few) == 30 and max(map(len, few)) == 2, "too few clips for shards of 200: all slots have work"


def test_the_engine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert engine.describe()[0] and engine.describe()[1].startswith("processes of this machine")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert engine.describe() == (True, "Ray at 10.0.0.1:6379")
    monkeypatch.setenv("RAY_ADDRESS", "ray://10.0.0.1:10001")
    with pytest.raises(ValueError, match="run on a node of the cluster"), engine.opened(1):
        pass
