"""Norm and SiLU before a causal convolution: the definition against torch's own, the kernel against the definition.

Triton decides at its first import whether it interprets, so each way runs in a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from sana_video.ops.norm_silu import norm_silu

HERE = Path(__file__).parent


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def test_what_a_convolution_reads() -> None:
    x, skip, before = normal(1, 3, 2, 2, 8), normal(1, 3, 2, 2, 8, seed=1), normal(1, 2, 2, 2, 8, seed=2)
    gain, bias = normal(8, seed=3), normal(8, seed=4)
    summed, read = norm_silu(x, gain, before, bias=bias, skip=skip)
    torch.testing.assert_close(summed, x + bias + skip)
    torch.testing.assert_close(read[:, 2:], F.silu(F.rms_norm(summed, (8,), gain, eps=1e-12)))
    assert torch.equal(read[:, :2], before)
    alone, read = norm_silu(x, gain)
    assert torch.equal(alone, x) and torch.equal(read[:, :2], torch.zeros_like(before))


def test_the_kernel_under_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:xdist", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, HERE / "interpreted_norm_silu.py"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


def test_the_kernel_assembles_for_hopper_without_spilling() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    support = str(HERE.parents[1] / "support")
    run = subprocess.run(
        [sys.executable, HERE / "hopper_norm_silu.py"],
        env={**environment, "PYTHONPATH": os.pathsep.join([support, str(HERE.parents[2])])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
