"""params.yaml as a whole: one frozen section per package, and what no section can check alone.

Each package checks its own section; here stands what holds between them: a stage reads a view that is made, a verdict
that some gate writes, weights that an earlier stage leaves, a size that the autoencoder can halve often enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from data_pipeline.params import DataParams, View, ViewParams
from eval.params import EvalParams, ReleaseParams
from infra.registry import is_name
from infra.settings import load_yaml, override, validate
from infra.tracking import TrackingParams
from sana_video.autoencoder import PUBLISHED, AutoencoderParams, Shape
from sana_video.config import PRESETS as MODELS
from sana_video.config import ModelParams
from sana_video.text import TextParams
from sana_video.train.config import StageParams, TrainParams

AUTOENCODER_STRIDE = {"small": 16, "full": 32, "inflated": 32}  # pixels per latent; the networks would bring torch in
_CRON_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScheduleParams(_Section):
    """When `flow serve` runs what: five cron fields of numbers, UTC."""

    curate: str
    evaluate: str

    @field_validator("curate", "evaluate")
    @classmethod
    def _cron(cls, text: str) -> str:
        fields = text.split()
        if len(fields) != len(_CRON_FIELDS):
            raise ValueError(f"{text!r} is no cron schedule: expected 5 fields, found {len(fields)}")
        for value, (name, low, high) in zip(fields, _CRON_FIELDS, strict=True):
            for part in value.split(","):
                if not _cron_part(part, low, high):
                    raise ValueError(f"{text!r} is no cron schedule: {name} {part!r} is not within {low}-{high}")
        return text


class FlowParams(_Section):
    """How the graph is walked. `retries` are of transient failures only (a network that went away), nothing else."""

    parallel: int = Field(ge=1, le=256)
    retries: int = Field(ge=0, le=100)
    retry_seconds: float = Field(ge=0.0, le=86_400.0)
    schedules: ScheduleParams


class Params(_Section):
    """The whole of params.yaml."""

    data: DataParams
    text: TextParams
    autoencoder: AutoencoderParams
    model: ModelParams
    train: TrainParams
    eval: EvalParams
    release: ReleaseParams
    tracking: TrackingParams
    flow: FlowParams

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        for mistake in _mistakes(self):
            raise ValueError(mistake)
        return self


def load(path: Path, overrides: Sequence[str] = ()) -> Params:
    """The parameters in `path` after `overrides` like "train.seed=2".

    Raises FileNotFoundError for no such file, ValueError with one line for anything wrong in it.
    """
    return validate(override(load_yaml(path), overrides), "", Params, path.name)


def render(params: Params) -> str:
    """`params` as YAML that `load` reads back to the same."""
    return yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False, width=120)


def verdicts(params: Params) -> set[str]:
    """The names of all verdicts that gates of this graph write to reports/gates/."""
    shards = {f"shards-{view}" for view in ("pixels", *params.data.views)}
    return {"data", "sft", "eval", "release"} | shards | {f"train-{stage}" for stage in params.train.stages}


def _mistakes(params: Params) -> Iterator[str]:
    known = verdicts(params)
    for name, stage in params.train.stages.items():
        yield from (f"train.stages.{name}: {text}" for text in _stage_mistakes(params, name, stage, known))
    for name, view in params.data.views.items():
        yield from (f"data.views.{name}: {text}" for text in _after_mistakes(view.after, known))
        yield from (f"data.views.{name}: {text}" for text in _autoencoder_mistakes(params, view.autoencoder))
        maker = _stage_of(view.autoencoder)
        if maker and view.after != f"train-{maker}":
            yield f"data.views.{name}: after is {view.after}, but {view.autoencoder} asks for train-{maker}"
    yield from _size_mistakes(params)
    yield from _eval_mistakes(params)
    if not is_name(params.release.name):
        yield f"release.name {params.release.name!r} cannot name a model: small letters, digits and '-', a letter first"


def _stage_mistakes(params: Params, name: str, stage: StageParams, known: set[str]) -> Iterator[str]:
    views = params.data.views
    if (stage.view == "pixels") != (stage.objective == "autoencoder"):
        yield f"view {stage.view} does not go with objective {stage.objective}: pixels are for the autoencoder stage"
    elif stage.view != "pixels" and stage.view not in views:
        yield f"view {stage.view} is not in data.views ({', '.join(views)})"
    yield from _after_mistakes(stage.after, known)
    before = _stage_of(stage.init)
    if before is not None and before not in params.train.stages:
        yield f"init {stage.init} is the output of no stage ({', '.join(params.train.stages)})"
    elif before is not None and stage.after != f"train-{before}":
        yield f"after is {stage.after}, but its init {stage.init} asks for train-{before}"
    elif before is not None and name in _line_of(params, before):
        yield f"init {stage.init} leads back to the stage itself"
    if stage.objective != "autoencoder":
        yield from _autoencoder_mistakes(params, stage.autoencoder)
        if stage.view in views and views[stage.view].autoencoder != stage.autoencoder:
            yield f"autoencoder {stage.autoencoder} is not that of view {stage.view}, {views[stage.view].autoencoder}"


def _after_mistakes(after: str, known: set[str]) -> Iterator[str]:
    if after not in known:
        yield f"after {after} is a verdict that no gate writes ({', '.join(sorted(known))})"


def _autoencoder_mistakes(params: Params, folder: str) -> Iterator[str]:
    maker = _stage_of(folder)
    if maker is None:
        return
    stage = params.train.stages.get(maker)
    if stage is None or stage.objective != "autoencoder":
        yield f"autoencoder {folder} is not the output of a stage with objective autoencoder"


def _size_mistakes(params: Params) -> Iterator[str]:
    """Of what our own autoencoder or a published one reads; any other folder states its stride in its own config."""
    stride = AUTOENCODER_STRIDE[params.autoencoder.preset]
    views: dict[str, View] = {"pixels": params.data.pixels}
    views |= {f"views.{name}": view for name, view in params.data.views.items() if _stage_of(view.autoencoder)}
    for name, seen in views.items():
        for height, width in _odd(seen.sizes(stride), stride):
            yield f"data.{name}: {height}x{width} is not a multiple of {stride}, the autoencoder's stride"
    for name, view in params.data.views.items():
        if (shape := _published(view.autoencoder)) is not None:
            yield from (f"data.views.{name}: {text}" for text in _published_mistakes(params, view, shape))


def _published(folder: str) -> Shape | None:
    """What is known of the weights in `folder` from their published name, whether or not they lie there yet."""
    return next((PUBLISHED[part] for part in Path(folder).parts if part in PUBLISHED), None)


def _published_mistakes(params: Params, view: ViewParams, shape: Shape) -> Iterator[str]:
    network = MODELS[params.model.preset]
    if (taken := network["in_channels"]) != shape.channels:
        yield f"{shape.kind} latents have {shape.channels} channels, {params.model.preset} takes {taken}"
    if view.frames % shape.stride[0] != 1:
        yield f"{view.frames} frames are not {shape.stride[0]}k+1, the rule of {shape.kind}"
    patch = network.get("patch_size", (1, 1, 1))[1]
    unit = shape.stride[1] * patch
    for height, width in _odd(view.sizes(shape.stride[1]), unit):
        yield f"{height}x{width} is not a multiple of {unit}, the stride of {shape.kind} times the patch"


def _odd(sizes: Iterable[tuple[int, int]], unit: int) -> list[tuple[int, int]]:
    return [size for size in sizes if size[0] % unit or size[1] % unit]


def _eval_mistakes(params: Params) -> Iterator[str]:
    section, stages = params.eval, params.train.stages
    if section.stage not in stages:
        yield f"eval.stage {section.stage} is not in train.stages ({', '.join(stages)})"
    elif stages[section.stage].objective == "autoencoder":
        yield f"eval.stage {section.stage} trains the autoencoder, it generates nothing"
    elif (trained_on := stages[section.stage].autoencoder) != section.autoencoder:
        yield f"eval.autoencoder {section.autoencoder} is not that of stage {section.stage}, {trained_on}"
    elif section.step_list is not None and stages[section.stage].objective != "chunk_causal":
        yield f"eval.step_list is for a chunk-causal model; eval.stage {section.stage} is none"
    if section.view not in params.data.views:
        yield f"eval.view {section.view} is not in data.views ({', '.join(params.data.views)})"
    videos = section.prompts * section.seeds_per_prompt
    if section.gate.min_videos > videos:
        yield f"eval.gate.min_videos {section.gate.min_videos} can never be met: prompts x seeds_per_prompt is {videos}"


def _stage_of(folder: str) -> str | None:
    """The training stage whose output `folder` is, or None for weights from elsewhere."""
    head, _, name = folder.rstrip("/").partition("/")
    return name if head == "models" and name else None


def _line_of(params: Params, name: str) -> set[str]:
    """The stage `name` and all it is started from."""
    line: set[str] = set()
    current: str | None = name
    while current is not None and current not in line and current in params.train.stages:
        line.add(current)
        current = _stage_of(params.train.stages[current].init)
    return line


def _cron_part(part: str, low: int, high: int) -> bool:
    """Whether `part` is `*`, `n` or `a-b`, each with an optional `/step`."""
    span, slash, step = part.partition("/")
    if slash and not (step.isdigit() and int(step) > 0):
        return False
    if span == "*":
        return True
    ends = span.split("-")
    return len(ends) <= 2 and all(e.isdigit() and low <= int(e) <= high for e in ends) and int(ends[0]) <= int(ends[-1])
