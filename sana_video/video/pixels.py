"""Bytes to network values and back: what stands at the two ends of the pipeline."""

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from sana_video.data import buckets

Image = NDArray[np.uint8] | Tensor


def check_image(image: Image) -> Tensor:
    """`image` as a tensor; ValueError unless it is uint8 (H, W, 3) with something in it."""
    pixels = torch.as_tensor(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != torch.uint8 or 0 in pixels.shape:
        raise ValueError(f"an image is uint8 (height, width, 3), not {pixels.dtype} {list(pixels.shape)}")
    return pixels


def cover(image: Image, height: int, width: int) -> Tensor:
    """uint8 (H, W, 3) -> float (3, height, width) in [-1, 1]: scaled until it covers, then cropped at the centre."""
    pixels = check_image(image)
    size = buckets.cover(pixels.shape[0], pixels.shape[1], (height, width))
    wide = rearrange(pixels, "h w c -> 1 c h w").float()
    scaled = F.interpolate(wide, size=size, mode="bicubic", antialias=True).clamp(0, 255)[0]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return scaled[:, top : top + height, left : left + width] / 127.5 - 1


def to_uint8(video: Tensor) -> Tensor:
    """(B, 3, F, H, W) in [-1, 1] -> uint8 (B, F, H, W, 3) on the CPU, rounded to the nearest."""
    bounded = (video.float() * 127.5 + 127.5).clamp(0, 255).round()
    return rearrange(bounded.to(torch.uint8), "b c f h w -> b f h w c").contiguous().cpu()
