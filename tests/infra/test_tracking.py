"""Runs in a real MLflow on SQLite, read back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from infra.tracking import TrackingParams, open_tracker

PARAMS = TrackingParams(uri="sqlite:///mlflow.db", experiment="sana-video")


def test_curves_params_tags_and_files_can_be_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    video = tmp_path / "sample.mp4"
    video.write_bytes(b"\0\0\0\x18ftypisom")

    tracker = open_tracker(PARAMS, tmp_path)
    with tracker.run("t2i", {"steps": 150, "model": {"preset": "tiny"}}, {"stage": "t2i"}) as run:
        for step in range(3):
            run.metrics({"loss": 1.0 / (step + 1), "lr": 1e-3}, step)
        run.artifact(video)
    with pytest.raises(RuntimeError), open_tracker(PARAMS, tmp_path).run("causal", {}, {}):
        raise RuntimeError

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("sana-video")
    assert experiment is not None
    failed, done = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])
    assert (failed.info.status, done.info.status) == ("FAILED", "FINISHED")
    assert done.data.params == {"steps": "150", "model.preset": "tiny"}
    assert done.data.tags["stage"] == "t2i"
    history = client.get_metric_history(done.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    fetched = Path(client.download_artifacts(done.info.run_id, "sample.mp4", str(elsewhere)))
    assert fetched.read_bytes() == video.read_bytes()
    assert not (elsewhere / "mlruns").exists() and (tmp_path / "mlartifacts").is_dir()


def test_an_unknown_kind_of_address_is_refused() -> None:
    with pytest.raises(ValidationError):
        TrackingParams(uri="./mlruns", experiment="sana-video")


def test_params_are_cheap_to_import() -> None:
    subprocess.run([sys.executable, "-c", "import sys, infra.tracking; sys.exit('mlflow' in sys.modules)"], check=True)
