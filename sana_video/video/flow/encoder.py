"""The convolutional encoder of UniMatch: features of one picture at 1/4 and 1/8 of its size.

Six residual blocks with instance norm, then one 3x3 kernel that is used twice, with stride 1 and with stride 2: both
scales share their weights, so that what is learnt at one serves the other (Xu et al. 2023, section 4.1; the shared
kernel is TridentNet's, Li et al. 2019). Attribute names are those of the published state dict.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 96, 128)  # channels of the three stages


class Encoder(nn.Module):
    """Pictures (B, 3, H, W), normalised, to features (B, C, H/8, W/8) and (B, C, H/4, W/4), the coarse ones first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 7, stride=2, padding=3, bias=False)
        self.norm1 = nn.InstanceNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], stride=1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], stride=2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], stride=1)
        self.conv2 = nn.Conv2d(WIDTHS[2], channels, 1)
        self.trident_conv = SharedKernel(channels)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.norm1(self.conv1(pictures)))
        x = self.conv2(self.layer3(self.layer2(self.layer1(x))))
        return self.trident_conv(x, stride=2), self.trident_conv(x, stride=1)


class SharedKernel(nn.Module):
    """One 3x3 convolution without bias, to be taken at any stride."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor, stride: int) -> Tensor:
        return F.conv2d(x, self.weight, stride=stride, padding=1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside the identity, or beside a 1x1 convolution where size or width changes."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.InstanceNorm2d(width)  # holds no weights: one serves all places
        same = stride == 1 and width_in == width
        self.downsample = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(width_in, width, 1, stride=stride), self.norm)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv1(x)))
        y = F.relu(self.norm(self.conv2(y)))
        return F.relu(self.downsample(x) + y)


def _stage(width_in: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(width_in, width, stride), ResidualBlock(width, width, 1))
