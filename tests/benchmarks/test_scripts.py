"""The two scripts about whole videos, run as they are meant to be, with the tiny network on the CPU."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, f"benchmarks/{script}", "--preset", "tiny", "--device", "cpu", *arguments]
    result = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": "."}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def frames_of(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.slow
def test_streaming_finds_a_constant_state(tmp_path: Path) -> None:
    printed = run("streaming.py", "--seconds", "1,1.5", "--out", str(tmp_path / "figures.json"))
    figures: dict[str, Any] = json.loads((tmp_path / "figures.json").read_text())
    assert [video["chunks"] for video in figures["videos"]] == [2, 3]
    assert figures["memory"]["state_is_constant"]
    assert len(figures["videos"][1]["state_bytes"]) == 1
    assert "state constant: True" in printed


@pytest.mark.slow
def test_sample_makes_all_four_and_says_what_they_took(tmp_path: Path) -> None:
    printed = run(
        "sample.py", "--only", "t2v,i2v,t2i,long", "--steps", "2", "--frames", "9", "--long", "1", "--peer",
        "--out", str(tmp_path),
    )  # fmt: skip
    figures: dict[str, Any] = json.loads((tmp_path / "figures.json").read_text())
    assert figures["weights"] == "random"
    assert {row["file"]: frames_of(tmp_path / row["file"]) for row in figures["made"]} == {
        "t2v.mp4": 9,
        "i2v.mp4": 9,
        "t2i.png": 1,
        "long.mp4": 17,
    }
    for row in figures["made"]:
        assert {"text", "sampling", "autoencoder"} <= row["parts"].keys()
        assert abs(sum(part["seconds"] for part in row["parts"].values()) - row["took_seconds"]) < 0.5
    assert "long.mp4: 17 frames" in printed
    assert figures["peer"]["frames"] == frames_of(tmp_path / "peer.mp4") == 9 and "times ours" in printed
