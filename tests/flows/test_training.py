"""What `train run` says before it trains."""

from pathlib import Path
from typing import Any

import pytest

from flows import training
from flows.params import load
from infra.stage import Progress

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("first", [True, False])
def test_the_first_process_says_which_form_of_the_operations_runs(
    first: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sana_video.train import loop

    def train(*_: Any, track: Any, **__: Any) -> dict[str, Any]:
        steps = range(3)
        assert list(track(steps, 3, "x") if first else steps) == [0, 1, 2]  # as the loop does
        return {}

    monkeypatch.setattr(loop, "train", train)
    params = load(ROOT / "params.yaml", [])
    training.train_here(next(iter(params.train.stages)), params, tmp_path, Progress("train@x"))
    assert capsys.readouterr().err.count("train@x: operations run as ") == first
