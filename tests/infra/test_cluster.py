"""The engine on a Ray cluster: what each thing that goes wrong costs there, which is what it costs on one machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_cluster import ray_cluster

from infra import engine
from infra.engine import Lost, Patience

pytestmark = pytest.mark.slow
WORK = "engine_work:act"
QUICK = Patience(retries=2, pause=0.01)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster(cpus=1) as one:
        yield one


def outcome(items: list[Any], **common: Any) -> dict[Any, Any]:
    """Result, or reason, of each item."""
    with engine.opened(1) as here:
        shards = engine.shards_of(items, [1] * len(items), here.slots, least=4)
        found = dict(engine.results(here, WORK, shards, common, patience=QUICK))
    return {item: value.reason if isinstance(value, Lost) else value for item, value in found.items()}


def test_whatever_goes_wrong_costs_the_same_as_on_one_machine(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    does = {2: "die once", 3: "fault once", 5: "die", 6: "fault", 8: "wrong", 9: "refused"}
    items = [(does.get(number, "go"), number) for number in range(12)]
    there = outcome(items, folder=str(tmp_path / "there"))
    monkeypatch.delenv("RAY_ADDRESS")
    here = outcome(items, folder=str(tmp_path / "here"))
    assert there == here
    assert sorted(text.split(":")[0] for text in here.values() if isinstance(text, str)) == [
        "STORAGE_FAILED",
        "STORAGE_REFUSED",
        "WORKER_CRASHED",
        "WORK_FAILED",
    ]


def test_a_mistake_of_the_users_is_told_as_one(cluster: Any) -> None:
    with pytest.raises(ValueError, match="ftp://films: only local paths"):
        outcome([("go", 1), ("mistake", 2)])


def test_who_stops_taking_results_leaves_no_worker(cluster: Any, tmp_path: Path) -> None:
    with engine.opened(1) as here:
        shards = [[("go", number) for number in range(50)]]
        found = engine.results(here, WORK, shards, {"seconds": 0.1, "folder": str(tmp_path)})
        next(found)
        (pid,) = {int(path.name.split("-")[1]) for path in tmp_path.iterdir()}
        found.close()
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_joining_a_cluster_leaves_what_sigterm_does(cluster: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with engine.opened(1):
        assert signal.getsignal(signal.SIGTERM) is before


def test_a_cluster_that_does_not_answer_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ConnectionError, match=r"RAY_ADDRESS 127\.0\.0\.1:1 does not answer"), engine.opened(1):
        pass


def test_a_lost_node_costs_another_try_and_no_item() -> None:
    items = [("node", number) for number in range(24)]
    with ray_cluster(nodes=2, cpus=1) as cluster, engine.opened(1) as here:
        assert here.slots == 2
        second, found = cluster.list_all_nodes()[1], {}
        for item, value in engine.results(here, WORK, [items[:12], items[12:]], {"seconds": 0.3}):
            found[item] = value
            if second is not None and len({node for _, node in found.values()}) == 2:  # both are in the midst of it
                cluster.remove_node(second, allow_graceful=False)
                second = None
    assert set(found) == set(items) and not any(isinstance(value, Lost) for value in found.values())
    assert second is None


def test_tasks_that_want_a_gpu_share_those_there_are() -> None:
    """Ray believes what it is told of GPUs, and tells each task which is its own."""
    with ray_cluster(cpus=2, gpus=1), engine.opened(1, networks=True) as here:
        found = list(engine.results(here, WORK, [[("cuda", number)] for number in range(2)], {"seconds": 1.0}))
    assert sorted(found) == [(("cuda", number), (10 * number, "0")) for number in range(2)]
