"""Norms, modulation and gated sums: the definition against the layers it came from, the kernels against it.

Triton decides at its first import whether it interprets, so each way runs in a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch

from sana_video.ops.modulate import gated_add, gated_add_modulate, modulate, rms_norm

HERE = Path(__file__).parent


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_modulate_per_sample_and_per_frame() -> None:
    x = normal(2, 3, 4, 8)
    normed = torch.nn.functional.layer_norm(x, (8,), eps=1e-6)
    for frames in (1, 3):
        shift, scale = normal(2, frames, 1, 8, seed=1), normal(2, frames, 1, 8, seed=2)
        torch.testing.assert_close(modulate(x, shift, scale, 1e-6), normed * (1 + scale) + shift)


def test_gated_add_takes_a_second_part_and_no_gate() -> None:
    x, branch, skip, gate = (
        normal(1, 2, 3, 8),
        normal(1, 2, 3, 8, seed=1),
        normal(1, 2, 3, 8, seed=2),
        normal(1, 1, 1, 8),
    )
    torch.testing.assert_close(gated_add(x, branch, gate, skip), x + gate * (branch + skip))
    torch.testing.assert_close(gated_add(x, branch), x + branch)


def test_both_at_once_are_one_after_the_other() -> None:
    x, branch = normal(1, 2, 3, 8), normal(1, 2, 3, 8, seed=1)
    gate, shift, scale = (normal(1, 2, 1, 8, seed=seed) for seed in (2, 3, 4))
    stream, modulated = gated_add_modulate(x, branch, gate, shift, scale, 1e-6)
    assert torch.equal(stream, gated_add(x, branch, gate))
    assert torch.equal(modulated, modulate(stream, shift, scale, 1e-6))


def test_bf16_rounds_once() -> None:
    x, branch, gate = (normal(1, 2, 3, 8, seed=seed).bfloat16() for seed in range(3))
    gate = gate[:, :1, :1]
    exact = gated_add(x.float(), branch.float(), gate.float())
    assert torch.equal(gated_add(x, branch, gate), exact.bfloat16())
    assert torch.equal(rms_norm(x, gate[0, 0, 0], 1e-5), rms_norm(x.float(), gate[0, 0, 0].float(), 1e-5).bfloat16())


def test_kernels_assemble_for_hopper_and_spill_at_most_32_bytes() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    support = str(HERE.parents[1] / "support")
    run = subprocess.run(
        [sys.executable, HERE / "hopper_modulate.py"],
        env={**environment, "PYTHONPATH": os.pathsep.join([support, str(HERE.parents[2])])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
