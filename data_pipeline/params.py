"""The `data:` section of params.yaml: strict at the edge, frozen inside.

Thresholds (`curate.ranges`) stand apart from what costs decoding (`score`), so that a new cut-off reruns
`curate` and what follows, never `score`. Lengths are seconds, sizes pixels, unless the name says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, cast, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_serializer, model_validator

from sana_video.data.buckets import Size, named

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(gt=0.0, le=86_400.0)]
Pixels = Annotated[int, Field(ge=16, le=16_384)]
Range = tuple[float, float]
Branch = Literal["aesthetic", "technical"]
Clips = Literal["selection", "sft"]
Boundary = Literal["ingest", "split", "scores", "captions"]
OTHERS = "others"
CATEGORIES = ("human", "animal", "object", "scene")  # what moves, as captioners tell it (appendix D)
STYLES = ("realistic", "cartoon", "cinematic")
UNKNOWN = "unknown"  # the cell of clips whose captioner does not look
Reason = Annotated[str, Field(pattern=r"^([A-Z][A-Z0-9_]*|others)$")]


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
    """How much of each video is read: its first `seconds`; null for all of it. `short_side` bounds the views, and what
    split looks at and text and nudity are looked for in; the other scores have sizes of their own."""

    seconds: Seconds | None = None
    short_side: Pixels | None = None


class IngestParams(Section):
    min_seconds: Seconds
    max_seconds: Seconds
    max_pixels: Annotated[int, Field(ge=4096, le=268_435_456)]
    min_short_side: Pixels
    hdr: Literal["tonemap", "reject"] = "tonemap"
    interlaced: Literal["deinterlace", "reject"] = "deinterlace"


class SplitParams(Section):
    """How shots are found and cut into clips. `threshold` is the detector's own:

    `content`: mean change of hue, saturation and value, 0-255 (PySceneDetect ships 27); `adaptive`: that change over
    its mean in the four frames around (3.0); `hash`: share of the bits of a perceptual hash that differ, 0-1 (0.35);
    `histogram`: 1 - correlation of the luma histograms, 0-1 (0.2); `transnetv2`: probability, 0-1 (0.5).
    """

    detector: Literal["content", "adaptive", "hash", "histogram", "transnetv2"]
    threshold: Annotated[float, Field(gt=0.0, le=255.0)]
    weights: Annotated[str, Field(min_length=1)] = "weights/transnetv2"
    min_shot_seconds: Seconds
    max_shot_seconds: Seconds | None = None
    black_level: Annotated[int, Field(ge=0, le=128)] | None = 16
    fps: Annotated[int, Field(ge=1, le=60)]
    frames: Annotated[int, Field(ge=5, le=1025)]
    stride_seconds: Annotated[float, Field(ge=0.0625, le=86_400.0)] | None = None
    trim_frames: Annotated[int, Field(ge=0, le=64)]

    _frames = field_validator("frames")(_four_k_plus_one)

    @model_validator(mode="after")
    def _in_its_unit(self) -> SplitParams:
        if self.detector in ("hash", "histogram", "transnetv2") and self.threshold > 1.0:
            raise ValueError(f"threshold {self.threshold:g} of `{self.detector}` is a share: above 0, at most 1")
        if self.max_shot_seconds is not None and self.max_shot_seconds < self.min_shot_seconds:
            raise ValueError(f"max_shot_seconds {self.max_shot_seconds:g} is below min_shot_seconds")
        return self


class DoverParams(Section):
    """A DOVER that the user brings, exported to ONNX (.onnx) or TorchScript: its code and weights are for
    non-commercial use. `inputs` and `outputs` say in which order the file takes its views and gives its scores."""

    file: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    inputs: tuple[Branch, Branch]
    outputs: tuple[Branch, Branch]
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    batch: Annotated[int, Field(ge=1, le=256)] = 1

    @field_validator("inputs", "outputs")
    @classmethod
    def _both(cls, order: tuple[Branch, Branch]) -> tuple[Branch, Branch]:
        if len(set(order)) < 2:
            raise ValueError(f"{list(order)} must name `aesthetic` and `technical`, each once")
        return order


class ScoreParams(Section):
    short_side: Pixels
    flow: Literal["dis", "unimatch"]
    flow_weights: Annotated[str, Field(min_length=1)] | None = None
    aesthetic: Literal["classical", "dover"]
    dover: DoverParams | None = None
    text: Literal["rapidocr"] | None = None
    nsfw: Literal["nudenet"] | None = None
    sample_seconds: Annotated[float, Field(gt=0.0, le=10.0)]
    workers: Annotated[int, Field(ge=1, le=256)]

    @model_validator(mode="after")
    def _has_weights(self) -> ScoreParams:
        if self.flow == "unimatch" and self.flow_weights is None:
            raise ValueError("flow: unimatch needs `flow_weights`, the folder of its weights (weights/unimatch-flow)")
        if self.aesthetic == "dover" and self.dover is None:
            raise ValueError("aesthetic: dover needs `dover`: {file, sha256, inputs, outputs} of your own export")
        return self


class EndpointParams(Section):
    """An OpenAI-compatible server: `base_url` up to and with /v1. Its key stands in SANA_CAPTION_API_KEY alone.

    A budget (`max_requests`, `max_tokens`; null for none) is that of one run: the next goes on where it stopped. It is
    looked at before each request, so what was on its way may go over `max_tokens`.
    """

    base_url: str
    model: Annotated[str, Field(min_length=1, max_length=200)]
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    timeout_seconds: Annotated[float, Field(gt=0.0, le=3600.0)] = 120.0
    retries: Annotated[int, Field(ge=0, le=20)] = 5
    backoff_seconds: Annotated[float, Field(gt=0.0, le=60.0)] = 1.0
    max_requests: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None

    @field_validator("base_url")
    @classmethod
    def _plain(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("an address like http://host:8000/v1 is wanted")
        if parts.username or parts.password or parts.query or parts.fragment or not url.isascii() or " " in url:
            raise ValueError("no user, password, query or fragment belongs here; a key goes in SANA_CAPTION_API_KEY")
        return url


class Ranges(Section):
    """Inclusive [low, high] of any measure of the scores table; a measure that is not named has no bounds.

    A source's own ranges stand in front of those of `default`, measure by measure; null lifts a bound of `default`.
    """

    flow_motion: Range | None = None
    camera_motion: Range | None = None
    camera_jitter: Range | None = None
    object_motion: Range | None = None
    vmaf_motion: Range | None = None
    vmaf_percentile: Range | None = None  # of vmaf_motion within its source, 0-100
    saturation: Range | None = None
    saturation_lit: Range | None = None
    brightness: Range | None = None
    aesthetic: Range | None = None
    technical: Range | None = None
    overall: Range | None = None
    borders: Range | None = None
    watermark: Range | None = None
    stillness: Range | None = None
    flicker: Range | None = None
    duplicate_frames: Range | None = None
    text_area: Range | None = None
    nsfw: Range | None = None
    cuts_inside: Range | None = None
    height: Range | None = None
    width: Range | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Ranges:
        for name, bounds in self.stated().items():
            if bounds is not None and not bounds[0] <= bounds[1]:
                raise ValueError(f"{name}: the low end {bounds[0]} is above the high end {bounds[1]}")
        return self

    @model_serializer
    def stated(self) -> dict[str, Range | None]:
        """What was given, null included, in the order of the measures."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}


def _has_default(ranges: dict[str, Ranges]) -> dict[str, Ranges]:
    if "default" not in ranges:
        raise ValueError("`default` is missing: it serves every source that has no ranges of its own")
    return ranges


RangesBySource = Annotated[dict[str, Ranges], AfterValidator(_has_default)]


def ranges_of(ranges: Mapping[str, Ranges], source: str) -> dict[str, Range]:
    """{measure: (low, high)} in force for a source, in the order of the measures."""
    own = ranges[source].stated() if source in ranges else {}
    stated = ranges["default"].stated() | own
    order = {name: stated.get(name) for name in Ranges.model_fields}
    return {name: bounds for name, bounds in order.items() if bounds is not None}


class CaptionParams(Section):
    """Who writes captions and from what. Below `frames` nothing is read by the template, which looks at measures.

    `rewrite`: which sources' own prompts (prompts.jsonl in the batch's folder) are rewritten: those of synthetic
    sources, or all; the others are kept beside a caption that was written from the pictures alone. `words`: fewest and
    most that a caption may have, whatever it is asked for. `ranges`: by source, within what a clip is worth a caption;
    null for every clip that was measured.
    """

    captioner: Literal["template", "qwen", "endpoint"]
    prompt_version: Annotated[int, Field(ge=1)]
    rewrite: Literal["synthetic", "all"] = "synthetic"
    frames: Annotated[int, Field(ge=1, le=64)] = 8
    short_side: Pixels = 336
    words: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(le=280)]] = (40, 160)
    new_tokens: Annotated[int, Field(ge=16, le=4096)] = 512
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    weights: Annotated[str, Field(min_length=1)] = "weights/qwen2.5-vl-7b"
    batch: Annotated[int, Field(ge=1, le=256)] = 4
    endpoint: EndpointParams | None = None
    ranges: RangesBySource | None = None

    @field_validator("ranges")
    @classmethod
    def _of_a_clip(cls, ranges: dict[str, Ranges] | None) -> dict[str, Ranges] | None:
        if any("vmaf_percentile" in each.stated() for each in (ranges or {}).values()):
            raise ValueError("vmaf_percentile is of a source, not of a clip: take vmaf_motion")
        return ranges

    @model_validator(mode="after")
    def _complete(self) -> CaptionParams:
        if self.captioner == "endpoint" and self.endpoint is None:
            raise ValueError("captioner: endpoint needs `endpoint`: {base_url, model}")
        if self.words[0] > self.words[1]:
            raise ValueError(f"words: the fewest, {self.words[0]}, are more than the most, {self.words[1]}")
        return self


class DedupParams(Section):
    """How near is a copy: by perceptual hashes, and by embeddings (null: not asked)."""

    max_distance: Annotated[float, Field(ge=0.0, le=32.0)]  # bits of 64, mean over the frames compared
    max_embedding_distance: Annotated[float, Field(ge=0.0, le=0.5)] | None  # 1 - cosine


class ClassifierParams(Section):
    """A fitted classifier (`sana-video data classify fit`) and, by source, from which probability on clips are dropped.

    It is asked of the sources that `thresholds` names, and of no other.
    """

    file: Annotated[str, Field(pattern=r"^classifiers/[A-Za-z0-9_-][A-Za-z0-9._-]*\.json$")]
    thresholds: Annotated[dict[str, Fraction], Field(min_length=1)]


class MovesParams(Section):
    """From how much on something counts as moving, pixels of the 320x576 picture over 0.5 s."""

    object_motion: Annotated[float, Field(ge=0.0)]
    camera_motion: Annotated[float, Field(ge=0.0)]


class SftParams(Section):
    """The SFT set. `quotas` gives cells ("category/style", `unknown`) so many clips by name; the others share what is
    left of `target` evenly, but for `unknown`. `per_video`: at most so many clips of one film in a cell; null for any.
    `accepted_only`: none that no person has accepted."""

    target: Annotated[int, Field(ge=1, le=10_000_000)]
    moves: MovesParams
    ranges: Ranges
    quotas: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    per_video: Annotated[int, Field(ge=1)] | None = None
    accepted_only: bool = False

    @model_validator(mode="after")
    def _possible(self) -> SftParams:
        cells = [*(f"{category}/{style}" for category in CATEGORIES for style in STYLES), UNKNOWN]
        for name in self.quotas:
            if name not in cells:
                raise ValueError(f"quotas: {name!r} is no cell: they are {', '.join(cells)}")
        if (named := sum(self.quotas.values())) > self.target:
            raise ValueError(f"quotas: {named} clips by name are more than target {self.target}")
        if "vmaf_percentile" in self.ranges.stated():
            raise ValueError("ranges: vmaf_percentile is of a source, not of a clip: take vmaf_motion")
        return self


class CurateParams(Section):
    ranges: RangesBySource
    validation: Annotated[float, Field(gt=0.0, lt=0.5)]

    def ranges_of(self, source: str) -> dict[str, Range]:
        """{measure: (low, high)} in force for a source, in the order of the measures."""
        return ranges_of(self.ranges, source)


class DriftParams(Section):
    """How far each measure of a batch may lie from the reference batch beyond chance: Kolmogorov-Smirnov, 0-1."""

    video_seconds: Fraction
    shot_seconds: Fraction
    flow_motion: Fraction
    vmaf_motion: Fraction
    saturation: Fraction
    overall: Fraction
    caption_words: Fraction


class GateParams(Section):
    """What the gates ask for. `budgets`: at each boundary, the share of its rows that may be refused for a reason.

    A reason is named by its code; `others` serves all that are not named but `RULE` (rows that break a rule of the
    gate), which is 0 unless it is named. `released`: rows that break a rule and go on all the same, by uri or clip_id,
    with the reason why a person let them. `reference`: the batch that all others are compared with; null for none.
    """

    production: bool
    min_videos: Annotated[int, Field(ge=1)]
    min_clips: Annotated[int, Field(ge=1)]
    min_kept: Annotated[int, Field(ge=1)]
    kept_fraction: tuple[Fraction, Fraction]
    max_nulls: Fraction
    budgets: dict[Boundary, dict[Reason, Fraction]]
    released: dict[str, Annotated[str, Field(min_length=3)]] = Field(default_factory=dict)
    reference: Name | None = None
    drift: DriftParams

    @field_validator("budgets")
    @classmethod
    def _for_all(cls, budgets: dict[Boundary, dict[Reason, float]]) -> dict[Boundary, dict[Reason, float]]:
        for boundary in get_args(Boundary):
            if OTHERS not in budgets.get(boundary, {}):
                raise ValueError(f"{boundary}: `{OTHERS}` is missing: it serves every reason that is not named")
        return budgets


class PixelsParams(Section):
    """The view the autoencoder stage reads: uint8 clips."""

    height: Pixels
    width: Pixels
    frames: Annotated[int, Field(ge=1, le=1025)]

    _frames = field_validator("frames")(_four_k_plus_one)

    def sizes(self, multiple: int) -> tuple[Size, ...]:
        """The one (height, width) of its clips, whatever `multiple`."""
        return ((self.height, self.width),)


class ViewParams(Section):
    """What diffusion stages read: latents of one autoencoder, with text embeddings.

    Either `size`, and each clip is cut to that one of the 11 published aspects which is nearest to its own, or `height`
    and `width` for all.
    """

    size: Literal["480p", "720p"] | None = None
    height: Pixels | None = None
    width: Pixels | None = None
    frames: Annotated[int, Field(ge=1, le=1025)]
    autoencoder: Annotated[str, Field(min_length=1)]
    after: Name
    clips: Clips = "selection"  # which of the kept ones: all, or the SFT set
    clips_after: Literal["data", "sft"] = "data"  # the verdict on them

    _frames = field_validator("frames")(_four_k_plus_one)

    @model_validator(mode="after")
    def _one_form(self) -> ViewParams:
        found = [name for name in ("size", "height", "width") if getattr(self, name) is not None]
        if found not in (["size"], ["height", "width"]):
            raise ValueError(
                "a view has either `size: 480p|720p`, for clips of 11 aspects, or both `height` and `width`: "
                f"this one has {' and '.join(found) or 'none of them'}"
            )
        return self

    @model_validator(mode="after")
    def _judged(self) -> ViewParams:
        if (wanted := "sft" if self.clips == "sft" else "data") != self.clips_after:
            raise ValueError(f"clips_after is {self.clips_after}, but clips {self.clips} are judged by {wanted}")
        return self

    def sizes(self, multiple: int) -> tuple[Size, ...]:
        """(height, width) that its clips may have: the 11 of `size`, with sides that are multiples of `multiple`
        where the published ones are not, or the one that is given."""
        if self.size is not None:
            return named(self.size, multiple)
        return ((cast(int, self.height), cast(int, self.width)),)


View = PixelsParams | ViewParams


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
    classify: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")], ClassifierParams]
    sft: SftParams
    gate: GateParams
    pixels: PixelsParams
    views: Annotated[dict[Name, ViewParams], Field(min_length=1)]
    shards: ShardsParams

    @model_validator(mode="after")
    def _reference_is_there(self) -> DataParams:
        reference = self.gate.reference
        if reference is not None and (reference not in self.batches or len(self.batches) < 2):
            raise ValueError(
                f"gate.reference {reference!r} must be one of several batches: there are {', '.join(self.batches)}"
            )
        return self

    @model_validator(mode="after")
    def _whatever_is_kept_has_a_caption(self) -> DataParams:
        captioned = self.caption.ranges or {}
        for source in dict.fromkeys([*captioned, *self.curate.ranges] if captioned else ()):
            kept = self.curate.ranges_of(source)
            for name, (low, high) in ranges_of(captioned, source).items():
                bounds = kept.get(name, (-math.inf, math.inf))
                if bounds[0] < low or bounds[1] > high:
                    raise ValueError(
                        f"caption.ranges: {name} [{low:g}, {high:g}] of {source} is narrower than curate.ranges keeps, "
                        f"[{bounds[0]:g}, {bounds[1]:g}]: clips between would have no caption"
                    )
        return self

    @model_validator(mode="after")
    def _the_set_has_cells(self) -> DataParams:
        blind = self.caption.captioner == "template" and not self.sft.quotas.get(UNKNOWN)
        for name, view in self.views.items() if blind else ():
            if view.clips == "sft":
                raise ValueError(
                    f"view {name} holds the SFT set, which is empty: captioner template tells no category and style, "
                    "and sft.quotas gives the cell `unknown` nothing"
                )
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> DataParams:
        if "pixels" in self.views:
            raise ValueError("a view may not be named `pixels`: that is the autoencoder stage's own")
        views: dict[str, View] = {"pixels": self.pixels, **self.views}
        for name, view in views.items():
            cut, side = self.split.frames, self.limit.short_side
            if view.frames > cut:
                raise ValueError(f"view {name}: {view.frames} frames, but split.frames cuts clips of {cut}")
            for height, width in view.sizes(1):
                if side and min(height, width) > side:
                    raise ValueError(f"view {name}: {height}x{width} is larger than limit.short_side {side}")
        return self
