"""Honest times on a GPU: contenders take turns, so that heat and clocks are shared; medians of CUDA events."""

import json
import os
import statistics
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


def interleaved(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, calls: int, warm: int = 1
) -> dict[str, float]:
    """Median milliseconds of one call of each contender.

    In each round every contender runs `warm` calls untimed, then `calls` timed ones back to back.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            for _ in range(warm):
                run()
            for _ in range(calls):
                times[name].append(_timed(run))
    return {name: statistics.median(found) for name, found in times.items()}


def _timed(run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def relative_error(out: torch.Tensor, reference: torch.Tensor) -> float:
    """‖out - reference‖ / ‖reference‖ in float64; NaN if anything is."""
    wide = reference.double()
    return float((out.double() - wide).norm() / wide.norm())


def copy_bandwidth() -> float:
    """Bytes per second that a large device-to-device copy moves, reads and writes counted."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    took = interleaved({"copy": lambda: target.copy_(source)}, rounds=3, calls=10)["copy"]
    return 2 * source.numel() / (took / 1000)


def about() -> dict[str, Any]:
    """What the figures were taken on: device, versions, commit."""
    import triton

    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "commit": commit(),
    }


def commit() -> str | None:
    """The commit that runs: $COMMIT where the tree was brought without its history, else what git says."""
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return os.environ.get("COMMIT") or said.stdout.strip() or None


def write(out: Path, figures: Mapping[str, Any]) -> None:
    """Write the figures as JSON beside what they were taken on."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"about": about(), **figures}, indent=2) + "\n")
