"""UniMatch, the optical-flow network by which the paper measures motion, in the size `gmflow-scale2-regrefine6`.

Written from Xu et al. 2023, "Unifying Flow, Stereo and Depth Estimation" (arXiv 2211.05783) and Xu et al. 2022,
"GMFlow" (arXiv 2111.13680); what the papers leave open (names and shapes of the weights, the order of parts) is taken
from the published network, github.com/autonomousvision/unimatch (MIT), whose checkpoint
`gmflow-scale2-regrefine6-mixdata-train320x576-4e7b215d.pth` (7.4 million weights, MIT) loads strictly. It is not the
network for semantic segmentation of the same name.

Flow is found globally at 1/8 of the size, found again locally at 1/4 around that, and corrected six times by a GRU.
All of it is computed in float32, under autocast too: in bfloat16 a place on a grid 144 wide is only known to half a
pixel. (On a GPU torch's own default lets convolutions round to TF32.) Pairs in a batch do not know of each other.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from sana_video.video.flow.encoder import Encoder
from sana_video.video.flow.matching import Propagation, correlate, match_globally, match_locally, warp
from sana_video.video.flow.refinement import STATE, UpdateBlock, upsample
from sana_video.video.flow.transformer import Transformer, add_position
from sana_video.weights import MissingWeights, files, official

NAME_IN_CATALOGUE = "unimatch-flow"
ESTIMATOR = "unimatch gmflow-scale2-regrefine6"
PUBLISHED = "gmflow-scale2-regrefine6*.pth"

SIZE = (320, 576)  # (H, W) of the picture in whose pixels flow is given; the network was trained at it
MULTIPLE = 32  # of which height and width must be multiples: 8 windows at 1/4 of the size
CHANNELS, LAYERS, EXPANSION = 128, 6, 4
COARSE_SPLITS, FINE_SPLITS = 2, 8  # windows along each axis at 1/8 and at 1/4
MATCH_RADIUS, REFINE_RADIUS, PROPAGATION_RADIUS = 4, 4, 1  # at 1/4; at 1/8 matching and propagation are global
REFINEMENTS, FACTOR = 6, 4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in 0-1 (ImageNet)


class UniMatch(nn.Module):
    """Optical flow between two pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Encoder(CHANNELS)
        self.transformer = Transformer(CHANNELS, LAYERS, EXPANSION)
        self.feature_flow_attn = Propagation(CHANNELS)
        self.refine_proj = nn.Conv2d(CHANNELS, 2 * STATE, 1)
        self.refine = UpdateBlock((2 * REFINE_RADIUS + 1) ** 2, FACTOR)

    @torch.no_grad()
    def flow(self, first: Tensor | NDArray[np.uint8], second: Tensor | NDArray[np.uint8]) -> Tensor:
        """Flow (B, 2, 320, 576) float32 from `first` to `second`, uint8 RGB (B, H, W, 3) of any one size; x before y.

        In pixels of the picture stretched to 320x576, not scaled back; a portrait picture is transposed first, and its
        flow stays so. On the network's device; 0.4 GB a pair. ValueError for pictures that do not pair.
        """
        if first.shape != second.shape or first.ndim != 4 or first.shape[-1] != 3:
            raise ValueError(f"flow is between two (B, H, W, 3), not {tuple(first.shape)} and {tuple(second.shape)}")
        device = self.refine_proj.weight.device
        with torch.autocast(device.type, enabled=False):
            flow: Tensor = self(prepare(torch.as_tensor(first), device), prepare(torch.as_tensor(second), device))
        return flow

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Flow (B, 2, H, W) between RGB pictures (B, 3, H, W) in 0-255; H and W multiples of 32 (ValueError)."""
        coarse, fine = self._features(first, second)
        flow = self._coarse_flow(coarse)
        flow, context = self._fine_flow(fine, 2 * _double(flow))
        return self._refined(fine, flow, context)

    def _features(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Features of both pictures (2, B, H, W, C), at 1/8 and at 1/4."""
        if first.shape[-2] % MULTIPLE or first.shape[-1] % MULTIPLE:
            raise ValueError(f"pictures of {first.shape[-2]}x{first.shape[-1]}: both must be multiples of {MULTIPLE}")
        pictures = torch.cat((first, second))
        mean, std = (pictures.new_tensor(value)[:, None, None] for value in (MEAN, STD))
        coarse, fine = self.backbone((pictures / 255 - mean) / std)
        return (
            rearrange(coarse, "(two b) c h w -> two b h w c", two=2),
            rearrange(fine, "(two b) c h w -> two b h w c", two=2),
        )

    def _coarse_flow(self, both: Tensor) -> Tensor:
        """Flow at 1/8 by matching everything with everything."""
        first, second = self.transformer(add_position(both, COARSE_SPLITS), COARSE_SPLITS)
        flow: Tensor = self.feature_flow_attn(first, match_globally(first, second), None)
        return flow

    def _fine_flow(self, both: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Flow at 1/4 by matching around `flow`, and the first picture's features that it was found with."""
        warped = torch.stack((both[0], warp(both[1], flow)))
        first, second = self.transformer(add_position(warped, FINE_SPLITS), FINE_SPLITS)
        flow = flow + match_locally(first, second, MATCH_RADIUS)
        return self.feature_flow_attn(first, flow, PROPAGATION_RADIUS), first

    def _refined(self, both: Tensor, flow: Tensor, context: Tensor) -> Tensor:
        """Flow at full size, (B, 2, H, W), after the GRU's corrections from features as the encoder gave them."""
        state, context = self.refine_proj(rearrange(context, "b h w c -> b c h w")).chunk(2, 1)
        state, context = state.tanh(), context.relu()
        flow = rearrange(flow, "b h w xy -> b xy h w")
        for _ in range(REFINEMENTS):
            likeness = correlate(both[0], both[1], rearrange(flow, "b xy h w -> b h w xy"), REFINE_RADIUS)
            change, mask = self.refine(state, context, rearrange(likeness, "b h w k -> b k h w"), flow)
            flow = flow + change
        return upsample(flow, mask, FACTOR)


def _double(x: Tensor) -> Tensor:
    """(B, H, W, C) at twice its size, corners on corners."""
    big = F.interpolate(rearrange(x, "b h w c -> b c h w"), scale_factor=2, mode="bilinear", align_corners=True)
    return rearrange(big, "b c h w -> b h w c")


def prepare(pictures: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 RGB (B, H, W, 3) -> float32 (B, 3, 320, 576) in 0-255: portrait ones transposed, corners on corners."""
    planes = rearrange(pictures.to(device), "b h w c -> b c h w").float()
    upright = planes.mT if planes.shape[2] > planes.shape[3] else planes
    return F.interpolate(upright, SIZE, mode="bilinear", align_corners=True)


def load_unimatch(path: Path | str, device: torch.device | str = "cpu") -> UniMatch:
    """The network with the weights in `path`: the published .pth, a .safetensors, or a folder that holds either.

    MissingWeights if there is none. ValueError for a file that is damaged, wants to run code or is of another network;
    every weight that does not fit is named.
    """
    file = _weights_file(Path(path))
    tensors = files.load(file) if file.suffix == ".safetensors" else official.read(file)
    network = UniMatch()
    files.check_fit(network, tensors, str(file))
    network.load_state_dict(tensors, strict=True)
    return network.to(device).eval().requires_grad_(False)


def _weights_file(path: Path) -> Path:
    if path.is_file():
        return path
    found = [path / files.FILE_NAME, *sorted(path.glob(PUBLISHED))]
    for file in found:
        if file.is_file():
            return file
    raise MissingWeights(NAME_IN_CATALOGUE, path)
