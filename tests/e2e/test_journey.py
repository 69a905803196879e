"""From a film to a registered model by the real flow: DVC, GX, Prefect, MLflow, git tags.

One small project goes the whole way once; the tests look at what it left, and then try to get past its gates.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from small_project import Project, lay_out, shrink

# Each stage with each verdict that it opens; a test holds the list to the edges of dvc.yaml.
BELOW_A_GATE = {
    "sft": ["data"],
    "gate_sft": ["data"],
    "shards@pixels": ["data"],
    "gate_pixels": ["data"],
    "encode@high": ["data", "train-autoencoder"],
    "gate_shards@high": ["data"],
    "encode@best": ["data", "sft", "train-autoencoder"],
    "gate_shards@best": ["data", "sft"],
    "train@autoencoder": ["shards-pixels"],
    "train@t2i": ["shards-high"],
    "train@causal": ["shards-high", "train-t2i"],
    "gate_train@autoencoder": ["shards-pixels"],
    "gate_train@t2i": ["shards-high"],
    "gate_train@causal": ["shards-high"],
    "evaluate": ["data", "train-causal", "train-autoencoder", "shards-pixels", "shards-high"],
    "gate_eval": ["train-causal"],
    "gate_release": ["eval"],
    "package": ["release", "eval", "train-causal"],
}
PAIRS = [(stage, gate) for stage, gates in BELOW_A_GATE.items() for gate in gates]

# Tables that a verdict has to cover, since the selection or the set was made of them, with stages that read those.
OF_THE_DATA = ("sft", "gate_sft", "shards@pixels", "gate_pixels", "encode@high", "encode@best", "gate_shards@best")
MADE_OF = [
    *((stage, "data/classes.parquet") for stage in OF_THE_DATA),
    *((stage, f"data/{table}.parquet") for stage in ("sft", "encode@high") for table in ("twins", "quarantine")),
    ("sft", "data/captions/more.parquet"),
    ("gate_shards@high", "data/scores/more.parquet"),
    ("encode@best", "data/sft.parquet"),
    ("gate_shards@best", "data/sft.parquet"),
    ("evaluate", "data/videos/film.parquet"),
]


pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the quick tier runs all stages in one process


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> Project:
    """An unpacked archive (no .git, no identity), two batches, and `flow run journey`."""
    project = lay_out(tmp_path_factory.mktemp("journey"))
    project.edit(shrink)
    for number, batch in enumerate(("film", "more")):
        folder = project.root / "data" / "raw" / batch
        folder.mkdir(parents=True)
        make_video(folder / f"{batch}.mp4", seconds=8.0, fps=24, size=(160, 96), shots=4, seed=number)
    project.sana("flow", "run", "journey")
    return project


def tags(project: Project) -> list[str]:
    return project.run("git", "tag", "--list").stdout.split()


def test_it_ends_with_a_registered_champion(finished: Project) -> None:
    assert {"sana-video@v0.1.0", "sana-video#candidate#1", "sana-video#champion#2"} <= set(tags(finished))
    assert finished.run("git", "cat-file", "-t", "sana-video@v0.1.0").stdout.strip() == "tag"
    lock = finished.run("git", "show", "sana-video@v0.1.0:dvc.lock").stdout
    assert "package" in lock


def test_the_users_branch_index_and_files_are_left_alone(finished: Project) -> None:
    assert finished.run("git", "status", "--porcelain").stdout.split() == [
        "??",
        "dvc.lock",
    ]  # DVC refuses an ignored one
    assert "dvc.lock" not in finished.run("git", "ls-tree", "--name-only", "HEAD").stdout.split()


def test_dvc_fetches_the_artifact_and_it_samples(finished: Project, tmp_path: Path) -> None:
    out = tmp_path / "model"
    finished.dvc("artifacts", "get", str(finished.root), "sana-video", "--rev", "v0.1.0", "-o", str(out))
    assert (out / "manifest.json").exists()
    film = tmp_path / "sample.mp4"
    prompt = ("--prompt", "a moving pattern", "--steps", "2")
    finished.sana("sample", "--model", "sana-video@champion", *prompt, "--out", str(film))

    from sana_video.video.io import probe
    from sana_video.video.mp4 import read_metadata

    assert probe(film).frames == 17
    assert "v0.1.0" in json.dumps(read_metadata(film))


def test_a_rerun_runs_no_stage(finished: Project) -> None:
    before = tags(finished)
    finished.forget_statuses()
    finished.sana("flow", "run", "journey")
    assert not finished.ran()
    assert tags(finished) == before


def test_metrics_and_plots_answer(finished: Project) -> None:
    diff = json.loads(finished.dvc("metrics", "diff", "sana-video@v0.1.0", "--all", "--json").stdout)
    assert set(diff) == {f"reports/{part}/summary.json" for part in ("data", "sft", "eval")}
    assert diff["reports/data/summary.json"]["kept"]["diff"] == 0
    finished.dvc("plots", "show", "-o", "plots")
    page = (finished.root / "plots" / "index.html").read_text()
    assert "funnel.csv" in page
    assert "reports/train/t2i.csv" in page
    shutil.rmtree(finished.root / "plots")


def test_the_list_of_stages_below_a_gate_is_the_graphs(finished: Project) -> None:
    stages = yaml.safe_load((finished.root / "dvc.lock").read_text())["stages"]
    edges = {
        (name, Path(dep["path"]).stem)
        for name, stage in stages.items()
        for dep in stage.get("deps", [])
        if dep["path"].startswith("reports/gates/")
    }
    assert edges <= set(PAIRS)


@pytest.fixture(scope="module")
def with_a_set(finished: Project) -> Project:
    """The same, with a view `best` of the SFT set, which takes whatever is kept."""

    def change(params: dict[str, Any]) -> None:
        data = params["data"]
        data["sft"] |= {"ranges": {}, "moves": {"object_motion": 0.0, "camera_motion": 0.0}}
        data["views"]["best"] = {**data["views"]["high"], "clips": "sft", "clips_after": "sft"}

    finished.edit(change)
    finished.dvc("repro", "gate_shards@best")
    return finished


@pytest.mark.parametrize("harm", ["red", "missing", "stale"])
@pytest.mark.parametrize(("stage", "gate"), PAIRS)
def test_no_stage_below_a_gate_runs_past_it(with_a_set: Project, stage: str, gate: str, harm: str) -> None:
    finished = with_a_set
    verdict = finished.root / "reports" / "gates" / f"{gate}.json"
    saved = verdict.read_bytes()
    changed = json.loads(saved)
    if harm == "red":
        changed["verdict"] = "red"
    if harm == "stale":
        changed["tables"] = dict.fromkeys(changed["tables"], "0" * 64)
    verdict.unlink()
    if harm != "missing":
        verdict.write_text(json.dumps(changed))
    finished.forget_statuses()
    try:
        result = finished.dvc("repro", "-s", "-f", stage, check=False)
        assert result.returncode != 0
        status = finished.root / "runs" / "status" / f"{stage}.json"
        if status.exists():  # dvc itself refuses when a dependency is missing, before the stage starts
            assert json.loads(status.read_text())["exit_code"] == 3
        else:
            assert harm == "missing", result.stderr
    finally:
        verdict.unlink(missing_ok=True)
        verdict.write_bytes(saved)
        finished.dvc("checkout", "-q", check=False)


@pytest.mark.parametrize(("stage", "table"), MADE_OF)
def test_no_stage_reads_past_a_table_that_changed_since_the_verdict(
    with_a_set: Project, stage: str, table: str
) -> None:
    """The same rows in other bytes: nobody looks at what changed, only whether the gate has seen it."""
    path = with_a_set.root / table
    saved, rows = path.read_bytes(), pq.read_table(path)
    path.unlink()  # DVC's cache may be linked to it
    pq.write_table(rows, path, compression="none")
    assert path.read_bytes() != saved
    with_a_set.forget_statuses()
    try:
        assert with_a_set.dvc("repro", "-s", "-f", stage, check=False).returncode != 0
        status = with_a_set.status(stage)
        assert status["exit_code"] == 3 and f"{table} changed since it was checked" in status["reason"]
    finally:
        path.write_bytes(saved)
        with_a_set.dvc("checkout", "-q", check=False)


def test_a_red_gate_fails_the_flow_and_registers_nothing(finished: Project) -> None:
    before = tags(finished)
    params = (finished.root / "params.yaml").read_text()
    finished.edit(lambda p: p["data"]["gate"].update(min_kept=100_000))
    try:
        result = finished.sana("flow", "run", "journey", check=False)
        assert result.returncode == 3
        assert "min_kept" in result.stdout + result.stderr or "kept" in result.stdout + result.stderr
        assert finished.status("gate_data")["kind"] == "gate_red"
        assert tags(finished) == before
        refused = finished.sana("data", "encode", "--view", "pixels", check=False)
        assert refused.returncode == 3
    finally:
        (finished.root / "params.yaml").write_text(params)
        finished.dvc("repro", "gate_data")


def test_a_stage_goes_on_on_two_ranks(finished: Project) -> None:
    """Last: it leaves another model than the registered one."""
    finished.edit(lambda p: p["train"]["launch"].update(processes=2))
    finished.sana("train", "run", "--stage", "t2i")
    assert finished.status("train@t2i")["counters"]["processes"] == 2
