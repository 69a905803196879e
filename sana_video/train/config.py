"""The `train` section of params.yaml: what a stage learns, from what, for how long.

A stage is named in `train.stages`; one loop runs them all, and everything that differs between stages stands here.
Nothing here imports torch, so that params.yaml can be checked in milliseconds.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

VERSION = 1  # of the meaning of a training stage; it equals `train` in versions.yaml and is part of every fingerprint
SCRATCH = "scratch"  # an `init` folder of this name holds no weights: the stage begins at random initialisation

Objective = Literal["autoencoder", "bidirectional", "chunk_causal"]
Precision = Literal["fp32", "bf16"]
Recompute = Literal["nothing", "elementwise", "block"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StageParams(_Section):
    """One training stage. `init` and `autoencoder` are folders, `view` is a folder of data/shards, `after` a verdict.

    Optimiser defaults are the paper's (AdamW, constant rate after a warm-up, weight decay 0.03, clipped at 0.1).
    """

    objective: Objective
    init: str
    autoencoder: str
    view: str
    after: str
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)  # samples per step over all processes
    lr: float = Field(gt=0, le=1)
    warmup: int = Field(default=500, ge=0)  # steps over which the rate rises from 0
    weight_decay: float = Field(default=0.03, ge=0)
    clip: float = Field(default=0.1, gt=0)  # largest norm of the gradient
    ema: float = Field(
        default=0.9999, ge=0, lt=1
    )  # decay, reached slowly: min(ema, (1 + step) / (10 + step)); 0 for none
    recompute: Recompute = "nothing"  # in the backward pass, instead of keeping it: see train/parallelize.py
    heldout: int = Field(default=64, gt=0)  # held-out samples measured, at most

    # autoencoder
    crop_frames: int | None = Field(default=None, gt=0)  # random crop in time, 4k+1; None for whole clips
    crop_size: int | None = Field(default=None, gt=0)  # side of a random square crop, pixels; None for whole frames

    # bidirectional and chunk_causal
    flow_shift: float | None = Field(default=None, gt=0)  # of the times that are learned; 3 where not given
    caption_dropout: float | None = Field(default=None, ge=0, le=1)  # 0.1 where not given
    image_every: int | None = Field(default=None, ge=1)  # each so many steps learn from images, the first latent frames
    condition_image: float | None = Field(
        default=None, ge=0, le=1
    )  # fraction of clips given their first latent frame clean
    chunk_frames: int | None = Field(default=None, gt=0)  # latent frames per chunk; chunk_causal only

    @field_validator("init", "autoencoder", "view", "after")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be empty (recipes/scratch stands for none)")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        diffusion = ("flow_shift", "caption_dropout", "image_every", "condition_image", "chunk_frames")
        foreign = diffusion if self.objective == "autoencoder" else ("crop_frames", "crop_size")
        for name in foreign:
            if getattr(self, name) is not None:
                raise ValueError(f"{name} {getattr(self, name)} has no meaning for objective {self.objective}")
        if (self.chunk_frames is not None) != (self.objective == "chunk_causal"):
            raise ValueError(f"chunk_frames {self.chunk_frames} does not go with objective {self.objective}")
        if self.crop_frames is not None and self.crop_frames % 4 != 1:
            raise ValueError(f"crop_frames {self.crop_frames} is not 4k+1")
        if self.warmup > self.steps:
            raise ValueError(f"warmup {self.warmup} is longer than steps {self.steps}")
        return self

    @property
    def shift(self) -> float:
        """`flow_shift`, or the published 3 where it is not given."""
        return 3.0 if self.flow_shift is None else self.flow_shift

    @property
    def from_scratch(self) -> bool:
        return self.init.rstrip("/").rsplit("/", 1)[-1] == SCRATCH


class LaunchParams(_Section):
    """How many processes share a stage; more than one starts under torchrun or accelerate."""

    processes: int = Field(default=1, gt=0)


class TrainGateParams(_Section):
    """What the gate after a stage asks of its summary."""

    autoencoder_gain_db: float = Field(default=3.0, ge=-100)  # over each clip's mean colour, held out
    scratch_improvement: float = Field(default=0.20, ge=0, lt=1)  # fraction of the held-out loss at the start
    later_tolerance: float = Field(default=0.0, ge=0)  # fraction by which a later stage may end above its start


class TrainParams(_Section):
    """The `train` section."""

    seed: int = Field(default=1, ge=0)
    precision: Precision = "fp32"
    launch: LaunchParams = LaunchParams()
    checkpoint_every: int = Field(default=50, gt=0)  # steps
    keep_checkpoints: int = Field(default=2, gt=0)
    stages: dict[str, StageParams]
    gate: TrainGateParams = TrainGateParams()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.stages:
            raise ValueError("stages is empty: there is nothing to train")
        for name, stage in self.stages.items():
            if stage.batch % self.launch.processes:
                raise ValueError(
                    f"stages.{name}.batch {stage.batch} is not a multiple of launch.processes {self.launch.processes}"
                )
        return self

    def stage(self, name: str) -> StageParams:
        """Raises ValueError with the known names for a stage that is not there."""
        if name not in self.stages:
            raise ValueError(f"unknown training stage {name!r}; params.yaml names {', '.join(self.stages)}")
        return self.stages[name]
