"""Attention to a text: the kernel against the definition, which the layers' own tests hold to diffusers.

Triton decides at its first import whether it interprets, so each way runs in a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_the_kernel_under_the_interpreter() -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-p",
            "no:xdist",
            "-p",
            "no:cacheprovider",
            HERE / "interpreted_cross_attention.py",
        ],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


def test_the_kernel_assembles_for_hopper_without_spilling() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    support = str(HERE.parents[1] / "support")
    run = subprocess.run(
        [sys.executable, HERE / "hopper_cross_attention.py"],
        env={**environment, "PYTHONPATH": os.pathsep.join([support, str(HERE.parents[2])])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
