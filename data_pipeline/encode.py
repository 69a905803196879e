"""Shards of a view: each kept clip decoded once where it lies and written as what a training stage reads.

`pixels` holds uint8 clips for the autoencoder stage. Every other view holds latents of one autoencoder at one size,
with the embedding of the caption, to which the motion score is appended exactly as the published loader does; beside
them lies the embedding of no caption, so that no training process needs the text encoder.
Pictures are scaled to cover the clip's size and cropped about the centre; a view takes the first frames of a clip. A
view of several sizes takes for each clip the one whose aspect is nearest to that of the picture as shown.

Shards that are whole wait under runs/encode/ until the view stands, in a folder named by all that their bytes depend
on: a run that is killed loses the shard that it was writing, and the next one ends with the bytes of one run. Clips go
through the autoencoder in batches that do not depend on where a run begins, since equal clips in other batches may
differ in the last bit.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from data_pipeline.films import at_hand
from data_pipeline.params import PixelsParams, ViewParams
from data_pipeline.pictures import clips_of
from sana_video.autoencoder import Autoencoder
from sana_video.data.buckets import Size, nearest, shown
from sana_video.data.shards import ShardWriter
from sana_video.text import with_motion
from sana_video.video.sandbox import Sandbox

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
class Encoders:
    """What makes samples of a latent view. `encode` takes pieces, along time, of a video (B, 3, F, H, W) in [-1, 1] to
    pieces of its normalised latents (B, C, T, h, w), so that the floats of a long clip are never there at once.

    `multiple`: of which both sides of a picture are; `identity`: names all that the samples depend on.
    """

    encode: Encode
    words: Words
    multiple: int
    identity: str


@dataclass(frozen=True)
class Kept:
    """A kept clip with what is needed to cut, tell and place it."""

    clip_id: str
    uri: str
    span: tuple[int, int]  # PTS
    caption: str
    motion: float
    subset: str
    shown: Size  # (height, width) of the film as shown


def kept_clips(
    videos: pa.Table, clips: pa.Table, scores: pa.Table, captions: pa.Table, selection: pa.Table
) -> list[Kept]:
    """The kept clips in the order in which a film is read. ValueError if the selection keeps none."""
    films = {row["video_id"]: (row["uri"], _shown(row)) for row in videos.to_pylist() if row["reason"] is None}
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
            films[row["video_id"]][0],
            (spans[row["clip_id"]]["start_pts"], spans[row["clip_id"]]["end_pts"]),
            texts[row["clip_id"]],
            motion[row["clip_id"]],
            row["subset"],
            films[row["video_id"]][1],
        )
        for row in chosen
    ]


def _shown(video: Row) -> Size:
    return shown(video["height"], video["width"], video["sample_aspect"] or 1.0, video["rotation"] or 0)


def size_of(clip: Kept, sizes: Sequence[Size]) -> Size:
    """That of `sizes` with the aspect nearest to the film's as shown: the same for all clips of a film."""
    height, width = clip.shown
    return nearest(height, width, sizes)


def decoded(
    kept: list[Kept], sizes: tuple[Size, ...], frames: int, fps: int, root: Path
) -> Iterator[tuple[Kept, Pixels]]:
    """Each clip with its pictures, uint8 (F, H, W, 3), at its own of `sizes`, decoded in the sandbox.

    Raises RuntimeError naming a clip that scoring could decode and this pass cannot.
    """
    with Sandbox() as sandbox:
        for uri, group in itertools.groupby(kept, key=lambda clip: clip.uri):
            members = list(group)
            spans, size = [clip.span for clip in members], size_of(members[0], sizes)
            with at_hand(uri, root) as path:
                pictures = clips_of(sandbox, path, spans, fps, [frames] * len(spans), size=size)
                for clip, pixels in zip(members, pictures, strict=True):
                    if isinstance(pixels, str):
                        raise RuntimeError(f"clip {clip.clip_id} of {uri} was scored but does not decode: {pixels}")
                    yield clip, pixels


def fingerprint(kept: list[Kept], *more: object) -> str:
    """Names the bytes that are made of these clips, in this order, by what `more` names."""
    told = [SHARDS_VERSION, torch.__version__, av.__version__, [asdict(clip) for clip in kept], [str(m) for m in more]]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


def write_pixels(
    folder: Path, kept: list[Kept], view: PixelsParams, fps: int, max_bytes: int, root: Path, track: Track
) -> int:
    """Write the view `pixels` to `folder`; returns the number of samples."""
    sizes = view.sizes(1)
    place = _place(root, folder, fingerprint(kept, view, fps, max_bytes))
    with ShardWriter(folder, max_bytes, kept=place) as shards:
        left = [clip for clip in kept if clip.clip_id not in shards.done]
        for clip, pixels in track(decoded(left, sizes, view.frames, fps, root), len(left), "clips"):
            sample = {"pixels": torch.from_numpy(pixels), "fps": torch.tensor(float(fps))}
            shards.add(clip.clip_id, sample, _bucket(pixels), clip.subset)
    return len(kept)


def write_latents(
    folder: Path,
    kept: list[Kept],
    view: ViewParams,
    fps: int,
    max_bytes: int,
    root: Path,
    encoders: Encoders,
    track: Track,
) -> int:
    """Write a latent view to `folder`; returns the number of samples."""
    sizes, words = view.sizes(encoders.multiple), encoders.words
    place = _place(root, folder, fingerprint(kept, sizes, view.frames, fps, max_bytes, encoders.identity))
    with ShardWriter(folder, max_bytes, null=words.null, kept=place) as shards:
        done = shards.done
        batches = [b for b in _batches(kept, sizes, view.frames) if not done.issuperset(clip.clip_id for clip in b)]
        left = list(itertools.chain.from_iterable(batches))
        source = iter(track(decoded(left, sizes, view.frames, fps, root), len(left), "clips"))
        for batch in batches:
            pictures = [pixels for _, pixels in itertools.islice(source, len(batch))]
            for clip, sample in zip(batch, _samples(batch, pictures, encoders.encode, words.encode), strict=True):
                if clip.clip_id not in done:
                    shards.add(clip.clip_id, sample, _bucket(pictures[0]), clip.subset)
    return len(kept)


def _place(root: Path, folder: Path, name: str) -> Path:
    """Where finished shards of a view wait; what waits there for another run of it is removed."""
    waiting = root / "runs" / "encode" / folder.name
    for other in waiting.glob("*"):
        if other.name != name:
            shutil.rmtree(other)
    return waiting / name


def _batches(kept: list[Kept], sizes: tuple[Size, ...], frames: int) -> Iterator[list[Kept]]:
    """The clips in their order, those of one size that stand together, as many as fit through the autoencoder."""
    for (height, width), group in itertools.groupby(kept, key=lambda clip: size_of(clip, sizes)):
        at_once = max(1, min(CLIPS_AT_ONCE, PIXELS_AT_ONCE // (frames * height * width)))
        while batch := list(itertools.islice(group, at_once)):
            yield batch


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


def check_view(view: ViewParams, autoencoder: Autoencoder) -> int:
    """Of what the sides of a picture must be multiples; ValueError, before any film is opened, if `autoencoder` cannot
    take clips of this view's size."""
    autoencoder.latent_frames(view.frames)
    _, down, across = autoencoder.stride
    for height, width in view.sizes(max(down, across)):
        if height % down or width % across:
            raise ValueError(f"{height}x{width} is no multiple of {down}x{across}, the autoencoder's stride")
    return max(down, across)


def _bucket(pixels: Pixels) -> str:
    """ "HxWxF" of uint8 (F, H, W, 3)."""
    frames, height, width, _ = pixels.shape
    return f"{height}x{width}x{frames}"
