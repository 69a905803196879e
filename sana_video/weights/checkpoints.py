"""Opens whatever holds a SANA-Video network: our folder, an official checkpoint, diffusers' folder, a safetensors file.

Opening reads names and shapes and checks them all; the tensors stay on disk until each is asked for.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sana_video.config import SanaVideoConfig
from sana_video.weights import diffusers, official
from sana_video.weights.files import FILE_NAME, NULL_FILE, PICKLES, finite, listed, load
from sana_video.weights.names import NULL_OFFICIAL, Layout, check, layout_of, part_null, rows, translate
from sana_video.weights.stream import LazyTensors

LONG, LONG_CHUNK = re.compile("longsana|longlive", re.IGNORECASE), 10  # published for long video: latent frames a chunk


@dataclass(frozen=True)
class Checkpoint:
    """A network on disk, known to be complete. `shapes`: its tensors on the meta device, in its own names."""

    where: Path
    layout: Layout
    config: SanaVideoConfig
    shapes: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]
    null: Tensor | None

    def translated(self, layout: Layout) -> Iterator[tuple[str, Tensor]]:
        """Every tensor under its name in `layout`, one row of the mapping in memory at a time.

        ValueError names the first that is not finite.
        """
        for row in rows(self.config.depth):
            held = {name: self.tensors[name] for name in row.names(self.layout)}
            for name, tensor in held.items():
                if not finite(tensor):
                    raise ValueError(f"{self.where}: {name} holds NaN or infinity")
            yield from translate(held, [row], self.layout, layout).items()


def open_checkpoint(source: Path, *, config: SanaVideoConfig | None = None, ema: bool = False) -> Checkpoint:
    """The network in `source`: a folder of ours or of diffusers (a pipeline's too), a .safetensors, a .pth or a .pt.

    Also the folder of a published repository with one checkpoint in checkpoints/. `config` says what it must be, where
    the source does not or where that should not be believed; `ema` takes the averaged weights of an official
    checkpoint. A long-video checkpoint has the tensors of any other: only its name tells, and makes it chunk-causal;
    `config` is believed instead. FileNotFoundError for what is missing. ValueError for what is damaged,
    is another model or wants to run code; every key that does not fit is named in one line.
    """
    source = _fetched(source)
    if source.suffix in PICKLES:
        held = official.read(source, ema=ema)
        shapes = {name: tensor.to("meta") for name, tensor in held.items()}
        return _checked(source, "official", config, shapes, held, held.get(NULL_OFFICIAL))
    if ema:
        raise ValueError(f"{source}: only an official .pth or .pt may hold averaged weights beside the others")
    if source.is_dir():
        return _folder(source, config)
    if source.suffix == ".safetensors":
        lazy = LazyTensors([source])
        layout = layout_of(lazy)
        if layout is None:
            raise ValueError(f"{source} is no SANA-Video network: it holds {listed(list(lazy)) or 'nothing'}")
        null = lazy.get(NULL_OFFICIAL) if layout == "official" else _null_beside(source.parent)
        return _checked(source, layout, config, lazy.shapes, lazy, null)
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    raise ValueError(f"{source}: weights are a folder, a .safetensors, a .pth or a .pt")


def _fetched(source: Path) -> Path:
    """The checkpoint of a repository's folder; `source` itself if it is none."""
    if not (source / "checkpoints").is_dir() or (source / "config.json").is_file():
        return source
    found = sorted(path for path in (source / "checkpoints").iterdir() if path.suffix in PICKLES)
    if len(found) > 1:
        raise ValueError(
            f"{source} holds {len(found)} checkpoints; name one of {listed([str(path) for path in found])}"
        )
    return found[0] if found else source


def _folder(source: Path, config: SanaVideoConfig | None) -> Checkpoint:
    inner = diffusers.transformer_folder(source)
    if inner is not None:
        lazy = LazyTensors(diffusers.weight_files(inner))
        known = config or _as_named(diffusers.read_config(inner / "config.json"), source)
        return _checked(inner, "diffusers", known, lazy.shapes, lazy, _null_beside(source))
    known = config or SanaVideoConfig.load(source / "config.json")
    lazy = LazyTensors([source / FILE_NAME])
    return _checked(source, "ours", known, lazy.shapes, lazy, _null_beside(source))


def _checked(
    where: Path,
    layout: Layout,
    config: SanaVideoConfig | None,
    shapes: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    null: Tensor | None,
) -> Checkpoint:
    network, _ = part_null(shapes, layout)
    if config is not None and layout != "ours":
        config = config.with_(origin=layout)  # names tell whose epsilons the weights were trained with
    settled = check(network, layout, config, str(where), null)
    if config is None:
        settled = _as_named(settled, where)
    return Checkpoint(where, layout, settled, network, tensors, null)


def _as_named(config: SanaVideoConfig, where: Path) -> SanaVideoConfig:
    return config.with_(chunk_frames=LONG_CHUNK) if LONG.search(where.name) else config


def _null_beside(folder: Path) -> Tensor | None:
    """The null prompt (L, D) that lies beside a network which has no place for it."""
    path = folder / NULL_FILE
    if not path.is_file():
        return None
    held = load(path)
    if "text" not in held or held["text"].ndim != 2:
        raise ValueError(f'{path} holds no tensor "text" (tokens, width)')
    return held["text"]


def load_diffusers(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> tuple[SanaVideoConfig, dict[str, Tensor]]:
    """Our configuration and state dict of a network in diffusers' folder. Raises as `open_checkpoint`."""
    checkpoint = open_checkpoint(folder)
    state = {name: tensor.to(device, dtype) for name, tensor in checkpoint.translated("ours")}
    return checkpoint.config, state
