"""Refinement in UniMatch: a GRU corrects the flow from local correlations, and a mask carries it to full size.

RAFT's update block (Teed and Deng 2020, section 3.3) as UniMatch takes it over for its local regression (Xu et al.
2023, section 4.2): 9x9 correlations of one scale, and the state begins anew from the features at every iteration. Maps
are (B, C, H, W). Attribute names are those of the published state dict.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

STATE = 128  # channels of the GRU's state, of the context and of what is known of the motion


class UpdateBlock(nn.Module):
    """State, context, correlations (B, (2R+1)^2, H, W) and flow (B, 2, H, W) -> change of flow, mask to upsample it."""

    def __init__(self, correlations: int, factor: int) -> None:
        super().__init__()
        self.encoder = MotionEncoder(correlations)
        self.gru = SeparableGRU()
        self.flow_head = FlowHead()
        self.mask = nn.Sequential(
            nn.Conv2d(STATE, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 9 * factor * factor, 1)
        )

    def forward(self, state: Tensor, context: Tensor, correlation: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        known = torch.cat((context, self.encoder(flow, correlation)), 1)
        state = self.gru(state, known)
        return self.flow_head(state), self.mask(state)


class MotionEncoder(nn.Module):
    """Flow and its correlations in STATE channels, the last two of which are the flow itself."""

    def __init__(self, correlations: int) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(correlations, 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(2, 128, 7, padding=3)
        self.convf2 = nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(64 + 192, STATE - 2, 3, padding=1)

    def forward(self, flow: Tensor, correlation: Tensor) -> Tensor:
        likeness = F.relu(self.convc2(F.relu(self.convc1(correlation))))
        motion = F.relu(self.convf2(F.relu(self.convf1(flow))))
        return torch.cat((F.relu(self.conv(torch.cat((likeness, motion), 1))), flow), 1)


class SeparableGRU(nn.Module):
    """A convolutional GRU whose 5x5 window is taken as a row (names end in 1), then as a column (in 2)."""

    def __init__(self) -> None:
        super().__init__()
        for index, size in ((1, (1, 5)), (2, (5, 1))):
            for gate in "zrq":
                padding = (size[0] // 2, size[1] // 2)
                self.add_module(f"conv{gate}{index}", nn.Conv2d(3 * STATE, STATE, size, padding=padding))

    def forward(self, state: Tensor, known: Tensor) -> Tensor:
        for index in (1, 2):
            update, reset, new = (self.get_submodule(f"conv{gate}{index}") for gate in "zrq")
            all_known = torch.cat((state, known), 1)
            z, r = torch.sigmoid(update(all_known)), torch.sigmoid(reset(all_known))
            q = torch.tanh(new(torch.cat((r * state, known), 1)))
            state = (1 - z) * state + z * q
        return state


class FlowHead(nn.Module):
    """The change of flow (B, 2, H, W) that a state tells."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(STATE, 256, 3, padding=1)
        self.conv2 = nn.Conv2d(256, 2, 3, padding=1)

    def forward(self, state: Tensor) -> Tensor:
        change: Tensor = self.conv2(F.relu(self.conv1(state)))
        return change


def upsample(flow: Tensor, mask: Tensor, factor: int) -> Tensor:
    """Flow (B, 2, H, W) at `factor` times its size, in pixels of that: each a convex mix of the 3x3 coarse ones around.

    `mask` (B, 9 K K, H, W) holds the logits of the mix (RAFT, section 3.3).
    """
    weights = rearrange(mask, "b (n i j) h w -> b 1 n i j h w", i=factor, j=factor).softmax(2)
    near = rearrange(F.unfold(factor * flow, 3, padding=1), "b (c n) (h w) -> b c n 1 1 h w", c=2, h=flow.shape[2])
    return rearrange((weights * near).sum(2), "b c i j h w -> b c (h i) (w j)")
