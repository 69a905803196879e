"""What is measured, from the model's folder to the tables: reconstruction, held-out loss, generated clips.

Each part is a function that returns rows; the command writes them. Noise is drawn on the CPU from a hash of what it is
for, so the rows depend on no order, and the same model gives the same rows on the same kind of device.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.generate import choose_prompts, generated, real, watched
from eval.metrics.fullref import mean_colour, psnr, psnr_pooled, ssim
from eval.params import EvalParams
from infra import parquet
from sana_video import flow
from sana_video.autoencoder import Autoencoder, load_autoencoder
from sana_video.data.shards import ShardReader
from sana_video.device import best_device
from sana_video.model import SanaVideo
from sana_video.pipeline import SanaVideoPipeline
from sana_video.text import TextParams, load_text_encoder
from sana_video.train.config import StageParams
from sana_video.video.pixels import to_uint8

EVAL_VERSION = 2  # of the meaning of the tables; equals `eval` in versions.yaml
SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)  # noise levels of the held-out loss
MOST_CLIPS = 1000  # held-out clips measured, at most, as many as the paper's protocol

Row = dict[str, Any]
Track = Callable[..., Iterable[Any]]


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a training stage's model with its autoencoder, on the project's shards."""

    root: Path
    params: EvalParams
    text: TextParams
    trained: StageParams

    @property
    def model(self) -> Path:
        return self.root / "models" / self.params.stage

    @property
    def autoencoder(self) -> Path:
        return self.root / self.params.autoencoder

    def view(self, name: str) -> Path:
        return self.root / "data" / "shards" / name

    @property
    def out(self) -> Path:
        return self.root / "reports" / "eval"


def _generator(*parts: object) -> torch.Generator:
    name = ":".join(str(part) for part in parts)
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1)


def held_out(view: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(clip_id, tensors) of the held-out clips, at most MOST_CLIPS, in the order of their ids (hashes).

    Raises ValueError when there are none.
    """
    with ShardReader(view) as shards:
        subsets, keys = (shards.index.column(name).to_pylist() for name in ("subset", "key"))
        rows = [i for i, subset in enumerate(subsets) if subset == "val"][:MOST_CLIPS]
        if not rows:
            raise ValueError(f"view {view.name} has no held-out clip to evaluate on")
        for row in rows:
            yield keys[row], shards.sample(row)


@torch.no_grad()
def vae_rows(subject: Subject, track: Track) -> list[Row]:
    """Reconstruction of each held-out clip at each level of latent noise, x' = x + eps z (paper, Table 7)."""
    autoencoder = load_autoencoder(subject.autoencoder, device=best_device())
    clips = track(list(held_out(subject.view("pixels"))), label="reconstruction")
    return [
        row for clip_id, sample in clips for row in _vae_clip(autoencoder, clip_id, sample["pixels"], subject.params)
    ]


def _vae_clip(autoencoder: Autoencoder, clip_id: str, pixels: Tensor, params: EvalParams) -> list[Row]:
    reference = pixels.numpy()
    video = pixels.permute(3, 0, 1, 2).unsqueeze(0).float() / 127.5 - 1
    latents = autoencoder.encode(video)
    frames, height, width = reference.shape[:3]
    about = {
        "clip_id": clip_id, "frames": frames, "height": height, "width": width,
        "psnr_mean_colour": psnr(mean_colour(reference), reference),
    }  # fmt: skip
    return [
        {**about, **_reconstruct(autoencoder, latents, eps, clip_id, reference, params.seed)}
        for eps in params.latent_noise
    ]


def _reconstruct(
    autoencoder: Autoencoder, latents: Tensor, eps: float, clip_id: str, reference: NDArray[np.uint8], seed: int
) -> Row:
    noise = torch.randn(latents.shape, generator=_generator("vae", seed, clip_id, eps))
    shown = autoencoder.decode(latents + eps * noise.to(latents))
    if not bool(torch.isfinite(shown).all()):
        return {"eps": eps, "status": "failed", "reason": "the reconstruction is not finite"}
    clip = to_uint8(shown)[0].numpy()
    scores = {"psnr": psnr(clip, reference), "psnr_pooled": psnr_pooled(clip, reference), "ssim": ssim(clip, reference)}
    return {"eps": eps, **scores, "status": "ok"}


@torch.no_grad()
def heldout_rows(model: SanaVideo, view: Path, seed: int, track: Track) -> list[Row]:
    """Flow-matching loss of each held-out clip at each of SIGMAS under fixed noise, beside that of zero velocity."""
    clips = track(list(held_out(view)), label="held-out loss")
    return [row for clip_id, sample in clips for row in _heldout_clip(model, clip_id, sample, seed)]


def _heldout_clip(model: SanaVideo, clip_id: str, sample: dict[str, Tensor], seed: int) -> list[Row]:
    device = model.patch_embed.weight.device
    sigmas = torch.tensor(SIGMAS)
    clean = sample["latents"].float().expand(len(SIGMAS), *sample["latents"].shape)
    noise = torch.stack(
        [torch.randn(clean.shape[1:], generator=_generator("heldout", seed, clip_id, s)) for s in SIGMAS]
    )
    target = flow.velocity_target(clean, noise)
    text = sample["text"].float().expand(len(SIGMAS), -1, -1)
    mask = sample["mask"].expand(len(SIGMAS), -1)
    told = (flow.add_noise(clean, noise, sigmas), flow.network_timestep(sigmas), text, mask)
    velocity = model(*(part.to(device) for part in told)).float().cpu()
    rows = []
    for i, sigma in enumerate(SIGMAS):
        loss, zero = float(flow.flow_loss(velocity[i], target[i])), float(target[i].square().mean())
        known = {"clip_id": clip_id, "time": sigma, "zero": zero}
        failed = {"status": "failed", "reason": "the loss is not finite"}
        rows.append({**known, **({"loss": loss, "status": "ok"} if np.isfinite(loss) else failed)})
    return rows


def pipeline(subject: Subject, model: SanaVideo) -> SanaVideoPipeline:
    """The model as it will be released, on its own device, sampled at the size and rate of its view."""
    device = model.patch_embed.weight.device
    autoencoder = load_autoencoder(subject.autoencoder, device=device)
    frames, height, width, fps = shown_size(subject, autoencoder)
    defaults = subject.params.sampling(subject.trained, fps=fps, height=height, width=width, frames=frames)
    place = subject.root / subject.text.folder if subject.text.folder else None
    encoder = load_text_encoder(subject.text, place, device=device)
    return SanaVideoPipeline(model, watched(autoencoder), encoder, defaults)


def shown_size(subject: Subject, autoencoder: Autoencoder) -> tuple[int, int, int, float]:
    """(frames, height, width, fps) of the bucket that most of the view's clips have, at the rate of the pixel view."""
    with ShardReader(subject.view(subject.params.view)) as shards:
        counts = Counter(shards.index.column("bucket").to_pylist())
    bucket = min(counts, key=lambda name: (-counts[name], name))
    height, width, frames = (int(part) for part in bucket.split("x"))
    autoencoder.latent_frames(frames)
    _, sample = next(held_out(subject.view("pixels")))
    return frames, height, width, float(sample["fps"])


@torch.no_grad()
def t2v_rows(subject: Subject, model: SanaVideo, credit: str, track: Track) -> list[Row]:
    """One row per generated clip (prompts x seeds) and per real clip of the same captions; mp4s go to `out`/clips."""
    maker = pipeline(subject, model)
    prompts = choose_prompts(subject.view(subject.params.view), subject.params)
    work = [(prompt, seed) for prompt in prompts for seed in subject.params.seeds]
    rows = [generated(maker, prompt, seed, subject.out, credit) for prompt, seed in track(work, label="clips")]
    pixels = _pixels_of(subject.view("pixels"), {prompt.clip_id for prompt in prompts})
    known = maker.defaults
    for prompt in prompts:
        if prompt.clip_id not in pixels:
            raise ValueError(
                f"clip {prompt.clip_id} of view {subject.params.view} is not in the pixel view: encode both anew"
            )
        clip = fit(pixels[prompt.clip_id], known.frames, known.height, known.width)
        rows.append(real(clip, known.fps, prompt, subject.out, credit))
    return rows


def _pixels_of(view: Path, wanted: set[str]) -> dict[str, NDArray[np.uint8]]:
    with ShardReader(view) as shards:
        keys = shards.index.column("key").to_pylist()
        return {key: shards.sample(i)["pixels"].numpy() for i, key in enumerate(keys) if key in wanted}


def fit(clip: NDArray[np.uint8], frames: int, height: int, width: int) -> NDArray[np.uint8]:
    """A real clip at the size of the generated ones: its first frames, each resized by area."""
    if clip.shape[1:3] == (height, width):
        return clip[:frames]
    resized = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in clip[:frames]]
    return np.stack(resized).astype(np.uint8)


def sources(root: Path, batches: Iterable[str]) -> list[Row]:
    """Source, licence, attribution and number of videos that went in, from the videos tables of the named batches."""
    found: dict[tuple[str, str, str], int] = {}
    for batch in sorted(batches):
        path = root / "data" / "videos" / f"{batch}.parquet"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: the videos table of batch {batch} is missing (run `sana-video data ingest`)"
            )
        for row in parquet.table(path, ["source", "licence", "attribution", "reason"]).to_pylist():
            if row["reason"] is None:
                key = (row["source"] or "", row["licence"] or "", row["attribution"] or "")
                found[key] = found.get(key, 0) + 1
    return [{"source": s, "licence": li, "attribution": a, "videos": n} for (s, li, a), n in sorted(found.items())]


def credit(known: Iterable[Row]) -> str:
    """The attributions to carry in each clip's metadata."""
    return "; ".join(sorted({row["attribution"] for row in known if row["attribution"]}))
