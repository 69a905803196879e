"""The sections `eval` and `release` of params.yaml: what is measured, and what a release must show.

How the model is sampled stands in `eval` alone: what is released is sampled, unless the caller says otherwise, as what
was judged. Nothing here imports torch.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sana_video.config import SamplingDefaults, check_step_list
from sana_video.train.config import StageParams

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EvalGate(_Section):
    """What `gate_eval` asks for: enough videos, and few enough that failed."""

    min_videos: int = Field(ge=1)
    max_failures: Fraction


class EvalParams(_Section):
    """Section `eval`. Two prompts or more: with one there is a mean but no interval.

    `flow_shift`: of the schedule that samples, None for the shift of the stage's training. The published models were
    trained at 3 and are sampled at 8. `negative_prompt`: what guidance leads away from, None for the null embedding
    that the model was trained with. `step_list`: of a chunk-causal model that was distilled to these timesteps, in
    the place of `steps`, `guidance` and `flow_shift`.
    """

    stage: str = Field(min_length=1)
    view: str = Field(min_length=1)
    autoencoder: str = Field(min_length=1)
    seed: int = Field(ge=0)
    prompts: int = Field(ge=1)
    seeds_per_prompt: int = Field(ge=1)
    steps: int = Field(ge=1)
    guidance: float = Field(ge=1.0)
    flow_shift: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    negative_prompt: str | None = None
    step_list: tuple[int, ...] | None = None
    latent_noise: tuple[Annotated[float, Field(ge=0.0, allow_inf_nan=False)], ...] = Field(min_length=1)
    gate: EvalGate

    @field_validator("latent_noise")
    @classmethod
    def _starts_clean(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if levels[0] != 0.0 or any(a >= b for a, b in pairwise(levels)):
            raise ValueError(f"latent_noise must start at 0.0 and rise, it is {list(levels)}")
        return levels

    @field_validator("step_list")
    @classmethod
    def _falls(cls, steps: tuple[int, ...] | None) -> tuple[int, ...] | None:
        check_step_list(steps)
        return steps

    def sampling(
        self,
        trained: StageParams,
        *,
        fps: float,
        height: int,
        width: int,
        frames: int,
        motion_score: int | None = None,
    ) -> SamplingDefaults:
        """How a model of stage `trained` is sampled at this size: in its evaluation and once it is released."""
        return SamplingDefaults(
            fps=fps,
            height=height,
            width=width,
            frames=frames,
            steps=self.steps,
            guidance=self.guidance,
            flow_shift=trained.shift if self.flow_shift is None else self.flow_shift,
            negative_prompt=self.negative_prompt,
            step_list=self.step_list,
            motion_score=motion_score,
        )

    @property
    def seeds(self) -> tuple[int, ...]:
        """The sampling seeds, the same for each prompt, so that two models are compared on the same noise."""
        return tuple(self.seed + k for k in range(self.seeds_per_prompt))


class ReleaseBars(_Section):
    """Absolute bars, used when `baseline` is `none`. As shipped, the same model at random initialisation fails them."""

    heldout_ratio: float = Field(gt=0.0, allow_inf_nan=False)
    psnr_gain_db: float = Field(allow_inf_nan=False)
    max_frozen: Fraction


class ReleaseParams(_Section):
    """Section `release`. `motion_score`: told after each prompt unless the caller names one; None for the mean of the
    held-out real clips."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    baseline: str
    motion_score: int | None = Field(default=None, ge=0)
    bars: ReleaseBars

    @field_validator("baseline")
    @classmethod
    def _none_or_version(cls, baseline: str) -> str:
        if not re.fullmatch(r"none|v[0-9]+\.[0-9]+\.[0-9]+", baseline):
            raise ValueError("must be none or a registered version such as v1.2.0")
        return baseline
