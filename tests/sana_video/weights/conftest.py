"""A small network with every weight random, in the layouts that weights come in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import SanaVideoTransformer3DModel
from torch import Tensor

from sana_video.config import SanaVideoConfig
from sana_video.model import SanaVideo

SMALL = SanaVideoConfig(
    in_channels=4, patch_size=(1, 2, 2), width=112, heads=1, depth=2, text_width=12, text_tokens=6, ffn_ratio=2.5
)


def shaken(config: SanaVideoConfig, seed: int = 0) -> SanaVideo:
    model = SanaVideo(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.fixture
def config() -> SanaVideoConfig:
    return SMALL


@pytest.fixture
def model() -> SanaVideo:
    return shaken(SMALL)


@pytest.fixture
def official(model: SanaVideo) -> dict[str, Tensor]:
    """The network in official names, with the null prompt and the leftovers that such a checkpoint may hold."""
    from sana_video.weights import to_official

    null = torch.randn(6, 12, generator=torch.Generator().manual_seed(5))
    return to_official({**model.state_dict(), "null_embedding": null}, SMALL)


@pytest.fixture
def oracle_of() -> Callable[[SanaVideo], SanaVideoTransformer3DModel]:
    """diffusers' network with the weights of ours, which it loads strictly."""
    from sana_video.weights import to_diffusers

    def build(model: SanaVideo) -> SanaVideoTransformer3DModel:
        config = model.config
        oracle = SanaVideoTransformer3DModel(
            in_channels=config.in_channels,
            out_channels=config.in_channels,
            num_attention_heads=config.heads,
            attention_head_dim=config.head_width,
            num_layers=config.depth,
            num_cross_attention_heads=config.heads,
            cross_attention_head_dim=config.head_width,
            cross_attention_dim=config.width,
            caption_channels=config.text_width,
            mlp_ratio=config.ffn_ratio,
            patch_size=config.patch_size,
        )
        oracle.load_state_dict(to_diffusers(model.state_dict(), config))
        return oracle.eval()

    return build


@pytest.fixture
def inputs() -> tuple[Tensor, ...]:
    """Latents, time, text and mask for the small network."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 3, 4, 6, generator=generator)
    text = torch.randn(2, 6, 12, generator=generator)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, 4:] = False
    return latents, torch.tensor([37.0, 812.0]), text, mask


@pytest.fixture
def pth(tmp_path: Path, official: dict[str, Tensor]) -> Path:
    path = tmp_path / "SANA.pth"
    torch.save({"state_dict": official, "epoch": 3}, path)
    return path
