"""The networks that measure: loaded once a worker, run on the pictures of several clips at once.

UniMatch and DOVER run on the GPU where there is one; text and nudity are optional extras on the CPU. What comes from
the child that decoded is data of a known type and shape (never a pickle), and is checked to be so.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data_pipeline.params import DoverParams, ScoreParams
from data_pipeline.score.clip import Values, flow_columns, stored
from data_pipeline.score.settings import Settings
from infra.storage import sha256_file
from sana_video.device import best_device
from sana_video.video.measures import dover, extras

Pixels = NDArray[np.uint8]

PAIRS_AT_ONCE = {"cuda": 8, "cpu": 1}  # of pictures between which flow is sought: 0.2 GB each, in every worker


class Network(Protocol):
    """Measures clips by pictures of the kinds it names."""

    @property
    def kinds(self) -> tuple[str, ...]: ...

    def __call__(self, clips: Sequence[Mapping[str, Pixels]], frames: Sequence[int]) -> list[Values]: ...


@functools.lru_cache(maxsize=1)
def loaded(settings: Settings, params: ScoreParams, root: Path, threads: int) -> Networks:
    """The networks of this worker, with so many `threads` for one that runs on the CPU."""
    import torch

    torch.set_num_threads(threads)
    return Networks(settings, params, root)


def licence(params: ScoreParams) -> str:
    """What a user of DOVER is to be told."""
    assert params.dover is not None  # `ScoreParams` sees to it
    return f"{dover.LICENCE} ({params.dover.file})"


class Networks:
    """The networks that params ask for. ValueError or FileNotFoundError, in one line, for what is missing."""

    def __init__(self, settings: Settings, params: ScoreParams, root: Path) -> None:
        self._loaded: dict[str, Network] = {}
        for name in settings.networks:
            self._loaded[name] = _load(name, settings, params, root)

    def load(self, folder: Path, clip: str, measures: Sequence[str]) -> dict[str, Pixels]:
        """The pictures that the child left in `folder` for the networks among `measures`, by kind, mapped into memory.

        ValueError for a file that is not what was asked for: nothing that a decoder wrote is taken on trust.
        """
        kinds = {kind for name, network in self._loaded.items() if name in measures for kind in network.kinds}
        return {kind: _pictures(folder, clip, kind) for kind in sorted(kinds)}

    def measure(
        self, clips: Mapping[str, Mapping[str, Pixels]], frames: Mapping[str, int], measures: Sequence[str]
    ) -> dict[str, Values]:
        """{clip_id: columns} of the networks' measures among `measures`; `frames`: how many each clip has."""
        found: dict[str, Values] = {clip: {} for clip in clips}
        for name, network in self._loaded.items():
            if name in measures and clips:
                answers = network(list(clips.values()), [frames[clip] for clip in clips])
                for clip, values in zip(clips, answers, strict=True):
                    found[clip] |= values
        return found


def _pictures(folder: Path, clip: str, kind: str) -> Pixels:
    """What the child put down, mapped into memory. ValueError if it is anything else."""
    shape = dover.VIEWS.get(kind)
    try:
        pictures: Pixels = np.load(stored(folder, clip, kind), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"DECODER_CRASHED: no {kind} pictures of clip {clip} ({error})") from error
    right = pictures.shape == shape if shape else pictures.ndim == 4 and pictures.shape[-1] == 3 and len(pictures) > 0
    if pictures.dtype != np.uint8 or not right:
        raise ValueError(f"DECODER_CRASHED: {kind} pictures of clip {clip} are {pictures.dtype} {pictures.shape}")
    return pictures


def _load(name: str, settings: Settings, params: ScoreParams, root: Path) -> Network:
    if name == "flow_motion":
        return FlowNetwork(settings, root / str(params.flow_weights))
    if name == "aesthetic":
        assert params.dover is not None  # `ScoreParams` sees to it
        return DoverNetwork(params.dover, root)
    return TextNetwork() if name == "text_area" else NudityNetwork()


class FlowNetwork:
    """UniMatch between the samples of each clip; pairs of several clips of one size go at once."""

    kinds = ("samples",)

    def __init__(self, settings: Settings, weights: Path) -> None:
        from sana_video.video.flow import unimatch

        device = best_device()
        self._network, self._estimator = unimatch.load_unimatch(weights, device), unimatch.ESTIMATOR
        self._settings, self._at_once = settings, PAIRS_AT_ONCE["cuda" if device.type == "cuda" else "cpu"]

    def __call__(self, clips: Sequence[Mapping[str, Pixels]], frames: Sequence[int]) -> list[Values]:
        pairs = [
            (clip["samples"][k], clip["samples"][k + 1]) for clip in clips for k in range(len(clip["samples"]) - 1)
        ]
        flows: list[NDArray[np.float32]] = []
        for at in range(0, len(pairs), self._at_once):
            some = pairs[at : at + self._at_once]
            first, second = (np.stack([pair[side] for pair in some]) for side in (0, 1))
            flows += list(self._network.flow(first, second).cpu().numpy())
        result, at = [], 0
        for clip, count in zip(clips, frames, strict=True):
            here = len(clip["samples"]) - 1
            result.append(flow_columns(flows[at : at + here], count, self._settings, self._estimator))
            at += here
        return result


class DoverNetwork:
    """The user's DOVER. A file that is not the pinned one is refused."""

    kinds = ("technical", "aesthetic")

    def __init__(self, params: DoverParams, root: Path) -> None:
        file = root / params.file
        if not file.is_file():
            raise FileNotFoundError(f"score.dover.file {params.file} is missing: bring your own export of DOVER")
        if (found := sha256_file(file)) != params.sha256:
            raise ValueError(f"score.dover.file {params.file} has sha256 {found}, params pin {params.sha256}")
        self._run = dover.DoverRunner(file, params.inputs, params.outputs, best_device())
        self._batch, self._scorer = params.batch, f"dover ({params.sha256[:12]})"

    def __call__(self, clips: Sequence[Mapping[str, Pixels]], frames: Sequence[int]) -> list[Values]:
        scores: list[dict[str, float]] = []
        for at in range(0, len(clips), self._batch):
            some = clips[at : at + self._batch]
            scores += self._run(*(np.stack([clip[kind] for clip in some]) for kind in self.kinds))
        return [{**score, "aesthetic_scorer": self._scorer} for score in scores]


class TextNetwork:
    kinds = ("few",)

    def __init__(self) -> None:
        self._detector = extras.TextDetector()

    def __call__(self, clips: Sequence[Mapping[str, Pixels]], frames: Sequence[int]) -> list[Values]:
        return [{"text_area": self._detector.area(c["few"]), "text_detector": extras.TEXT_DETECTOR} for c in clips]


class NudityNetwork:
    kinds = ("few",)

    def __init__(self) -> None:
        self._detector = extras.NudityDetector()

    def __call__(self, clips: Sequence[Mapping[str, Pixels]], frames: Sequence[int]) -> list[Values]:
        return [{"nsfw": self._detector.score(c["few"]), "nsfw_detector": extras.NSFW_DETECTOR} for c in clips]
