"""Steps that are not computed: EasyCache (Zhou et al. 2025, arXiv 2507.02860, section 3). Lossy, and off by default.

Over most of a trajectory the transformation Δ = v - x hardly changes. So a step may take v ≈ x + Δ with the Δ of the
last computed step, as long as the change of v that this ignores is thought to be small. That change is estimated as

    ε_n = k · |x_n - x_{n-1}| / |v_{n-1}|,   k = |v_i - v_p| / |x_i - x_p|

with i the last computed step, p the computed one before, and |·| the mean of absolute values; ε adds up over the steps
skipped in a row, and the sum must stay below the threshold. The first fifth of the steps (at least two, which k needs)
and the last one are always computed. The rule draws nothing and knows only x and v: the same call skips the same steps.
It decides for a whole batch at once.
"""

from collections.abc import Callable

from torch import Tensor

from sana_video.sampling import Velocity

OnSkip = Callable[[int], None]


def check_threshold(threshold: float) -> None:
    """ValueError for what cannot be one."""
    if not 0 <= threshold < 1:
        raise ValueError(f"step cache {threshold}: expected at least 0 (computes every step) and below 1, such as 0.05")


class StepCache:
    """`velocity` for one trajectory of `steps` calls, of which some are answered from memory.

    on_skip(step) is called for each of those, counted from 1. At threshold 0 every step is computed.
    """

    def __init__(self, velocity: Velocity, steps: int, threshold: float, on_skip: OnSkip) -> None:
        check_threshold(threshold)
        self._velocity, self._threshold, self._on_skip = velocity, threshold, on_skip
        self._free = range(max(2, steps // 5), steps - 1)  # steps that may be skipped
        self._step = 0
        self._error = 0.0  # estimated, of the steps skipped since the last computed one
        self._before: tuple[Tensor, Tensor] | None = None  # x and v of the last step
        self._computed: tuple[Tensor, Tensor] | None = None  # of the last computed step
        self._rate = float("inf")  # k

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        step, self._step = self._step, self._step + 1
        v = self._remembered(x) if step in self._free else None
        if v is None:
            v = self._compute(x, sigma)
        else:
            self._on_skip(step + 1)
        self._before = x, v
        return v

    def _remembered(self, x: Tensor) -> Tensor | None:
        """x + Δ, if the error of that is thought small enough."""
        assert self._before is not None
        assert self._computed is not None
        (x_before, v_before), (x_computed, v_computed) = self._before, self._computed
        self._error += self._rate * _size(x - x_before) / max(_size(v_before), 1e-12)
        return x + (v_computed - x_computed) if self._error < self._threshold else None

    def _compute(self, x: Tensor, sigma: Tensor) -> Tensor:
        v = self._velocity(x, sigma)
        if self._computed is not None:
            x_before, v_before = self._computed
            self._rate = _size(v - v_before) / max(_size(x - x_before), 1e-12)
        self._computed, self._error = (x, v), 0.0
        return v


def _size(x: Tensor) -> float:
    return float(x.abs().mean())
