"""The autoencoder's stage: it beats the mean colour, and leaves latents of mean 0 and deviation 1."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sana_video.autoencoder import load_autoencoder
from sana_video.data.loader import Loader
from sana_video.data.shards import ShardWriter
from sana_video.train.objectives import as_video


@pytest.fixture
def pixels(tmp_path: Path) -> Path:
    """Moving gradients of random colour, 9 frames of 32 x 48."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 48), indexing="ij")
    generator = torch.Generator().manual_seed(0)
    with ShardWriter(tmp_path / "pixels", max_bytes=1 << 22) as shards:
        for i in range(12):
            a, b, c = torch.rand(3, 3, generator=generator)
            frames = [(a * x[..., None] + b * y[..., None] + c * f / 9).clamp(0, 2) * 127 for f in range(9)]
            sample = {"pixels": torch.stack(frames).to(torch.uint8), "fps": torch.tensor(16.0)}
            shards.add(f"clip{i:02d}", sample, bucket="32x48x9", subset="val" if i % 4 == 0 else "train")
    return tmp_path / "pixels"


def test_the_autoencoder_stage(job: Any, train_here: Any, pixels: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    stage = job(objective="autoencoder", steps=60, batch=4, lr=0.001, warmup=10, crop_frames=5, crop_size=32)
    stage["paths"]["view"] = str(pixels)
    summary, _ = train_here(stage)
    assert summary["psnr"] > summary["psnr_mean_colour"] + 3
    assert summary["heldout_end"] < summary["heldout_start"]
    autoencoder = load_autoencoder(tmp_path / "out")
    batches = Loader(pixels, ["pixels"], batch=1, seed=0).train_samples(100)
    latents = torch.cat([autoencoder.encode(as_video(batch.tensors["pixels"])) for batch in batches])
    flat = latents.transpose(0, 1).flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(16), atol=1e-3, rtol=0)
    torch.testing.assert_close(flat.std(1), torch.ones(16), atol=1e-2, rtol=0)
