"""Small views and parameters for training tests, and a way to run training in processes of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from sana_video.data.shards import ShardWriter

RUN = """
import json, sys
from pathlib import Path
import torch
from sana_video.train import loop
from sana_video.train.config import TrainParams

class Quiet:
    def metrics(self, values, step):
        if "loss" in values:
            print(f"step {step} loss {values['loss']!r}", flush=True)

job = json.loads(sys.argv[1])
torch.set_num_threads(1)
loop.train(
    job["stage"], TrainParams.model_validate(job["params"]),
    loop.Paths(**{name: Path(path) for name, path in job["paths"].items()}),
    model_preset="tiny", autoencoder_preset="small", stand_ins=[], tracker=Quiet(),
    track=lambda iterable, total, label: iterable,
)
"""


@pytest.fixture(scope="session")
def view(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 clips of low-rank latents (16, 5, 4, 6), each the outer product of what its caption names; 8 held out."""
    folder = tmp_path_factory.mktemp("data") / "view"
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(3, 16, 5, 4, 6, generator=generator)
    null = (torch.zeros(4, 384), torch.ones(4, dtype=torch.bool))
    with ShardWriter(folder, max_bytes=1 << 20, null=null) as shards:
        for i in range(40):
            weights = torch.randn(3, generator=generator)
            text = torch.zeros(4, 384, dtype=torch.float16)
            text[:, :3] = weights.half()
            sample = {"latents": torch.einsum("k,kcthw->cthw", weights, basis) / 3**0.5, "text": text}
            sample["mask"] = torch.tensor([True, True, True, i % 2 == 0])
            shards.add(f"clip{i:02d}", sample, bucket="64x96x17", subset="val" if i % 5 == 0 else "train")
    return folder


def stage(**changes: Any) -> dict[str, Any]:
    plain = {
        "objective": "bidirectional", "init": "recipes/scratch", "autoencoder": "models/autoencoder", "view": "low",
        "after": "shards-low", "steps": 12, "batch": 4, "lr": 0.002, "warmup": 2, "heldout": 8,
    }  # fmt: skip
    return {**plain, **changes}


Job = Callable[..., dict[str, Any]]


@pytest.fixture
def job(view: Path, tmp_path: Path) -> Job:
    """What `train` needs, as JSON: `job(steps=…)` changes the stage, `processes`, `every` and `out` the run."""

    def make(
        *, processes: int = 1, every: int = 4, out: str = "out", init: Path | None = None, **changes: Any
    ) -> dict[str, Any]:
        init = init or Path("recipes/scratch")
        paths = {"view": view, "init": init, "out": tmp_path / out, "runs": tmp_path / f"runs-{out}"}
        params = {"seed": 3, "checkpoint_every": every, "launch": {"processes": processes}}
        params["stages"] = {"t2v": stage(init=str(init), **changes)}
        return {"stage": "t2v", "params": params, "paths": {name: str(path) for name, path in paths.items()}}

    return make


@pytest.fixture
def command() -> Callable[..., list[str]]:
    """The command line that runs a job, under torchrun where it has several processes."""

    def make(job: dict[str, Any]) -> list[str]:
        processes = job["params"]["launch"]["processes"]
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        script = Path(job["paths"]["out"]).with_suffix(".py")
        script.write_text(RUN)
        return [sys.executable, *(torchrun if processes > 1 else []), str(script), json.dumps(job)]

    return make


@pytest.fixture
def run(command: Callable[..., list[str]]) -> Callable[..., str]:
    """Run a job to its end in processes of its own; its standard output."""

    def go(job: dict[str, Any], check: bool = True) -> str:
        root = Path(__file__).parents[3]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        done = subprocess.run(command(job), capture_output=True, text=True, env=environment, timeout=200)
        assert not check or done.returncode == 0, done.stderr[:4000]
        return done.stdout + done.stderr

    return go


class Recorder:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def metrics(self, values: Any, step: int) -> None:
        self.rows.append((step, dict(values)))


@pytest.fixture
def train_here() -> Callable[..., tuple[dict[str, Any], Recorder]]:
    """Run a job in this process; its summary and what was tracked."""
    from sana_video.train import loop
    from sana_video.train.config import TrainParams

    def shown(iterable: Iterable[Any], total: int, label: str) -> Iterable[Any]:
        return iterable

    def go(job: dict[str, Any], preset: str = "tiny") -> tuple[dict[str, Any], Recorder]:
        recorder = Recorder()
        summary = loop.train(
            job["stage"],
            TrainParams.model_validate(job["params"]),
            loop.Paths(**{name: Path(path) for name, path in job["paths"].items()}),
            model_preset=preset,
            autoencoder_preset="small",
            stand_ins=["minilm"],
            tracker=recorder,
            track=shown,
        )
        return summary, recorder

    return go
