"""A table that a full disk or a killed copy left damaged: every command that reads it says which file, in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_pipeline import tables
from data_pipeline.cli import app
from infra.settings import AppContext

ROOT = Path(__file__).resolve().parents[2]
JOINED = ("videos", "clips", "scores", "captions")
COMMANDS = [
    (["split", "--batch", "film"], "videos/film"),
    (["score", "--batch", "film"], "clips/film"),
    (["caption", "--batch", "film"], "scores/film"),
    (["dedup"], "scores/more"),
    (["quarantine"], "captions/film"),
    (["classify"], "scores/more"),
    (["curate"], "clips/film"),
    (["curate"], "twins"),
    (["calibrate"], "scores/film"),
    (["whatif"], "selection"),
    (["whatif"], "classes"),
    (["report"], "captions/more"),
    (["report"], "selection"),
    (["report", "--throughput"], "videos/more"),
    (["gate", "data"], "quarantine"),
    (["gate", "data"], "clips/film"),
    (["sft", "review"], "sft"),
    (["sft", "decide", "review.json"], "sft"),
    (["classify", "fit", "--labels", "labels.csv", "--name", "game"], "clips/more"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with every table, and no row in any."""
    root = tmp_path_factory.mktemp("whole")
    for name in ("dvc.yaml", "params.yaml", "versions.yaml"):
        shutil.copy(ROOT / name, root / name)
    for name in tables.SCHEMAS:
        for place in (f"{name}/film", f"{name}/more") if name in JOINED else (name,):
            tables.write(name, [], root / "data" / f"{place}.parquet")
    (root / "labels.csv").write_text("clip_id,label\na,1\n")
    return root


@pytest.mark.parametrize(("words", "name"), COMMANDS, ids=[f"{'-'.join(w[:2])}:{n}" for w, n in COMMANDS])
def test_a_damaged_table_is_named_in_one_line(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], name: str
) -> None:
    root = shutil.copytree(whole, tmp_path / "project")
    monkeypatch.chdir(root)
    path = root / "data" / f"{name}.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    result = CliRunner().invoke(app, words, obj=AppContext(root, root / "params.yaml"))
    assert (result.exit_code, len(result.output.strip().splitlines())) == (2, 1), result.output
    assert f"{path} is damaged, or no parquet file" in result.output


@pytest.mark.parametrize("words", [["report"], ["report", "--throughput"]])
def test_a_damaged_status_is_named_in_one_line(whole: Path, tmp_path: Path, words: list[str]) -> None:
    root = shutil.copytree(whole, tmp_path / "project")
    path = root / "runs" / "status" / "score@film.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"stage": "score@fi')
    result = CliRunner().invoke(app, words, obj=AppContext(root, root / "params.yaml"))
    assert (result.exit_code, f"{path} is no status of a stage" in result.output) == (2, True), result.output
