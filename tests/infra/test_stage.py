"""How a stage ends: status, exit code, one writer, and no life after its parent (on real processes)."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.gates import GateBroken, GateRed
from infra.settings import find_root, load_yaml
from infra.stage import Progress, classify, run
from infra.storage import require_space

SLEEPER = """
import sys, time
from pathlib import Path
from infra.stage import run
root = Path(sys.argv[1])
def work(progress):
    (root / "started").touch()
    try:
        while True:
            with open(root / "ticks", "a") as file: file.write(".")
            time.sleep(0.05)
    finally:
        (root / "cleaned").touch()
sys.exit(run("train-t2i", work, root=root))
"""
PARENT = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1], shell=True).returncode)"


def status(root: Path, name: str = "split") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((root / "runs" / "status" / f"{name}.json").read_text())
    return document


def failing(error: BaseException) -> Callable[[Progress], None]:
    def work(progress: Progress) -> None:
        raise error

    return work


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_stage_that_ends_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("split", lambda progress: {"clips": 7}, root=tmp_path) == 0
    document = status(tmp_path)
    assert document.pop("seconds") >= 0
    assert document == {"stage": "split", "kind": "ok", "reason": "done", "exit_code": 0, "counters": {"clips": 7}}
    assert capsys.readouterr().err == "split: done (clips 7)\n"


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (GateRed("gate data is red: clips"), "gate_red", 3),
        (GateBroken("gate data is broken"), "gate_broken", 4),
        (ConnectionResetError("by peer"), "transient", 1),
        (TimeoutError("no answer"), "transient", 1),
        (BlockingIOError("busy"), "transient", 1),
        (type("EndpointConnectionError", (Exception,), {})("s3 is away"), "transient", 1),
        (OSError(errno.ENOSPC, "No space left on device"), "failed", 1),
        (RuntimeError("bug"), "failed", 1),
        (ValueError("out of somebody else's code"), "failed", 1),
        (KeyboardInterrupt(), "failed", 1),
    ],
)
def test_how_an_exception_ends_it(
    error: BaseException, kind: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("split", failing(error), root=tmp_path) == code
    assert (status(tmp_path)["kind"], status(tmp_path)["exit_code"]) == (kind, code)
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "Traceback" not in line
    if isinstance(error, (RuntimeError, ValueError)):
        assert "(traceback in runs/logs/split.log)" in line
        assert "test_stage.py" in (tmp_path / "runs" / "logs" / "split.log").read_text()
    if kind == "failed" and isinstance(error, OSError):
        assert "no space left" in status(tmp_path)["reason"]


def test_only_what_our_code_raised_on_purpose_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("[1]")
    ours: list[Callable[[Progress], Any]] = [
        lambda _: load_yaml(tmp_path / "params.yaml"),
        lambda _: find_root(tmp_path),
    ]
    for work in ours:
        assert run("split", work, root=tmp_path) == 2
        assert status(tmp_path)["kind"] == "user"
    by_accident: dict[str, Any] = {"__name__": "data_pipeline.split"}
    exec("def work(progress): int('x')", by_accident)
    assert run("split", by_accident["work"], root=tmp_path) == 1
    exec("def work(progress): raise ValueError('fps: -1')", by_accident)
    assert run("split", by_accident["work"], root=tmp_path) == 2
    exec("def work(progress): open('/none/such')", by_accident)
    assert run("split", by_accident["work"], root=tmp_path) == 2


def test_a_full_disk_is_told_plainly(tmp_path: Path) -> None:
    def work(progress: Progress) -> None:
        require_space(tmp_path, 1 << 60)

    assert run("split", work, root=tmp_path) == 1
    assert status(tmp_path)["reason"].startswith("no space left: 1,152")


def test_a_name_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no name of a stage"):
        run("../split", lambda progress: None, root=tmp_path)


def test_signals_are_as_before_afterwards(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run("split", lambda progress: None, root=tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_writer_is_refused_and_a_cancelled_stage_cleans_up(tmp_path: Path) -> None:
    first = subprocess.Popen([sys.executable, "-c", SLEEPER, str(tmp_path)], stderr=subprocess.PIPE, text=True)
    try:
        wait_for((tmp_path / "started").exists)
        second = subprocess.run([sys.executable, "-c", SLEEPER, str(tmp_path)], capture_output=True, text=True)
        assert second.returncode == 1
        assert f"stage train-t2i is already running, pid {first.pid}" in second.stderr
        assert not (tmp_path / "runs" / "status" / "train-t2i.json").exists()
        first.send_signal(signal.SIGTERM)
        assert first.wait(timeout=20) == 1
    finally:
        first.kill()
        _, errors = first.communicate()
    assert errors == "train-t2i: terminated\n"
    assert status(tmp_path, "train-t2i")["reason"] == "terminated"
    assert (tmp_path / "cleaned").exists()


@pytest.mark.parametrize("shell", ["exec", "kept"])
def test_kill_9_of_the_parent_alone_ends_the_stage(shell: str, tmp_path: Path) -> None:
    """As dvc starts a stage: through a shell, that makes way for the command or stays above it."""
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    command = f"{sys.executable} {tmp_path}/sleeper.py {tmp_path}"
    command = f"exec {command}" if shell == "exec" else f"{command}; true"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, command], env=environment, start_new_session=True)
    below: list[psutil.Process] = []
    try:
        wait_for((tmp_path / "started").exists)
        below = psutil.Process(parent.pid).children(recursive=True)
        assert len(below) == (2 if shell == "kept" else 1)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        wait_for((tmp_path / "runs" / "status" / "train-t2i.json").exists)
        wait_for(lambda: not any(process.is_running() for process in below))
    finally:
        for process in below:
            if process.is_running():
                process.kill()
    assert status(tmp_path, "train-t2i")["reason"] == "terminated"
    ticks = (tmp_path / "ticks").stat().st_size
    time.sleep(0.2)
    assert (tmp_path / "ticks").stat().st_size == ticks


def test_a_killed_stage_leaves_no_status_and_no_lock(tmp_path: Path) -> None:
    run("train-t2i", lambda progress: None, root=tmp_path)
    child = subprocess.Popen([sys.executable, "-c", SLEEPER, str(tmp_path)])
    wait_for((tmp_path / "started").exists)
    child.kill()
    child.wait()
    assert not (tmp_path / "runs" / "status" / "train-t2i.json").exists()
    assert run("train-t2i", lambda progress: None, root=tmp_path) == 0


def test_progress_is_plain_lines_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    progress = Progress("score", stream)
    monkeypatch.setattr("infra.stage._SAY_EVERY_SECONDS", 0.0)
    assert list(progress.track(iter("abcd"), 4, "clips")) == list("abcd")
    assert list(progress.track([1])) == [1]
    lines = stream.getvalue().splitlines()
    assert lines[1].startswith("score clips: 2/4 (50%), about ")
    assert len(lines) == 5


def test_steps_that_are_told_are_shown_as_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("infra.stage._SAY_EVERY_SECONDS", 0.0)
    with Progress("sample", stream).steps("1/2") as on_step:
        for done in (1, 2):
            on_step(done, 4)
    lines = stream.getvalue().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["sample 1/2: 1/4 (25%)", "sample 1/2: 2/4 (50%)"]


def test_progress_is_a_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    assert list(Progress("score", stream).track(range(3), label="clips")) == [0, 1, 2]
    assert "score clips" in stream.getvalue() and "100%" in stream.getvalue()
    stream = Terminal()
    with Progress("sample", stream).steps() as on_step:
        on_step(2, 2)
    assert "sample" in stream.getvalue() and "100%" in stream.getvalue()


def test_classify_serves_commands_that_are_no_stage() -> None:
    assert classify(GateRed("red")).exit_code == 3


def test_missing_weights_are_told_with_what_they_are_and_how_to_fetch_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Missing(FileNotFoundError):
        name, folder = "wan2.1-vae", tmp_path

    assert run("encode", failing(Missing("no weights")), root=tmp_path) == 1  # as of code that is not ours
    line = capsys.readouterr().err
    for told in ("no weights", "GB", "licence", "sana-video weights fetch wan2.1-vae"):
        assert told in line
    assert line.count("\n") == 1
    assert "fetch" not in classify(FileNotFoundError("something else")).reason
