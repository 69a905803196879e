"""Boundary `split`: what every clip that goes on must be."""

from __future__ import annotations

from data_pipeline.expectations.rules import above, matches, one_of, within
from data_pipeline.params import DataParams
from infra.gates import Rule

NULLABLE = ()


def of_rows(params: DataParams) -> list[Rule]:
    split = params.split
    return [
        one_of("frames", [split.frames], "has exactly so many frames", "data.split.frames"),
        one_of("fps", [float(split.fps)], "at exactly this rate", "data.split.fps"),
        above("end", "start", "ends after it begins"),
        above("end_pts", "start_pts", "ends after it begins, in ticks of the stream"),
        within("frames_off", 0.0, 0.01, "is as long as its frames at its rate, but for a tick of the stream; frames"),
        matches("detector", f"^{split.detector}$", "was cut by the detector of params", "data.split.detector"),
    ]
