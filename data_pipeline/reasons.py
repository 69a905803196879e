"""Why clips are dropped, all reasons of millions of clips kept as columns of codes and written as a column of lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from data_pipeline.columns import Bools, Floats, Ints, codes


class Reasons:
    """Why each of so many clips is dropped: one column of codes a rule, in the order in which rules are asked."""

    def __init__(self, clips: int) -> None:
        self.count = np.zeros(clips, np.int32)
        self._words: dict[str, int] = {}
        self._rules: list[tuple[Ints, Any]] = []  # the clips that fail, ascending, and the code of each or of all

    def add(self, reason: str, failing: Bools) -> None:
        self._note(np.flatnonzero(failing), self._code(reason))

    def texts(self, column: pa.ChunkedArray, failing: Bools) -> None:
        """A reason of its own for each clip that fails, as an earlier stage wrote it."""
        who = np.flatnonzero(failing)
        if len(who):
            told, words = codes(column.take(pa.array(who)))
            self._note(who, np.array([self._code(word) for word in words], np.int32)[told])

    def outside(self, name: str, values: Floats, low: Floats, high: Floats, asked: Bools) -> None:
        """MISSING_…, …_LOW or …_HIGH for values that are not within [low, high]; NaN for `low` asks nothing."""
        asked = asked & ~np.isnan(low)
        finite = np.isfinite(values)
        self.add(f"MISSING_{name}", asked & ~finite)
        self.add(f"{name}_LOW", asked & finite & (values < low))
        self.add(f"{name}_HIGH", asked & finite & (values > high))

    def column(self) -> pa.ListArray:
        """All reasons of each clip, in the order of the rules."""
        ends = np.cumsum(self.count, dtype=np.int64)
        told, cursor = np.empty(int(ends[-1]) if len(ends) else 0, np.int32), ends - self.count
        for who, code in self._rules:
            told[cursor[who]] = code
            cursor[who] += 1
        offsets = pa.array(np.append(0, ends).astype(np.int32))
        return pa.ListArray.from_arrays(offsets, pa.array(list(self._words), pa.string()).take(pa.array(told)))

    def _code(self, reason: str) -> int:
        return self._words.setdefault(reason, len(self._words))

    def _note(self, who: Ints, code: Any) -> None:
        if len(who):
            self._rules.append((who, code))
            self.count[who] += 1
