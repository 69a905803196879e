"""The million hashes of benchmarks/dedup.py, fifty times smaller: what it calls found is what comparing all finds."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from data_pipeline.near import MIN_OVERLAP, distance, near_sequences

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dedup_benchmark", ROOT / "benchmarks" / "dedup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def all_distances(flat: np.ndarray, row: int) -> np.ndarray:
    """From one sequence to every other, (clips, frames) of equal length: by every shift with enough overlap."""
    frames = flat.shape[1]
    shifts = range(-frames, frames + 1)
    found = []
    for shift in shifts:
        here, there = (
            slice(max(shift, 0), min(frames, frames + shift)),
            slice(max(-shift, 0), min(frames, frames - shift)),
        )
        if here.stop - here.start >= MIN_OVERLAP * frames:
            found.append(np.bitwise_count(flat[row, here] ^ flat[:, there]).mean(axis=1))
    return np.min(found, axis=0)


def test_twenty_thousand_hashes(benchmark: ModuleType) -> None:
    every, (films, copies) = benchmark.clips_of(20_000)
    flat = every.flat.reshape(len(every.start), -1)
    found = near_sequences(every, benchmark.DISTANCE)
    pairs = dict(zip(zip(found.i.tolist(), found.j.tolist(), strict=True), found.distance.tolist(), strict=True))
    planted = list(zip(films.tolist(), copies.tolist(), strict=True))
    off = {pair: distance(flat[pair[0]], flat[pair[1]]) for pair in planted}
    assert len(planted) == 182 and {pair for pair in planted if off[pair] <= benchmark.DISTANCE} <= pairs.keys()
    assert sum(pair in pairs for pair in planted) / len(planted) > 0.97  # a few are planted further off than is asked
    sample = [*films[:60].tolist(), *copies[-60:].tolist(), *range(60)]
    for row in sample:
        near = all_distances(flat, row)
        near[row] = np.inf
        wanted = {
            tuple(sorted((row, other))): near[other] for other in np.flatnonzero(near <= benchmark.DISTANCE).tolist()
        }
        told = {pair: each for pair, each in pairs.items() if row in pair}
        assert told == pytest.approx(wanted), row


def test_the_figures_are_written(tmp_path: Path) -> None:
    out = tmp_path / "dedup.json"
    command = [sys.executable, "benchmarks/dedup.py", "--hashes", "5000", "--vectors", "1000", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    told = json.loads(out.read_text())
    assert told["about"]["cores"] >= 1
    assert [told[part]["count"] for part in ("hashes", "vectors")] == [5000, 1000]
    assert told["vectors"]["recall"] == 1.0 and told["hashes"]["peak_gib"] < 1.0
