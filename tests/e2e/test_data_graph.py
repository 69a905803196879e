"""What reruns when: new batches, batches taken out, thresholds, definitions; and what is never lost when a stage dies.

Real DVC over real stages on rendered film, the data part of the graph only.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_project import Project, environment, lay_out, shrink
from typer.testing import CliRunner

from data_pipeline.cli import app
from infra.settings import AppContext

pytestmark = pytest.mark.slow  # the quick tier runs all stages once, without DVC
BATCH_STAGES = ("ingest", "split", "score", "caption")


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> Project:
    project = lay_out(tmp_path_factory.mktemp("curated"))
    project.edit(shrink)
    for number, batch in enumerate(("film", "more")):
        folder = project.root / "data" / "raw" / batch
        folder.mkdir(parents=True)
        make_video(folder / f"{batch}.mp4", seconds=6.0, fps=24, size=(160, 96), shots=3, seed=number)
    project.run("git", "init", "-q")
    project.dvc("repro", "curate")
    return project


def clips_in(project: Project) -> set[str]:
    return set(pq.read_table(project.root / "data" / "selection.parquet")["clip_id"].to_pylist())


def test_nothing_changed_runs_nothing(curated: Project) -> None:
    curated.forget_statuses()
    curated.dvc("repro", "curate")
    assert not curated.ran()


def test_a_threshold_reruns_curate_alone(curated: Project) -> None:
    curated.forget_statuses()
    curated.edit(lambda p: p["data"]["curate"]["ranges"]["default"].update(saturation=[0.0, 254.0]))
    curated.dvc("repro", "curate")
    assert curated.ran() == {"curate"}


def test_a_raised_version_of_one_measure_reruns_score_and_equal_bytes_stop_the_wave(curated: Project) -> None:
    """The measure's code is the same, so the table comes out the same and nothing below runs."""
    curated.forget_statuses()
    versions = curated.root / "versions.yaml"
    before = (curated.root / "data" / "scores" / "film.parquet").read_bytes()
    usual = versions.read_text()
    versions.write_text(re.sub(r"\bsaturation: \d+", "saturation: 99", usual))
    caches = {path.name for path in (curated.root / "runs" / "measures").iterdir()}
    curated.dvc("repro", "curate")
    new = {path.name for path in (curated.root / "runs" / "measures").iterdir()} - caches
    versions.write_text(usual)
    assert curated.ran() == {"score@film", "score@more"}
    assert [name.split("-v")[0] for name in new] == ["saturation"], "only the raised measure was computed again"
    curated.dvc("repro", "curate")
    assert (curated.root / "data" / "scores" / "film.parquet").read_bytes() == before


def test_a_new_batch_reruns_its_own_stages_and_the_joins_and_leaves_when_taken_out(
    curated: Project, make_video: Callable[..., Path]
) -> None:
    before = clips_in(curated)
    folder = curated.root / "data" / "raw" / "extra"
    folder.mkdir(parents=True)
    make_video(folder / "extra.mp4", seconds=4.0, fps=24, size=(160, 96), shots=2, seed=9)
    curated.edit(lambda p: p["data"]["batches"].update(extra={"path": "data/raw/extra"}))
    curated.forget_statuses()
    curated.dvc("repro", "curate")
    assert curated.ran() == {f"{stage}@extra" for stage in BATCH_STAGES} | {"dedup", "quarantine", "classify", "curate"}
    assert clips_in(curated) > before

    curated.edit(lambda p: p["data"]["batches"].pop("extra"))
    curated.forget_statuses()
    curated.dvc("repro", "curate")
    assert curated.ran() <= {"dedup", "quarantine", "classify", "curate"}
    assert clips_in(curated) == before


def test_a_missing_table_of_a_named_batch_stops_the_join(curated: Project) -> None:
    table = curated.root / "data" / "captions" / "more.parquet"
    saved = table.read_bytes()
    table.unlink()
    try:
        result = curated.sana("data", "curate", check=False)
        assert result.returncode == 2
        assert "more.parquet" in result.stderr
        assert "Traceback" not in result.stderr
    finally:
        table.write_bytes(saved)


def test_repeating_the_work_elsewhere_gives_the_same_bytes(curated: Project, tmp_path: Path) -> None:
    """By hand, all stages in one process: DVC only says what runs."""
    for name in ("params.yaml", "versions.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((curated.root / name).read_bytes())
    for batch in ("film", "more"):
        folder = tmp_path / "data" / "raw" / batch
        folder.mkdir(parents=True)
        (folder / f"{batch}.mp4").write_bytes((curated.root / "data/raw" / batch / f"{batch}.mp4").read_bytes())
    each = [(stage, "--batch", batch) for stage in BATCH_STAGES for batch in ("film", "more")]
    for words in (*each, ("dedup",), ("quarantine",), ("classify",), ("curate",)):
        result = CliRunner().invoke(app, list(words), obj=AppContext(tmp_path, tmp_path / "params.yaml"))
        assert result.exit_code == 0, (words, result.output)
    for table in ("data/selection.parquet", "data/scores/film.parquet", "data/captions/more.parquet"):
        assert (tmp_path / table).read_bytes() == (curated.root / table).read_bytes(), table


@pytest.mark.parametrize("victim", ["group", "dvc alone"])
def test_a_killed_stage_leaves_no_half_table_and_no_second_writer(curated: Project, victim: str) -> None:
    """kill -9 of everything, or of dvc alone: the stage dies with it, and the next run finishes the work."""
    score = curated.root / "data" / "scores" / "film.parquet"
    before = score.read_bytes()
    curated.edit(lambda p: p["data"]["score"].update(sample_seconds=0.25 if victim == "group" else 0.2))
    curated.forget_statuses()
    running = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "-s", "score@film"],
        cwd=curated.root,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    lock = curated.root / "runs" / "locks" / "score@film.lock"
    wait_for(lambda: lock.exists() and lock.read_text().strip() != "", 60)
    worker = int(lock.read_text().split()[0])
    if victim == "group":
        os.killpg(running.pid, signal.SIGKILL)
    else:
        os.kill(running.pid, signal.SIGKILL)
    running.wait()
    wait_for(lambda: not alive(worker), 20)
    assert not list(score.parent.glob("*.tmp*"))
    curated.dvc("repro", "curate")
    curated.edit(lambda p: p["data"]["score"].update(sample_seconds=0.5))
    curated.dvc("repro", "curate")
    assert score.read_bytes() == before


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
