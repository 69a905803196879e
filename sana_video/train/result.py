"""What a stage leaves behind: weights, configuration, `summary.json` and `curve.csv`, in a folder that appears whole.

A diffusion stage also leaves the null embedding it trained with, so that sampling guides away from exactly that.

The summary is what the gate after the stage reads. It holds no time and no host, so that the same training gives the
same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sana_video.autoencoder.dcae_v import DcaeV
from sana_video.data.loader import Loader
from sana_video.data.shards import file_sha256
from sana_video.train.objectives import Text, as_video
from sana_video.weights import FILE_NAME, NULL_FILE, save

SUMMARY, CURVE = "summary.json", "curve.csv"
NORMALISATION_CLIPS = 256  # training clips over which the latents' mean and deviation are taken, at most


def publish(
    folder: Path,
    model: nn.Module,
    summary: Mapping[str, Any],
    curve: Sequence[Mapping[str, Any]],
    empty: Text | None,
) -> None:
    """Write models/<stage> beside its place and rename it there; an old one goes only when the new one is complete."""
    incomplete, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("incomplete", "old"))
    for stale in (incomplete, old):
        shutil.rmtree(stale, ignore_errors=True)
    model.save_pretrained(incomplete)  # type: ignore[operator]
    if empty is not None:
        save(incomplete / NULL_FILE, {"text": empty[0], "mask": empty[1]})
    (incomplete / CURVE).write_text("".join(_csv(curve)))
    digest = {"checkpoint_sha256": file_sha256(incomplete / FILE_NAME)}
    (incomplete / SUMMARY).write_text(json.dumps({**summary, **digest}, indent=1, sort_keys=True) + "\n")
    if folder.exists():
        folder.rename(old)
    incomplete.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@torch.no_grad()
def measure_latents(autoencoder: DcaeV, loader: Loader) -> None:
    """Set the normalisation of `autoencoder`: per channel mean and deviation of its latents over training clips."""
    channels = autoencoder.config.latent_channels
    autoencoder.set_normalisation(torch.zeros(channels), torch.ones(channels))
    count, total, squares = 0, torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    for batch in loader.train_samples(NORMALISATION_CLIPS):
        latents = autoencoder.encode(as_video(batch.tensors["pixels"]))
        flat = latents.double().transpose(0, 1).flatten(1)
        count, total, squares = count + flat.shape[1], total + flat.sum(1), squares + flat.square().sum(1)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=1e-8).sqrt()
    autoencoder.set_normalisation(mean.float(), deviation.float())


def _csv(curve: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    columns = ("step", "loss", "lr", "heldout")
    yield ",".join(columns) + "\n"
    for row in curve:
        yield ",".join("" if row[name] is None else repr(row[name]) for name in columns) + "\n"
