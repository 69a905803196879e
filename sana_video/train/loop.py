"""The training loop, for every stage. It reads top to bottom.

Progress is one number, the step. What a step sees and draws is a function of (seed, step, place in the global batch),
so a run that was killed and resumed is the run that was not, bit for bit on the same number of processes. On another
number of processes sums are taken in another order: losses then agree to rounding, not to the bit.

The caller has opened the gates and hands in paths, a tracker for curves and a function that shows progress. Every
process calls `train`; process 0 alone writes, tracks and shows.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sana_video.autoencoder.dcae_v import DcaeV
from sana_video.data.loader import Batch, Loader, prefetch
from sana_video.train import build, parallelize
from sana_video.train.build import Paths
from sana_video.train.config import Precision, StageParams, TrainParams
from sana_video.train.ema import Ema
from sana_video.train.objectives import Draw, Objective
from sana_video.train.parallelize import World
from sana_video.train.result import measure_latents, publish
from sana_video.train.state import Checkpoints

__all__ = ["Interrupted", "Paths", "Tracker", "forward_backward", "precision_context", "train"]

NONFINITE_LIMIT = 20  # steps in a row whose loss or gradient is not finite, after which a run gives up
CURVE_ROWS = 50
T = TypeVar("T")


class Tracker(Protocol):
    """Where curves go."""

    def metrics(self, values: Mapping[str, float], step: int) -> None: ...


class Track(Protocol):
    """Shows progress over an iterable of known length."""

    def __call__(self, iterable: Iterable[T], total: int, label: str) -> Iterable[T]: ...


class Interrupted(RuntimeError):
    """The run was told to stop. Its state is saved: the same command goes on where it stopped."""


def train(
    name: str,
    params: TrainParams,
    paths: Paths,
    *,
    model_preset: str,
    autoencoder_preset: str,
    stand_ins: Sequence[str],
    tracker: Tracker,
    track: Track,
) -> dict[str, Any]:
    """Run stage `name` to its last step, write `paths.out`, and return the summary written there.

    `stand_ins` are the names of stand-ins in use, copied into the summary. Raises ValueError or FileNotFoundError for
    input that does not fit, Interrupted after SIGTERM, RuntimeError when losses stay non-finite.
    """
    stage = params.stage(name)
    world = parallelize.start(params.launch.processes)
    try:
        with _deterministic(world.device), _termination() as told_to_stop:
            begin = build.start(
                name,
                params,
                paths,
                model_preset=model_preset,
                autoencoder_preset=autoencoder_preset,
            )
            loader = Loader(paths.view, begin.objective.fields, stage.batch, params.seed, world.rank, world.size)
            with closing(loader):
                run = _Run(name, params, begin, loader, world, paths)
                run.train(told_to_stop, tracker, track)
                return run.finish(paths, stand_ins)
    finally:
        parallelize.stop(world)


class _Run:
    """One stage on one process: what it holds, its steps, and its end."""

    def __init__(
        self, name: str, params: TrainParams, begin: build.Start, loader: Loader, world: World, paths: Paths
    ) -> None:
        self.name, self.params, self.begin, self.loader, self.world = name, params, begin, loader, world
        self.stage = stage = params.stage(name)
        self.model = parallelize.parallelize(begin.model, world, recompute=stage.recompute).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=stage.lr, betas=(0.9, 0.999), weight_decay=stage.weight_decay
        )
        self.ema = Ema(self.model, stage.ema)
        count = stage.heldout if begin.objective.repeats else min(stage.heldout, loader.held_out_samples)
        share = max(1, stage.batch // world.size)
        self.held_out = [batch.to(world.device) for batch in loader.held_out(count, share)]
        self.checkpoints = Checkpoints(
            paths.runs / f"{name}-{begin.fingerprint}",
            params.keep_checkpoints,
            world,
            model=self.model,
            optimizer=self.optimizer,
            ema=self.ema,
        )
        restored = self.checkpoints.restore()
        self.progress = restored or {"step": 0, "nonfinite": 0, "streak": 0, "recent": [], "curve": []}

    def train(self, told_to_stop: threading.Event, tracker: Tracker, track: Track) -> None:
        stage, world, progress = self.stage, self.world, self.progress
        if "start" not in progress:
            progress["start"] = self.measure()
            self.note(tracker, loss=None, heldout=progress["start"]["loss"])
        steps = range(progress["step"], stage.steps)
        with closing(prefetch(self.loader.batch, steps)) as batches:
            for step, batch in track(batches, len(steps), self.name) if world.first else batches:
                loss = self.step(step, batch.to(world.device))
                progress["step"] = step + 1
                if math.isfinite(loss):
                    progress["recent"].append(loss)
                if (step + 1) % math.ceil(stage.steps / CURVE_ROWS) == 0 or step + 1 == stage.steps:
                    self.note(tracker, loss=_mean(progress["recent"]), heldout=self.measure_at(step + 1))
                    progress["recent"] = []
                stop = world.total(torch.tensor(float(told_to_stop.is_set()), device=world.device)) > 0
                if stop or (step + 1) % self.params.checkpoint_every == 0 or step + 1 == stage.steps:
                    self.checkpoints.save(progress)
                if stop:
                    raise Interrupted(f"stage {self.name} stopped at step {step + 1}; run it again to go on from there")

    def step(self, step: int, batch: Any) -> float:
        """One update; returns the loss averaged over processes. A step that is not finite is counted and left out."""
        stage, progress = self.stage, self.progress
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(stage, step)
        draw = Draw(self.params.seed, step, batch.positions)
        loss = forward_backward(self.model, self.begin.objective, batch, draw, step, self.params.precision)
        norm = _whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), stage.clip))
        mean = float(self.world.total(loss.float().clone())) / self.world.size
        if math.isfinite(mean) and math.isfinite(float(norm)):
            self.optimizer.step()
            self.ema.update(self.model, step)
            progress["streak"] = 0
        else:
            progress["nonfinite"] += 1
            progress["streak"] += 1
        self.optimizer.zero_grad(set_to_none=True)
        if progress["streak"] >= NONFINITE_LIMIT:
            raise RuntimeError(f"stage {self.name}: {NONFINITE_LIMIT} steps in a row were not finite, at step {step}")
        return mean

    def measure(self) -> dict[str, float]:
        """Held-out measures of the averaged weights. Every process measures everything: all must join a forward."""
        with self.ema.in_place_of(self.model), precision_context(self.world.device, self.params.precision):
            return self.begin.objective.held_out(self.model, self.held_out)

    def measure_at(self, step: int) -> float | None:
        """The held-out loss at the end, for the curve; the measures themselves go to the progress."""
        if step != self.stage.steps:
            return None
        self.progress["end"] = self.measure()
        return float(self.progress["end"]["loss"])

    def note(self, tracker: Tracker, *, loss: float | None, heldout: float | None) -> None:
        """One row of the curve."""
        step = self.progress["step"]
        rate = learning_rate(self.stage, max(0, step - 1))
        self.progress["curve"].append({"step": step, "loss": loss, "lr": rate, "heldout": heldout})
        if self.world.first:
            values = {"loss": loss, "lr": rate, "heldout": heldout}
            tracker.metrics({key: value for key, value in values.items() if value is not None}, step)

    def finish(self, paths: Paths, stand_ins: Sequence[str]) -> dict[str, Any]:
        """Write the averaged weights and the summary; the same on a run that had finished before."""
        with self.ema.in_place_of(self.model):
            weights = parallelize.full_weights(self.model)
        summary = self.summary(stand_ins)
        if self.world.first:
            model = self.begin.blank()
            model.load_state_dict(weights)
            if isinstance(model, DcaeV):
                measure_latents(model, self.loader)
            publish(paths.out, model, summary, self.progress["curve"], self.begin.empty)
        self.world.barrier()
        return summary

    def summary(self, stand_ins: Sequence[str]) -> dict[str, Any]:
        progress, stage = self.progress, self.stage
        start, end = progress["start"], progress["end"]
        return {
            "stage": self.name,
            "objective": stage.objective,
            "steps": progress["step"],
            "target_steps": stage.steps,
            "loss_finite": progress["streak"] == 0 and all(map(math.isfinite, (start["loss"], end["loss"]))),
            "nonfinite_steps": progress["nonfinite"],
            "heldout_start": start["loss"],
            "heldout_end": end["loss"],
            "heldout_zero": end.get("zero"),
            "psnr": end.get("psnr"),
            "psnr_mean_colour": end.get("psnr_mean_colour"),
            "data_digest": self.begin.data_digest,
            "init_digest": self.begin.init_digest,
            "from_scratch": stage.from_scratch,
            "stand_ins": sorted(stand_ins),
            "parameters": sum(value.numel() for value in self.model.parameters()),
            "fingerprint": self.begin.fingerprint,
        }


def forward_backward(
    model: nn.Module, objective: Objective, batch: Batch, draw: Draw, step: int, precision: Precision
) -> Tensor:
    """The loss of `batch`, whose gradients are added to those of the parameters, in the dtype of each."""
    with precision_context(next(model.parameters()).device, precision):
        loss = objective.loss(model, batch, draw, step)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def precision_context(device: torch.device, precision: Precision) -> torch.autocast:
    """Inside, products run in `precision`; weights stay as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def learning_rate(stage: StageParams, step: int) -> float:
    """Constant after a linear warm-up (paper: 500 steps)."""
    return stage.lr * min(1.0, (step + 1) / (stage.warmup + 1))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _whole(norm: Tensor) -> Tensor:
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """On the CPU, refuse operations whose result depends on timing."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def _termination() -> Iterator[threading.Event]:
    """An event that SIGTERM sets. Outside the main thread signals cannot be caught, and none is."""
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)
