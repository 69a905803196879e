"""What a stage starts from: its model, its objective, and the fingerprint that names the run.

A stage whose `init` folder is called `scratch` begins at random initialisation; any other must hold weights of the same
configuration, for a stage grows nothing. The fingerprint covers all that the result depends on and nothing else: not
paths, not the number of processes, so that a run may move and may resume on other hardware.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sana_video.autoencoder.dcae_v import PRESETS as AUTOENCODERS
from sana_video.autoencoder.dcae_v import DcaeV, DcaeVConfig
from sana_video.config import SanaVideoConfig
from sana_video.data.shards import data_digest, file_sha256, read_null
from sana_video.model import SanaVideo
from sana_video.train.config import VERSION, StageParams, TrainParams
from sana_video.train.objectives import FlowMatching, Objective, Reconstruction, Text
from sana_video.weights import FILE_NAME

_NAMES = {"init", "autoencoder", "view", "after"}  # of StageParams: where things lie, not what they are


@dataclass(frozen=True)
class Paths:
    """Folders of a stage. `init` may be one called scratch; `out` is written as a whole; `runs` holds checkpoints."""

    view: Path
    init: Path
    out: Path
    runs: Path


@dataclass(frozen=True)
class Start:
    """`model` on the CPU, equal on every process; `blank` builds another of the same configuration.

    `empty`: what dropped captions are replaced by; None where no captions are read.
    """

    model: nn.Module
    blank: Callable[[], nn.Module]
    objective: Objective
    empty: Text | None
    fingerprint: str
    data_digest: str
    init_digest: str


def start(
    name: str,
    params: TrainParams,
    paths: Paths,
    *,
    model_preset: str,
    autoencoder_preset: str,
) -> Start:
    """The start of stage `name`.

    Raises ValueError or FileNotFoundError for an `init` that is absent or another's, or a view without its null
    embedding.
    """
    stage = params.stage(name)
    config: SanaVideoConfig | DcaeVConfig
    objective: Objective
    if stage.objective == "autoencoder":
        config = AUTOENCODERS[autoencoder_preset]
        model, blank = _autoencoder(stage, paths.init, config, params.seed)
        objective, text = Reconstruction(stage), None
    else:
        config = SanaVideoConfig.preset(model_preset).with_(chunk_frames=stage.chunk_frames)
        model, blank = _diffusion(stage, paths.init, config, params.seed)
        text = read_null(paths.view)
        objective = FlowMatching(stage, config, text)
    data = data_digest(paths.view)
    init_digest = "none" if stage.from_scratch else file_sha256(paths.init / FILE_NAME)
    described = {
        "stage": stage.model_dump(mode="json", exclude=_NAMES),
        "seed": params.seed,
        "precision": params.precision,
        "model": config.model_dump(mode="json"),
        "data": data,
        "init": init_digest,
        "version": VERSION,
    }
    return Start(model, blank, objective, text, _fingerprint(described), data, init_digest)


def _diffusion(
    stage: StageParams, init: Path, config: SanaVideoConfig, seed: int
) -> tuple[nn.Module, Callable[[], nn.Module]]:
    model = SanaVideo(config, seed=seed)
    if not stage.from_scratch:
        before = SanaVideo.from_pretrained(init)
        if before.config.with_(chunk_frames=None) != config.with_(chunk_frames=None):
            raise ValueError(f"{init} holds a model of another configuration than the preset: {before.config}")
        model.load_state_dict(before.state_dict())
    return model, lambda: SanaVideo(config)


def _autoencoder(
    stage: StageParams, init: Path, config: DcaeVConfig, seed: int
) -> tuple[nn.Module, Callable[[], nn.Module]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DcaeV(config)
    if not stage.from_scratch:
        before = DcaeV.from_pretrained(init)
        if before.config != config:
            raise ValueError(f"{init} holds an autoencoder of another configuration than the preset: {before.config}")
        model.load_state_dict(before.state_dict())
    return model, lambda: DcaeV(config)


def _fingerprint(described: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
