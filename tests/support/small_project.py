"""A whole project in a temporary folder: the real graph and commands over a few seconds of rendered film."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Project:
    root: Path

    def run(self, *command: str, check: bool = True, timeout: float = 900.0) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            command, cwd=self.root, env=environment(), capture_output=True, text=True, timeout=timeout
        )
        if check and result.returncode != 0:
            said = f"{result.stdout[-6000:]}\n{result.stderr[-6000:]}"
            raise AssertionError(f"{command} exited {result.returncode}\n{said}")
        return result

    def dvc(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "dvc", *words, check=check)

    def sana(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(str(BIN / "sana-video"), *words, check=check)

    def status(self, stage: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / "runs" / "status" / f"{stage}.json").read_text())
        return found

    def forget_statuses(self) -> None:
        shutil.rmtree(self.root / "runs" / "status", ignore_errors=True)

    def ran(self) -> set[str]:
        """The stages that ran since the statuses were forgotten."""
        return {p.stem for p in (self.root / "runs" / "status").glob("*.json")}

    def params(self) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load((self.root / "params.yaml").read_text())
        return found

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        params = self.params()
        change(params)
        (self.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def environment() -> dict[str, str]:
    """The user's, with our commands on the PATH, one thread each, and no git identity."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "DVC_", "GIT_", "SANA_"))}
    return {
        **kept,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
    }


def lay_out(root: Path) -> Project:
    """The tracked and new files of this checkout, as an archive without history would hold them."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/", "benchmarks/")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    return Project(root)


def shrink(params: dict[str, Any]) -> None:
    """The shipped recipe made small: the same stages and gates, bars that a few steps on a rendered film can meet."""
    data, train = params["data"], params["train"]
    data["limit"] = {"seconds": None, "short_side": 64}
    data["ingest"] |= {"min_short_side": 32}
    data["split"] |= {"frames": 17}
    data["score"] |= {"short_side": 64, "workers": 1}
    data["dedup"] |= {"max_embedding_distance": None}  # the rendered films look alike: most would pass for copies
    data["curate"]["ranges"]["default"] |= {
        "flow_motion": [0.0, 1000.0],
        "vmaf_motion": [0.0, 1000.0],
        "saturation": [0.0, 255.0],
        "overall": [0.0, 1.0],
    }
    data["gate"] |= {"min_videos": 2, "min_clips": 4, "min_kept": 4, "kept_fraction": [0.1, 1.0]}
    data["pixels"] = {"height": 64, "width": 96, "frames": 17}
    data["views"] = {"high": {**data["views"]["high"], "height": 64, "width": 96, "frames": 17}}
    stages = train["stages"]
    train["stages"] = {
        "autoencoder": {**stages["autoencoder"], "steps": 24, "batch": 4, "warmup": 3},
        "t2i": {**stages["t2i"], "steps": 30, "batch": 8, "warmup": 5},
        "causal": {**stages["causal"], "init": "models/t2i", "after": "train-t2i", "steps": 4, "batch": 2, "warmup": 1},
    }
    train["gate"] = {"autoencoder_gain_db": -60.0, "scratch_improvement": 0.02, "later_tolerance": 1.0}
    params["eval"] |= {"prompts": 1, "seeds_per_prompt": 1, "steps": 3}
    params["eval"]["gate"] |= {"min_videos": 1}
    params["release"]["bars"] |= {"heldout_ratio": 5.0, "psnr_gain_db": -30.0, "max_frozen": 1.0}
