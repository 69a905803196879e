"""Which clips the report shows: those nearest to each threshold, and a few for each reason, caption and pair.

A clip's id is a hash, so the first by id are a fair draw that never changes while the tables do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.columns import Bools, Floats, Ints
from data_pipeline.params import Range
from data_pipeline.report.load import Chosen

EDGE_CLIPS = 4  # on each side of a threshold
REASON_CLIPS = 3
CAPTION_CLIPS = 12
TWIN_PAIRS = 4  # of each kind at each end: the most and the least alike
Row = dict[str, Any]


@dataclass(frozen=True)
class Shown:
    """A clip beside the number it is shown for; `bound` is its own source's threshold."""

    clip_id: str
    source: str
    value: float | None = None
    bound: float | None = None


@dataclass(frozen=True)
class Edge:
    """A threshold of a measure, `low` or `high`, with the clips nearest to it and how many lie beyond it."""

    measure: str
    end: str
    bounds: tuple[float, ...]
    beyond: int
    inside: list[Shown]
    outside: list[Shown]


def edges(measure: str, values: Floats, chosen: Chosen, bounds: Mapping[str, Range | None]) -> list[Edge]:
    """The two thresholds of a measure; an end that no source has, or only at infinity, is left out.

    A value at the threshold is inside. Sources with other thresholds are ranked together, by the distance to their own.
    """
    found = []
    for place, end, sign in ((0, "low", 1.0), (1, "high", -1.0)):
        own = np.array([(bounds.get(name) or (np.nan, np.nan))[place] for name in chosen.sources], np.float64)
        told = sorted({float(bound) for bound in own if np.isfinite(bound)})
        if not told:
            continue
        limit = own[chosen.source]
        distance = sign * (values - limit)
        asked = np.isfinite(distance)
        outside, inside = asked & (distance < 0), asked & (distance >= 0)
        show = [_shown(chosen, nearest(np.abs(distance), side), values, limit) for side in (inside, outside)]
        found.append(Edge(measure, end, tuple(told), int(outside.sum()), *show))
    return found


def nearest(distance: Floats, among: Bools, count: int = EDGE_CLIPS) -> Ints:
    """The rows `among` with the least distance, nearest first; of equals the first rows."""
    who = np.flatnonzero(among)
    if len(who) > count:
        last = np.partition(distance[who], count - 1)[count - 1]
        who = np.append(who[distance[who] < last], who[distance[who] == last][:count])
    return who[np.lexsort((who, distance[who]))][:count]


def _shown(chosen: Chosen, rows: Ints, values: Floats, limit: Floats) -> list[Shown]:
    ids = chosen.clip_id.take(pa.array(rows)).to_pylist()
    return [
        Shown(name, chosen.sources[chosen.source[row]], float(values[row]), float(limit[row]))
        for name, row in zip(ids, rows.tolist(), strict=True)
    ]


def by_reason(chosen: Chosen) -> dict[str, list[Shown]]:
    """A few clips of each reason that is some clip's first."""
    return {
        reason: _first(chosen, np.flatnonzero(chosen.reason == at)[:REASON_CLIPS])
        for at, reason in enumerate(chosen.reasons)
    }


def captioned(chosen: Chosen) -> list[Shown]:
    """Kept clips, spread over the sources."""
    share = max(1, -(-CAPTION_CLIPS // max(1, len(np.unique(chosen.source[chosen.keep])))))
    rows = [np.flatnonzero(chosen.keep & (chosen.source == at))[:share] for at in range(len(chosen.sources))]
    return _first(chosen, np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.int64)[:CAPTION_CLIPS])


def _first(chosen: Chosen, rows: Ints) -> list[Shown]:
    ids = chosen.clip_id.take(pa.array(rows)).to_pylist()
    return [Shown(name, chosen.sources[chosen.source[row]]) for name, row in zip(ids, rows.tolist(), strict=True)]


def pairs(twins: pa.Table) -> list[tuple[str, int, list[Row]]]:
    """(kind, how many, pairs shown): of each kind the farthest apart, where a wrong pair would be, then the nearest."""
    found = []
    for kind in sorted(pc.unique(twins.column("kind")).to_pylist()):
        rows = twins.filter(pc.equal(twins.column("kind"), kind))
        order = pc.sort_indices(rows, [("distance", "descending"), ("clip_id", "ascending")])
        ends = [*range(min(TWIN_PAIRS, len(rows))), *range(max(TWIN_PAIRS, len(rows) - TWIN_PAIRS), len(rows))]
        found.append((kind, len(rows), rows.take(order.take(pa.array(ends, pa.int64()))).to_pylist()))
    return found


def clip_ids(groups: Sequence[Sequence[Shown]]) -> list[str]:
    """Every clip of the groups once, in order of first use."""
    return list(dict.fromkeys(shown.clip_id for group in groups for shown in group))
