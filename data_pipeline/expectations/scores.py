"""Boundary `scores`: units and ranges of each measure, as docs/data.md states them.

A measure that may be absent (nothing lit, fewer than three pictures, not asked for) is judged where it is there; how
often it may be absent is a rule of its own (`nulls`).
"""

from __future__ import annotations

from collections.abc import Iterator

from data_pipeline.expectations.rules import differs, matches, within
from data_pipeline.params import DataParams
from infra.gates import Rule

STAND_IN = r"stand-in for \S+"
_LABEL = {"dis": STAND_IN, "unimatch": r"^unimatch \S", "classical": STAND_IN, "dover": r"^dover \([0-9a-f]{12}\)$"}
_PIXELS = {
    "flow_motion": "mean flow",
    "camera_motion": "the camera's part of the flow",
    "camera_jitter": "its change from pair to pair",
    "object_motion": "what the camera leaves of it",
}
_LEVELS = ("vmaf_motion", "saturation", "saturation_lit", "brightness", "flicker")
_SHARES = (
    "aesthetic", "technical", "overall", "borders", "watermark", "stillness", "duplicate_frames", "text_area", "nsfw",
)  # fmt: skip
MOST_FLOW = 700.0  # pixels: longer than the diagonal of the 320x576 picture; one that turns back changes by twice that

NEEDED = ("flow_motion", "vmaf_motion", "saturation", "brightness", "aesthetic", "technical", "overall", "cuts_inside")
NULLABLE = tuple(name for name in (*_PIXELS, *_LEVELS, *_SHARES) if name not in NEEDED)


def of_rows(params: DataParams) -> list[Rule]:
    return [
        *(within(name, 0.0, 2 * MOST_FLOW, f"{told}, pixels of the 320x576 picture") for name, told in _PIXELS.items()),
        *(within(name, 0.0, 255.0, "levels of 0-255") for name in _LEVELS),
        *(within(name, 0.0, 1.0, "a share or a score, 0-1") for name in _SHARES),
        within("cuts_inside", 0, None, "cuts are counted"),
        within("hashes", 1, None, "has perceptual hashes to be compared by"),
        *(within(name, 16, None, "says the size that it was measured at") for name in ("height", "width")),
        matches(
            "flow_estimator",
            _LABEL[params.score.flow],
            "names the estimator of params, a stand-in as one",
            "data.score.flow",
        ),
        matches(
            "aesthetic_scorer",
            _LABEL[params.score.aesthetic],
            "names the scorer of params, a stand-in as one",
            "data.score.aesthetic",
        ),
    ]


def of_tables(params: DataParams) -> Iterator[Rule]:
    """Where the production scorers are demanded, no stand-in's number passes; none of it is the rows' fault."""
    if params.gate.production:
        for name in ("flow_estimator", "aesthetic_scorer"):
            yield differs(name, STAND_IN, "is no stand-in", "data.gate.production")
