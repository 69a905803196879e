"""Published weights made into a pipeline folder of ours, which `SanaVideoPipeline.from_pretrained` and `sample` read.

Two ways. A whole diffusers pipeline brings every part: `transformer/` gives model.safetensors and config.json, `vae/`
autoencoder/, `text_encoder/` and `tokenizer/` together text_encoder/ (hard links where the disk is the same: five
gigabytes need not lie there twice). A network alone, an official checkpoint say, is put together with an autoencoder
and a text encoder from elsewhere; the latter stays where it is, and text.json says where. sampling.json holds the
published settings. The folder appears as a whole, once every part is known to fit.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sana_video.config import SamplingDefaults, SanaVideoConfig, read_json
from sana_video.text.gemma import text_width
from sana_video.text.instructions import NEGATIVE_PROMPT
from sana_video.weights.checkpoints import open_checkpoint
from sana_video.weights.conversion import convert
from sana_video.weights.diffusers import PIPELINE_INDEX, transformer_folder
from sana_video.weights.files import FILE_NAME, NULL_FILE, link, replacing_folder, write_atomically

if TYPE_CHECKING:
    from sana_video.autoencoder import Autoencoder

PARTS = ("transformer", "vae", "text_encoder", "tokenizer")
WRITTEN = (FILE_NAME, "config.json", NULL_FILE, "autoencoder", "text.json", "sampling.json")
LTX2_CHANNELS = 128  # latents of the 720p release
STEP_LIST = (1000, 960, 889, 727)  # of the long-video checkpoints, which are distilled to these four steps
MOTION_SCORE = 30  # of the documented commands (NVlabs/Sana docs/sana_video.md)
LONG_MOTION_SCORE = 10  # theirs for long video says none: the script's own default


def is_pipeline(folder: Path) -> bool:
    """Whether `folder` is a diffusers pipeline."""
    return (folder / PIPELINE_INDEX).is_file()


def convert_pipeline(source: Path | str, target: Path | str) -> dict[str, int | str]:
    """Write the diffusers pipeline in `source` as a pipeline folder of ours into `target`; returns what was written.

    FileNotFoundError names the parts that are not there, and ValueError those that do not fit together, before anything
    is written; else as `convert`.
    """
    source, target = Path(source), Path(target)
    if absent := [part for part in PARTS if not (source / part).is_dir()]:
        raise FileNotFoundError(f"{source} is no whole pipeline: {', '.join(absent)} missing")
    if transformer_folder(source) is None:
        raise ValueError(
            f"{source} is a pipeline of another model: {_class_of(source / 'transformer')} in transformer/"
        )
    config = open_checkpoint(source).config
    autoencoder = _fitting(config, source / "vae", source)
    with _pipeline(target, config, autoencoder, "text_encoder", published(config, _flow_shift(source))) as folder:
        done = convert(source, folder, config=config)
        _link_text_encoder(source, folder / "text_encoder")
    return _told(done, target, config)


def assemble(
    source: Path | str,
    target: Path | str,
    *,
    autoencoder: Path | str,
    text_encoder: Path | str,
    config: SanaVideoConfig | None = None,
    ema: bool = False,
) -> dict[str, int | str]:
    """Write the network in `source` and its `autoencoder` as a pipeline folder into `target`; see `convert`.

    `text_encoder` is Gemma's folder. text.json refers to it, relative to `target` if it lies in there. MissingWeights
    (a FileNotFoundError) for a part that is not there, ValueError for parts that do not fit together, before anything
    is written.
    """
    source, target, text_encoder = Path(source), Path(target), Path(text_encoder)
    config = open_checkpoint(source, config=config, ema=ema).config
    vae = _fitting(config, Path(autoencoder), text_encoder)
    with _pipeline(target, config, vae, _reference(text_encoder, target), published(config)) as folder:
        done = convert(source, folder, config=config, ema=ema)
    return _told(done, target, config)


def published(config: SanaVideoConfig, flow_shift: float | None = None) -> SamplingDefaults:
    """How the published network of this kind is sampled: 81 frames at 16 fps, for 480p, for 720p or for long video.

    In both directions 50 steps with guidance 6, away from the negative prompt that the official script encodes by
    itself, without instruction, where a user gives none. Chunk-causal: four steps, without guidance.
    """
    height, width = (704, 1280) if config.in_channels == LTX2_CHANNELS else (480, 832)
    if config.chunk_frames is not None:
        return SamplingDefaults(
            height=height,
            width=width,
            steps=len(STEP_LIST),
            guidance=1.0,
            flow_shift=7.0,
            motion_score=LONG_MOTION_SCORE,
            step_list=STEP_LIST,
        )
    return SamplingDefaults(
        height=height,
        width=width,
        flow_shift=8.0 if flow_shift is None else flow_shift,
        motion_score=MOTION_SCORE,
        negative_prompt=NEGATIVE_PROMPT,
    )


@contextmanager
def _pipeline(
    target: Path, config: SanaVideoConfig, autoencoder: "Autoencoder", text_encoder: str, defaults: SamplingDefaults
) -> Iterator[Path]:
    """`target` as a whole: what the block writes, the autoencoder, and the two files that describe the rest."""
    with replacing_folder(target, WRITTEN) as folder:
        yield folder
        autoencoder.save_pretrained(folder / "autoencoder")
        _write(folder / "text.json", _text(config, text_encoder))
        _write(folder / "sampling.json", defaults.model_dump(mode="json"))


def _fitting(config: SanaVideoConfig, autoencoder: Path, text_encoder: Path) -> "Autoencoder":
    """The autoencoder in a folder; ValueError unless it and the text encoder are of the network's sizes."""
    from sana_video.autoencoder import load_autoencoder  # it reads its own weights through this package

    if (width := text_width(text_encoder)) != config.text_width:
        raise ValueError(f"{text_encoder} gives text of width {width}; the network takes {config.text_width}")
    found = load_autoencoder(autoencoder)
    if found.latent_channels != config.in_channels:
        raise ValueError(
            f"{autoencoder} makes latents of {found.latent_channels} channels; the network takes {config.in_channels}"
        )
    return found


def _text(config: SanaVideoConfig, folder: str) -> dict[str, Any]:
    """The official configurations put the image-worded instruction before a prompt, diffusers' pipeline its own."""
    return {
        "encoder": "gemma-2-2b-it",
        "tokens": config.text_tokens,
        "folder": folder,
        "instruction": _instruction(config),
    }


def _instruction(config: SanaVideoConfig) -> str:
    return "video" if config.origin == "diffusers" else "image"


def _reference(folder: Path, target: Path) -> str:
    place, base = folder.resolve(), target.resolve()
    return place.relative_to(base).as_posix() if place.is_relative_to(base) else str(place)


def _flow_shift(source: Path) -> float | None:
    path = source / "scheduler" / "scheduler_config.json"
    shift = read_json(path).get("flow_shift") if path.is_file() else None
    return float(shift) if isinstance(shift, int | float) and shift > 0 else None


def _class_of(folder: Path) -> Any:
    path = folder / "config.json"
    return read_json(path).get("_class_name") if path.is_file() else "no config.json"


def _link_text_encoder(source: Path, target: Path) -> None:
    target.mkdir()
    for part in ("text_encoder", "tokenizer"):
        for path in sorted(path for path in (source / part).iterdir() if path.is_file()):
            (target / path.name).unlink(missing_ok=True)  # both may hold one of a name; the tokenizer's stays
            link(path, target / path.name)


def _told(done: dict[str, int | str], target: Path, config: SanaVideoConfig) -> dict[str, int | str]:
    use = "long video, chunk after chunk" if config.chunk_frames is not None else "video and images"
    return {
        **done,
        "weights": str(target / FILE_NAME),
        "pipeline": str(target),
        "for": use,
        "instruction": _instruction(config),
    }


def _write(path: Path, fields: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(fields, indent=2) + "\n").encode())
