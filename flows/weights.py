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
IMAGE_AUTOENCODER = "AutoencoderDC"


@dataclass(frozen=True)
class Conversion:
    """What `convert` is asked for. `config_from`: a preset, or the config.json of a network of ours or its folder.

    `autoencoder` and `text_encoder`: folders, for a whole pipeline instead of a network.
    """

    source: Path
    target: Path
    layout: Literal["ours", "diffusers", "official"] = "ours"
    config_from: str | None = None
    chunk_frames: int | None = None
    ema: bool = False
    warm_start: bool = False
    seed: int = 0
    autoencoder: Path | None = None
    text_encoder: Path | None = None


def convert(asked: Conversion) -> dict[str, Any]:
    """Write `target` and return what was written.

    Raises ValueError or FileNotFoundError (MissingWeights for published ones) for what cannot be read or does not fit,
    before anything is written.
    """
    from sana_video import weights
    from sana_video.weights.pipelines import is_pipeline

    _expect(asked.source)
    if _is_image_autoencoder(asked.source):
        return _inflate(asked)
    if (asked.autoencoder is None) != (asked.text_encoder is None):
        raise ValueError("a whole pipeline needs both --autoencoder and --text-encoder; a network alone needs neither")
    config = _config(asked)
    if asked.warm_start:
        if config is None or asked.layout != "ours" or asked.autoencoder is not None:
            raise ValueError("--warm-start grows an image model into a network of ours: give that with --config-from")
        return weights.convert_image_model(asked.source, asked.target, config, seed=asked.seed, ema=asked.ema)
    if asked.autoencoder is not None and asked.text_encoder is not None:
        if asked.layout != "ours":
            raise ValueError(f"--layout {asked.layout}: a pipeline is put together in our layout only")
        return weights.assemble(
            asked.source,
            asked.target,
            autoencoder=asked.autoencoder,
            text_encoder=asked.text_encoder,
            config=config,
            ema=asked.ema,
        )
    if is_pipeline(asked.source) and asked.layout == "ours" and config is None and not asked.ema:
        return weights.convert_pipeline(asked.source, asked.target)
    return weights.convert(asked.source, asked.target, layout=asked.layout, config=config, ema=asked.ema)


def _expect(source: Path) -> None:
    """MissingWeights, which says how to fetch them, if `source` is published weights that are not there."""
    if source.exists():
        return
    from infra.weights import catalogue
    from sana_video.weights import MissingWeights

    known = catalogue()
    for folder in (source, *source.parents):
        if folder.name in known:
            raise MissingWeights(folder.name, folder)


def _is_image_autoencoder(source: Path) -> bool:
    from sana_video.config import read_json

    path = source / "config.json"
    return path.is_file() and read_json(path).get("_class_name") == IMAGE_AUTOENCODER


def _inflate(asked: Conversion) -> dict[str, Any]:
    """An image DC-AE as the DCAE-V that a training stage of preset `inflated` may start at."""
    if asked != Conversion(asked.source, asked.target):
        raise ValueError(f"{asked.source} is an image autoencoder; it is inflated with no other option than TARGET")
    from sana_video.autoencoder.inflate import from_image
    from sana_video.weights.files import FILE_NAME, replacing_folder

    model = from_image(asked.source)
    with replacing_folder(asked.target, (FILE_NAME, "config.json")) as folder:
        model.save_pretrained(folder)
    state = model.state_dict()
    return {
        "autoencoder": str(asked.target),
        "tensors": len(state),
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
        "bytes": (asked.target / FILE_NAME).stat().st_size,
    }


def _config(asked: Conversion) -> SanaVideoConfig | None:
    """The network that was named, chunked as was asked; None to take what the source says."""
    from sana_video.config import PRESETS, SanaVideoConfig

    if asked.config_from is None:
        return None if asked.chunk_frames is None else _told_by_source(asked).with_(chunk_frames=asked.chunk_frames)
    path = Path(asked.config_from)
    if asked.config_from in PRESETS:
        config = SanaVideoConfig.preset(asked.config_from)
    elif path.exists():
        config = SanaVideoConfig.load(path / "config.json" if path.is_dir() else path)
    else:
        raise ValueError(f"--config-from {asked.config_from}: no preset ({', '.join(PRESETS)}) and no config.json")
    return config if asked.chunk_frames is None else config.with_(chunk_frames=asked.chunk_frames)


def _told_by_source(asked: Conversion) -> SanaVideoConfig:
    if asked.warm_start:
        raise ValueError(f"--chunk-frames {asked.chunk_frames}: say of which network with --config-from")
    from sana_video.weights.checkpoints import open_checkpoint

    return open_checkpoint(asked.source, ema=asked.ema).config
