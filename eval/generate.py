"""Clips from held-out captions: which prompts, which seeds, and what became of each.

Prompts are chosen by a hash of (seed, clip), so the choice depends on no order; each is told to the model as in
training, with the motion score of the real clip it describes. Every prompt uses the same seeds, so two models are
compared on the same noise. A generation that fails is a row with its reason, never a missing row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.metrics.noref import measure
from eval.params import EvalParams
from sana_video.autoencoder import Autoencoder
from sana_video.config import SamplingDefaults
from sana_video.data.shards import ShardReader
from sana_video.pipeline import SanaVideoPipeline
from sana_video.video.mp4 import encode_mp4

Row = dict[str, Any]


class NotFinite(ArithmeticError):
    """The model made NaN or infinity, which bytes would hide."""


class FiniteDecoder:
    """An autoencoder that refuses to turn NaN into pixels; in all else the one it wraps."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        self._autoencoder = autoencoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._autoencoder, name)

    def decode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        yield from map(_finite, self._autoencoder.decode_stream(map(_finite, pieces)))


def _finite(values: Tensor) -> Tensor:
    if not bool(torch.isfinite(values).all()):
        raise NotFinite(f"{int((~torch.isfinite(values)).sum())} of {values.numel()} values are not finite")
    return values


def watched(autoencoder: Autoencoder) -> Autoencoder:
    """`autoencoder`, raising NotFinite where latents or pixels are not."""
    return cast(Autoencoder, FiniteDecoder(autoencoder))


@dataclass(frozen=True)
class Prompt:
    """A held-out caption, the clip it describes, and that clip's measured motion."""

    clip_id: str
    text: str
    motion: float


def choose_prompts(view: Path, params: EvalParams) -> list[Prompt]:
    """`params.prompts` distinct captions of the view's held-out clips. Raises ValueError when there are too few."""
    with ShardReader(view) as shards:
        rows = [i for i, subset in enumerate(shards.index.column("subset").to_pylist()) if subset == "val"]
        keys = shards.index.column("key").to_pylist()
        chosen: dict[str, Prompt] = {}
        for row in sorted(rows, key=lambda row: _rank(params.seed, keys[row])):
            if len(chosen) == params.prompts:
                break
            sample = shards.sample(row)
            text = bytes(sample["caption"].tolist()).decode()
            chosen.setdefault(text, Prompt(keys[row], text, float(sample["motion"])))
    if len(chosen) < params.prompts:
        raise ValueError(
            f"eval.prompts {params.prompts}: view {view.name} has {len(chosen)} distinct held-out captions"
        )
    return list(chosen.values())


def _rank(seed: int, clip_id: str) -> bytes:
    return hashlib.sha256(f"{seed}:{clip_id}".encode()).digest()


def generated(pipeline: SanaVideoPipeline, prompt: Prompt, seed: int, out: Path, credit: str) -> Row:
    """Generate, measure and save one clip as `out`/clips/<prompt>-<seed>.mp4. A failure is told in the row."""
    row = {"prompt_id": prompt.clip_id, "kind": "generated", "seed": seed, "prompt": prompt.text}
    try:
        # a caption longer than the encoder takes was cut in training, so it is here
        frames = pipeline(prompt.text, motion_score=prompt.motion, seed=seed, cut_prompts=True)[0].numpy()
        scores = measure(frames, pipeline.defaults.fps)
    except (NotFinite, ValueError) as error:
        return {**row, "status": "failed", "reason": str(error)}
    known = pipeline.defaults
    settings = f"seed {seed}; motion score {int(prompt.motion)}; {_sampling(known)}"
    told = {"title": prompt.text, "comment": settings, "description": "made by a model, not filmed"}
    file = save(
        frames, known.fps, out, f"{prompt.clip_id}-{seed}", {**told, **({"copyright": credit} if credit else {})}
    )
    return {**row, **scores, "file": file, "status": "ok"}


def _sampling(known: SamplingDefaults) -> str:
    if known.step_list is not None:
        return f"steps {', '.join(map(str, known.step_list))}"
    return f"{known.steps} steps; guidance {known.guidance:g}; shift {known.flow_shift:g}"


def real(frames: NDArray[Any], fps: float, prompt: Prompt, out: Path, credit: str) -> Row:
    """Measure and save the clip that the prompt describes."""
    row = {"prompt_id": prompt.clip_id, "kind": "real", "prompt": prompt.text}
    told = {"title": prompt.text, "description": "held-out clip", **({"copyright": credit} if credit else {})}
    file = save(frames, fps, out, f"{prompt.clip_id}-real", told)
    try:
        return {**row, **measure(frames, fps), "file": file, "status": "ok"}
    except ValueError as error:
        return {**row, "file": file, "status": "failed", "reason": str(error)}


def save(frames: NDArray[Any], fps: float, out: Path, name: str, metadata: dict[str, str]) -> str:
    """Write an mp4 and return its path relative to `out`."""
    from fractions import Fraction

    file = f"clips/{name}.mp4"
    encode_mp4(out / file, frames, Fraction(fps).limit_denominator(1001), metadata)
    return file
