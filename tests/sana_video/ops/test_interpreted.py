"""All kernels under Triton's interpreter on the CPU: the files `interpreted_*.py`, but for what torchrun starts.

It must be chosen before Triton is imported, so they have no `test_` in their names and a process of their own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

UNDER_TORCHRUN = "interpreted_sharded"
FILES = sorted(str(path) for path in Path(__file__).parent.glob("interpreted_*.py") if path.stem != UNDER_TORCHRUN)


@pytest.mark.parametrize("marks", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_kernels_under_the_interpreter(marks: str) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", marks]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, *FILES], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
