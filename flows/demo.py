"""`demo`: fetch the demo's films, walk the whole journey on the embedded defaults, and sample what came of it."""

from __future__ import annotations

from pathlib import Path

from data_pipeline import material
from flows import params as parameters
from flows.package import PROMPTS
from flows.run import run_flow
from flows.sample import Request, sample
from infra import registry
from infra.stage import Progress


def run_demo(root: Path) -> tuple[int, str]:
    """Films, journey, one sample of the version it made: exit code, and what there is to say in the end."""
    code = material.main(["--raw", str(root / "data" / "raw")])
    if code != 0:
        return code, "the demo's films could not be fetched"
    code, told = run_flow("journey", root, worktree=False, overrides=())
    if code != 0:
        return code, told
    return 0, f"{told}\n\nA sample\n  {_sample(root)}"


def _sample(root: Path) -> Path:
    """One film of the version that release/ was registered as, made once."""
    made = registry.registered(root, root / "release", parameters.load(root / "params.yaml").release.name)
    assert made is not None, "a journey that succeeds has registered release/"
    called = f"{made.name}@{made.version}"
    out = root / "samples" / f"{called}.mp4"
    if not out.is_file():
        sample(Request(called, PROMPTS[0]), out, root, Progress("sample"))
    return out
