"""No frame of another shot gets into a clip at a hard cut, by the default detector; the benchmark would see it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FILMS = ["24fps", "before_end", "dissolves"]


def test_the_default_detector_leaks_nothing_at_hard_cuts(tmp_path: Path) -> None:
    out = tmp_path / "leaks.json"
    command = [sys.executable, "benchmarks/leaks.py", "--detectors", "content", "--out", str(out), "--films", *FILMS]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    kinds: dict[str, dict[str, Any]] = json.loads(out.read_text())["detectors"]["content"]["kinds"]
    hard = kinds["hard"]
    assert hard["clips"] == hard["expected"] >= 12 and hard["lost"] == 0
    assert hard["leaked_frames"] == hard["leaked_clips"] == 0
    assert kinds["dissolve"]["leaked_frames"] > 0  # content sees no dissolve: the numbers in the frames do
