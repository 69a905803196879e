"""Means with 95 % intervals by the cluster bootstrap: prompts are drawn again, each with all its seeds.

Two videos of one prompt are not two independent observations, so the prompt (or the clip, for reconstruction) is the
unit that is drawn. The draw is seeded by a constant: equal tables give equal intervals, byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
SEED = 20_260_101

Floats = NDArray[np.float64]


def cluster_sums(values: Sequence[float], clusters: Sequence[str]) -> tuple[Floats, Floats]:
    """Sum and count of `values` per cluster, clusters in sorted order."""
    names, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    sums = np.bincount(index, weights=np.asarray(values, dtype=np.float64), minlength=len(names)).astype(np.float64)
    return sums, np.bincount(index, minlength=len(names)).astype(np.float64)


def _weights(clusters: int) -> Floats:
    """How often each cluster is drawn, (DRAWS, clusters)."""
    draw = np.random.Generator(np.random.PCG64(SEED))
    return draw.multinomial(clusters, np.full(clusters, 1.0 / clusters), size=DRAWS).astype(np.float64)


def ratio_interval(above: Floats, below: Floats) -> tuple[float, tuple[float, float] | None]:
    """sum(above) / sum(below) over clusters, and its percentile interval; None where one cluster gives no spread."""
    estimate = float(above.sum() / below.sum())
    if len(above) < 2:
        return estimate, None
    weights = _weights(len(above))
    low, high = np.percentile((weights @ above) / (weights @ below), [2.5, 97.5])
    return estimate, (float(low), float(high))


def mean_interval(values: Sequence[float], clusters: Sequence[str]) -> tuple[float, tuple[float, float] | None]:
    """Mean of `values` and its 95 % interval over `clusters` (same length). Raises ValueError on no values."""
    if len(values) == 0:
        raise ValueError("a mean of no values was asked for: the table is empty")
    return ratio_interval(*cluster_sums(values, clusters))
