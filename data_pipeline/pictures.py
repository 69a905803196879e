"""The pictures of whole clips, decoded in the sandbox: a film that was scored may have been changed since.

The child leaves them as arrays in a folder, a few clips a call; what it left is checked before it is used. If a call
dies, each of its clips is decoded alone, to find the one that kills it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sana_video.video.sandbox import Sandbox

CHUNK = 4  # clips a call: 0.4 GB of pictures at 480 lines
THREADS = 2

Pixels = NDArray[np.uint8]
Span = tuple[int, int]


def clips_of(
    sandbox: Sandbox,
    path: Path,
    spans: Sequence[Span],
    fps: int,
    frames: Sequence[int],
    *,
    size: tuple[int, int] | None = None,
    short_side: int | None = None,
) -> Iterator[Pixels | str]:
    """Of each span [start_pts, end_pts), in rising order, uint8 (F, H, W, 3) RGB at `fps`, or the reason why not.

    `frames` is that of each span, `size` and `short_side` as in `io.decode_spans`.
    """
    wanted = {"fps": fps, "size": size, "short_side": short_side}
    counted = [[*span, count] for span, count in zip(spans, frames, strict=True)]
    with tempfile.TemporaryDirectory(prefix="clips-") as folder:
        for at in range(0, len(spans), CHUNK):
            for reason, (_, _, count), file in _decoded(sandbox, path, counted[at : at + CHUNK], Path(folder), wanted):
                yield reason or _checked(file, count, size)


def _decoded(
    sandbox: Sandbox, path: Path, chunk: list[list[int]], folder: Path, wanted: dict[str, Any]
) -> Iterator[tuple[str, list[int], Path]]:
    """(reason, span, file) of each."""
    given = {"path": str(path), "folder": str(folder), **wanted}
    try:
        reasons = sandbox.call(f"{__name__}:leave", spans=chunk, **given)
    except ValueError as error:
        if len(chunk) == 1:
            yield str(error), chunk[0], folder
            return
        for span in chunk:
            yield from _decoded(sandbox, path, [span], folder, wanted)
        return
    for number, (reason, span) in enumerate(zip(reasons, chunk, strict=True)):
        yield str(reason), span, folder / f"{number}.npy"


def _checked(file: Path, frames: int, size: tuple[int, int] | None) -> Pixels | str:
    """What the child put down, which is then removed; a reason if it is anything but pictures."""
    try:
        pictures: Pixels = np.load(file, allow_pickle=False)
        file.unlink()
    except (OSError, ValueError, EOFError) as error:
        return f"DECODER_CRASHED: no pictures ({error})"
    right = pictures.ndim == 4 and pictures.shape[0] == frames and pictures.shape[3] == 3
    if pictures.dtype != np.uint8 or not right or (size and pictures.shape[1:3] != tuple(size)):
        return f"DECODER_CRASHED: pictures are {pictures.dtype} {pictures.shape}"
    return pictures


def leave(
    path: str,
    folder: str,
    spans: Sequence[Sequence[int]],
    fps: int,
    size: Sequence[int] | None,
    short_side: int | None,
) -> list[str]:
    """In the sandbox: the pictures of each [start_pts, end_pts, frames] as `folder`/k.npy; why not, or nothing."""
    from sana_video.video.io import Film, decode_clip

    reasons = []
    given = (int(size[0]), int(size[1])) if size else None
    with Film(Path(path), short_side=short_side, size=given, threads=THREADS) as film:
        for number, (start, end, frames) in enumerate(spans):
            try:
                pictures = decode_clip(film, start, end, fps, frames).rgb
            except ValueError as error:
                reasons.append(str(error))
            else:
                np.save(Path(folder) / f"{number}.npy", pictures, allow_pickle=False)
                reasons.append("")
    return reasons
