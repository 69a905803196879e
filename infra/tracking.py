"""Curves and samples of training and evaluation: the one door to MLflow.

A record to look at, never read back by the system: what is released and why stands in git tags and verdicts. The
default is one SQLite file in the project, with artifacts beside it; a server's address in `tracking.uri` replaces it.
"""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

_SQLITE = "sqlite:///"
_BATCH = 100  # parameters that one request may carry


class TrackingParams(BaseModel):
    """The section `tracking` of params.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str = Field(pattern=r"^(sqlite:///|https?://|postgresql)")  # a relative SQLite path lies in the project
    experiment: str = Field(min_length=1)


class RunLog(Protocol):
    """What a run is told."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves at a step."""

    def artifact(self, path: Path) -> None:
        """A file to keep with the run."""


class MlflowTracker:
    """Runs in an MLflow experiment, which is made if it is not there. `root` holds SQLite file and artifacts."""

    def __init__(self, uri: str, experiment: str, root: Path) -> None:
        self.uri = _resolve(uri, root)
        with _alone(root / ".mlflow.lock"):  # two first users would both create the schema
            self._client = _client(self.uri)
            self._experiment = _experiment(self._client, experiment, root if uri.startswith(_SQLITE) else None)

    @contextmanager
    def run(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> Iterator[RunLog]:
        """A run that ends as FINISHED, or FAILED if its block raises. Nested params are flattened to dotted keys."""
        from mlflow.entities import Param

        run_id = self._client.create_run(self._experiment, run_name=name, tags=dict(tags)).info.run_id
        entries = [Param(key, str(value)) for key, value in _flat(params).items()]
        for start in range(0, len(entries), _BATCH):
            self._client.log_batch(run_id, params=entries[start : start + _BATCH])
        try:
            yield _MlflowRun(self._client, run_id)
        except BaseException:
            self._client.set_terminated(run_id, "FAILED")
            raise
        self._client.set_terminated(run_id, "FINISHED")


class _MlflowRun:
    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._run_id = run_id

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run_id, metrics=[Metric(key, float(v), now, step) for key, v in values.items()])

    def artifact(self, path: Path) -> None:
        self._client.log_artifact(self._run_id, str(path))


def open_tracker(params: TrackingParams, root: Path) -> MlflowTracker:
    """The tracker that params.yaml names, for the project at `root`."""
    return MlflowTracker(params.uri, params.experiment, root)


def _resolve(uri: str, root: Path) -> str:
    if not uri.startswith(_SQLITE):
        return uri
    return f"{_SQLITE}{(root / uri.removeprefix(_SQLITE)).resolve()}"


def _client(uri: str) -> Any:
    for noisy in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _experiment(client: Any, name: str, root: Path | None) -> str:
    """The experiment's id. A server chooses where artifacts lie; for SQLite they lie in root/mlartifacts."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = (root / "mlartifacts").resolve().as_uri() if root else None
    return str(client.create_experiment(name, artifact_location=location))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
