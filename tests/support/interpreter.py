"""Triton's interpreter on the CPU. It must be chosen before Triton is imported, so it has a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

OPS = Path(__file__).resolve().parents[1] / "sana_video" / "ops"


def run(name: str, marks: str = "not slow") -> None:
    """The tests of tests/sana_video/ops/`name` with these marks. AssertionError with their output where one fails."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", marks]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, str(OPS / name)], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
