"""No frame of another shot gets in at a hard cut by default; the check finds the hard cuts that detectors miss."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FILMS = ["24fps", "vfr", "alike", "dissolves"]


@pytest.mark.slow
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
    assert by_hash["hard"]["passed"] == 0
    alike = kinds["hard_alike"]  # shots in one another's colours: cuts below the detector's threshold
    assert alike["leaked_clips"] > 0, "a film that the default detector does not cut everywhere"
    assert alike["passed"] <= alike["leaked_clips"] / 2, "the check is to see what the detector has not"
    assert not any(each["refused"] for detector in (by_content, by_hash) for each in detector.values())
