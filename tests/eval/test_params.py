"""The two sections refuse what cannot be evaluated, and import without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from eval.params import EvalParams, ReleaseParams
from sana_video.train.config import StageParams

EVAL: dict[str, Any] = {
    "stage": "causal", "view": "high", "autoencoder": "models/autoencoder", "seed": 7, "prompts": 4,
    "seeds_per_prompt": 2, "steps": 16, "guidance": 3.0, "latent_noise": [0.0, 0.1, 0.2],
    "gate": {"min_videos": 8, "max_failures": 0.0},
}  # fmt: skip
STAGE: dict[str, Any] = {
    "objective": "bidirectional", "init": "recipes/scratch", "autoencoder": "models/autoencoder", "view": "high",
    "after": "data", "steps": 9, "batch": 1, "lr": 1e-4, "warmup": 1,
}  # fmt: skip
BARS = {"heldout_ratio": 0.8, "psnr_gain_db": 3.0, "max_frozen": 0.5}


def test_seeds_follow_from_the_first() -> None:
    assert EvalParams(**EVAL).seeds == (7, 8)


def test_a_model_is_sampled_with_the_shift_of_its_training_unless_another_is_named() -> None:
    size = {"fps": 16.0, "height": 480, "width": 832, "frames": 81}
    trained = StageParams(**STAGE)
    assert (trained.shift, StageParams(**STAGE, flow_shift=5).shift) == (3.0, 5.0)
    plain = EvalParams(**EVAL).sampling(trained, **size)
    assert (plain.steps, plain.guidance, plain.flow_shift, plain.step_list) == (16, 3.0, 3.0, None)
    published = EvalParams(**EVAL, flow_shift=8.0, negative_prompt="blurry").sampling(trained, **size, motion_score=30)
    assert (published.flow_shift, published.negative_prompt, published.motion_score) == (8.0, "blurry", 30)
    distilled = EvalParams(**EVAL, step_list=[1000, 960, 889, 727]).sampling(trained, **size)
    assert distilled.step_list == (1000, 960, 889, 727)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step_list", []),
        ("step_list", [727, 1000]),
        ("step_list", [1001, 500]),
        ("flow_shift", 0.0),
        ("flow_shift", float("inf")),
        ("prompts", 0),
        ("steps", 0),
        ("latent_noise", [0.1]),
        ("latent_noise", [0.0, 0.2, 0.1]),
        ("guidance", 0.5),
        ("surprise", 1),
    ],
)
def test_impossible_values_are_refused(key: str, value: object) -> None:
    with pytest.raises(ValidationError):
        EvalParams(**{**EVAL, key: value})


def test_release_name_is_a_tag_name() -> None:
    assert ReleaseParams(name="sana-video", baseline="none", bars=BARS).bars.max_frozen == 0.5
    with pytest.raises(ValidationError):
        ReleaseParams(name="sana video@x", baseline="none", bars=BARS)


@pytest.mark.parametrize("baseline", ["none", "v1.0.0", "v0.12.3"])
def test_a_baseline_is_none_or_a_version(baseline: str) -> None:
    assert ReleaseParams(name="sana-video", baseline=baseline, bars=BARS).baseline == baseline


@pytest.mark.parametrize(
    "baseline", ["", "None", "1.0.0", "v1.0", "v1.0.0\n", "latest", "sana-video@v1.0.0", "../v1.0.0"]
)
def test_another_baseline_is_refused_with_what_to_write(baseline: str) -> None:
    with pytest.raises(ValidationError, match=r"none or a registered version such as v1\.2\.0"):
        ReleaseParams(name="sana-video", baseline=baseline, bars=BARS)


def test_import_without_torch() -> None:
    code = "import sys; from eval.params import EvalParams; assert not {'torch', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
