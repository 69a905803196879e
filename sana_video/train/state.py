"""Checkpoints of a run in progress: all of it or none of it, checked before it is believed.

`runs/<stage>-<fingerprint>/step-00000050/` holds one DCP shard per process, `progress.json` and, written last,
`COMMIT.json` with the sha256 and size of every file. A save goes to `step-00000050.incomplete` and is renamed when it
is committed, so a kill at any moment leaves the previous checkpoint. Flipped bytes in a DCP shard load without a
word, hence the digests: `restore` verifies them and falls back to the one before. DCP reshards, so a run may resume
on another number of processes. DCP's metadata is a pickle: a run folder is as trusted as the code beside it, and no
more than that is asked, for what leaves the machine is safetensors.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from torch.optim import Optimizer

from sana_video.data.shards import file_sha256
from sana_video.train.ema import Ema
from sana_video.train.parallelize import World

COMMIT, PROGRESS = "COMMIT.json", "progress.json"
_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run; `model`, `optimizer` and `ema` are read by `save` and overwritten by `restore`."""

    def __init__(
        self, folder: Path, keep: int, world: World, *, model: nn.Module, optimizer: Optimizer, ema: Ema
    ) -> None:
        self.folder, self.keep, self.world = folder, keep, world
        self.model, self.optimizer, self.ema = model, optimizer, ema

    def save(self, progress: dict[str, Any]) -> None:
        """Write the checkpoint of `progress["step"]`, then drop all but the newest `keep`. All processes call it."""
        target = self.folder / f"step-{progress['step']:08d}"
        incomplete = target.with_name(target.name + ".incomplete")
        if self.world.first:
            shutil.rmtree(incomplete, ignore_errors=True)
            incomplete.mkdir(parents=True)
        self.world.barrier()
        self._dcp(dcp_save, self._state(), incomplete)
        self.world.barrier()
        if self.world.first:
            _write(incomplete / PROGRESS, progress)
            _commit(incomplete, target)
            for old in self._committed()[self.keep :]:
                shutil.rmtree(old)
        self.world.barrier()

    def restore(self) -> dict[str, Any] | None:
        """Load the newest good checkpoint and return its progress; None where there is none. All processes call it."""
        if self.world.first:
            for torn in self.folder.glob("*.incomplete"):
                shutil.rmtree(torn)
        name = self.world.from_first(self._newest_good() if self.world.first else None)
        if name is None:
            return None
        state = self._state()
        self._dcp(dcp_load, state, self.folder / name)
        self.model.load_state_dict(state["model"])
        set_optimizer_state_dict(self.model, self.optimizer, state["optimizer"])
        self.ema.averages.update(state["ema"])
        progress: dict[str, Any] = json.loads((self.folder / name / PROGRESS).read_text())
        return progress

    def _state(self) -> dict[str, Any]:
        optimizer = get_optimizer_state_dict(self.model, self.optimizer)
        return {"model": self.model.state_dict(), "optimizer": optimizer, "ema": self.ema.averages}

    def _dcp(self, action: Any, state: dict[str, Any], folder: Path) -> None:
        alone = self.world.size == 1
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process is meant
            action(state, checkpoint_id=folder, no_dist=alone, process_group=self.world.store)

    def _committed(self) -> list[Path]:
        """Newest first."""
        return sorted((path.parent for path in self.folder.glob(f"step-*[0-9]/{COMMIT}")), reverse=True)

    def _newest_good(self) -> str | None:
        for path in self._committed():
            damage = _damage(path)
            if damage is None:
                return path.name
            _log.warning("checkpoint %s is damaged (%s): falling back to the one before", path, damage)
            shutil.rmtree(path)
        return None


def _commit(incomplete: Path, target: Path) -> None:
    files = {
        path.name: {"sha256": file_sha256(path), "size": path.stat().st_size} for path in sorted(incomplete.iterdir())
    }
    _write(incomplete / COMMIT, {"files": files})
    shutil.rmtree(target, ignore_errors=True)
    incomplete.rename(target)
    _sync(target.parent)


def _damage(folder: Path) -> str | None:
    """What is wrong with a committed checkpoint, or None."""
    try:
        files = json.loads((folder / COMMIT).read_text())["files"]
    except (ValueError, KeyError):
        return f"{COMMIT} is unreadable"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["size"]:
            return f"{name} is missing or has another size"
        if file_sha256(path) != expected["sha256"]:
            return f"{name} has another sha256"
    return None


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    _sync(path)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
