"""The `data:` section of params.yaml: strict at the edge, frozen inside.

Thresholds (`curate.ranges`) stand apart from what costs decoding (`score`), so that a new cut-off reruns
`curate` and what follows, never `score`. Lengths are seconds, sizes pixels, unless the name says otherwise.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(gt=0.0, le=86_400.0)]
Pixels = Annotated[int, Field(ge=16, le=16_384)]
Range = tuple[float, float]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _four_k_plus_one(frames: int) -> int:
    below = frames - (frames - 1) % 4
    if frames != below:
        raise ValueError(f"{frames} frames is not 4k+1: the nearest are {below} and {below + 4}")
    return frames


class BatchParams(Section):
    """One delivery of raw videos: a folder (relative to the project or absolute) or an `s3://bucket/prefix`."""

    path: Annotated[str, Field(min_length=1)]


class LimitParams(Section):
    """How much of each video is read: its first `seconds`, decoded no larger than `short_side`; null for all of it."""

    seconds: Seconds | None = None
    short_side: Pixels | None = None


class IngestParams(Section):
    min_seconds: Seconds
    max_seconds: Seconds
    max_pixels: Annotated[int, Field(ge=4096, le=268_435_456)]
    min_short_side: Pixels


class SplitParams(Section):
    detector: Literal["content", "adaptive"]
    threshold: Annotated[float, Field(gt=0.0, le=255.0)]
    min_shot_seconds: Seconds
    fps: Annotated[int, Field(ge=1, le=60)]
    frames: Annotated[int, Field(ge=5, le=1025)]
    trim_frames: Annotated[int, Field(ge=0, le=64)]

    _frames = field_validator("frames")(_four_k_plus_one)


class ScoreParams(Section):
    short_side: Pixels
    flow: Literal["dis"]
    aesthetic: Literal["classical"]
    sample_seconds: Annotated[float, Field(gt=0.0, le=10.0)]
    workers: Annotated[int, Field(ge=1, le=256)]


class CaptionParams(Section):
    captioner: Literal["template"]
    prompt_version: Annotated[int, Field(ge=1)]


class DedupParams(Section):
    max_distance: Annotated[float, Field(ge=0.0, le=32.0)]


class Ranges(Section):
    """Inclusive [low, high] of each measure; both tails are cut."""

    flow_motion: Range
    vmaf_motion: Range
    saturation: Range
    overall: Range
    cuts_inside: Range

    @model_validator(mode="after")
    def _ordered(self) -> Ranges:
        for name in type(self).model_fields:
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the low end {low} is above the high end {high}")
        return self


class CurateParams(Section):
    ranges: dict[str, Ranges]
    validation: Annotated[float, Field(gt=0.0, lt=0.5)]

    @field_validator("ranges")
    @classmethod
    def _has_default(cls, ranges: dict[str, Ranges]) -> dict[str, Ranges]:
        if "default" not in ranges:
            raise ValueError("`default` is missing: it serves every source that has no ranges of its own")
        return ranges

    def ranges_of(self, source: str) -> Ranges:
        return self.ranges.get(source, self.ranges["default"])


class GateParams(Section):
    min_videos: Annotated[int, Field(ge=1)]
    min_clips: Annotated[int, Field(ge=1)]
    min_kept: Annotated[int, Field(ge=1)]
    kept_fraction: tuple[Fraction, Fraction]
    max_rejected_videos: Fraction


class PixelsParams(Section):
    """The view the autoencoder stage reads: uint8 clips."""

    height: Pixels
    width: Pixels
    frames: Annotated[int, Field(ge=1, le=1025)]

    _frames = field_validator("frames")(_four_k_plus_one)


class ViewParams(PixelsParams):
    """What diffusion stages read: latents of one autoencoder at one size, with text embeddings."""

    autoencoder: Annotated[str, Field(min_length=1)]
    after: Name


class ShardsParams(Section):
    max_bytes: Annotated[int, Field(ge=65_536, le=1_073_741_824)]


class DataParams(Section):
    batches: Annotated[dict[Name, BatchParams], Field(min_length=1)]
    limit: LimitParams
    ingest: IngestParams
    split: SplitParams
    score: ScoreParams
    caption: CaptionParams
    dedup: DedupParams
    curate: CurateParams
    gate: GateParams
    pixels: PixelsParams
    views: Annotated[dict[Name, ViewParams], Field(min_length=1)]
    shards: ShardsParams

    @model_validator(mode="after")
    def _sizes_fit(self) -> DataParams:
        if "pixels" in self.views:
            raise ValueError("a view may not be named `pixels`: that is the autoencoder stage's own")
        for name, view in {"pixels": self.pixels, **self.views}.items():
            cut, side = self.split.frames, self.limit.short_side
            if view.frames > cut:
                raise ValueError(f"view {name}: {view.frames} frames, but split.frames cuts clips of {cut}")
            if side and min(view.height, view.width) > side:
                raise ValueError(f"view {name}: {view.height}x{view.width} is larger than limit.short_side {side}")
        return self
