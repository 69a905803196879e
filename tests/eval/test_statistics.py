"""The cluster bootstrap against what can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from eval.statistics import mean_interval, ratio_interval


def test_mean_and_normal_interval() -> None:
    draw = np.random.Generator(np.random.PCG64(0))
    values = draw.normal(3.0, 2.0, size=400)
    mean, interval = mean_interval(list(values), [str(i) for i in range(400)])
    assert mean == pytest.approx(values.mean())
    assert interval is not None
    half = 1.96 * values.std() / 20  # the analytic standard error; 10,000 draws agree with it to a few per cent
    assert interval[0] == pytest.approx(mean - half, abs=0.03)
    assert interval[1] == pytest.approx(mean + half, abs=0.03)


def test_repeating_a_seed_does_not_narrow_the_interval() -> None:
    values = [0.0, 1.0, 2.0, 5.0]
    once = mean_interval(values, list("abcd"))
    assert mean_interval(values * 3, list("abcd") * 3) == once


def test_one_cluster_has_no_interval() -> None:
    assert mean_interval([1.0, 3.0], ["a", "a"]) == (2.0, None)


def test_ratio_is_of_sums() -> None:
    estimate, interval = ratio_interval(np.array([1.0, 3.0]), np.array([2.0, 4.0]))
    assert estimate == pytest.approx(4 / 6)
    assert interval == (pytest.approx(0.5), pytest.approx(0.75))


def test_no_values_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        mean_interval([], [])
