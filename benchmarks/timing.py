"""Honest times: contenders take turns, so that heat and clocks are shared; medians of CUDA events, on a GPU.

Before anything is timed it is held to float32 or float64: what is wrong ends the run, and what is slower than plain
torch ends it with exit code 1, after its figures are written.
"""

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

SLOWER = 1.03  # times a plain form: closer than that, medians of two runs change places


def default_out(name: str) -> Path:
    """Where figures go that nobody asked to keep."""
    return Path("runs/benchmarks") / f"{name}.json"


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
                times[name].append(timed(run))
    return {name: statistics.median(found) for name, found in times.items()}


def timed(run: Callable[[], object]) -> float:
    """Milliseconds of one call; by the wall clock where there is no GPU."""
    if not torch.cuda.is_available():
        began = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - began)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def trace(run: Callable[[], object]) -> str:
    """A table of what one call of `run` spends its time in, the dearest first: kernels, or operators on a CPU."""
    from torch.profiler import ProfilerActivity, profile

    run()
    cuda = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as seen:
        run()
        if cuda:
            torch.cuda.synchronize()
    by = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    table: str = seen.key_averages().table(sort_by=by, row_limit=25, max_name_column_width=90)
    return table


def relative_error(out: torch.Tensor, reference: torch.Tensor) -> float:
    """‖out - reference‖ / ‖reference‖ in float64; NaN if anything is."""
    wide = reference.double()
    return float((out.double() - wide).norm() / wide.norm())


def checked(error: float, bound: float, name: str) -> float:
    """`error` itself. SystemExit unless it is at most `bound`, as NaN is not: what is wrong is not timed."""
    if not error <= bound:
        raise SystemExit(f"{name}: relative error {error:.2e} is not at most {bound:.0e}")
    return error


@contextmanager
def exact_products() -> Iterator[None]:
    """Inside, products and convolutions of float32 are in float32, not in TF32: for references."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def refuse_slower(figures: Mapping[str, Mapping[str, float]]) -> None:
    """SystemExit where ours takes more than `SLOWER` times a plain form of the same run, by name of what was timed.

    Forms of ours are those whose names begin so; the fastest of them counts. All others are plain.
    """
    slow = []
    for name, ms in figures.items():
        ours = [took for form, took in ms.items() if form.startswith("ours")]
        plain = [took for form, took in ms.items() if not form.startswith("ours")]
        if ours and plain and not min(ours) <= SLOWER * min(plain):
            slow.append(f"{name}: ours {min(ours):.3f} ms, plain {min(plain):.3f} ms")
    if slow:
        raise SystemExit("slower than plain torch:\n  " + "\n  ".join(slow))


def copy_bandwidth() -> float:
    """Bytes per second that a large device-to-device copy moves, reads and writes counted."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    took = interleaved({"copy": lambda: target.copy_(source)}, rounds=3, calls=10)["copy"]
    return 2 * source.numel() / (took / 1000)


def about() -> dict[str, Any]:
    """What the figures were taken on: device, versions, commit."""
    from importlib.metadata import version

    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "torch": torch.__version__,
        "triton": version("triton"),
        "cuda": torch.version.cuda,
        "commit": commit(),
    }


def commit() -> str | None:
    """The commit that runs: $COMMIT where the tree was brought without its history, else what git says.

    Where files that git knows have been changed since, "+dirty" follows.
    """
    if said := os.environ.get("COMMIT"):
        return said
    head, changed = (
        subprocess.run(["git", *asked], capture_output=True, text=True, check=False).stdout.strip()
        for asked in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    )
    return (head + ("+dirty" if changed else "")) or None


def write(out: Path, figures: Mapping[str, Any]) -> None:
    """Write the figures as JSON beside what they were taken on."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"about": about(), **figures}, indent=2) + "\n")
