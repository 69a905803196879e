"""Mutation tests: each rule of a view's shards has one change of a good view that turns it red."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from good_tables import row, table

from data_pipeline.expectations.shards import shard_sections
from data_pipeline.params import PixelsParams, ViewParams
from infra.gates import Verdict, evaluate
from sana_video.data.shards import ShardWriter


def failing(verdict: Verdict) -> set[str]:
    return {r["column"] for s in verdict.sections.values() for r in s["rules"] if not r["ok"]}


VIEW = PixelsParams(height=16, width=16, frames=5)
NULL = (torch.ones(8, 3), torch.ones(8, dtype=torch.bool))


def latent_view(
    folder: Path,
    change: Callable[[dict[str, torch.Tensor]], None] = lambda sample: None,
    keys: str = "abcd",
    null: tuple[torch.Tensor, torch.Tensor] | None = NULL,
) -> Path:
    with ShardWriter(folder, 1 << 20, null=null) as shards:
        for number, key in enumerate(keys):
            noise = torch.randn(4, 2, 2, 2, generator=torch.Generator().manual_seed(number))
            sample = {
                "latents": noise,
                "text": torch.ones(8, 3).half(),
                "mask": torch.ones(8, dtype=torch.bool),
                "motion": torch.tensor(3.0),
                "caption": torch.zeros(20, dtype=torch.uint8),
            }
            if key == "a":
                change(sample)
            shards.add(key, sample, "16x16x5", "val" if key == "d" else "train")
    return folder


SELECTED = [
    row("selection", clip_id=k, keep=k != "e", subset="val" if k == "d" else "train", reasons=[]) for k in "abcde"
]


def judge_shards(folder: Path, selection: list[dict[str, Any]] = SELECTED, motion: float = 3.0) -> Verdict:
    sections = shard_sections(folder, table("selection", selection), VIEW, 8, dict.fromkeys("abcde", motion))
    return evaluate("shards", sections, {})


def test_a_good_view_is_green(tmp_path: Path) -> None:
    verdict = judge_shards(latent_view(tmp_path / "v"))
    assert verdict.verdict == "green", (verdict.problems, verdict.failures())


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("finite", lambda s: s["latents"].view(-1)[:1].fill_(float("nan"))),
        ("finite", lambda s: s["text"].fill_(float("inf"))),
        ("spread", lambda s: s["latents"].zero_()),
        ("mean", lambda s: s["latents"].add_(9.0)),
        ("tokens", lambda s: s.update(mask=torch.ones(7, dtype=torch.bool))),
        ("words", lambda s: s["mask"].zero_()),
        ("motion_off", lambda s: s["motion"].fill_(4.0)),
        ("shape", lambda s: s.update(latents=torch.randn(4, 2, 2, 3))),
        ("caption_bytes", lambda s: s.update(caption=torch.zeros(2, dtype=torch.uint8))),
    ],
)
def test_a_bad_sample_turns_the_view_red(
    tmp_path: Path, column: str, change: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    verdict = judge_shards(latent_view(tmp_path / "v", change))
    assert verdict.verdict == "red"
    assert column in failing(verdict)


def test_missing_strange_and_misplaced_samples_turn_the_view_red(tmp_path: Path) -> None:
    assert "missing" in failing(judge_shards(latent_view(tmp_path / "less", keys="abd")))
    assert "side, chosen_side" in failing(judge_shards(latent_view(tmp_path / "more", keys="abcde")))
    assert "val" in failing(judge_shards(latent_view(tmp_path / "none", keys="abc")))
    swapped = [{**r, "subset": "val"} for r in SELECTED]
    assert "side, chosen_side" in failing(judge_shards(latent_view(tmp_path / "v"), swapped))


def test_a_damaged_shard_turns_the_view_red(tmp_path: Path) -> None:
    folder = latent_view(tmp_path / "v")
    tar = next(folder.glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-600] + b"x" * 600)
    verdict = judge_shards(folder)
    assert verdict.verdict == "red"
    assert "00000.tar is damaged" in str(verdict.sections)


@pytest.mark.parametrize(
    ("null", "said"),
    [
        (None, "has no null_embedding.safetensors"),
        ((NULL[0][:5], NULL[1][:5]), "is [5, 3], or not finite; 8 tokens belong"),
        ((NULL[0] * float("nan"), NULL[1]), "is [8, 3], or not finite; 8 tokens belong"),
    ],
)
def test_a_view_without_its_null_embedding_is_red(
    tmp_path: Path, null: tuple[torch.Tensor, torch.Tensor] | None, said: str
) -> None:
    verdict = judge_shards(latent_view(tmp_path / "v", null=null))
    assert verdict.verdict == "red"
    assert said in str(verdict.sections)


@pytest.mark.parametrize(
    ("bucket", "latent", "column"),
    [("832x480x5", (52, 30), None), ("480x640x5", (30, 40), "bucket"), ("832x480x5", (52, 28), "grain")],
)
def test_a_view_of_several_sizes_holds_those_of_its_name(
    tmp_path: Path, bucket: str, latent: tuple[int, int], column: str | None
) -> None:
    with ShardWriter(tmp_path / "v", 1 << 20, null=NULL) as shards:
        for number, key in enumerate("abcd"):
            shape, name = (latent, bucket) if key == "c" else ((30, 52), "480x832x5")
            sample = {
                "latents": torch.randn(4, 2, *shape, generator=torch.Generator().manual_seed(number)),
                "text": torch.ones(8, 3).half(),
                "mask": torch.ones(8, dtype=torch.bool),
                "motion": torch.tensor(3.0),
                "caption": torch.zeros(20, dtype=torch.uint8),
            }
            shards.add(key, sample, name, "val" if key == "d" else "train")
    view = ViewParams(size="480p", frames=5, autoencoder="models/autoencoder", after="data")
    sections = shard_sections(tmp_path / "v", table("selection", SELECTED), view, 8, dict.fromkeys("abcde", 3.0))
    assert failing(evaluate("shards", sections, {})) == ({column} if column else set())
