"""What moves from frame to frame: flow, FFmpeg's motion, stillness, flicker, frames that repeat.

Flow is taken between frames half a second apart, all else between neighbours. Both depend on the rate and the size of
the pictures (a 60 fps film would seem nearly still), so a clip is brought to one rate and one size before.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sana_video.video.flow.dis import dis_flows

Pixels = NDArray[np.uint8]
Flow = NDArray[np.float32]

SMALL_SIDE = 96  # pixels; stillness looks at pictures of a shorter side than this, in which grain averages out
SIXTEENTHS = 16
STILL_BELOW = 1.5  # luma levels, of the pixel that 99 of 100 stay below
REPEATS_BELOW = 0.5  # luma levels, mean of the cell of an 8x8 grid that changes most: less than any real movement
CELLS = 8

_VMAF_KERNEL = np.array([0.054488685, 0.244201342, 0.402619947, 0.244201342, 0.054488685])  # FFmpeg's vf_vmafmotion


@dataclass(frozen=True)
class FlowPair:
    """Of one flow field: the mean of its L2 lengths, and the mean of |u| and |v| (2/pi of it where it has no
    direction); public thresholds exist in both."""

    l2: float
    absmean: float


def sample_indices(frames: int, fps: float, every: float) -> list[int]:
    """Indices of the frames nearest to 0, every, 2·every … seconds that the clip really holds: none is repeated."""
    return sorted({index for k in range(frames) if (index := round(k * every * fps)) < frames})


def flow_motion(luma: Pixels, fps: float, every: float = 0.5) -> list[float]:
    """Mean L2 length of the optical flow, one value for each pair of frames `every` seconds apart (`flow.dis`).

    Raises ValueError when the clip holds no pair.
    """
    indices = sample_indices(len(luma), fps, every)
    if len(indices) < 2:
        raise ValueError(f"TOO_SHORT: {len(luma)} frames at {fps:g} fps hold no pair {every:g} s apart")
    return [flow_pair(flow).l2 for flow in flows_between(luma[indices])]


def flows_between(samples: Pixels) -> list[Flow]:
    """Flow (2, 160, 288) from each luma picture to the next by the stand-in, dense inverse search (`flow.dis`)."""
    return dis_flows(samples)


def flow_pair(flow: Flow) -> FlowPair:
    """The two means of a field (2, h, w)."""
    # cv2.magnitude differs with where in memory its input lies
    lengths = np.sqrt(flow[0] * flow[0] + flow[1] * flow[1])
    components = flow.reshape(-1, flow.shape[-1])
    return FlowPair(*(cv2.norm(each, cv2.NORM_L1) / each.size for each in (lengths, components)))


def vmaf_motion(luma: Pixels) -> float:
    """Mean of `vmaf_motion_frames` over frames 1 … F-1.

    The first frame has nothing before it and is left out, where FFmpeg's own average counts it as zero. ValueError for
    fewer than two frames.
    """
    return float(np.mean(vmaf_motion_frames(luma)))


def vmaf_motion_frames(luma: Pixels) -> list[float]:
    """mean |blur(Y_t) - blur(Y_{t-1})| of each frame but the first, 8-bit luma scale: FFmpeg's vmafmotion, in float.

    5-tap Gaussian blur with that filter's borders; within 0.001 of `vmaf_motion_exact`, at a tenth of the cost.
    """
    pairs = itertools.pairwise(_blur(y) for y in _at_least_two(luma))
    return [cv2.norm(b, a, cv2.NORM_L1) / b.size for a, b in pairs]


def _blur(y: Pixels) -> NDArray[np.float32]:
    kernel = _VMAF_KERNEL.astype(np.float32)
    padded = cv2.copyMakeBorder(y, 0, 2, 0, 2, cv2.BORDER_REFLECT)
    blurred = cv2.sepFilter2D(padded, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)
    return blurred[:-2, :-2].astype(np.float32, copy=False)


def vmaf_motion_exact(luma: Pixels) -> list[float]:
    """FFmpeg's vf_vmafmotion in its own integer arithmetic, per frame: what `vmaf_motion_frames` approaches.

    Kernel in 2^15ths; vertical pass >> 8, horizontal pass >> 15, truncating; the near border mirrors without its edge
    line, the far one with it; SAD / (w h 128). The first value is 0.
    """
    blurred = [_blur_exact(y) for y in luma]
    sums = [np.abs(b - a).sum() / (b.size * 128.0) for a, b in itertools.pairwise(blurred)]
    return [0.0, *(float(value) for value in sums)]


def _blur_exact(y: Pixels) -> NDArray[np.int64]:
    taps = np.rint(_VMAF_KERNEL * 2**15).astype(np.int64)
    rows = np.stack([y[_mirrored(y.shape[0], offset)] for offset in range(-2, 3)]).astype(np.int64)
    vertical = np.tensordot(taps, rows, 1) >> 8
    columns = np.stack([vertical[:, _mirrored(y.shape[1], offset)] for offset in range(-2, 3)])
    horizontal: NDArray[np.int64] = np.tensordot(taps, columns, 1) >> 15
    return horizontal


def _mirrored(length: int, offset: int) -> NDArray[np.int64]:
    index = np.abs(np.arange(length) + offset)
    return np.where(index >= length, 2 * length - index - 1, index)


def stillness(luma: Pixels) -> float:
    """Share of the pairs of neighbouring frames that do not move, 0-1: a slide, a title, a frozen stream.

    A pair does not move if in its pictures, halved until they have fewer than 96 lines, 99 of 100 pixels change by less
    than 1.5 levels: grain averages out, and a small thing that moves (a mouth, a cursor) does not. ValueError for fewer
    than two frames.
    """
    pairs = itertools.pairwise(_shrunk(y) for y in _at_least_two(luma))
    changes = (cv2.absdiff(a, b) >= SIXTEENTHS * STILL_BELOW for a, b in pairs)
    return float(np.mean([np.count_nonzero(change) <= 0.01 * change.size for change in changes]))


def _shrunk(y: Pixels) -> NDArray[np.uint16]:
    """In sixteenths of a level, but for the first, dear halving of a large picture: its rounding averages out."""
    fine = (_halved(y) if min(y.shape) >= 2 * SMALL_SIDE else y).astype(np.uint16) * np.uint16(SIXTEENTHS)
    while min(fine.shape) >= SMALL_SIDE:
        fine = _halved(fine)
    return fine


def _halved(y: NDArray[Any]) -> NDArray[Any]:
    """Means of 2x2 pixels. An odd last line or column is left out: with it this would cost five times as much."""
    height, width = y.shape[0] // 2, y.shape[1] // 2
    return np.asarray(cv2.resize(y[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA))


def duplicate_frames(luma: Pixels) -> float:
    """Share of the frames, but the first, that repeat the one before, 0-1: telecine, screen captures, low rates.

    A frame repeats another if in no cell of an 8x8 grid the mean difference reaches half a level: what coding the same
    picture twice leaves, and less than grain or any movement. ValueError for fewer than two frames.
    """
    pairs = itertools.pairwise(_at_least_two(luma))
    return float(np.mean([_repeats(cv2.absdiff(a, b)) for a, b in pairs]))


def _repeats(change: NDArray[Any]) -> bool:
    if cv2.mean(change)[0] >= REPEATS_BELOW:  # then some cell does too
        return False
    height, width = change.shape
    rows, columns = (np.arange(CELLS + 1) * length // CELLS for length in (height, width))
    return all(
        cv2.mean(change[top:bottom, left:right])[0] < REPEATS_BELOW
        for top, bottom in itertools.pairwise(rows)
        for left, right in itertools.pairwise(columns)
        if bottom > top and right > left
    )


def flicker(luma: Pixels) -> float:
    """How far the picture's mean luma goes up and down from frame to frame, 0-255 levels: strobes, lamps, bad stills.

    Mean over inner frames of the smaller of the steps to and from it where they have opposite signs, else 0. So a
    fade, a cut and a slow change count for nothing. ValueError for fewer than two frames.
    """
    steps = np.diff([cv2.mean(y)[0] for y in _at_least_two(luma)])
    turns = [min(abs(a), abs(b)) if a * b < 0 else 0.0 for a, b in itertools.pairwise(steps)]
    return float(np.mean(turns)) if turns else 0.0


def _at_least_two(luma: Pixels) -> Pixels:
    if len(luma) < 2:
        raise ValueError("TOO_FEW_FRAMES: motion needs two")
    return luma
