"""Boundary `ingest`: what every video that goes on must be."""

from __future__ import annotations

from data_pipeline.expectations.rules import matches, one_of, within
from data_pipeline.ingest import MAX_FPS, MIN_FPS
from data_pipeline.params import DataParams
from infra.gates import Rule

NULLABLE = ()


def of_rows(params: DataParams) -> list[Rule]:
    ingest = params.ingest
    return [
        matches("video_id", r"^[a-z0-9]+$", "named by its content"),
        matches("source", r"\S", "comes from a named source"),
        matches("licence", r"\S", "says under which licence it may be used, `unstated` included"),
        within("bytes", 1, None, "has bytes"),
        within("width", 16, None, "is a picture"),
        within("height", 16, None, "is a picture"),
        one_of("rotation", [0, 90, 180, 270], "is turned by right angles alone"),
        within("fps", MIN_FPS, MAX_FPS, "has a rate that a film can have"),
        within("duration", ingest.min_seconds, ingest.max_seconds, "lasts as long as is asked for, seconds",
               "data.ingest.min_seconds, max_seconds"),
    ]  # fmt: skip
