"""The `train` section: the shipped params fit it, and what contradicts itself is refused."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from sana_video.train.config import VERSION, StageParams, TrainParams

ROOT = Path(__file__).parents[3]
PLAIN = {"init": "a", "autoencoder": "b", "view": "c", "after": "d", "steps": 9, "batch": 4, "lr": 0.1, "warmup": 1}


def test_the_shipped_section_fits_and_the_version_is_the_codes() -> None:
    params = TrainParams.model_validate(yaml.safe_load((ROOT / "params.yaml").read_text())["train"])
    assert params.stage("autoencoder").from_scratch and not params.stage("causal").from_scratch
    assert yaml.safe_load((ROOT / "versions.yaml").read_text())["train"] == VERSION


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": "bidirectional", "chunk_frames": 3}, "chunk_frames 3 does not go with"),
        ({"objective": "chunk_causal"}, "chunk_frames None does not go with"),
        ({"objective": "autoencoder", "image_every": 2}, "image_every 2 has no meaning"),
        ({"objective": "bidirectional", "crop_frames": 5}, "crop_frames 5 has no meaning"),
        ({"objective": "autoencoder", "crop_frames": 8}, "crop_frames 8 is not 4k"),
        ({"objective": "bidirectional", "warmup": 10}, "warmup 10 is longer than steps 9"),
        ({"objective": "bidirectional", "view": " "}, "must not be empty"),
        ({"objective": "bidirectional", "speed": 1}, "Extra inputs"),
        ({"objective": "bidirectional", "lr": 0}, "greater than 0"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        StageParams.model_validate({**PLAIN, **changes})


def test_a_batch_must_divide_over_the_processes() -> None:
    with pytest.raises(ValidationError, match=r"stages\.x\.batch 4 is not a multiple of launch\.processes 3"):
        TrainParams.model_validate(
            {"launch": {"processes": 3}, "stages": {"x": {**PLAIN, "objective": "bidirectional"}}}
        )


def test_the_section_imports_without_torch() -> None:
    code = "import sys, sana_video.train.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
