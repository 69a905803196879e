"""PSNR and SSIM of a clip against its reference, as the video-autoencoder literature reports them.

Pixels are uint8 RGB (F, H, W, 3), scored as they are: never after an mp4, whose codec alone costs 0.4 dB.
PSNR is taken per frame over the three channels and averaged over frames (`psnr`), which is what image-trained groups
report; pooling the squared error of all frames first (`psnr_pooled`) reads up to 1 dB lower on uneven clips, so both
stand in the table. SSIM is Wang et al. 2004: per frame and channel, Gaussian window 11x11 of sigma 1.5, only
positions where the whole window fits, K1 = 0.01, K2 = 0.03, range 1.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import conv2d

PSNR_CAP = 100.0  # dB, for equal frames
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03

Pixels = NDArray[np.uint8]


def _pair(clip: Pixels, reference: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if clip.shape != reference.shape or clip.ndim != 4:
        raise ValueError(f"clips to compare must both be (F, H, W, 3), they are {clip.shape} and {reference.shape}")
    if clip.dtype != np.uint8 or reference.dtype != np.uint8:
        raise ValueError(f"clips to compare must be uint8, they are {clip.dtype} and {reference.dtype}")
    return clip / 255.0, reference / 255.0


def _decibel(error: NDArray[np.float64]) -> NDArray[np.float64]:
    """-10 log10 of a mean squared error on the range 0..1, capped at `PSNR_CAP`."""
    return np.asarray(-10.0 * np.log10(np.maximum(error, 10.0 ** (-PSNR_CAP / 10.0))), dtype=np.float64)


def psnr(clip: Pixels, reference: Pixels) -> float:
    """Mean over frames of the PSNR of each frame, dB; an equal frame counts as 100."""
    x, y = _pair(clip, reference)
    return float(_decibel(((x - y) ** 2).mean(axis=(1, 2, 3))).mean())


def psnr_pooled(clip: Pixels, reference: Pixels) -> float:
    """PSNR of the squared error pooled over all frames, dB."""
    x, y = _pair(clip, reference)
    return float(_decibel(((x - y) ** 2).mean()))


def mean_colour(clip: Pixels) -> Pixels:
    """The clip painted in its own mean colour: what any useful reconstruction must beat."""
    colour = np.rint(clip.reshape(-1, 3).mean(axis=0)).astype(np.uint8)
    return np.broadcast_to(colour, clip.shape)


def gaussian(window: int = WINDOW, sigma: float = SIGMA) -> torch.Tensor:
    """The 1-D window of SSIM, (window,), summing to one; the 2-D window is its outer product."""
    x = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    weight = torch.exp(-(x**2) / (2 * sigma**2))
    return weight / weight.sum()


def _blur(images: torch.Tensor) -> torch.Tensor:
    """Windowed mean of images (N, 1, H, W) at the positions where the whole window fits."""
    weight = gaussian()
    rows = conv2d(images, weight.view(1, 1, -1, 1))
    return conv2d(rows, weight.view(1, 1, 1, -1))


def ssim(clip: Pixels, reference: Pixels) -> float:
    """Mean SSIM over frames, channels and positions, at most 1. Raises ValueError on a frame under 11 pixels."""
    pair = _pair(clip, reference)
    if min(clip.shape[1:3]) < WINDOW:
        raise ValueError(f"SSIM needs frames of at least {WINDOW}x{WINDOW} pixels, these are {clip.shape[1:3]}")
    scores = [_ssim_frame(x, y) for x, y in zip(*pair, strict=True)]
    return float(np.mean(scores))


def _ssim_frame(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """One frame (H, W, 3) at a time: the window statistics of a whole clip would not fit beside a large model."""
    a, b = (torch.from_numpy(v).permute(2, 0, 1).unsqueeze(1) for v in (x, y))
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    c1, c2 = K1**2, K2**2
    above = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    below = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return float((above / below).mean())
