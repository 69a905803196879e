"""The numbers of a SANA-Video network, and the sampling defaults that travel with its weights.

One frozen object describes the network completely: the 2B model and the tiny one are the same code with other numbers.
What follows from a few numbers is a property, not a field (head width, rotary split, epsilons). Nothing here imports
torch, so that `params.yaml` can be checked in milliseconds.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

KIND = "sana-video"
VERSION = 1

Preset = Literal["2b-480p", "2b-720p", "2b-720p-dcaev", "tiny"]
Origin = Literal["official", "diffusers"]


M = TypeVar("M", bound=BaseModel)


class SanaVideoConfig(BaseModel):
    """Hyper-parameters of `SanaVideo` (arXiv 2509.24695; sizes as in the published 480p and 720p configurations).

    `chunk_frames`: None for attention in both directions over the whole clip; a number of latent frames for
    chunk-causal attention (both directions inside a chunk, causal across chunks).
    `origin`: which implementation the weights were trained with; it decides two epsilons and nothing else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_channels: int = Field(gt=0)
    patch_size: tuple[int, int, int] = (1, 1, 1)
    width: int = Field(gt=0)
    heads: int = Field(gt=0)
    depth: int = Field(gt=0)
    ffn_ratio: float = Field(default=3.0, gt=0)
    text_width: int = Field(gt=0)
    text_tokens: int = Field(gt=0)
    rope_max: int = Field(default=1024, gt=0)
    origin: Origin = "official"
    chunk_frames: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.head_width % 2 or self.head_width < 6:
            raise ValueError(f"head width {self.head_width} must be even and at least 6 (three rotary axes)")
        if self.patch_size[0] != 1 or self.patch_size[1] != self.patch_size[2] or self.patch_size[1] < 1:
            raise ValueError(f"patch_size {list(self.patch_size)} must be [1, p, p] with p >= 1")
        return self

    @classmethod
    def preset(cls, name: str) -> Self:
        """The configuration called `name`: "2b-480p", "2b-720p", "2b-720p-dcaev" or "tiny"."""
        if name not in PRESETS:
            raise ValueError(f"unknown model preset {name!r}; choose one of {', '.join(PRESETS)}")
        return cls(**PRESETS[name])

    def with_(self, **changes: Any) -> Self:
        """This configuration with some fields changed, checked again."""
        return type(self).model_validate({**self.model_dump(), **changes})

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def ffn_width(self) -> int:
        """Hidden channels of the Mix-FFN after its gate."""
        return int(self.width * self.ffn_ratio)

    @property
    def rotary_split(self) -> tuple[int, int, int]:
        """Channels of a head given to time, height and width: 40, 36, 36 of 112."""
        side = 2 * (self.head_width // 6)
        return self.head_width - 2 * side, side, side

    @property
    def attention_eps(self) -> float:
        """Added to the denominator of linear attention."""
        return 1e-8 if self.origin == "official" else 1e-15

    @property
    def cross_norm_eps(self) -> float:
        """Of the RMSNorm on queries and keys of the cross-attention."""
        return 1e-6 if self.origin == "official" else 1e-5

    def chunk_index(self, frames: int) -> tuple[int, ...]:
        """First latent frame of each chunk of a clip of `frames` latent frames; (0,) where nothing is causal.

        Chunks hold `chunk_frames`; the first also takes the remainder (Algorithm 1: 21 -> 11 + 10), so that the
        lone first latent frame of a 4k+1 clip never is a chunk of its own.
        """
        if frames < 1:
            raise ValueError(f"a clip needs at least 1 latent frame, not {frames}")
        if self.chunk_frames is None or frames < 2 * self.chunk_frames:
            return (0,)
        return (0, *range(self.chunk_frames + frames % self.chunk_frames, frames, self.chunk_frames))

    def dump(self) -> str:
        """The text of `config.json`: the fields, with the kind and version that `load` checks."""
        return json.dumps({"kind": KIND, "version": VERSION, **self.model_dump()}, indent=2) + "\n"

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a `config.json`; ValueError for one that is no SANA-Video of ours, FileNotFoundError for none."""
        fields = read_json(path)
        if fields.pop("kind", None) != KIND:
            raise ValueError(f'{path} does not describe a SANA-Video model (its "kind" is not {KIND!r})')
        if (version := fields.pop("version", None)) != VERSION:
            raise ValueError(f"{path} has version {version!r}; this code reads version {VERSION}")
        return validated(cls, fields, path)


_2B = {"width": 2240, "heads": 20, "depth": 20, "text_width": 2304, "text_tokens": 300}
PRESETS: dict[str, dict[str, Any]] = {
    "2b-480p": {**_2B, "in_channels": 16, "patch_size": (1, 2, 2)},  # Wan 2.1 latents: 2,056,862,144 parameters
    "2b-720p": {**_2B, "in_channels": 128},  # LTX-2 latents, as released: 2,057,148,928 parameters
    "2b-720p-dcaev": {**_2B, "in_channels": 32},  # DCAE-V latents, as in the paper: 2,056,718,752 parameters
    # trains on two CPU cores; text width of MiniLM
    "tiny": {"in_channels": 16, "width": 128, "heads": 4, "depth": 4, "text_width": 384, "text_tokens": 48},
}


class ModelParams(BaseModel):
    """The `model` section of params.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Preset = "tiny"


class SamplingDefaults(BaseModel):
    """`sampling.json`: how a released model is sampled when the caller does not say.

    `fps` frames per second; `height`, `width` pixels; `frames` pixel frames; `flow_shift` of the noise schedule;
    `guidance` by `guidance_rule` (classifier-free, or adaptive projected); `motion_score` is appended to each prompt
    unless None; `negative_prompt` is what guidance leads away from, None for nothing said (the null embedding);
    `step_list` (timesteps, high to low) replaces the schedule and guidance for a chunk-causal model that was distilled
    to few steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fps: float = Field(default=16.0, gt=0)
    height: int = Field(default=480, gt=0)
    width: int = Field(default=832, gt=0)
    frames: int = Field(default=81, gt=0)
    steps: int = Field(default=50, gt=0)
    guidance: float = Field(default=6.0, ge=0)
    guidance_rule: Literal["cfg", "apg"] = "cfg"
    flow_shift: float = Field(default=8.0, gt=0)
    motion_score: int | None = None
    negative_prompt: str | None = None
    step_list: tuple[int, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_step_list(self.step_list)
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        return validated(cls, read_json(path), path)


def check_step_list(steps: tuple[int, ...] | None) -> None:
    """ValueError unless `steps` are timesteps that fall strictly, within 1000 to 1, or None."""
    if steps is not None and (not steps or any(high <= low for high, low in pairwise((1001, *steps, 0)))):
        raise ValueError(f"step_list {list(steps)} must fall strictly, within 1000 to 1")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; FileNotFoundError or a one-line ValueError."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        fields = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path} holds {type(fields).__name__}, not a JSON object")
    return fields


def validated(model: type[M], fields: dict[str, Any], path: Path) -> M:
    """`model` built from `fields` read in `path`; a one-line ValueError that names the first wrong field."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        raise ValueError(f"{path}: {where}: {first['msg']} (got {first['input']!r:.80})") from None
