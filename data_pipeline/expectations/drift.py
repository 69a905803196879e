"""Drift: how far a batch's measures lie from those of the batch that params name, `data.gate.reference`.

The distance is that of Kolmogorov and Smirnov: the largest gap between the shares of clips below any value, 0-1. Two
small samples of one population differ too, so what chance explains (once in a thousand times: 1.95 * sqrt(1/n + 1/m))
is taken off before the bound is asked; a batch without any value is at distance 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.columns import Floats, Ints, at, codes, numbers, places
from data_pipeline.expectations.balance import good_videos
from data_pipeline.expectations.facts import Read
from data_pipeline.expectations.rules import above
from data_pipeline.params import DataParams
from infra.gates import Overlay, Rule, Section

CHANCE = 1.95  # sqrt(-ln(0.001 / 2) / 2)
BINS = 32
SCORED = {name: name for name in ("flow_motion", "vmaf_motion", "saturation", "overall")}


def rules_of_drift(params: DataParams) -> list[Rule]:
    about = (
        "beyond chance, a batch's values are spread as in the reference batch: distance of Kolmogorov and Smirnov, 0-1"
    )
    return [above("bound", "beyond_chance", about, or_equal=True, param="data.gate.drift")]


def drift(read: Read, params: DataParams) -> Section:
    """One row for each measure of each batch but the reference, and both spreads as a picture."""
    names, reference = sorted(params.batches), str(params.gate.reference)
    rows, pictures = [], []
    for measure, batch, values in _measured(read, names):
        here = values[batch == names.index(reference)]
        for name in names:
            if name != reference:
                there = values[batch == names.index(name)]
                rows.append(
                    _row(f"{measure} of {name} against {reference}", here, there, getattr(params.gate.drift, measure))
                )
                if len(here) and len(there):
                    pictures.append(_picture(str(rows[-1]["spread"]), {reference: here, name: there}))
    return Section(pd.DataFrame(rows), rules_of_drift(params), "spread", pictures=pictures)


def _row(what: str, here: Floats, there: Floats, bound: float) -> dict[str, object]:
    distance = apart(here, there)
    chance = CHANCE * math.sqrt(1 / len(here) + 1 / len(there)) if len(here) and len(there) else 0.0
    chance = min(chance, 1.0)
    spread = f"{what}: {distance:.3f} apart, {chance:.3f} may be chance, {bound:g} beyond it is allowed"
    return {"spread": spread, "beyond_chance": round(max(0.0, distance - chance), 6), "bound": bound}


def apart(a: Floats, b: Floats) -> float:
    """The Kolmogorov-Smirnov distance of two samples; 1 where one is empty."""
    if not len(a) or not len(b):
        return 1.0
    a, b = np.sort(a), np.sort(b)
    every = np.concatenate([a, b])
    below = (np.searchsorted(each, every, side="right") / len(each) for each in (a, b))
    return float(np.abs(np.subtract(*below)).max())


def _measured(read: Read, names: Sequence[str]) -> Iterator[tuple[str, Ints, Floats]]:
    """(measure, index of each value's batch or -1, finite values) over what has no reason."""
    videos = good_videos(read)
    batch = places(videos.column("batch"), pa.chunked_array([names], pa.string()))
    yield from _finite("video_seconds", batch, numbers(videos.column("duration")))
    clips = read("clips", ["clip_id", "video_id", "shot", "shot_start", "shot_end", "reason"])
    clips = clips.filter(pc.is_null(clips.column("reason")))
    of_clip = np.asarray(at(batch, places(clips.column("video_id"), videos.column("video_id")), -1))
    first = _first_of_shots(clips)
    seconds = numbers(clips.column("shot_end")) - numbers(clips.column("shot_start"))
    yield from _finite("shot_seconds", of_clip[first], seconds[first])
    for table, columns in (("scores", SCORED), ("captions", {"words": "caption_words"})):
        rows = read(table, ["clip_id", "reason", *columns])
        rows = rows.filter(pc.is_null(rows.column("reason")))
        of_row = np.asarray(at(of_clip, places(rows.column("clip_id"), clips.column("clip_id")), -1))
        for column, measure in columns.items():
            yield from _finite(measure, of_row, numbers(rows.column(column)))


def _first_of_shots(clips: pa.Table) -> Ints:
    video = codes(pc.fill_null(clips.column("video_id"), ""))[0]
    shot = pc.fill_null(clips.column("shot"), -1).to_numpy().astype(np.int64)
    return np.asarray(np.unique((video << 32) + shot, return_index=True)[1])


def _finite(measure: str, batch: Ints, values: Floats) -> Iterator[tuple[str, Ints, Floats]]:
    there = np.isfinite(values)
    yield measure, batch[there], values[there]


def _picture(title: str, values: dict[str, Floats]) -> Overlay:
    every = np.concatenate(list(values.values()))
    low, high = (float(end) for end in np.percentile(every, (0.5, 99.5)))
    high = high if high > low else low + 1.0
    shares = {
        name: [round(float(n), 5) for n in np.histogram(np.clip(each, low, high), BINS, (low, high))[0] / len(each)]
        for name, each in values.items()
    }
    return Overlay(title, round(low, 4), round(high, 4), shares)
