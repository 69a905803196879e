"""What is between a decoder's convolutions: the definitions against torch's own, the kernels against the definitions.

Triton decides at its first import whether it interprets, so each way runs in a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from sana_video.ops.decoder import beside, doubled, norm_silu

HERE = Path(__file__).parent


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def test_what_a_convolution_reads() -> None:
    x, skip, before = normal(1, 3, 2, 2, 8), normal(1, 3, 2, 2, 8, seed=1), normal(1, 1, 2, 2, 16, seed=2)
    gain, bias = normal(8, seed=3), normal(8, seed=4)
    summed, read = norm_silu(x, gain, before, bias=bias, skip=skip)
    torch.testing.assert_close(summed, x + bias + skip)
    normed = F.silu(F.rms_norm(x + bias + skip, (8,), gain, eps=1e-12))
    torch.testing.assert_close(read[..., 16:], normed)
    assert torch.equal(read[:, 1:, ..., 8:16], read[:, :-1, ..., 16:])
    assert torch.equal(read[:, 2:, ..., :8], read[:, :-2, ..., 16:])
    assert torch.equal(read[:, :1, ..., :16], before) and torch.equal(read[:, 1:2, ..., :8], before[..., 8:])
    alone, read = norm_silu(x, gain)
    assert alone is x and not read[:, 0, ..., :16].any()
    assert norm_silu(x, gain, keep=False)[0] is None


def test_frames_beside_each_other_are_a_convolution_in_time() -> None:
    """The last two columns of what was read are what the next piece begins with."""
    x, weight = normal(1, 5, 4, 4, 3), normal(2, 3, 3, 3, 3, seed=1)
    expected = F.conv3d(F.pad(x.movedim(-1, 1), (1, 1, 1, 1, 2, 0)), weight)
    first = beside(x[:, :2], None)
    read = torch.cat([first, beside(x[:, 2:], first[:, -1:, ..., 3:])], dim=1)
    flat = weight.movedim(2, 1).flatten(1, 2)
    found = F.conv2d(read[0].movedim(-1, 1), flat, padding=1)
    torch.testing.assert_close(found.movedim(1, 0)[None], expected)


def test_doubled() -> None:
    x, bias = normal(2, 1, 2, 3, 4), normal(4, seed=1)
    expected = F.interpolate((x + bias)[:, 0].movedim(-1, 1), scale_factor=2.0, mode="nearest-exact")
    torch.testing.assert_close(doubled(x, bias=bias)[:, 0].movedim(-1, 1), expected)


def test_the_kernels_assemble_for_hopper_without_spilling() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    support = str(HERE.parents[1] / "support")
    run = subprocess.run(
        [sys.executable, HERE / "hopper_decoder.py"],
        env={**environment, "PYTHONPATH": os.pathsep.join([support, str(HERE.parents[2])])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
