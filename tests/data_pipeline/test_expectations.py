"""Mutation tests: each rule of the data gates has one change of good tables that turns exactly its section red."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import yaml

from data_pipeline import caption, curate, tables
from data_pipeline.expectations import Joined, data_sections, shard_sections
from data_pipeline.params import DataParams, PixelsParams
from infra.gates import Verdict, evaluate
from sana_video.data.shards import ShardWriter

ROOT = Path(__file__).resolve().parents[2]
Rows = dict[str, list[dict[str, Any]]]


def params() -> DataParams:
    section = yaml.safe_load((ROOT / "params.yaml").read_text())["data"]
    section["gate"].update(min_videos=2, min_clips=10, min_kept=8, kept_fraction=[0.5, 1.0])
    return DataParams.model_validate(section)


PARAMS = params()


def table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=tables.SCHEMAS[name])


def row(name: str, **given: Any) -> dict[str, Any]:
    return {**dict.fromkeys(tables.SCHEMAS[name].names), **given}


@pytest.fixture(scope="module")
def good() -> Rows:
    videos = [
        row(
            "videos",
            video_id=v,
            uri=f"{v}.mp4",
            source=s,
            licence="CC0",
            bytes=9,
            width=160,
            height=96,
            rotation=0,
            fps=24.0,
            duration=60.0,
        )
        for v, s in (("a", "one"), ("b", "two"))
    ] + [row("videos", video_id="", uri="bad.mp4", source="two", licence="CC0", reason="UNREADABLE: x")]
    clips = [
        row(
            "clips",
            clip_id=f"{v}{n}",
            video_id=v,
            source=s,
            shot=n,
            start_pts=n * 300,
            end_pts=n * 300 + 200,
            start=n * 3.0,
            end=n * 3.0 + 2.1,
            frames=33,
            fps=16.0,
            detector="content",
            time_base="1/100",
            reason="SHOT_TOO_SHORT" if n == 9 else None,
        )
        for v, s in (("a", "one"), ("b", "two"))
        for n in range(10)
    ]
    scores = [
        row(
            "scores",
            clip_id=c["clip_id"],
            flow_motion=3.0,
            vmaf_motion=2.0,
            saturation=90.0,
            brightness=100.0,
            aesthetic=0.5,
            technical=0.5,
            overall=0.5,
            cuts_inside=0,
            colour=[9.0, 99.0, 9.0],
            phash=[1, 2],
            flow_pairs=[3.0],
            height=96,
            width=160,
            flow_estimator="dis (stand-in for UniMatch)",
            aesthetic_scorer="classical (stand-in for DOVER)",
        )
        for c in clips
        if c["reason"] is None
    ]
    twins = [row("twins", clip_id="b1", twin_of="a1", kind="hash", distance=1.0)]
    named = {"videos": table("videos", videos), "clips": table("clips", clips), "scores": table("scores", scores)}
    here = Path(__file__).parent  # a folder without side files of a batch
    captions = caption.run(**named, params=PARAMS.caption, batch=".", root=here, track=lambda rows, total, label: rows)
    selection = curate.run(
        **named, captions=table("captions", captions), twins=table("twins", twins), params=PARAMS.curate
    ).to_pylist()
    return {
        "videos": videos,
        "clips": clips,
        "scores": scores,
        "captions": captions,
        "twins": twins,
        "selection": selection,
    }


def judge(rows: Rows, *sections: str) -> Verdict:
    joined = Joined(**{name: table(name, entries) for name, entries in rows.items()})
    every = data_sections(joined, PARAMS)
    return evaluate("data", {name: every[name] for name in sections or every}, {})


def failing(verdict: Verdict) -> set[str]:
    return {
        r["column"]
        for s in verdict.sections.values()
        for r in s["rules"]
        if not r["ok"] and r["severity"] == "critical"
    }


def test_good_tables_are_green(good: Rows) -> None:
    verdict = judge(good)
    assert verdict.verdict == "green", (verdict.problems, verdict.failures())


def put(name: str, column: str, value: Any, at: int = 0) -> Callable[[Rows], None]:
    return lambda rows: rows[name][at].update({column: value})


def drop(name: str, at: int = 0) -> Callable[[Rows], None]:
    return lambda rows: rows[name].__delitem__(at)


def again(name: str) -> Callable[[Rows], None]:
    return lambda rows: rows[name].append(rows[name][0])


def first_kept(column: str, value: Any) -> Callable[[Rows], None]:
    return lambda rows: next(r for r in rows["selection"] if r["keep"]).update({column: value})


def both_sides(rows: Rows) -> None:
    for clip in rows["clips"]:
        clip["shot"] = 0


MUTATIONS = [
    ("videos", "video_id", put("videos", "video_id", "b")),
    ("videos", "uri", put("videos", "uri", "b.mp4")),
    ("videos", "source", put("videos", "source", " ")),
    ("videos", "licence", put("videos", "licence", "")),
    ("videos", "licence", put("videos", "licence", None)),
    ("videos", "bytes", put("videos", "bytes", 0)),
    ("videos", "width", put("videos", "width", 8)),
    ("videos", "height", put("videos", "height", None)),
    ("videos", "rotation", put("videos", "rotation", 45)),
    ("videos", "fps", put("videos", "fps", float("inf"))),
    ("videos", "duration", put("videos", "duration", 0.1)),
    ("clips", "clip_id", again("clips")),
    ("clips", "video_known", put("clips", "video_id", "z")),
    ("clips", "frames", put("clips", "frames", 32)),
    ("clips", "fps", put("clips", "fps", 24.0)),
    ("clips", "end, start", put("clips", "end", -1.0)),
    ("clips", "end_pts, start_pts", put("clips", "end_pts", 0)),
    ("clips", "detector", put("clips", "detector", "guess")),
    ("scores", "clip_id", again("scores")),
    ("scores", "clip_known", put("scores", "clip_id", "z")),
    ("scores", "flow_motion", put("scores", "flow_motion", -1.0)),
    ("scores", "flow_motion", put("scores", "flow_motion", None)),
    ("scores", "vmaf_motion", put("scores", "vmaf_motion", 256.0)),
    ("scores", "saturation", put("scores", "saturation", 256.0)),
    ("scores", "brightness", put("scores", "brightness", -1.0)),
    ("scores", "aesthetic", put("scores", "aesthetic", 1.1)),
    ("scores", "technical", put("scores", "technical", -0.1)),
    ("scores", "overall", put("scores", "overall", float("nan"))),
    ("scores", "cuts_inside", put("scores", "cuts_inside", -1)),
    ("scores", "hashes", put("scores", "phash", [])),
    ("scores", "height", put("scores", "height", 8)),
    ("scores", "width", put("scores", "width", 8)),
    ("scores", "flow_estimator", put("scores", "flow_estimator", "UniMatch")),
    ("scores", "aesthetic_scorer", put("scores", "aesthetic_scorer", "DOVER")),
    ("captions", "clip_id", again("captions")),
    ("captions", "clip_known", put("captions", "clip_id", "z")),
    ("captions", "text", put("captions", "text", None)),
    ("captions", "text", put("captions", "text", "A fine film. Motion score: 9.")),
    ("captions", "text", put("captions", "text", "A fine \u202e film of a bunny.")),
    ("captions", "captioner", put("captions", "captioner", "Qwen2.5-VL")),
    ("captions", "prompt_version", put("captions", "prompt_version", 2)),
    ("twins", "clip_known", put("twins", "clip_id", "z")),
    ("twins", "first_known", put("twins", "twin_of", "z")),
    (
        "twins",
        "first_is_twin",
        lambda rows: rows["twins"].append(row("twins", clip_id="a1", twin_of="a0", kind="hash", distance=1.0)),
    ),
    ("twins", "hash_distance", put("twins", "distance", 40.0)),
    ("twins", "kind", put("twins", "kind", "name")),
    ("twins", "embedding_distance", lambda rows: rows["twins"][0].update(kind="embedding", distance=0.5)),
    ("twins", "copies_kept", lambda rows: [r.update(keep=True) for r in rows["selection"]] and None),
    ("selection", "clip_id", again("selection")),
    ("selection", "clip_known", first_kept("clip_id", "z")),
    ("selection", "explained", first_kept("reason", "X")),
    ("selection", "rules_broken", lambda rows: [r.update(flow_motion=0.0) for r in rows["scores"]] and None),
    ("selection", "rules_broken", lambda rows: rows["captions"].clear()),
    ("selection", "side", first_kept("subset", None)),
    ("selection", "bucket", first_kept("bucket", "480x832x32")),
    (
        "sources",
        "kept_fraction",
        lambda rows: [r.update(keep=False, reasons=["X"]) for r in rows["selection"] if r["source"] == "one"] and None,
    ),
    ("balance", "videos", drop("videos")),
    ("balance", "rejected_videos", lambda rows: rows["videos"].extend([rows["videos"][2]] * 3)),
    ("balance", "clips", lambda rows: rows["clips"].__delitem__(slice(0, 9))),
    ("balance", "kept", lambda rows: [r.update(keep=False) for r in rows["selection"][:12]] and None),
    ("balance", "train", lambda rows: [r.update(subset="val") for r in rows["selection"]] and None),
    ("balance", "val", lambda rows: [r.update(subset="train") for r in rows["selection"]] and None),
    ("balance", "shots_on_both_sides", both_sides),
    ("balance", "clips_without_score", drop("scores")),
    ("balance", "clips_without_caption", drop("captions")),
    ("balance", "clips_without_choice", drop("selection")),
]


@pytest.mark.parametrize(
    ("section", "column", "mutate"), MUTATIONS, ids=[f"{s}-{c}-{i}" for i, (s, c, _) in enumerate(MUTATIONS)]
)
def test_each_rule_catches_its_mutation(good: Rows, section: str, column: str, mutate: Callable[[Rows], None]) -> None:
    rows = copy.deepcopy(good)
    mutate(rows)
    verdict = judge(rows, section)
    assert verdict.verdict == "red", verdict.problems
    assert column in failing(verdict), verdict.failures()


def test_every_declared_rule_has_a_mutation(good: Rows) -> None:
    joined = Joined(**{name: table(name, entries) for name, entries in good.items()})
    told = {(section, column) for section, column, _ in MUTATIONS}
    for name, section in data_sections(joined, PARAMS).items():
        for rule in section.rules:
            column = ", ".join(rule.columns)
            if rule.severity == "critical" and name != "tables" and (name, column) != ("sources", "source"):
                assert (name, column) in told


def test_a_stand_ins_numbers_are_refused_where_params_ask_for_the_scorer_itself(good: Rows) -> None:
    asked = PARAMS.score.model_copy(update={"flow": "unimatch", "aesthetic": "dover"})
    tables_of = Joined(**{name: table(name, entries) for name, entries in good.items()})
    sections = data_sections(tables_of, PARAMS.model_copy(update={"score": asked}))
    red = failing(evaluate("data", {"scores": sections["scores"]}, {}))
    assert red == {"flow_estimator", "aesthetic_scorer"}
    for row in good["scores"]:
        row.update(flow_estimator="unimatch gmflow-scale2-regrefine6", aesthetic_scorer="dover (0123456789ab)")
    tables_of = Joined(**{name: table(name, entries) for name, entries in good.items()})
    sections = data_sections(tables_of, PARAMS.model_copy(update={"score": asked}))
    assert not failing(evaluate("data", {"scores": sections["scores"]}, {}))


def test_a_table_of_another_shape_is_red(good: Rows) -> None:
    joined = Joined(**{name: table(name, entries) for name, entries in good.items()})
    other = Joined(**{**joined.__dict__, "twins": joined.twins.append_column("x", pa.array([1]))})
    section = data_sections(other, PARAMS)["tables"]
    assert evaluate("data", {"tables": section}, {}).verdict == "red"


@pytest.mark.parametrize("name", ["videos", "clips", "scores", "captions", "selection"])
def test_an_empty_table_is_never_green(good: Rows, name: str) -> None:
    rows = {**copy.deepcopy(good), name: []}
    assert judge(rows, name).verdict == "broken"


def test_an_all_null_column_is_never_green(good: Rows) -> None:
    rows = copy.deepcopy(good)
    for entry in rows["scores"]:
        entry["overall"] = None
    assert judge(rows, "scores").verdict != "green"


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
