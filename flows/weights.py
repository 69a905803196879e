"""`sana-video weights`: fetch published weights, verify them, and bring them from one layout to another.

They lie in weights/ of the project: a folder for each name, and weights.lock.json, which pins every byte and belongs
under version control.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sana_video.config import SanaVideoConfig

FOLDER = "weights"


@dataclass(frozen=True)
class Conversion:
    """What `convert` is asked for. `config_from`: a preset, or the config.json of a network of ours or its folder."""

    source: Path
    target: Path
    layout: Literal["ours", "diffusers", "official"]
    config_from: str | None
    chunk_frames: int | None
    ema: bool
    warm_start: bool
    seed: int


def convert(asked: Conversion) -> dict[str, Any]:
    """Write `target` and return what was written.

    Raises ValueError or FileNotFoundError for what cannot be read or does not fit, before anything is written.
    """
    from sana_video import weights
    from sana_video.weights.pipelines import is_pipeline

    config = _config(asked)
    if asked.warm_start:
        if config is None or asked.layout != "ours":
            raise ValueError("--warm-start grows an image model into a network of ours: give that with --config-from")
        return weights.convert_image_model(asked.source, asked.target, config, seed=asked.seed, ema=asked.ema)
    if is_pipeline(asked.source) and asked.layout == "ours" and config is None and not asked.ema:
        return weights.convert_pipeline(asked.source, asked.target)
    return weights.convert(asked.source, asked.target, layout=asked.layout, config=config, ema=asked.ema)


def _config(asked: Conversion) -> SanaVideoConfig | None:
    """The network that was named, chunked as was asked; None to take what the source says."""
    from sana_video.config import PRESETS, SanaVideoConfig

    if asked.config_from is None:
        if asked.chunk_frames is not None:
            raise ValueError(f"--chunk-frames {asked.chunk_frames}: say of which network with --config-from")
        return None
    path = Path(asked.config_from)
    if asked.config_from in PRESETS:
        config = SanaVideoConfig.preset(asked.config_from)
    elif path.exists():
        config = SanaVideoConfig.load(path / "config.json" if path.is_dir() else path)
    else:
        raise ValueError(f"--config-from {asked.config_from}: no preset ({', '.join(PRESETS)}) and no config.json")
    return config if asked.chunk_frames is None else config.with_(chunk_frames=asked.chunk_frames)
