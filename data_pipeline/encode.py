"""Shards of a view: each kept clip decoded once where it lies and written as what a training stage reads.

`pixels` holds uint8 clips for the autoencoder stage. Every other view holds latents of one autoencoder at one size,
with the embedding of the caption, to which the motion score is appended exactly as the published loader does; beside
them lies the embedding of no caption, so that no training process needs the text encoder.
Pictures are scaled to cover the view's size and cropped about the centre; a view takes the first frames of a clip.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from data_pipeline.params import PixelsParams
from infra.storage import is_remote, local_copy
from sana_video.autoencoder import Autoencoder
from sana_video.data.shards import ShardWriter
from sana_video.text import with_motion
from sana_video.video.io import decode_spans

SHARDS_VERSION = 2  # of what a sample holds; equal to `shards` in versions.yaml
CLIPS_AT_ONCE = 8  # through the autoencoder, of small views;
PIXELS_AT_ONCE = 2**23  # of large ones, over all frames, so many that a clip of 81 frames at 480x832 goes alone
FRAMES_AT_ONCE = 16  # turned from bytes to floats

Row = dict[str, Any]
Pixels = NDArray[np.uint8]
Tensors = dict[str, torch.Tensor]
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]
Encode = Callable[[Iterable[torch.Tensor]], Iterator[torch.Tensor]]
EncodeText = Callable[[list[str]], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Words:
    """How captions are told: `encode` takes B of them to (B, L, D) and a mask (B, L); `null` is what (L, D) and mask
    (L,) stand for none at all, which training puts in the place of a caption that it drops."""

    encode: EncodeText
    null: tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Kept:
    """A kept clip with what is needed to cut, tell and place it."""

    clip_id: str
    uri: str
    span: tuple[int, int]  # PTS
    caption: str
    motion: float
    subset: str


def kept_clips(
    videos: pa.Table, clips: pa.Table, scores: pa.Table, captions: pa.Table, selection: pa.Table
) -> list[Kept]:
    """The kept clips in the order in which a film is read. ValueError if the selection keeps none."""
    uris = {row["video_id"]: row["uri"] for row in videos.to_pylist() if row["reason"] is None}
    spans = {row["clip_id"]: row for row in clips.to_pylist()}
    motion = dict(zip(*(scores.column(name).to_pylist() for name in ("clip_id", "flow_motion")), strict=True))
    texts = dict(zip(*(captions.column(name).to_pylist() for name in ("clip_id", "text")), strict=True))
    chosen = [row for row in selection.to_pylist() if row["keep"]]
    if not chosen:
        raise ValueError("the selection keeps no clip: nothing to encode (see reports/data/report.html)")
    chosen.sort(key=lambda row: (row["video_id"], spans[row["clip_id"]]["start_pts"], row["clip_id"]))
    return [
        Kept(
            row["clip_id"],
            uris[row["video_id"]],
            (spans[row["clip_id"]]["start_pts"], spans[row["clip_id"]]["end_pts"]),
            texts[row["clip_id"]],
            motion[row["clip_id"]],
            row["subset"],
        )
        for row in chosen
    ]


def decoded(kept: list[Kept], view: PixelsParams, fps: int, root: Path) -> Iterator[tuple[Kept, Pixels]]:
    """Each clip with its pictures, uint8 (F, H, W, 3), each film opened once and read forward.

    Raises RuntimeError naming a clip that scoring could decode and this pass cannot.
    """
    for uri, group in itertools.groupby(kept, key=lambda clip: clip.uri):
        members = list(group)
        with local_copy(uri if is_remote(uri) else str(root / uri)) as path:
            pictures = decode_spans(
                path, (clip.span for clip in members), fps, view.frames, size=(view.height, view.width), threads=2
            )
            for clip in members:
                try:
                    pixels = next(pictures)
                except (ValueError, StopIteration) as error:
                    raise RuntimeError(
                        f"clip {clip.clip_id} of {uri} was scored but does not decode: {error}"
                    ) from error
                yield clip, pixels


def write_pixels(
    folder: Path, kept: list[Kept], view: PixelsParams, fps: int, max_bytes: int, root: Path, track: Track
) -> int:
    """Write the view `pixels` to `folder`; returns the number of samples."""
    with ShardWriter(folder, max_bytes) as shards:
        for clip, pixels in track(decoded(kept, view, fps, root), len(kept), "clips"):
            sample = {"pixels": torch.from_numpy(pixels), "fps": torch.tensor(float(fps))}
            shards.add(clip.clip_id, sample, _bucket(view), clip.subset)
    return len(kept)


def write_latents(
    folder: Path,
    kept: list[Kept],
    view: PixelsParams,
    fps: int,
    max_bytes: int,
    root: Path,
    encode: Encode,
    words: Words,
    track: Track,
) -> int:
    """Write a latent view to `folder`; returns the number of samples.

    `encode` takes pieces, along time, of a video (B, 3, F, H, W) in [-1, 1] to pieces of its normalised latents
    (B, C, T, h, w), so that the floats of a long clip are never there at once.
    """
    source = iter(track(decoded(kept, view, fps, root), len(kept), "clips"))
    at_once = max(1, min(CLIPS_AT_ONCE, PIXELS_AT_ONCE // (view.frames * view.height * view.width)))
    with ShardWriter(folder, max_bytes, null=words.null) as shards:
        while batch := list(itertools.islice(source, at_once)):
            clips = [clip for clip, _ in batch]
            for clip, sample in zip(clips, _samples(clips, [p for _, p in batch], encode, words.encode), strict=True):
                shards.add(clip.clip_id, sample, _bucket(view), clip.subset)
    return len(kept)


@torch.no_grad()
def _samples(clips: list[Kept], pictures: list[Pixels], encode: Encode, encode_text: EncodeText) -> Iterator[Tensors]:
    latents = torch.cat([piece.cpu() for piece in encode(_pieces(np.stack(pictures)))], dim=2)
    text, mask = encode_text([with_motion(clip.caption, clip.motion) for clip in clips])
    for i, clip in enumerate(clips):
        yield {
            "latents": latents[i].float(),
            "text": text[i].half(),
            "mask": mask[i].bool(),
            "motion": torch.tensor(float(clip.motion)),
            "caption": torch.frombuffer(bytearray(clip.caption.encode()), dtype=torch.uint8),
        }


def _pieces(pictures: Pixels) -> Iterator[torch.Tensor]:
    """uint8 (B, F, H, W, 3) as pieces of a video (B, 3, F, H, W) in [-1, 1]."""
    for start in range(0, pictures.shape[1], FRAMES_AT_ONCE):
        frames = torch.from_numpy(pictures[:, start : start + FRAMES_AT_ONCE])
        yield frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0


def check_view(view: PixelsParams, autoencoder: Autoencoder) -> None:
    """ValueError, before any film is opened, if `autoencoder` cannot take clips of this view's size."""
    autoencoder.latent_frames(view.frames)
    _, down, across = autoencoder.stride
    if view.height % down or view.width % across:
        raise ValueError(f"{view.height}x{view.width} is no multiple of {down}x{across}, the autoencoder's stride")


def _bucket(view: PixelsParams) -> str:
    return f"{view.height}x{view.width}x{view.frames}"
