"""A network from one layout to another, file to file, one tensor in memory at a time.

What the target's folder then holds: `ours` model.safetensors and config.json; `diffusers`
diffusion_pytorch_model.safetensors and config.json; `official` official.safetensors, whose names are the published
ones (a pickle is never written). The null prompt of an official checkpoint goes into null_embedding.safetensors beside
the first two, and back into the third.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from sana_video.config import SanaVideoConfig
from sana_video.weights import diffusers, files, stream
from sana_video.weights.checkpoints import Checkpoint, open_checkpoint
from sana_video.weights.names import NULL_OFFICIAL, Layout, rows, translate

FILE_NAMES: dict[Layout, str] = {
    "ours": files.FILE_NAME,
    "diffusers": diffusers.FILE_NAME,
    "official": "official.safetensors",
}


def convert(
    source: Path | str,
    target: Path | str,
    *,
    layout: Layout = "ours",
    config: SanaVideoConfig | None = None,
    ema: bool = False,
) -> dict[str, int | str]:
    """Write the network in `source` into the folder `target`, and return what was written.

    `source`, `config` and `ema` as in `open_checkpoint`, which also says what is raised; besides, OSError if the disk
    refuses. Each file appears whole or not at all, the weights first.
    """
    checkpoint = open_checkpoint(Path(source), config=config, ema=ema)
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    shapes = translate(checkpoint.shapes, rows(checkpoint.config.depth), checkpoint.layout, layout)
    tensors = checkpoint.translated(layout)
    if layout == "official" and checkpoint.null is not None:
        shapes[NULL_OFFICIAL] = checkpoint.null.to("meta")
        tensors = _then(tensors, NULL_OFFICIAL, checkpoint.null)
    size = stream.write(target / FILE_NAMES[layout], shapes, tensors)
    if layout != "official":
        _write_beside(target, layout, checkpoint)
    return {
        "layout": layout,
        "weights": str(target / FILE_NAMES[layout]),
        "tensors": len(shapes),
        "parameters": sum(tensor.numel() for tensor in checkpoint.shapes.values()),
        "bytes": size,
    }


def _then(tensors: Iterator[tuple[str, Tensor]], name: str, last: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield from tensors
    yield name, last


def _write_beside(target: Path, layout: Layout, checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    text = diffusers.dump_config(config) if layout == "diffusers" else config.dump()
    write_null(target, checkpoint.null)
    files.write_atomically(target / "config.json", text.encode())


def write_null(folder: Path, null: Tensor | None) -> None:
    """Keep the null prompt (L, D) beside a network, all of it counting; without one, leave none of another network."""
    path = folder / files.NULL_FILE
    if null is None:
        path.unlink(missing_ok=True)
    else:
        files.save(path, {"text": null.float(), "mask": torch.ones(null.shape[0], dtype=torch.bool)})
