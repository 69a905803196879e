"""A whole evaluation of two prompts and two seeds, in numbers: what each test then changes in one place."""

from __future__ import annotations

from typing import Any

import pytest

from eval.params import EvalParams

Row = dict[str, Any]

CREDIT = "(c) 2008 Blender Foundation, www.bigbuckbunny.org"


@pytest.fixture
def params() -> EvalParams:
    return EvalParams.model_validate(
        {
            "stage": "causal", "view": "high", "autoencoder": "models/autoencoder", "seed": 7, "prompts": 2,
            "seeds_per_prompt": 2, "steps": 2, "guidance": 3.0, "latent_noise": [0.0, 0.2],
            "gate": {"min_videos": 4, "max_failures": 0.0},
        }
    )  # fmt: skip


def _video(prompt: str, kind: str, seed: int | None, motion: float) -> Row:
    return {
        "prompt_id": prompt, "kind": kind, "seed": seed, "prompt": f"a <b>view</b> & sky {prompt}",
        "file": f"clips/{prompt}-{'real' if seed is None else seed}.mp4", "flow_motion": motion,
        "flow_estimator": "opencv-dis (stand-in for UniMatch)",
        "vmaf_motion": 2.0 * motion, "saturation": 90.0, "brightness": 120.0, "overall": 0.5,
        "aesthetic_scorer": "classical (stand-in for DOVER)", "frozen": 0.1, "black": 0.0, "frames": 17,
        "height": 64, "width": 96, "fps": 16.0,
        "status": "ok", "reason": None,
    }  # fmt: skip


@pytest.fixture
def tables() -> dict[str, list[Row]]:
    """The rows of the three tables."""
    vae = [
        {
            "clip_id": clip, "eps": eps, "psnr": 30.0 + i - 20 * eps, "psnr_pooled": 29.0 + i - 20 * eps,
            "ssim": 0.9 - eps, "psnr_mean_colour": 15.0, "frames": 17, "height": 64, "width": 96,
            "status": "ok", "reason": None,
        }
        for i, clip in enumerate(("aaa", "bbb"))
        for eps in (0.0, 0.2)
    ]  # fmt: skip
    heldout = [
        {"clip_id": clip, "time": time, "loss": 0.4 + 0.1 * i, "zero": 1.0, "status": "ok", "reason": None}
        for i, clip in enumerate(("aaa", "bbb"))
        for time in (0.25, 0.75)
    ]
    t2v = [_video(prompt, "generated", seed, 1.0 + i) for i, prompt in enumerate(("aaa", "bbb")) for seed in (7, 8)]
    t2v += [_video(prompt, "real", None, 3.0) for prompt in ("aaa", "bbb")]
    return {"vae": vae, "heldout": heldout, "t2v": t2v}


@pytest.fixture
def about() -> Row:
    return {
        "model": "sana-video", "stage": "causal", "objective": "chunk_causal", "view": "high",
        "size": {"height": 64, "width": 96, "frames": 17, "fps": 16.0},
        "stand_ins": ["MiniLM (stand-in for Gemma-2-2b-it)"],
        "sources": [{"source": "film", "licence": "CC BY 3.0", "attribution": CREDIT, "videos": 1}],
        "digests": {"models/causal": "0" * 64},
    }  # fmt: skip
