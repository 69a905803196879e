"""The benchmark of a step refuses what is wrong or slower, and runs whole with the tiny network on the CPU."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sana_video.ops.mix_ffn import naive

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def test_what_is_wrong_or_not_a_number_is_not_timed() -> None:
    from timing import checked

    assert checked(0.01, 0.01, "ours") == 0.01
    for error in (0.0101, math.nan, math.inf):
        with pytest.raises(SystemExit, match="ours: relative error"):
            checked(error, 0.01, "ours")


def test_slower_than_any_plain_form_ends_the_run() -> None:
    from timing import refuse_slower

    refuse_slower({"a": {"eager": 2.0, "compiled": 1.0, "ours": 1.02, "ours, tanh": 5.0}, "b": {"ours": 9.0}})
    with pytest.raises(SystemExit, match=r"b: ours 1\.040 ms, plain 1\.000 ms"):
        refuse_slower({"a": {"eager": 1.0, "ours": 0.5}, "b": {"eager": 2.0, "compiled": 1.0, "ours": 1.04}})


@pytest.mark.slow
def test_a_trace_names_what_a_forward_runs() -> None:
    from step import traces

    told = traces("tiny", torch.device("cpu"))
    assert told.startswith("bf16\n") and "aten::" in told and "CPU total" in told


@pytest.mark.slow
def test_compiled_blocks_are_held_to_those_that_are_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import compiled

    out = tmp_path / "compiled.json"
    words = ["compiled.py", "--preset", "tiny", "--device", "cpu", "--rounds", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    compiled.main()
    figures = json.loads(out.read_text())
    assert 0 < figures["training"]["relative_difference"]["gradients, at most"] < compiled.GRADIENT_BOUND
    monkeypatch.setattr(compiled, "compiled", lambda model: model.requires_grad_(False).apply(_spoil))
    with pytest.raises(SystemExit, match="ours, compiled: relative error"):
        compiled.main()


def _spoil(module: torch.nn.Module) -> None:
    if isinstance(module, torch.nn.Linear):
        module.weight.data *= 1.1


def test_references_are_not_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    from timing import exact_products

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with exact_products():
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_figures_say_when_the_tree_is_not_the_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import subprocess

    from timing import commit

    def git(*arguments: str) -> None:
        told = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *told, *arguments], check=True, capture_output=True)

    monkeypatch.delenv("COMMIT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert commit() is None
    (tmp_path / "file").write_text("a")
    git("init", "-q")
    git("add", "file")
    git("commit", "-qm", "first")
    clean = commit()
    (tmp_path / "other").write_text("not git's")
    assert clean and commit() == clean
    (tmp_path / "file").write_text("b")
    assert commit() == f"{clean}+dirty"
    monkeypatch.setenv("COMMIT", "abc")
    assert commit() == "abc"


def test_wrong_gradients_end_the_training_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    import training_step

    from sana_video import layers
    from sana_video.ops import select

    device = torch.device("cpu")
    step = training_step.Step("tiny", device)
    found = training_step.errors("tiny", step, device)
    assert {"loss", "patch_embed.weight", "blocks.0.ffn.temporal.weight"} <= found["ours"].keys()
    assert max(found["ours"].values()) < training_step.GRADIENT_BOUND

    def wrong(u: torch.Tensor, *rest: Any) -> torch.Tensor:
        out = naive.temporal_conv(u, *rest)
        return out if select._off else out.detach()  # the right numbers, and no gradient

    monkeypatch.setattr(layers, "temporal_conv", wrong)
    with pytest.raises(SystemExit, match=r"training, blocks\.0\.ffn"):
        training_step.errors("tiny", step, device)


@pytest.mark.slow
def test_step_runs_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import step
    import training_step

    out = tmp_path / "step.json"
    told = ["step.py", "--preset", "tiny", "--device", "cpu", "--rounds", "1", "--only", "cfg,train", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*told, "--peers", "eager"])
    monkeypatch.setattr(training_step, "CONTENDERS", dict(list(training_step.CONTENDERS.items())[:2]))
    step.main()
    figures = json.loads(out.read_text())
    assert figures["cfg"]["ms"].keys() == {"diffusers eager", "ours"}
    assert figures["cfg"]["best_peer_over_ours"] > 0 and figures["train"]["failed"] == {}
    assert figures["train"]["ms"].keys() == {"ours, nothing recomputed", "ours, elementwise recomputed"}
    assert "best peer over ours: " in capsys.readouterr().out
