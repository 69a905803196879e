"""The loop: it learns, it is deterministic, it survives being killed, it says what is wrong."""

import csv
import json
import math
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sana_video.data.shards import ShardWriter, data_digest, file_sha256
from sana_video.model import SanaVideo
from sana_video.train import loop

NULL = (torch.zeros(4, 384), torch.ones(4, dtype=torch.bool))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_stage_from_scratch_learns_and_says_so(job: Any, train_here: Any, view: Path, tmp_path: Path) -> None:
    summary, recorder = train_here(job(steps=24, batch=8, lr=0.003))
    assert summary["heldout_end"] < 0.8 * summary["heldout_start"]
    assert summary["heldout_end"] < summary["heldout_zero"]
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {**summary, "checkpoint_sha256": file_sha256(tmp_path / "out" / "model.safetensors")} == written
    assert written["steps"] == written["target_steps"] == 24
    assert (written["loss_finite"], written["nonfinite_steps"]) == (True, 0)
    assert (written["from_scratch"], written["init_digest"]) == (True, "none")
    assert (written["data_digest"], written["stand_ins"]) == (data_digest(view), ["minilm"])
    with (tmp_path / "out" / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [step for step, _ in recorder.rows] == list(range(25))
    assert float(rows[-1]["heldout"]) == written["heldout_end"]
    assert SanaVideo.from_pretrained(tmp_path / "out").config.chunk_frames is None
    null = load_file(tmp_path / "out" / "null_embedding.safetensors")  # the view's, as conftest.py wrote it
    assert torch.equal(null["text"], torch.zeros(4, 384)) and null["mask"].all()


def test_a_view_of_several_aspects_trains(job: Any, train_here: Any, tmp_path: Path) -> None:
    """Wide, tall and square latents: each step and each held-out batch is of one shape, and all of them are seen."""
    folder, generator = tmp_path / "several", torch.Generator().manual_seed(0)
    with ShardWriter(folder, 1 << 20, null=(torch.zeros(4, 384), torch.ones(4, dtype=torch.bool))) as shards:
        for i in range(18):
            height, width = ((2, 4), (4, 2), (3, 3))[i % 3]
            sample = {
                "latents": torch.randn(16, 2, height, width, generator=generator),
                "text": torch.zeros(4, 384, dtype=torch.float16),
                "mask": torch.ones(4, dtype=torch.bool),
            }
            shards.add(f"c{i:02d}", sample, f"{16 * height}x{16 * width}x5", "val" if i < 6 else "train")
    asked = job(steps=6, batch=2, heldout=6)
    asked["paths"]["view"] = str(folder)
    summary, recorder = train_here(asked)
    assert summary["loss_finite"] and summary["data_digest"] == data_digest(folder)
    assert len(recorder.rows) == 7 and math.isfinite(summary["heldout_end"])


def test_a_causal_stage_goes_on_from_it(job: Any, train_here: Any, tmp_path: Path) -> None:
    train_here(job(steps=10, image_every=2, condition_image=0.5))
    init = tmp_path / "out"
    after = job(out="causal", init=init, objective="chunk_causal", chunk_frames=2, steps=4, lr=0.0001)
    summary, _ = train_here(after)
    assert summary["init_digest"] == file_sha256(init / "model.safetensors")
    assert summary["from_scratch"] is False
    assert SanaVideo.from_pretrained(tmp_path / "causal").config.chunk_frames == 2
    # its start is the weights it was given: unchanged by building, sharding and averaging
    again, _ = train_here(
        job(out="same", init=init, objective="chunk_causal", chunk_frames=2, steps=1, lr=1e-12, warmup=0)
    )
    assert again["heldout_start"] == summary["heldout_start"] == pytest.approx(again["heldout_end"], rel=1e-6)


def test_the_same_stage_gives_the_same_bytes(job: Any, train_here: Any, tmp_path: Path) -> None:
    train_here(job(out="a", steps=5))
    train_here(job(out="b", steps=5))
    assert files(tmp_path / "a") == files(tmp_path / "b")
    train_here(job(out="a", steps=5))  # finished before: rewritten from its last checkpoint
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_averaging_off_is_the_last_weights_and_recompute_changes_nothing(
    job: Any, train_here: Any, tmp_path: Path
) -> None:
    runs = {
        "plain": {},
        "blocks": {"recompute": "block"},
        "elementwise": {"recompute": "elementwise"},
        "last": {"ema": 0.0},
    }
    for out, changes in runs.items():
        train_here(job(out=out, steps=3, **changes))
    plain, blocks, elementwise, last = (load_file(tmp_path / out / "model.safetensors") for out in runs)
    assert all(torch.equal(plain[name], blocks[name]) for name in plain)
    assert all(torch.equal(plain[name], elementwise[name]) for name in plain)
    assert any(not torch.equal(plain[name], last[name]) for name in plain)


def test_killed_and_resumed_is_bit_for_bit_the_unbroken_run(job: Any, run: Any, command: Any, tmp_path: Path) -> None:
    run(job(out="whole", steps=16))
    broken = job(out="broken", steps=16)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen(command(broken), stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 6 "):  # past the checkpoint at 4, before the one at 8
            break
    process.kill()
    process.wait()
    assert not (tmp_path / "broken").exists()
    assert "step 5 " in run(broken)
    assert files(tmp_path / "broken") == files(tmp_path / "whole")


def test_sigterm_saves_and_says_how_to_go_on(job: Any, run: Any, command: Any, tmp_path: Path) -> None:
    told = job(out="told", steps=400, every=1000)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen(
        command(told), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "Interrupted: stage t2v stopped at step" in said
    (checkpoint,) = (tmp_path / "runs-told").glob("*/step-*")
    assert (checkpoint / "COMMIT.json").is_file()


def test_losses_that_stay_not_finite_end_the_run(job: Any, train_here: Any, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "view", max_bytes=1 << 20, null=NULL) as shards:
        for i in range(6):
            sample = {"latents": torch.full((16, 1, 2, 2), float("nan")), "text": torch.zeros(4, 384).half()}
            sample["mask"] = torch.ones(4, dtype=torch.bool)
            shards.add(f"c{i}", sample, bucket="b", subset="val" if i == 0 else "train")
    broken = job(steps=30)
    broken["paths"]["view"] = str(tmp_path / "view")
    with pytest.raises(RuntimeError, match="20 steps in a row were not finite, at step 19"):
        train_here(broken)
    assert not (tmp_path / "out").exists()


def test_a_view_without_its_null_embedding_is_to_be_encoded_again(job: Any, train_here: Any, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "low", max_bytes=1 << 20) as shards:
        for i in range(6):
            sample = {"latents": torch.zeros(16, 1, 2, 2), "text": torch.zeros(4, 384).half()}
            sample["mask"] = torch.ones(4, dtype=torch.bool)
            shards.add(f"c{i}", sample, bucket="b", subset="val" if i == 0 else "train")
    old = job()
    old["paths"]["view"] = str(tmp_path / "low")
    with pytest.raises(FileNotFoundError, match="run `sana-video data encode --view low` again"):
        train_here(old)


def test_what_does_not_fit_is_said(job: Any, train_here: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown training stage 'sft'; params.yaml names t2v"):
        train_here({**job(), "stage": "sft"})
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        train_here(job(init=tmp_path / "nothing"))
    with pytest.raises(ValueError, match="latents have 4 channels; this model takes 16"):
        _with_other_channels(job, train_here, tmp_path)
    with pytest.raises(ValueError, match=r"processes is 2, but 1 started"):
        train_here(job(processes=2))


def _with_other_channels(job: Any, train_here: Any, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "other", max_bytes=1 << 20, null=NULL) as shards:
        for i in range(6):
            sample = {"latents": torch.zeros(4, 1, 2, 2), "text": torch.zeros(4, 384).half()}
            sample["mask"] = torch.ones(4, dtype=torch.bool)
            shards.add(f"c{i}", sample, bucket="b", subset="val" if i == 0 else "train")
    other = job(out="other-channels")
    other["paths"]["view"] = str(tmp_path / "other")
    train_here(other)


def test_weights_that_are_damaged_are_refused(job: Any, train_here: Any, tmp_path: Path) -> None:
    train_here(job(steps=2))
    weights = load_file(tmp_path / "out" / "model.safetensors")
    first = next(iter(weights))
    save_file({**weights, first: weights[first] * float("nan")}, tmp_path / "out" / "model.safetensors")
    with pytest.raises(ValueError, match="not finite"):
        train_here(job(out="next", init=tmp_path / "out"))


def test_learning_rate_rises_then_stays() -> None:
    from sana_video.train.config import StageParams

    stage = StageParams(
        objective="bidirectional", init="a", autoencoder="b", view="c", after="d", steps=9, batch=1, lr=1.0, warmup=3
    )
    assert [loop.learning_rate(stage, step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
