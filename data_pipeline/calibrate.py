"""How every measure spreads in each source, and the ranges that follow from it: a fragment of params.yaml to look at.

The paper sets its ranges by source, after a look at each source's distribution, and states no numbers. `RULES` says
how a range follows here; a measure without a rule is shown and left alone. Ends are rounded outward to four digits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.columns import Floats, codes, numbers, places
from data_pipeline.params import CurateParams, Range, Ranges

LEVELS = (1, 2, 5, 10, 25, 50, 75, 90, 95, 98, 99)
MIN_CLIPS = 50  # below this the 2nd percentile is the smallest value there happened to be

Row = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """The percentile at which a tail is cut; an end that is not cut stands where the measure itself ends."""

    low: float | None
    high: float | None
    ends: Range
    why: str


_UP = Rule(None, 98, (0.0, math.inf), "a fault: the worst 2 % go")
_SHARE = Rule(None, 98, (0.0, 1.0), "a fault: the worst 2 % go")
_TAILS = Rule(2, 98, (0.0, math.inf), "p2-p98: too little and too much motion go, as in the paper")
RULES = {
    "flow_motion": _TAILS,
    "vmaf_motion": _TAILS,
    "camera_jitter": _UP,
    "saturation": Rule(None, 98, (0.0, 255.0), "the paper's upper bound, set by source"),
    "overall": Rule(10, None, (0.0, 1.0), "p10: the paper filters by DOVER's overall score"),
    "borders": _SHARE,
    "watermark": _SHARE,
    "stillness": _SHARE,
    "flicker": _UP,
    "duplicate_frames": _SHARE,
    "text_area": _SHARE,
    "nsfw": _SHARE,
    "cuts_inside": Rule(None, None, (0.0, 0.0), "the paper's clips are single scenes"),
}


def run(videos: pa.Table, clips: pa.Table, scores: pa.Table) -> list[Row]:
    """By source: `clips`, `origin`, `enough`, `measures` {name: {n, nulls, p1 …}}, `ranges`, `drops`, `drops_any`.

    `origin` is real, synthetic, both, or unknown where the videos table does not know the source. Counted are clips
    that were cut and scored. `drops` gives shares of them: {name: {low, high, missing}}.
    """
    live = clips.filter(pc.is_null(clips.column("reason")))
    scored = scores.filter(pc.is_null(scores.column("reason")))
    where = places(live.column("clip_id"), scored.column("clip_id"))
    live, where = live.take(pa.array(np.flatnonzero(where >= 0))), where[where >= 0]
    source, names = codes(live.column("source"))
    order = np.argsort(source, kind="stable")
    edges = np.searchsorted(source[order], np.arange(len(names) + 1))
    measures = [name for name in Ranges.model_fields if name in scored.schema.names]
    values = {name: numbers(scored.column(name))[where[order]] for name in measures}
    origins = _origins(videos)
    return [
        _of_source(name, origins.get(name, "unknown"), {m: v[edges[at] : edges[at + 1]] for m, v in values.items()})
        for at, name in enumerate(names)
    ]


def _origins(videos: pa.Table) -> dict[str, str]:
    """real, synthetic or both, by source, of the videos that go on."""
    told = videos.filter(pc.is_null(videos.column("reason"))).group_by(["source", "origin"]).aggregate([]).to_pylist()
    found: dict[str, str] = {}
    for row in told:
        found[row["source"]] = "both" if row["source"] in found else row["origin"]
    return found


def _of_source(name: str, origin: str, values: Mapping[str, Floats]) -> Row:
    clips = len(next(iter(values.values())))
    measures = {measure: spread(each) for measure, each in values.items()}
    told = {measure: rule for measure, rule in RULES.items() if measures[measure]["n"] >= max(MIN_CLIPS, clips / 2)}
    ranges = {measure: suggested(rule, measures[measure]) for measure, rule in told.items()}
    failing = {measure: _failing(values[measure], bounds) for measure, bounds in ranges.items()}
    out = np.zeros(clips, bool)
    for each in (mask for masks in failing.values() for mask in masks.values()):
        out |= each
    return {
        "source": name,
        "origin": origin,
        "clips": clips,
        "enough": clips >= MIN_CLIPS,
        "measures": measures,
        "ranges": {measure: list(bounds) for measure, bounds in ranges.items()},
        "drops": {m: {end: round(float(x.mean()), 6) for end, x in masks.items()} for m, masks in failing.items()},
        "drops_any": round(float(out.mean()), 6),
    }


def spread(values: Floats) -> dict[str, Any]:
    """n, nulls (what is not finite counts as one) and percentiles; null where there is no value."""
    finite = values[np.isfinite(values)]
    levels = np.percentile(finite, LEVELS).tolist() if len(finite) else [None] * len(LEVELS)
    told = {f"p{level}": value for level, value in zip(LEVELS, levels, strict=True)}
    return {"n": len(finite), "nulls": len(values) - len(finite), **told}


def suggested(rule: Rule, told: Mapping[str, Any]) -> Range:
    """The range that follows from the percentiles in `told`."""
    low, high = rule.ends
    if rule.low is not None:
        low = max(low, _outward(told[f"p{rule.low:g}"], math.floor))
    if rule.high is not None:
        high = min(high, _outward(told[f"p{rule.high:g}"], math.ceil))
    return low, high


def _outward(value: float, to: Any) -> float:
    if value == 0.0:
        return 0.0
    digits = 3 - math.floor(math.log10(abs(value)))
    near = round(value, digits)  # a value of four digits is its own end
    return near if math.isclose(near, value, rel_tol=1e-12) else round(to(value * 10.0**digits) / 10.0**digits, digits)


def _failing(values: Floats, bounds: Range) -> dict[str, Any]:
    finite = np.isfinite(values)
    return {"low": finite & (values < bounds[0]), "high": finite & (values > bounds[1]), "missing": ~finite}


def fragment(sources: Sequence[Row], params: CurateParams) -> str:
    """`data.curate` of params.yaml with the suggestions in it, and in comments what they rest on."""
    told = {row["source"]: row for row in sources}
    lines = [
        "# Ranges suggested by `sana-video data calibrate`. Look at each before you take it.",
        "data:",
        "  curate:",
        "    ranges:",
    ]
    for name in ["default", *sorted(told.keys() | params.ranges.keys() - {"default"})]:
        stated = params.ranges[name].stated() if name in params.ranges else {}
        lines += _section(name, stated, None if name == "default" else told.get(name))
    return "\n".join([*lines, f"    validation: {params.validation!r}", ""])


def _section(name: str, stated: Mapping[str, Range | None], row: Row | None) -> Iterator[str]:
    ranges = {**stated, **(row["ranges"] if row else {})}
    about = f"{row['clips']:,} clips, {row['origin']}" if row else "as it stands"
    if row and not row["enough"]:
        about += f": too few to suggest from, {MIN_CLIPS} are needed"
    if row and row["ranges"]:
        about += f"; together they drop {row['drops_any']:.1%}"
    yield f"      {json.dumps(name)}:  # {about}" if ranges else f"      {json.dumps(name)}: {{}}  # {about}"
    for measure, spread in (row["measures"] if row else dict.fromkeys(ranges)).items():
        if spread is not None:
            yield f"        # {measure}: {_told(spread)}"
        if measure in ranges:
            yield f"        {measure}: {_bounds(ranges[measure])}{_why(measure, row)}"
    for measure in set(ranges) - row["measures"].keys() if row else ():  # the percentile spreads alike in all sources
        yield f"        {measure}: {_bounds(ranges[measure])}{_why(measure, row)}"


def _told(spread: Mapping[str, Any]) -> str:
    levels = ", ".join(f"{key} {value:.4g}" for key, value in spread.items() if key[0] == "p" and value is not None)
    return f"n {spread['n']:,}, nulls {spread['nulls']:,}" + (f"; {levels}" if levels else "")


def _bounds(bounds: Sequence[float] | None) -> str:
    return "null" if bounds is None else f"[{', '.join(_number(end) for end in bounds)}]"


def _number(value: float) -> str:
    return repr(value) if math.isfinite(value) else ".inf" if value > 0 else "-.inf"


def _why(measure: str, row: Row | None) -> str:
    if row is None or measure not in row["drops"]:
        return "" if row is None else "  # as it stands"
    shares = row["drops"][measure]
    ends = {"low": "below", "high": "above", "missing": "not measured"}
    drops = ", ".join(f"{shares[end]:.1%} {word}" for end, word in ends.items() if shares[end])
    return f"  # {RULES[measure].why}; drops {drops or 'none'}"
