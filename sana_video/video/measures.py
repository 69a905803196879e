"""Measures of a clip: pure functions of arrays, each with its exact definition.

Pictures are uint8 RGB (F, H, W, 3), luma is uint8 (F, H, W) as coded, times come in as `fps`. A measure depends on
the size and rate of the pictures it is given (the motion measures strongly so), hence both stand beside the scores.
Raise the version of a measure here and in versions.yaml when its meaning changes: it alone is then measured again.

What is a stand-in is called one: `FLOW_ESTIMATOR` and `AESTHETIC_SCORER` go into the table beside the numbers, and
numbers of a stand-in and of what it stands for are never compared.
"""

from __future__ import annotations

import itertools

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

MEASURE_VERSIONS = {"flow_motion": 1, "vmaf_motion": 1, "saturation": 1, "aesthetic": 1, "cuts_inside": 1, "phash": 1}
FLOW_ESTIMATOR = "opencv-dis (stand-in for UniMatch)"
AESTHETIC_SCORER = "classical (stand-in for DOVER)"

FLOW_SIZE = (320, 576)  # (H, W) of the picture in whose pixels flow is given
TECHNICAL_WEIGHT = 0.6104  # DOVER's fusion weights of its two branches; ours borrow the weights, not the meaning
AESTHETIC_WEIGHT = 0.3896
_VMAF_KERNEL = np.array([0.054488685, 0.244201342, 0.402619947, 0.244201342, 0.054488685])  # FFmpeg's vf_vmafmotion


def sample_indices(frames: int, fps: float, every: float) -> list[int]:
    """Indices of the frames nearest to 0, every, 2·every … seconds that the clip really holds: none is repeated."""
    return sorted({index for k in range(frames) if (index := round(k * every * fps)) < frames})


def flow_motion(pictures: Pixels, fps: float, every: float = 0.5) -> list[float]:
    """Mean L2 length of the optical flow, one value for each pair of frames `every` seconds apart.

    Dense inverse search (OpenCV, medium preset) on grey pictures stretched to 320x576 (portrait ones are transposed
    first); pixels of that picture, not scaled back. Raises ValueError when the clip holds no pair.
    """
    indices = sample_indices(len(pictures), fps, every)
    if len(indices) < 2:
        raise ValueError(f"TOO_SHORT: {len(pictures)} frames at {fps:g} fps hold no pair {every:g} s apart")
    greys = [_flow_picture(pictures[index]) for index in indices]
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    unset = np.empty((0, 0), np.float32)  # a flow of the right size would be taken as the first guess
    flows = (estimator.calc(first, second, unset) for first, second in itertools.pairwise(greys))
    return [float(np.hypot(flow[..., 0], flow[..., 1]).mean(dtype=np.float64)) for flow in flows]


def _flow_picture(picture: Pixels) -> Pixels:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    upright = grey.T if grey.shape[0] > grey.shape[1] else grey
    return cv2.resize(upright, FLOW_SIZE[::-1], interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def vmaf_motion(luma: Pixels) -> float:
    """Mean over frames 1 … F-1 of mean |blur(Y_t) - blur(Y_{t-1})|, 8-bit luma scale (FFmpeg's vmafmotion, in float).

    5-tap Gaussian blur with that filter's borders (see `vmaf_motion_exact`). The first frame has nothing before it
    and is left out of the mean, where FFmpeg's own average counts it as zero. ValueError for fewer than two frames.
    """
    if len(luma) < 2:
        raise ValueError("TOO_FEW_FRAMES: motion needs two")
    blurred = [_blur(y) for y in luma]
    pairs = itertools.pairwise(blurred)
    return float(np.mean([cv2.norm(b, a, cv2.NORM_L1) / b.size for a, b in pairs]))


def _blur(y: Pixels) -> NDArray[np.float32]:
    kernel = _VMAF_KERNEL.astype(np.float32)
    near = cv2.copyMakeBorder(y, 2, 0, 2, 0, cv2.BORDER_REFLECT_101)
    padded = cv2.copyMakeBorder(near, 0, 2, 0, 2, cv2.BORDER_REFLECT)
    return np.ascontiguousarray(cv2.sepFilter2D(padded, cv2.CV_32F, kernel, kernel)[2:-2, 2:-2], dtype=np.float32)


def vmaf_motion_exact(luma: Pixels) -> list[float]:
    """FFmpeg's vf_vmafmotion in its own integer arithmetic, per frame; the definition that `vmaf_motion` approaches.

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


def saturation(pictures: Pixels) -> float:
    """Mean of S in 8-bit HSV over all pixels of all given pictures, 0-255."""
    return _mean_hsv(pictures, 1)


def brightness(pictures: Pixels) -> float:
    """Mean of V in 8-bit HSV over all pixels of all given pictures, 0-255."""
    return _mean_hsv(pictures, 2)


def _mean_hsv(pictures: Pixels, channel: int) -> float:
    return float(np.mean([cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)[..., channel].mean() for picture in pictures]))


def mean_colour(pictures: Pixels) -> list[float]:
    """Mean R, G and B over all pixels of all given pictures, 0-255."""
    return [float(value) for value in pictures.mean(axis=(0, 1, 2), dtype=np.float64)]


def cuts_inside(pictures: Pixels, threshold: float) -> int:
    """Number of frames that differ from the one before by at least `threshold`: shot changes left inside the clip.

    The difference is PySceneDetect's content value: mean over H, S and V of the mean absolute difference (8-bit HSV).
    It is taken at the clip's own rate and counted only where it is also at least 3 times the mean of its neighbours
    (two on each side), so that a fast pan, coarse at 16 fps, is not taken for a run of cuts.
    """
    values = content_values(pictures)
    return sum(value >= threshold and value >= 3.0 * _around(values, index) for index, value in enumerate(values))


def content_values(pictures: Pixels) -> list[float]:
    """PySceneDetect's content value of each frame but the first against the one before it, 0-255."""
    planes = [cv2.cvtColor(picture, cv2.COLOR_RGB2HSV) for picture in pictures]
    return [float(cv2.absdiff(a, b).mean(dtype=np.float64)) for a, b in itertools.pairwise(planes)]


def _around(values: list[float], index: int) -> float:
    neighbours = values[max(0, index - 2) : index] + values[index + 1 : index + 3]
    return sum(neighbours) / len(neighbours) if neighbours else 0.0


def phash(picture: Pixels) -> int:
    """64-bit perceptual hash of one picture: signs, against their median, of its 8x8 lowest DCT coefficients.

    Grey, area-resized to 32x32; bit 63 is coefficient (0, 0), row by row. Compare by the number of differing bits.
    """
    grey = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(grey.astype(np.float64))[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return int(np.packbits(bits).view(">u8")[0])


def aesthetic(pictures: Pixels) -> float:
    """Mean over pictures of the mean of contrast, colourfulness and exposure, each 0-1: a classical stand-in."""
    return float(np.mean([(contrast(p) + colourfulness(p) + exposure(p)) / 3.0 for p in pictures]))


def technical(pictures: Pixels) -> float:
    """Mean over pictures of sharpness x (1 - noise) x (1 - blockiness), each 0-1: a classical stand-in."""
    return float(np.mean([sharpness(p) * (1.0 - noise(p)) * (1.0 - blockiness(p)) for p in pictures]))


def overall(aesthetic_score: float, technical_score: float) -> float:
    """The two fused with DOVER's weights, 0-1; what a cut-off is set on."""
    return TECHNICAL_WEIGHT * technical_score + AESTHETIC_WEIGHT * aesthetic_score


def sharpness(picture: Pixels) -> float:
    """s / (s + 4) of s = mean |Laplacian| of grey: 0 for a flat picture, falls with every blur."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    strength = float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean())
    return strength / (strength + 4.0)


def contrast(picture: Pixels) -> float:
    """Standard deviation of grey over 64, at most 1 (a uniform histogram has 74)."""
    return min(1.0, float(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).std()) / 64.0)


def colourfulness(picture: Pixels) -> float:
    """Hasler and Süsstrunk 2003, M = sigma_rgyb + 0.3 mu_rgyb, over 109 ("extremely colourful"), at most 1."""
    red, green, blue = (picture[..., channel].astype(np.float64) for channel in range(3))
    rg, yb = red - green, 0.5 * (red + green) - blue
    value = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
    return min(1.0, float(value) / 109.0)


def exposure(picture: Pixels) -> float:
    """1 - |mean grey - 127.5| / 127.5, less the fraction of clipped pixels (grey <= 2 or >= 253), at least 0."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    clipped = float(((grey <= 2) | (grey >= 253)).mean())
    return max(0.0, 1.0 - abs(float(grey.mean()) - 127.5) / 127.5 - clipped)


def noise(picture: Pixels) -> float:
    """n / (n + 20) of n = Immerkær's (1996) estimate of the standard deviation of noise, in grey levels.

    It takes the median over pixels in place of the mean, so that edges and fine texture weigh little.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = cv2.filter2D(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_32F, kernel)
    sigma = float(np.median(np.abs(response))) / (0.6745 * 6.0)  # the mask has norm 6; 0.6745: median of |N(0, 1)|
    return sigma / (sigma + 20.0)


def blockiness(picture: Pixels) -> float:
    """Excess of grey steps across the lines of an 8x8 grid over all other steps, as a part of both, 0-1.

    Sees the blocks of the picture it is given: those of a source that was scaled down are gone, as they should be.
    """
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64)
    return (_grid_excess(np.abs(np.diff(grey, axis=1))) + _grid_excess(np.abs(np.diff(grey, axis=0)).T)) / 2.0


def _grid_excess(steps: Floats) -> float:
    on_grid = np.arange(steps.shape[1]) % 8 == 7
    at, off = float(steps[:, on_grid].mean()), float(steps[:, ~on_grid].mean())
    return max(0.0, (at - off) / (at + off)) if at + off else 0.0
