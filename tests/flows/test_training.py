"""What `train run` says before it trains."""

from pathlib import Path
from typing import Any

import pytest

from flows import training
from flows.params import load
from infra.stage import Progress

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("rank", "lines"), [(None, 1), ("0", 1), ("1", 0)])
def test_the_first_rank_says_which_form_of_the_operations_runs(
    rank: str | None,
    lines: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from sana_video.train import loop

    said_before: list[str] = []

    def train(*_: Any, **__: Any) -> dict[str, Any]:
        said_before.append(capsys.readouterr().err)
        return {}

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    params = load(ROOT / "params.yaml", [])
    training.train_here(next(iter(params.train.stages)), params, tmp_path, Progress("train@x"))
    assert said_before[0].count("train@x: operations run as ") == lines
