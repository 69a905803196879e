"""DOVER (Wu et al. 2023, arXiv 2211.04894): how a clip is put before its two branches, and what their outputs mean.

The network itself is not here: its code and weights are for non-commercial use, so whoever may use it brings an export
(`DoverRunner` reads ONNX and TorchScript) pinned by its sha256. What is here is written from the paper and the
published settings:

- technical view: 3 clips of 32 frames, every second one; each a 7x7 grid of 32x32 patches of the picture at its own
  size, joined to 224x224; a patch stays at its place for the whole clip. Below 224 lines the picture is enlarged first.
- aesthetic view: 32 frames over the whole clip, stretched to 224x224.
- both normalised by ImageNet's mean and deviation on the 0-255 scale.
- raw scores t and a: t' = (t - 0.1107) / 0.07355, a' = (a + 0.08285) / 0.03774; technical = s(t'), aesthetic = s(a'),
  overall = s(0.6104 t' + 0.3896 a') with s the logistic function (constants are statistics of KoNViD-1k).

The published sampling is random at test time too; here every place and frame follows from `seed`, so that a clip has
one score. A clip with fewer frames than a branch wants is sampled more densely, never wrapped round to its beginning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

LICENCE = "DOVER is under the S-Lab licence: code and weights are for non-commercial use only"

CLIPS, FRAMES, STRIDE = 3, 32, 2
GRID, PATCH = 7, 32
SIDE = GRID * PATCH
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
VIEWS = {"technical": (CLIPS, FRAMES, SIDE, SIDE, 3), "aesthetic": (FRAMES, SIDE, SIDE, 3)}


class Views:
    """The two views of a clip of `frames` pictures, put together picture by picture as they are decoded."""

    def __init__(self, frames: int, seed: int) -> None:
        rng = np.random.default_rng([seed, frames])
        self._technical = technical_frames(frames, rng)
        self._aesthetic = aesthetic_frames(frames, rng)
        self._places = rng.random((CLIPS, 2, GRID, GRID))
        self.technical = np.zeros(VIEWS["technical"], np.uint8)
        self.aesthetic = np.zeros(VIEWS["aesthetic"], np.uint8)

    def wants(self, index: int) -> bool:
        """Whether picture `index` is in either view: only then it need be converted at full size."""
        return bool((self._technical == index).any() or (self._aesthetic == index).any())

    def add(self, index: int, picture: Pixels) -> None:
        """Picture `index` of the clip at its own size, uint8 RGB (H, W, 3)."""
        for clip, position in np.argwhere(self._technical == index):
            self.technical[clip, position] = fragments(picture, self._places[clip])
        for position in np.flatnonzero(self._aesthetic == index):
            self.aesthetic[position] = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)


def technical_frames(frames: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices (3, 32): in each third of the clip's possible beginnings one, then every second frame."""
    stride = min(float(STRIDE), (frames - 1) / (FRAMES - 1))
    room = frames - 1 - stride * (FRAMES - 1)
    begins = (np.arange(CLIPS) + rng.random(CLIPS)) / CLIPS * room
    return np.asarray(np.rint(begins[:, None] + stride * np.arange(FRAMES)), np.int64)


def aesthetic_frames(frames: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices (32,): one in each thirty-second part of the clip."""
    bounds = np.arange(FRAMES + 1) * frames // FRAMES
    room = np.maximum(1, np.diff(bounds))
    return np.asarray(bounds[:-1] + (rng.random(FRAMES) * room).astype(np.int64), np.int64)


def fragments(picture: Pixels, places: NDArray[np.float64]) -> Pixels:
    """7x7 patches of 32x32, joined to (224, 224, 3); `places` (2, 7, 7) says where in its cell each lies, in [0, 1)."""
    height, width = picture.shape[:2]
    if min(height, width) < SIDE:
        scale = SIDE / min(height, width)
        size = (max(SIDE, round(width * scale)), max(SIDE, round(height * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
        height, width = picture.shape[:2]
    joined = np.empty((SIDE, SIDE, 3), np.uint8)
    for row in range(GRID):
        for column in range(GRID):
            top = _begin(height, row, places[0, row, column])
            left = _begin(width, column, places[1, row, column])
            joined[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = picture[
                top : top + PATCH, left : left + PATCH
            ]
    return joined


def _begin(length: int, cell: int, place: float) -> int:
    """Where a patch begins in its cell of an axis of `length`: anywhere that it fits."""
    first, last = cell * length // GRID, (cell + 1) * length // GRID
    return first + int(place * (last - first - PATCH + 1))


def normalised(view: Pixels) -> Floats:
    """uint8 (..., F, 224, 224, 3) -> float32 (..., 3, F, 224, 224)."""
    values = (view.astype(np.float32) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(np.moveaxis(values, -1, -4))


def fused(raw_technical: float, raw_aesthetic: float) -> dict[str, float]:
    """technical, aesthetic and overall, each 0-1, of the two branches' raw scores."""
    t, a = (raw_technical - 0.1107) / 0.07355, (raw_aesthetic + 0.08285) / 0.03774
    overall = _logistic(0.6104 * t + 0.3896 * a)
    return {"technical": _logistic(t), "aesthetic": _logistic(a), "overall": overall}


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


class DoverRunner:
    """The user's export, and in which order it takes the views and gives the scores (`aesthetic`, `technical`).

    It takes (B, 3, 32, 224, 224) for the aesthetic view and (3 B, 3, 32, 224, 224) for the technical one, and gives
    an output for each, of any shape with B and 3 B in front; what is behind is averaged. ValueError for a file that
    cannot be read or gives something else; onnxruntime is needed for .onnx alone.
    """

    def __init__(self, file: Path, inputs: Sequence[str], outputs: Sequence[str], device: Any = "cpu") -> None:
        self._file, self._inputs, self._outputs = file, tuple(inputs), tuple(outputs)
        self._call = _onnx(file) if file.suffix == ".onnx" else _torchscript(file, device)

    def __call__(self, technical: Pixels, aesthetic: Pixels) -> list[dict[str, float]]:
        """Scores of B clips: views uint8 (B, 3, 32, 224, 224, 3) and (B, 32, 224, 224, 3)."""
        count = len(aesthetic)
        views = {
            "technical": normalised(technical.reshape(-1, *technical.shape[2:])),
            "aesthetic": normalised(aesthetic),
        }
        answers = self._call([views[name] for name in self._inputs])
        if len(answers) != 2 or any(answer.size % count or not np.isfinite(answer).all() for answer in answers):
            told = [tuple(answer.shape) for answer in answers]
            raise ValueError(f"{self._file} gives {told} for {count} clips: expected two finite scores of each")
        raw = {
            name: answer.reshape(count, -1).mean(axis=1) for name, answer in zip(self._outputs, answers, strict=True)
        }
        return [fused(float(t), float(a)) for t, a in zip(raw["technical"], raw["aesthetic"], strict=True)]


def _torchscript(file: Path, device: Any) -> Any:
    import torch

    try:
        module = torch.jit.load(str(file), map_location=device).eval()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ValueError(f"{file} is not a TorchScript file: {str(error).splitlines()[0]}") from None

    def call(views: list[Floats]) -> list[NDArray[Any]]:
        with torch.no_grad():
            answer = module(*(torch.from_numpy(view).to(device) for view in views))
        return [part.float().cpu().numpy() for part in answer]

    return call


def _onnx(file: Path) -> Any:
    from sana_video.video.measures.extras import needed

    runtime = needed("onnxruntime", "text", f"{file.name} is an ONNX file")
    try:
        session = runtime.InferenceSession(str(file), providers=runtime.get_available_providers())
    except Exception as error:  # its exceptions have no class of their own that is public
        raise ValueError(f"{file} is not an ONNX file that can be run: {str(error).splitlines()[0]}") from None
    names = [each.name for each in session.get_inputs()]

    def call(views: list[Floats]) -> list[NDArray[Any]]:
        return [np.asarray(part) for part in session.run(None, dict(zip(names, views, strict=True)))]

    return call
