"""Ordered results from several processes, and an end to all of them when one fails."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Iterator
from types import ModuleType

import psutil
import pytest

from infra.engine import map_ordered

WORKERS = [1, 2]


WORK = """
import os, time

def late_first(item: int) -> tuple[int, int]:
    time.sleep(0.2 if item == 0 else 0.0)
    return item * item, os.getpid()


def one_over(item: int) -> float:
    if item == 0:
        time.sleep(60)
    return 1 / (item - 3)


def set_up() -> None:
    os.environ["SANA_TEST_ENGINE"] = "ready"


def seen(item: int) -> str | None:
    return os.environ.get("SANA_TEST_ENGINE")
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Functions in a module that a spawned process can import too."""
    folder = tmp_path_factory.mktemp("engine")
    (folder / "engine_work.py").write_text(WORK)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("engine_work")
    sys.path.remove(str(folder))


@pytest.mark.parametrize("workers", WORKERS)
def test_results_come_in_order(workers: int, work: ModuleType) -> None:
    results = list(map_ordered(work.late_first, range(9), workers))
    assert [square for square, _ in results] == [item * item for item in range(9)]
    assert (os.getpid() in {pid for _, pid in results}) is (workers == 1)


def test_each_worker_is_set_up(monkeypatch: pytest.MonkeyPatch, work: ModuleType) -> None:
    monkeypatch.delenv("SANA_TEST_ENGINE", raising=False)
    assert list(map_ordered(work.seen, range(2), 2, work.set_up)) == ["ready", "ready"]
    assert "SANA_TEST_ENGINE" not in os.environ


def test_a_failure_ends_the_workers_at_once(work: ModuleType) -> None:
    start = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        list(map_ordered(work.one_over, [3, 0, 0], 2))
    assert time.monotonic() - start < 30
    workers = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
    assert not psutil.wait_procs(workers, timeout=5)[1]


def test_items_are_read_as_they_are_needed(work: ModuleType) -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for item in range(1, 100):
            read.append(item)
            yield item

    results = map_ordered(work.late_first, items(), 2)
    next(results)
    assert len(read) <= 5
    results.close()  # type: ignore[attr-defined]


def test_no_workers_is_refused(work: ModuleType) -> None:
    with pytest.raises(ValueError, match="workers: 0"):
        map_ordered(work.late_first, [], 0)
