"""TransNet V2, the network that finds shot boundaries, hard and soft, in 100 small frames at a time.

Written from Souček & Lokoč 2020, "TransNet V2" (arXiv 2008.04838); what the paper leaves open (names and shapes of the
weights, padding, the order of parts) is taken from the published network, github.com/soCzech/TransNetV2 (MIT), whose
PyTorch checkpoint (7.6 million weights, MIT) loads strictly. Three stacks of dilated convolutions over time see 97
frames; beside them every frame is compared, by features and by colours, with the 50 before and after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from sana_video.weights import MissingWeights, files, official

NAME_IN_CATALOGUE = "transnetv2"
PUBLISHED = "transnetv2*.pth"

HEIGHT, WIDTH = 27, 48  # of the frames, stretched whatever their shape
WINDOW, MARGIN = 100, 25  # frames seen at once, and those at both ends whose verdict is not used
STEP = WINDOW - 2 * MARGIN
DILATIONS = (1, 2, 4, 8)
FILTERS, LAYERS = (16, 32, 64), 2  # of each dilation in each stack; layers in a stack
NEIGHBOURS = 50  # frames on each side that a frame is compared with
COMPARED, HIDDEN = 128, 1024
DROPOUT = 0.5

Pixels = NDArray[np.uint8]


class TransNetV2(nn.Module):
    """(B, T, 27, 48, 3) uint8 RGB -> logits (B, T) of "the last frame of a shot" and of "inside any transition"."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *(len(DILATIONS) * width for width in FILTERS)]
        self.SDDCNN = nn.ModuleList(Stack(given, width) for given, width in zip(widths, FILTERS, strict=False))
        self.frame_sim_layer = FrameSimilarity(sum(widths[1:]))
        self.color_hist_layer = ColourSimilarity()
        self.dropout = nn.Dropout(DROPOUT)
        self.fc1 = nn.Linear(widths[-1] * (HEIGHT // 8) * (WIDTH // 8) + 2 * COMPARED, HIDDEN)
        self.cls_layer1 = nn.Linear(HIDDEN, 1)
        self.cls_layer2 = nn.Linear(HIDDEN, 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Section 3: stacks, both similarities, one hidden layer, two heads."""
        x = rearrange(frames, "b t h w c -> b c t h w").to(self.fc1.weight.dtype) / 255
        levels = []
        for stack in self.SDDCNN:
            x = stack(x)
            levels.append(x)
        parts = (self.color_hist_layer(frames), self.frame_sim_layer(levels), rearrange(x, "b c t h w -> b t (h w c)"))
        hidden = self.dropout(F.relu(self.fc1(torch.cat(parts, dim=2))))
        return self.cls_layer1(hidden)[..., 0], self.cls_layer2(hidden)[..., 0]

    @torch.no_grad()
    def predict(self, frames: Pixels, batch: int = 1) -> NDArray[np.float32]:
        """(F, 2) in 0-1 for a film's frames (F, 27, 48, 3) uint8: P(last of its shot), P(inside a transition).

        A frame's verdict comes from the window in whose middle half it lies: windows begin every 50 frames from the
        film's start, so it depends neither on `batch` nor on what lies 75 frames further. ValueError for other shapes.
        """
        if frames.ndim != 4 or frames.shape[1:] != (HEIGHT, WIDTH, 3) or frames.dtype != np.uint8 or not len(frames):
            raise ValueError(f"frames of {frames.dtype} {frames.shape}: uint8 (F, {HEIGHT}, {WIDTH}, 3) is wanted")
        device, found = self.fc1.weight.device, []
        for some in _batches(windows(len(frames)), batch):
            heads = self(torch.from_numpy(frames[np.stack(some)]).to(device))
            middle = torch.stack(heads, dim=-1)[:, MARGIN:-MARGIN].sigmoid()
            found.append(middle.flatten(0, 1).float().cpu().numpy())
        return np.concatenate(found)[: len(frames)]


class Stack(nn.Module):
    """SDDCNN: layers of dilated convolutions, the first one's output added to the last's, then half the size."""

    def __init__(self, given: int, width: int) -> None:
        super().__init__()
        inputs = [given] + [len(DILATIONS) * width] * (LAYERS - 1)
        self.DDCNN = nn.ModuleList(DilatedLayer(each, width) for each in inputs)

    def forward(self, x: Tensor) -> Tensor:
        first = x = F.relu(self.DDCNN[0](x))
        for layer in self.DDCNN[1:]:
            x = F.relu(layer(x))
        return F.avg_pool3d(x + first, (1, 2, 2))


class DilatedLayer(nn.Module):
    """DDCNN V2: one factored convolution for each dilation, side by side, normed together; before its ReLU."""

    def __init__(self, given: int, width: int) -> None:
        super().__init__()
        for dilation in DILATIONS:
            self.add_module(f"Conv3D_{dilation}", Factored(given, width, dilation))
        self.bn = nn.BatchNorm3d(len(DILATIONS) * width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.bn(torch.cat([self.get_submodule(f"Conv3D_{each}")(x) for each in DILATIONS], dim=1))
        return normed


class Factored(nn.Module):
    """3x3 in space, then 3 in time at a dilation (Section 3: half the weights of a full 3-D kernel)."""

    def __init__(self, given: int, width: int, dilation: int) -> None:
        super().__init__()
        space = nn.Conv3d(given, 2 * width, (1, 3, 3), padding=(0, 1, 1), bias=False)
        time = nn.Conv3d(2 * width, width, (3, 1, 1), dilation=(dilation, 1, 1), padding=(dilation, 0, 0), bias=False)
        self.layers = nn.ModuleList((space, time))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class FrameSimilarity(nn.Module):
    """Cosine likeness of learnt features, each frame with its neighbours: (B, T, 128)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.projection = nn.Linear(features, COMPARED)
        self.fc = nn.Linear(2 * NEIGHBOURS + 1, COMPARED)

    def forward(self, levels: list[Tensor]) -> Tensor:
        means = torch.cat([level.mean((3, 4)) for level in levels], dim=1)
        return F.relu(self.fc(compared(self.projection(means.mT))))


class ColourSimilarity(nn.Module):
    """Cosine likeness of 8x8x8 RGB histograms, each frame with its neighbours: (B, T, 128)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * NEIGHBOURS + 1, COMPARED)

    def forward(self, frames: Tensor) -> Tensor:
        return F.relu(self.fc(compared(histograms(frames).to(self.fc.weight.dtype))))


def histograms(frames: Tensor) -> Tensor:
    """(B, T, 512) counts of the colours of uint8 frames (B, T, H, W, 3), three bits of each channel."""
    red, green, blue = (frames.long() >> 5).flatten(2, 3).unbind(-1)
    bins = (red << 6) + (green << 3) + blue
    empty = torch.zeros(*bins.shape[:2], 512, dtype=torch.float32, device=frames.device)
    return empty.scatter_add_(2, bins, torch.ones_like(bins, dtype=torch.float32))


def compared(vectors: Tensor) -> Tensor:
    """(B, T, D) -> (B, T, 101): cosine of each with those 50 before to 50 after it, 0 beyond the window."""
    unit = F.normalize(vectors, dim=2)
    padded = F.pad(unit @ unit.mT, (NEIGHBOURS, NEIGHBOURS))
    time = torch.arange(vectors.shape[1], device=vectors.device)[:, None]
    offsets = torch.arange(2 * NEIGHBOURS + 1, device=vectors.device)
    return padded[:, time, time + offsets]


def windows(frames: int) -> Iterator[NDArray[np.int64]]:
    """Which of a film's frames each window of 100 takes; beyond its ends stand its first and last frame again."""
    for start in range(0, frames, STEP):
        yield np.clip(np.arange(start - MARGIN, start - MARGIN + WINDOW), 0, frames - 1)


def _batches(items: Iterator[NDArray[np.int64]], size: int) -> Iterator[list[NDArray[np.int64]]]:
    held: list[NDArray[np.int64]] = []
    for item in items:
        held.append(item)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held


def load_transnet(path: Path | str, device: torch.device | str = "cpu") -> TransNetV2:
    """The network with the weights in `path`: the published .pth, a .safetensors, or a folder that holds either.

    MissingWeights if there is none. ValueError for a file that is damaged, wants to run code or is of another network;
    every weight that does not fit is named.
    """
    file = _weights_file(Path(path))
    tensors = files.load(file) if file.suffix == ".safetensors" else official.read(file)
    network = TransNetV2()
    files.check_fit(network, tensors, str(file))
    network.load_state_dict(tensors, strict=True)
    return network.to(device).eval().requires_grad_(False)


def _weights_file(path: Path) -> Path:
    if path.is_file():
        return path
    for file in (path / files.FILE_NAME, *sorted(path.glob(PUBLISHED))):
        if file.is_file():
            return file
    raise MissingWeights(NAME_IN_CATALOGUE, path)
