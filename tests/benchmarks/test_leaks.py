"""No frame of another shot gets into a clip at a hard cut by default; the check finds what other detectors let in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FILMS = ["24fps", "vfr", "dissolves"]


def test_the_default_detector_leaks_nothing_at_hard_cuts_and_the_check_sees_what_another_leaks(tmp_path: Path) -> None:
    out = tmp_path / "leaks.json"
    asked = ["--detectors", "content", "hash", "--films", *FILMS]
    command = [sys.executable, "benchmarks/leaks.py", *asked, "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    by_content, by_hash = (json.loads(out.read_text())["detectors"][name]["kinds"] for name in ("content", "hash"))
    kinds: dict[str, dict[str, Any]] = by_content
    hard = kinds["hard"]
    assert hard["clips"] == hard["expected"] >= 12 and hard["lost"] == 0
    assert hard["leaked_frames"] == hard["leaked_clips"] == 0
    assert kinds["dissolve"]["leaked_frames"] > 0  # content sees no dissolve: the numbers in the frames do
    assert by_hash["hard"]["leaked_clips"] > 0, "a film that another detector cuts late"
    assert hard["refused"] == by_hash["hard"]["passed"] == by_hash["hard"]["refused"] == 0
