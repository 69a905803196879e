"""Which columns a measure fills and what its numbers depend on: a change measures that one again and no other."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.params import DoverParams, LimitParams, ScoreParams, SplitParams
from infra.storage import digest

CONTENT_CUT = 27.0  # PySceneDetect's content threshold, for clips that another detector cut
CHECK = 0.6  # of it: a cut inside a clip is one that the detector has not seen, between pictures that are more alike

COLUMNS = {
    "flow_motion": (
        "flow_motion", "flow_pairs", "flow_absmean_pairs", "flow_times",
        "camera_motion", "camera_jitter", "object_motion", "flow_estimator",
    ),
    "vmaf_motion": ("vmaf_motion",),
    "saturation": ("saturation", "brightness", "colour"),
    "saturation_lit": ("saturation_lit",),
    "aesthetic": ("aesthetic", "technical", "overall", "aesthetic_scorer"),
    "borders": ("borders",),
    "watermark": ("watermark",),
    "stillness": ("stillness",),
    "flicker": ("flicker",),
    "duplicate_frames": ("duplicate_frames",),
    "text_area": ("text_area", "text_detector"),
    "nsfw": ("nsfw", "nsfw_detector"),
    "cuts_inside": ("cuts_inside",),
    "phash": ("phash",),
    "embedding": ("embedding", "embedder"),
}  # fmt: skip
SIZE = ("height", "width")

_ALWAYS = ("fps", "frames")
_READS = {
    "flow_motion": ("sample_seconds", "flow", "flow_digest"),
    "saturation": ("sample_seconds",),
    "saturation_lit": ("sample_seconds",),
    "aesthetic": ("sample_seconds", "aesthetic", "dover"),
    "text_area": ("text",),
    "nsfw": ("nsfw",),
    "cuts_inside": ("cut_threshold",),
    "phash": ("sample_seconds",),
    "embedding": ("sample_seconds",),
}


@dataclass(frozen=True)
class Settings:
    """What the numbers depend on besides the clip's own pixels. `frames` 0: each span says how many it has.

    `short_side` is of the pictures that text and nudity are looked for in; all else has sizes of its own (`seen`).
    """

    fps: int
    frames: int
    short_side: int
    sample_seconds: float
    cut_threshold: float
    flow: str
    flow_digest: str | None
    aesthetic: str
    dover: dict[str, Any] | None
    text: str | None
    nsfw: str | None
    shared_end: bool = False  # the last frame is the first of the film's next window, whose picture it counts as

    def digest(self, measure: str) -> str:
        """Of all that this one measure reads, and of the columns it fills."""
        names = (*_ALWAYS, *_READS.get(measure, ()), *(("short_side",) if measure in ("text_area", "nsfw") else ()))
        read = {name: getattr(self, name) for name in names}
        told = json.dumps({**read, "columns": COLUMNS[measure]}, sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:12]

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures to take: all but those that are not asked for."""
        absent = {"text_area"} if self.text is None else set()
        return tuple(name for name in COLUMNS if name not in absent | ({"nsfw"} if self.nsfw is None else set()))

    @property
    def networks(self) -> tuple[str, ...]:
        """The measures that a network takes; the sandbox that decodes takes all others."""
        asked = {
            "flow_motion": self.flow == "unimatch",
            "aesthetic": self.aesthetic == "dover",
            "text_area": self.text is not None,
            "nsfw": self.nsfw is not None,
        }
        return tuple(name for name, wanted in asked.items() if wanted)

    def __hash__(self) -> int:
        return hash(json.dumps(self.as_json(), sort_keys=True))  # `dover` is a dict

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def settings_of(limit: LimitParams, split: SplitParams, params: ScoreParams, root: Path) -> Settings:
    """Of the sections of params. Weights of the flow network count by their content, DOVER's by their pinned sha256."""
    side = min(params.short_side, limit.short_side or params.short_side)
    threshold = split.threshold if split.detector == "content" else CONTENT_CUT
    weights = root / params.flow_weights if params.flow == "unimatch" and params.flow_weights else None
    return Settings(
        fps=split.fps,
        frames=split.frames,
        short_side=side,
        sample_seconds=params.sample_seconds,
        cut_threshold=CHECK * threshold,
        flow=params.flow,
        flow_digest=digest(weights) if weights and weights.exists() else None,
        aesthetic=params.aesthetic,
        dover=_counting(params.dover) if params.aesthetic == "dover" and params.dover else None,
        text=params.text,
        nsfw=params.nsfw,
    )


def _counting(dover: DoverParams) -> dict[str, Any]:
    """What of DOVER's section the numbers depend on: not where the file lies, nor how many clips go at once."""
    return dover.model_dump(mode="json", include={"sha256", "inputs", "outputs", "seed"})
