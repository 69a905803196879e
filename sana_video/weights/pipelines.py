"""A whole diffusers pipeline folder made into ours, which `SanaVideoPipeline.from_pretrained` and `sample` read.

From `transformer/` come model.safetensors and config.json, from `vae/` autoencoder/, from `text_encoder/` and
`tokenizer/` together text_encoder/ (hard links where the disk is the same: five gigabytes need not lie there twice),
which text.json names. sampling.json holds the published settings of the network's size.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from sana_video.config import SamplingDefaults, SanaVideoConfig, read_json
from sana_video.weights.conversion import convert
from sana_video.weights.diffusers import PIPELINE_INDEX, transformer_folder
from sana_video.weights.files import write_atomically

PARTS = ("transformer", "vae", "text_encoder", "tokenizer")
MOTION_SCORE = 10  # what the official script says where its user does not
LTX2_CHANNELS = 128  # latents of the 720p release


def is_pipeline(folder: Path) -> bool:
    """Whether `folder` is a diffusers pipeline."""
    return (folder / PIPELINE_INDEX).is_file()


def convert_pipeline(source: Path | str, target: Path | str) -> dict[str, int | str]:
    """Write the diffusers pipeline in `source` as a pipeline folder of ours into `target`; returns what was written.

    FileNotFoundError names the parts that are not there, before anything is written; else as `convert`.
    """
    source, target = Path(source), Path(target)
    if absent := [part for part in PARTS if not (source / part).is_dir()]:
        raise FileNotFoundError(f"{source} is no whole pipeline: {', '.join(absent)} missing")
    if transformer_folder(source) is None:
        raise ValueError(
            f"{source} is a pipeline of another model: {_class_of(source / 'transformer')} in transformer/"
        )
    from sana_video.autoencoder import load_autoencoder  # it reads its own weights through this package

    autoencoder = load_autoencoder(source / "vae")
    done = convert(source, target)
    autoencoder.save_pretrained(target / "autoencoder")
    for part in ("text_encoder", "tokenizer"):
        _linked(source / part, target / "text_encoder")
    config = SanaVideoConfig.load(target / "config.json")
    _write(target / "text.json", _text(config))
    _write(target / "sampling.json", published(config, _flow_shift(source)).model_dump(mode="json"))
    return {**done, "pipeline": str(target)}


def published(config: SanaVideoConfig, flow_shift: float | None = None) -> SamplingDefaults:
    """How the published network of this size is sampled: 81 frames at 16 fps in 50 steps with guidance 6."""
    height, width = (704, 1280) if config.in_channels == LTX2_CHANNELS else (480, 832)
    return SamplingDefaults(
        height=height, width=width, flow_shift=8.0 if flow_shift is None else flow_shift, motion_score=MOTION_SCORE
    )


def _text(config: SanaVideoConfig) -> dict[str, Any]:
    """diffusers puts its own, video-worded instruction before the prompt."""
    return {
        "encoder": "gemma-2-2b-it",
        "tokens": config.text_tokens,
        "folder": "text_encoder",
        "instruction": "video",
    }


def _flow_shift(source: Path) -> float | None:
    path = source / "scheduler" / "scheduler_config.json"
    shift = read_json(path).get("flow_shift") if path.is_file() else None
    return float(shift) if isinstance(shift, int | float) and shift > 0 else None


def _class_of(folder: Path) -> Any:
    path = folder / "config.json"
    return read_json(path).get("_class_name") if path.is_file() else "no config.json"


def _linked(source: Path, target: Path) -> None:
    """The files of `source` in `target`: linked, or copied where the file system does not link."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(path for path in source.iterdir() if path.is_file()):
        place = target / path.name
        temporary = place.with_name(f".{place.name}.new")
        temporary.unlink(missing_ok=True)
        try:
            os.link(path.resolve(), temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        temporary.replace(place)


def _write(path: Path, fields: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(fields, indent=2) + "\n").encode())
