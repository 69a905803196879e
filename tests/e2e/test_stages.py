"""Every stage of the graph once, in DVC's order and in one process, which spares each the start of its libraries.

The slow journey has DVC, Prefect and the registry between them, and a process for each.
"""

from __future__ import annotations

import re
import shlex
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import networkx
import pytest
from dvc.repo import Repo
from small_project import Project, lay_out, shrink
from typer.testing import CliRunner, Result

from flows.cli import app

pytestmark = pytest.mark.timeout(600)  # the first test waits for all stages, about 90 s of a core


class Stage(NamedTuple):
    """As DVC resolves it: paths are relative to the project."""

    name: str
    commands: list[str]
    deps: list[str]
    outs: list[str]


def stages_of(root: Path) -> list[Stage]:
    with Repo(str(root)) as repo:
        ordered = networkx.lexicographical_topological_sort(repo.index.graph.reverse(), key=lambda stage: stage.name)
        return [
            Stage(
                stage.name,
                [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd,
                [dep.def_path for dep in stage.deps],
                [out.def_path for out in stage.outs],
            )
            for stage in ordered
        ]


def sana(project: Project, *words: str) -> Result:
    return CliRunner().invoke(app, ["--root", str(project.root), *words])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> Project:
    """Two batches taken through all stages, each of which finds what it names and leaves what it promises."""
    project = lay_out(tmp_path_factory.mktemp("stages"))
    project.edit(shrink)
    for number, batch in enumerate(("film", "more")):
        make_video(project.root / f"data/raw/{batch}/{batch}.mp4", seconds=8.0, size=(160, 96), shots=4, seed=number)
    project.run("git", "init", "-q")
    for stage in stages_of(project.root):
        lacking = [path for path in stage.deps if not (project.root / path).exists()]
        assert not lacking, f"{stage.name} is to read {lacking}, which no stage above it has left"
        for command in stage.commands:
            result = sana(project, *shlex.split(command)[1:])
            assert result.exit_code == 0, f"{command}\n{result.output[-4000:]}\n{result.exception}"
        lacking = [path for path in stage.outs if not (project.root / path).exists()]
        assert not lacking, f"{stage.name} has not left {lacking}"
    return project


def test_every_stage_ends_well(done: Project) -> None:
    assert done.ran() >= {"ingest@film", "gate_data", "train@causal", "evaluate", "gate_release", "package"}
    assert {done.status(stage)["kind"] for stage in done.ran()} == {"ok"}


def test_the_release_samples_a_film(done: Project, tmp_path: Path) -> None:
    film = tmp_path / "sample.mp4"
    asked = ("--prompt", "a moving pattern", "--steps", "2", "--out", str(film))
    result = sana(done, "sample", "--model", str(done.root / "release"), *asked)
    assert result.exit_code == 0, result.output

    from sana_video.video.io import probe

    assert probe(film).frames == 17


def test_training_curves_are_in_mlflow(done: Project) -> None:
    with sqlite3.connect(done.root / "mlflow.db") as database:
        (rows,) = database.execute("select count(*) from metrics where key like '%loss%'").fetchone()
    assert rows >= 10


def test_reports_stand_and_stand_ins_are_named(done: Project) -> None:
    card = (done.root / "release" / "README.md").read_text()
    page = (done.root / "reports" / "eval" / "report.html").read_text()
    data = (done.root / "reports" / "data" / "report.html").read_text()
    for text in (card, page, data):
        for name in ("UniMatch", "DOVER", "Qwen2.5-VL") if text is data else ("Gemma-2-2b-it", "UniMatch", "DOVER"):
            assert f"stand-in for {name}" in text
    for text in (page, data):
        assert not re.findall(r"(?:src|href)=[\"']https?://[^\"']*\.(?:js|css|woff2?)", text)


def test_a_red_gate_is_told_and_nothing_is_made_past_it(done: Project) -> None:
    verdict = done.root / "reports" / "gates" / "data.json"
    green = verdict.read_bytes()
    red = sana(done, "data", "gate", "data", "--set", "data.gate.min_kept=100000")
    try:
        assert red.exit_code == 3 and done.status("gate_data")["kind"] == "gate_red"
        assert sana(done, "data", "encode", "--view", "pixels").exit_code == 3
    finally:
        verdict.write_bytes(green)
