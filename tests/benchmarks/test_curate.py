"""The benchmarks of curation run on a film of any size and say what they promise to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, make_video: Any) -> Path:
    path: Path = make_video(tmp_path_factory.mktemp("film") / "a.mp4", seconds=7, shots=2, speed=1.0)
    return path


def run(script: str, out: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, f"benchmarks/{script}", *arguments, "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.slow
def test_curate_times_ours_the_decode_and_every_tool(film: Path, tmp_path: Path) -> None:
    found = run("curate.py", tmp_path / "a.json", str(film), "--seconds", "6", "--rounds", "1", "--films", "")
    one = found["films"][film.name]
    tools = {f"tool: {name}" for name in ("scenes", "vmafmotion", "saturation", "flow", "cutting")}
    assert set(one["seconds"]) == set(one["processor"]) == {"decode", "ours", "ours: split"} | tools
    assert all(took > 0 for took in one["seconds"].values()) and one["clips"] == 1
    assert one["differences"]["vmaf_motion"] <= 0.006 and one["differences"]["saturation"] == 0.0
    assert found["all"]["ratios"] == one["ratios"]
    assert set(found["networks"]) == {"text", "nsfw", "transnetv2"} and found["networks"]["transnetv2"]["per_clip"] > 0
    assert {"flow_motion", "vmaf_motion", "embedding"} < set(found["seconds_of_each"])


@pytest.mark.slow
def test_flow_compares_every_contender_with_medium(film: Path, tmp_path: Path) -> None:
    found = run("flow.py", tmp_path / "a.json", str(film))
    ranks = found["contenders"]["medium"]["rank_correlation"]
    assert found["clips"] >= 2 and all(value == pytest.approx(1.0) for value in ranks.values())
    assert {"ours", "fast", "ultrafast"} < set(found["contenders"])


@pytest.mark.slow
def test_sizes_finds_no_difference_between_equal_sizes(film: Path, tmp_path: Path) -> None:
    found = run("sizes.py", tmp_path / "a.json", str(film), "--lines", "240")
    assert {"flow_motion", "technical", "cuts_inside"} < set(found["columns"])
    assert all(column["largest_difference"] == 0 for column in found["columns"].values())
